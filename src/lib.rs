//! terok-shield: default-deny egress for podman containers that run untrusted code.

pub mod audit;
pub mod bundle;
pub mod clearance;
pub mod clock;
pub mod config;
pub mod conntrack;
pub mod contract;
pub mod dbus;
pub mod dns;
pub mod error;
pub mod files;
pub mod hook;
pub mod hub;
pub mod ipnet;
pub mod json;
pub mod lists;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod oci;
pub mod output;
pub mod paths;
pub mod podman;
pub mod probe;
pub mod process;
pub mod profile;
pub mod reader_hook;
pub mod sanitize;
pub mod shield;
pub mod sort;
pub mod unix;
#[cfg(all(target_env = "musl", panic = "abort", not(debug_assertions)))]
mod unwind;
pub mod validate;
pub mod watch;
pub mod yaml;

#[path = "../applets/mod.rs"]
pub mod applets;

/// This build's version: Cargo's, with the commit after it between releases (see build.rs).
pub const VERSION: &str = env!("TEROK_SHIELD_VERSION");
