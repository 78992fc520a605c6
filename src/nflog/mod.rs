//! Packets the ruleset logged, received over netlink in the current network namespace.

pub mod packet;
pub mod socket;
