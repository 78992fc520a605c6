//! terok-shield: default-deny egress for podman containers that run untrusted code.

pub mod contract;
pub mod error;
pub mod ipnet;
pub mod nft;

#[path = "../applets/mod.rs"]
pub mod applets;
