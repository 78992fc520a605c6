//! The names nft prints and reads instead of numbers.

use crate::nft::model::{CtState, Hook, Icmpx};

/// ICMPv6 types (nft's `icmp6_type_tbl`; IANA ICMPv6 Parameters).
const ICMPV6: [(u8, &str); 18] = [
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
    (138, "router-renumbering"),
    (141, "ind-neighbor-solicit"),
    (142, "ind-neighbor-advert"),
    (143, "mld2-listener-report"),
];

/// IP protocols, as Debian's /etc/protocols names them for nft.
const PROTOCOLS: [(u8, &str); 55] = [
    (0, "ip"),
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (8, "egp"),
    (9, "igp"),
    (12, "pup"),
    (17, "udp"),
    (20, "hmp"),
    (22, "xns-idp"),
    (27, "rdp"),
    (29, "iso-tp4"),
    (33, "dccp"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (41, "ipv6"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (57, "skip"),
    (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (73, "rspf"),
    (81, "vmtp"),
    (88, "eigrp"),
    (89, "ospf"),
    (93, "ax.25"),
    (94, "ipip"),
    (97, "etherip"),
    (98, "encap"),
    (103, "pim"),
    (108, "ipcomp"),
    (112, "vrrp"),
    (115, "l2tp"),
    (124, "isis"),
    (132, "sctp"),
    (133, "fc"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
];

/// Services one meets in egress rules; nft lists them as numbers.
const SERVICES: [(u16, &str); 14] = [
    (22, "ssh"),
    (25, "smtp"),
    (53, "domain"),
    (67, "bootps"),
    (68, "bootpc"),
    (80, "http"),
    (123, "ntp"),
    (143, "imap2"),
    (443, "https"),
    (465, "submissions"),
    (587, "submission"),
    (853, "domain-s"),
    (993, "imaps"),
    (5353, "mdns"),
];

const STATES: [(CtState, &str); 5] = [
    (CtState::INVALID, "invalid"),
    (CtState::ESTABLISHED, "established"),
    (CtState::RELATED, "related"),
    (CtState::NEW, "new"),
    (CtState::UNTRACKED, "untracked"),
];

/// The mask of every state that has a name.
pub(super) const ALL_STATES: u32 = 1 | 2 | 4 | 8 | 64;

/// Priorities with a name on the input, forward and output hooks of the `ip` families.
const PRIORITIES: [(i32, &str); 4] = [
    (-300, "raw"),
    (-150, "mangle"),
    (0, "filter"),
    (50, "security"),
];

const HOOKS: [(Hook, &str); 3] = [
    (Hook::Input, "input"),
    (Hook::Forward, "forward"),
    (Hook::Output, "output"),
];

const ICMPX: [(Icmpx, &str); 4] = [
    (Icmpx::NoRoute, "no-route"),
    (Icmpx::PortUnreachable, "port-unreachable"),
    (Icmpx::HostUnreachable, "host-unreachable"),
    (Icmpx::AdminProhibited, "admin-prohibited"),
];

fn value<T: Copy>(table: &[(T, &str)], name: &str) -> Option<T> {
    table.iter().find(|e| e.1 == name).map(|e| e.0)
}

fn name<T: Copy + PartialEq>(table: &[(T, &'static str)], value: T) -> Option<&'static str> {
    table.iter().find(|e| e.0 == value).map(|e| e.1)
}

/// A decimal number without sign or leading zero (nft reads `010` as eight).
pub(super) fn decimal<T: std::str::FromStr>(word: &str) -> Option<T> {
    let plain =
        word.bytes().all(|b| b.is_ascii_digit()) && (word.len() == 1 || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

/// A decimal number or a hexadecimal one with `0x`.
pub(super) fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => decimal(word),
    }
}

pub(super) fn icmpv6_type(word: &str) -> Option<u8> {
    // The type's other name in nft.
    let word = if word == "mld-listener-reduction" {
        "mld-listener-done"
    } else {
        word
    };
    value(&ICMPV6, word).or_else(|| decimal(word))
}

pub(super) fn icmpv6_name(value: u8) -> Option<&'static str> {
    name(&ICMPV6, value)
}

pub(super) fn protocol(word: &str) -> Option<u8> {
    let word = if word == "icmpv6" { "ipv6-icmp" } else { word };
    value(&PROTOCOLS, word).or_else(|| decimal(word))
}

pub(super) fn protocol_name(value: u8) -> Option<&'static str> {
    name(&PROTOCOLS, value)
}

pub(super) fn port(word: &str) -> Option<u16> {
    value(&SERVICES, word).or_else(|| decimal(word))
}

pub(super) fn state(word: &str) -> Option<CtState> {
    value(&STATES, word)
}

/// The states in `mask` that have a name, in nft's order.
pub(super) fn state_names(mask: CtState) -> impl Iterator<Item = &'static str> {
    STATES
        .iter()
        .filter(move |s| mask.0 & s.0.0 != 0)
        .map(|s| s.1)
}

pub(super) fn hook(word: &str) -> Option<Hook> {
    value(&HOOKS, word)
}

pub(super) fn hook_name(hook: Hook) -> &'static str {
    name(&HOOKS, hook).unwrap_or_default()
}

pub(super) fn icmpx(word: &str) -> Option<Icmpx> {
    value(&ICMPX, word)
}

pub(super) fn icmpx_name(code: Icmpx) -> &'static str {
    name(&ICMPX, code).unwrap_or_default()
}

pub(super) fn priority(word: &str) -> Option<i32> {
    value(&PRIORITIES, word)
}

/// The named priority that nft prints `value` relative to: one at most 10 away.
pub(super) fn priority_near(value: i32) -> Option<(&'static str, i64)> {
    let offset = |p: i32| i64::from(value) - i64::from(p);
    let near = PRIORITIES.iter().find(|p| offset(p.0).abs() <= 10)?;
    Some((near.1, offset(near.0)))
}
