//! The security boundary: addresses and rules. No files, no podman, no DNS.

pub mod classify;
pub mod intervals;
pub mod kernel;
pub mod model;
pub mod policy;
pub mod text;
pub mod verify;
