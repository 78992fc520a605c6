//! What tests with real podman share. Each test file uses its part of it.
#![allow(dead_code)] // every test file is a crate of its own and uses another part

pub mod lab;
pub mod shielded;
pub mod world;
