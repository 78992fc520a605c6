//! DNS: the wire format, static resolution, dnsmasq, and the gate that opens what it answers.

pub mod exchange;
pub mod gate;
pub mod name;
pub mod wire;
