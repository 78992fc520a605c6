//! The security boundary: addresses and rules. No files, no podman, no DNS.

pub mod model;
