//! The DNS gate: a name server inside the container's network namespace that opens the firewall
//! for the addresses it tells, before it tells them.

pub mod cache;
pub mod clients;
pub mod confine;
pub mod control;
pub mod door;
pub mod feed;
pub mod journal;
pub mod kernel;
pub mod lists;
pub mod reply;
pub mod report;
pub mod server;
pub mod settings;
pub mod spawn;
pub mod upstream;
