//! Any bytes are a netlink datagram and a packet, or none: never a panic, never a loop.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terok_shield::nflog::packet;
use terok_shield::nflog::socket::{Sequence, parse_datagram};

fuzz_target!(|bytes: &[u8]| {
    let mut sequence = Sequence::default();
    let mut entries = 0;
    parse_datagram(bytes, &mut sequence, &mut |entry| {
        entries += 1;
        let _ = packet::parse(entry.payload);
    });
    assert!(entries <= bytes.len() / 16);
    let _ = packet::parse(bytes);
});
