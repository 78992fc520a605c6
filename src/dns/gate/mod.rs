//! The DNS gate: a name server inside the container's network namespace that opens the firewall
//! for the addresses it tells, before it tells them.

pub mod answer;
pub mod cache;
pub mod feed;
pub mod lists;
