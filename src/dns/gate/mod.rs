//! The DNS gate.

pub mod feed;
