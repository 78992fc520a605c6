//! DNS: the wire format, static resolution, dnsmasq, and the gate that opens what it answers.

pub mod answer;
pub mod dnsmasq;
pub mod exchange;
pub mod gate;
pub mod getent;
pub mod keeper;
pub mod lo;
pub mod name;
pub mod ready;
pub mod resolv_conf;
pub mod resolver;
pub mod service;
pub mod wire;
