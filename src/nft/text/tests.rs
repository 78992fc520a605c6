//! What is read, what is refused and where, and what is written.

use super::{parse, parse_bytes, render};
use crate::nft::model::*;

/// As nft 1.0.6 listed it (`nft list table inet terok_shield`), but for the moment in `expires`.
const LISTED: &str = include_str!("../../../tests/data/listed-by-nft-1.0.6.nft");

fn chain_of(rule: &str) -> String {
    format!(
        "table inet t {{\n\tset s4 {{\n\t\ttype ipv4_addr\n\t}}\n\n\tset s6 {{\n\t\ttype ipv6_addr\n\t}}\n\n\
         \tset v4 {{\n\t\ttype ipv4_addr . inet_proto . inet_service\n\t}}\n\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n"
    )
}

fn rule(text: &str) -> Vec<Expr> {
    parse(&chain_of(text))
        .unwrap()
        .chains
        .remove(0)
        .rules
        .remove(0)
        .0
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn what_nft_lists_comes_back_to_the_byte() {
    assert_eq!(render(&parse(LISTED).unwrap()), LISTED);
}

#[test]
fn the_spellings_of_a_rule_mean_the_same() {
    for (spelling, listed) in [
        (
            "ct state { established, related } accept",
            "ct state established,related accept",
        ),
        (
            "ct state related,established accept",
            "ct state established,related accept",
        ),
        ("meta oifname lo accept", "oifname \"lo\" accept"),
        ("ip daddr 10.0.0.5/8 drop", "ip daddr 10.0.0.0/8 drop"),
        (
            "ip6 daddr 2001:0db8::1/128 drop",
            "ip6 daddr 2001:db8::1 drop",
        ),
        ("udp dport domain accept", "udp dport 53 accept"),
        (
            "tcp dport { https, 80, 80 } accept",
            "tcp dport { 80, 443 } accept",
        ),
        ("tcp dport { 80 } accept", "tcp dport 80 accept"),
        (
            "tcp dport { 0, 5-7, 1, 2 } accept",
            "tcp dport { 0-2, 5-7 } accept",
        ),
        (
            "tcp dport {80,\n\t81,\n} accept",
            "tcp dport { 80, 81 } accept",
        ),
        ("tcp dport domain-s accept", "tcp dport 853 accept"),
        ("mark 5 accept", "meta mark 0x00000005 accept"),
        ("meta skuid root accept", "meta skuid 0 accept"),
        (
            "meta l4proto icmpv6 accept",
            "meta l4proto ipv6-icmp accept",
        ),
        (
            "meta l4proto { udp, 6 } accept",
            "meta l4proto { tcp, udp } accept",
        ),
        (
            "meta l4proto tcp iifname \"lo\" tcp dport 80 drop",
            "iifname \"lo\" tcp dport 80 drop",
        ),
        (
            "meta l4proto tcp counter tcp dport 80",
            "meta l4proto tcp counter packets 0 bytes 0 tcp dport 80",
        ),
        (
            "icmpv6 type {nd-neighbor-advert,135}",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
        ),
        (
            "icmpv6 type mld-listener-reduction",
            "icmpv6 type mld-listener-done",
        ),
        (
            "counter packets 3 bytes 180 drop",
            "counter packets 3 bytes 180 drop",
        ),
        (
            "log group 100 prefix \"A: \"",
            "log prefix \"A: \" group 100",
        ),
        (
            "reject with icmpx type admin-prohibited",
            "reject with icmpx admin-prohibited",
        ),
        ("reject with icmpx port-unreachable", "reject"),
        (
            "ip daddr 1.2.3.4 reject with tcp reset",
            "meta l4proto tcp ip daddr 1.2.3.4 reject with tcp reset",
        ),
        (
            "tcp dport 80 reject with tcp reset;",
            "tcp dport 80 reject with tcp reset",
        ),
        ("ip6 daddr @s6 accept # why", "ip6 daddr @s6 accept"),
        (
            "ip daddr . meta l4proto . th dport @v4 accept",
            "ip daddr . meta l4proto . th dport @v4 accept",
        ),
        ("iifname \"lo\" \\\n accept", "iifname \"lo\" accept"),
    ] {
        let read = parse(&chain_of(spelling)).unwrap_or_else(|e| panic!("{spelling}: {e}"));
        assert_eq!(render(&read), chain_of(listed), "{spelling}");
    }
}

#[test]
fn a_refused_rule_is_refused_at_its_place() {
    for (rule, column, message) in [
        ("ip daddr @nope accept", 13, "set \"nope\" is not declared"),
        (
            "ip daddr @s6 accept",
            13,
            "set \"s6\" is of another type than what is looked up in it",
        ),
        (
            "ip daddr @v4 accept",
            13,
            "set \"v4\" is of another type than what is looked up in it",
        ),
        (
            "ip daddr . meta l4proto . th dport @s4 drop",
            39,
            "set \"s4\" is of another type than what is looked up in it",
        ),
        (
            "ip daddr ::1 accept",
            12,
            "\"::1\" is not an IPv4 address, network or @set",
        ),
        (
            "ip daddr 10.0.0.0/33 accept",
            12,
            "\"10.0.0.0/33\" is not an IPv4 address, network or @set",
        ),
        (
            "ip daddr 1.2.3.4-1.2.3.7 accept",
            12,
            "\"1.2.3.4-1.2.3.7\" is not an IPv4 address, network or @set",
        ),
        ("ip daddr != 1.2.3.4 accept", 12, "unexpected character '!'"),
        (
            "ip saddr 1.2.3.4 accept",
            6,
            "expected \"daddr\", found \"saddr\"",
        ),
        (
            "ip daddr 1.2.3.4 ip6 daddr ::1 drop",
            20,
            "no packet is both IPv4 and IPv6: this rule can never match",
        ),
        (
            "iif \"lo\" accept",
            3,
            "\"iif\" names an interface's number; write iifname",
        ),
        (
            "oifname \"eth*\" accept",
            11,
            "\"eth*\" is not an interface name (1 to 15 characters, no wildcard)",
        ),
        (
            "oifname \"1234567890123456\" accept",
            11,
            "\"1234567890123456\" is not an interface name (1 to 15 characters, no wildcard)",
        ),
        (
            "oifname \"lo accept",
            11,
            "this quote is not closed on its line",
        ),
        (
            "tcp dport 80-70 accept",
            13,
            "\"80-70\" is not a port, or range of ports in ascending order",
        ),
        (
            "tcp dport 80-80 accept",
            13,
            "\"80-80\" is not a port, or range of ports in ascending order",
        ),
        (
            "udp dport 65536 accept",
            13,
            "\"65536\" is not a port, or range of ports in ascending order",
        ),
        (
            "udp dport 010 accept",
            13,
            "\"010\" is not a port, or range of ports in ascending order",
        ),
        (
            "tcp sport 80 accept",
            7,
            "expected \"dport\", found \"sport\"",
        ),
        (
            "tcp dport { 80 81 } accept",
            18,
            "expected \",\" or \"}\", found \"81\"",
        ),
        (
            "tcp dport { } accept",
            15,
            "expected a port, or range of ports in ascending order, found \"}\"",
        ),
        (
            "tcp dport 80 udp dport 80 accept",
            16,
            "this contradicts the protocol matched before it in the rule",
        ),
        (
            "meta l4proto { 6, 17 } tcp dport 80",
            26,
            "this contradicts the protocol matched before it in the rule",
        ),
        (
            "udp dport 53 reject with tcp reset",
            32,
            "this contradicts the protocol matched before it in the rule",
        ),
        (
            "icmpv6 type 256 accept",
            15,
            "\"256\" is not an ICMPv6 type",
        ),
        (
            "ct state fresh accept",
            12,
            "\"fresh\" is not a connection state",
        ),
        (
            "meta nfproto ipv4 accept",
            8,
            "\"nfproto\" is not a supported meta key",
        ),
        (
            "meta mark 0x1ffffffff accept",
            13,
            "\"0x1ffffffff\" is not a mark",
        ),
        (
            "log prefix \"$x\"",
            14,
            "\"$x\" is not a log prefix without $ and control characters",
        ),
        (
            "log prefix x",
            14,
            "expected a log prefix in quotes, found \"x\"",
        ),
        ("log group 65536", 13, "\"65536\" is not an NFLOG group"),
        (
            "log flags all",
            7,
            "\"flags\" is not a supported match or statement",
        ),
        (
            "reject with icmp type host-unreachable",
            15,
            "\"icmp\" is not icmpx or tcp reset",
        ),
        ("reject with icmpx 3", 21, "\"3\" is not an icmpx code"),
        (
            "accept counter",
            10,
            "nothing has an effect after a verdict",
        ),
        (
            "jump elsewhere",
            3,
            "\"jump\" is not a supported match or statement",
        ),
        ("é", 3, "unexpected character 'é'"),
    ] {
        let error = parse(&chain_of(rule)).unwrap_err();
        let found = (error.line, error.column, error.message.as_str());
        assert_eq!(found, (15, column, message), "{rule}");
    }
}

#[test]
fn a_log_prefix_has_at_most_127_bytes() {
    let text = |n: usize| chain_of(&format!("log prefix \"{}\"", "a".repeat(n)));
    assert!(parse(&text(127)).is_ok());
    assert!(refused(&text(128)).contains("128 bytes, at most 127"));
}

fn elements_of(body: &str) -> Result<Vec<Element>, String> {
    parse(&format!("table inet t {{\nset s {{ {body} }}\n}}"))
        .map(|mut r| r.sets.remove(0).elements)
        .map_err(|e| e.to_string())
}

#[test]
fn elements_come_back_sorted_canonical_and_once() {
    let read = elements_of(
        "type ipv4_addr; flags interval; elements = { 9.9.9.9, 10.0.0.5/24, 1.2.3.4-1.2.3.9, 9.9.9.9, 10.0.1.0-10.0.1.255 }",
    );
    let range = |a: &str, b: &str| Element::range(a.parse().unwrap(), b.parse().unwrap());
    assert_eq!(
        read.unwrap(),
        [
            range("1.2.3.4", "1.2.3.9"),
            range("9.9.9.9", "9.9.9.9"),
            range("10.0.0.0", "10.0.0.255"),
            range("10.0.1.0", "10.0.1.255"),
        ]
    );
}

#[test]
fn auto_merge_joins_what_overlaps_or_touches() {
    let read = elements_of(
        "type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8, 10.1.0.0/16, 11.0.0.0/8, 255.255.255.255, 255.0.0.0/8 }",
    );
    let range = |a: &str, b: &str| Element::range(a.parse().unwrap(), b.parse().unwrap());
    assert_eq!(
        read.unwrap(),
        [
            range("10.0.0.0", "11.255.255.255"),
            range("255.0.0.0", "255.255.255.255")
        ]
    );
}

#[test]
fn a_refused_element_is_refused_at_its_place() {
    for (body, column, message) in [
        (
            "type ipv4_addr; elements = { ::1 }",
            38,
            "set \"s\" holds IPv4 addresses, \"::1\" is none",
        ),
        (
            "type ipv6_addr; elements = { 1.2.3.4 }",
            38,
            "set \"s\" holds IPv6 addresses, \"1.2.3.4\" is none",
        ),
        (
            "type ipv4_addr; elements = { 1.2.3.4, 1.2.3 }",
            47,
            "\"1.2.3\" is not an address, network or range",
        ),
        (
            "type ipv4_addr; elements = { 10.0.0.0/8 }",
            38,
            "\"10.0.0.0/8\" is a range, and set \"s\" takes none (\"flags interval\" before the elements)",
        ),
        (
            "type ipv4_addr; flags interval; elements = { 1.2.3.9-1.2.3.4 }",
            54,
            "the range \"1.2.3.9-1.2.3.4\" ends before it begins",
        ),
        (
            "type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 1.1.1.1, 10.1.2.3 }",
            75,
            "10.0.0.0/8 and 10.1.2.3 in set \"s\" overlap",
        ),
        (
            "type ipv4_addr; flags interval; elements = { 10.1.2.3, 1.1.1.1, 10.0.0.0/8 }",
            73,
            "10.0.0.0/8 and 10.1.2.3 in set \"s\" overlap",
        ),
        (
            "type ipv4_addr; elements = { 1.2.3.4 timeout 5m }",
            46,
            "set \"s\" takes no timeouts (\"flags timeout\" before the elements)",
        ),
        (
            "type ipv4_addr; flags timeout; elements = { 1.2.3.4 timeout 300 }",
            69,
            "\"300\" is not a time span such as 1h30m",
        ),
        (
            "type ipv4_addr; timeout 30m; elements = { 1.2.3.4 timeout 0s }",
            67,
            "timeout 0s has no effect in a set with a default timeout: the element would expire",
        ),
        (
            "type ipv4_addr; flags timeout; elements = { 1.2.3.4 timeout 5m, 1.2.3.4 }",
            73,
            "1.2.3.4 and 1.2.3.4 in set \"s\" are the same with different timeouts",
        ),
        (
            "type ipv4_addr; size 1; elements = { 1.2.3.4, 1.2.3.5 }",
            45,
            "set \"s\" has 2 elements, its size is 1",
        ),
        (
            "type ipv4_addr; elements = { }",
            38,
            "expected an element, found \"}\"",
        ),
        (
            "type ipv4_addr; elements = { 1.2.3.4 }; type ipv6_addr",
            49,
            "this must stand before the set's elements",
        ),
        (
            "type ipv4_addr; flags timeout; elements = { 1.2.3.4 timeout 0s }; timeout 30m",
            75,
            "this must stand before the set's elements",
        ),
        (
            "type ipv4_addr; type ipv6_addr",
            25,
            "expected a property of a set, found \"type\"",
        ),
        (
            "elements = { 1.2.3.4 }",
            9,
            "the set's type must stand before its elements",
        ),
        (
            "type inet_service",
            14,
            "\"inet_service\" is not a supported set type",
        ),
        (
            "type ipv4_addr; flags constant",
            31,
            "\"constant\" is not a supported set flag (interval, timeout)",
        ),
        ("flags timeout;", 24, "this set has no type"),
        (
            "type ipv4_addr . inet_proto . inet_service; elements = { 1.2.3.4 . tcp }",
            80,
            "expected \".\", found \"}\"",
        ),
        (
            "type ipv4_addr . inet_proto . inet_service; flags interval",
            59,
            "intervals in a set of services are not supported",
        ),
    ] {
        let error = elements_of(body).unwrap_err();
        assert_eq!(
            error,
            format!("line 2, column {column}: {message}"),
            "{body}"
        );
    }
}

#[test]
fn timeout_zero_means_no_timeout_where_there_is_no_default() {
    let read = elements_of("type ipv4_addr; flags timeout; elements = { 1.2.3.4 timeout 0s }");
    assert_eq!(read.unwrap()[0].timeout, None);
}

#[test]
fn commands_add_to_the_table_and_delete_from_it() {
    let commands = "#!/usr/sbin/nft -f\n\
        table inet t\ndelete table inet t\n\
        add table inet t; add set inet t a { type ipv4_addr; flags interval; }\n\
        add chain inet t output { type filter hook output priority 0; policy drop; }\n\
        add element inet t a { 1.2.3.4, 10.0.0.0/8 }\n\
        add rule inet t output ip daddr @a accept\n\
        table inet t {\n chain output {\n drop\n }\n}\n\
        delete element inet t a { 1.2.3.4 }\n";
    let block = "table inet t {\n set a { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }\n\
        chain output { type filter hook output priority filter; policy drop; ip daddr @a accept; drop } }";
    assert_eq!(parse(commands), parse(block));
    assert!(parse(commands).is_ok());
}

#[test]
fn deleting_the_table_forgets_what_was_before() {
    let text = "table inet t {\n chain old {\n ip daddr @gone accept\n }\n}\n\
        delete table inet t\ntable inet t {\n chain new {\n }\n}\n";
    let names: Vec<_> = parse(text)
        .unwrap()
        .chains
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(names, ["new"]);
}

#[test]
fn flushing_the_table_keeps_all_but_the_rules() {
    let text = "table inet t {\n set s { type ipv4_addr; elements = { 1.2.3.4 } }\n\
        chain c { accept }\n}\nflush table inet t\n";
    let read = parse(text).unwrap();
    assert_eq!(read.sets[0].elements.len(), 1);
    assert!(read.chains[0].rules.is_empty());
}

#[test]
fn a_refused_command_is_refused_at_its_place() {
    for (text, message) in [
        ("", "line 1, column 1: the text declares no table"),
        (
            "# nothing\n",
            "line 2, column 1: the text declares no table",
        ),
        (
            "delete table inet t\n",
            "line 2, column 1: the text declares no table",
        ),
        (
            "table inet t {\n",
            "line 2, column 1: expected a set, a chain or \"}\", found the end of the text",
        ),
        (
            "table inet t { }\n}",
            "line 2, column 1: this \"}\" closes nothing",
        ),
        (
            "table inet t { }\ntable inet u { }",
            "line 2, column 7: a ruleset is one table, this is another",
        ),
        (
            "table inet t { }\ntable ip t { }",
            "line 2, column 7: a ruleset is one table, this is another",
        ),
        (
            "delete table inet u\ntable inet t { }",
            "line 2, column 7: a ruleset is one table, this is another",
        ),
        (
            "table bridge t { }",
            "line 1, column 7: \"bridge\" is not a supported table family",
        ),
        (
            "table inet t { map m { } }",
            "line 1, column 16: expected a set, a chain or \"}\", found \"map\"",
        ),
        (
            "flush ruleset\n",
            "line 1, column 7: expected \"table\", found \"ruleset\"",
        ),
        (
            "flush table inet t\n",
            "line 1, column 18: this table is not declared yet",
        ),
        (
            "include \"x\"\n",
            "line 1, column 1: expected table, add, delete or flush, found \"include\"",
        ),
        (
            "define x = 1\n",
            "line 1, column 1: expected table, add, delete or flush, found \"define\"",
        ),
        (
            "add element inet t s { 1.2.3.4 }",
            "line 1, column 18: this table is not declared yet",
        ),
        (
            "table inet t\nadd element inet t s { 1.2.3.4 }",
            "line 2, column 20: set \"s\" is not declared",
        ),
        (
            "table inet t\nadd rule inet t c accept",
            "line 2, column 17: chain \"c\" is not declared",
        ),
        (
            "table inet t { set s { type ipv4_addr; } }\ndelete element inet t s { 1.2.3.4 }",
            "line 2, column 27: 1.2.3.4 is not in set \"s\"",
        ),
        (
            "table inet t { set s { type ipv4_addr; }\nset s { type ipv6_addr; } }",
            "line 2, column 5: set \"s\" is declared again with another definition",
        ),
        (
            "table inet t {\nchain c { type filter hook input priority 0; }\nchain c { type filter hook output priority 0; } }",
            "line 3, column 7: chain \"c\" is declared again with another definition",
        ),
        (
            "table inet t { chain c { type nat hook output priority 0; } }",
            "line 1, column 31: expected \"filter\", found \"nat\"",
        ),
        (
            "table inet t { chain c { type filter hook prerouting priority 0; } }",
            "line 1, column 43: \"prerouting\" is not a supported hook (input, forward, output)",
        ),
        (
            "table inet t { chain c { type filter hook output priority high; } }",
            "line 1, column 59: \"high\" is not a priority",
        ),
        (
            "table inet t { chain c { policy drop; } }",
            "line 1, column 26: a policy needs a type and hook before it",
        ),
        (
            "table ip t { chain c { reject } }",
            "line 1, column 24: an icmpx reject works in a table of family inet only",
        ),
        (
            "table inet t { }\0",
            "line 1, column 17: the text holds a NUL byte",
        ),
        (
            "table inet t { }\r\n",
            "line 1, column 17: unexpected character '\\r'",
        ),
        (
            "# é\ntable inet 5 { }",
            "line 2, column 12: \"5\" is not a table name",
        ),
    ] {
        assert_eq!(refused(text), message, "{text:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_at_their_place() {
    let error = parse_bytes(b"table inet t {\n # \xff\n}").unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 4: the text is not UTF-8");
    assert!(parse_bytes(b"table inet t {\n}").is_ok());
}

#[test]
fn priorities_are_read_with_and_without_names() {
    for (written, priority) in [
        ("0", 0),
        ("filter", 0),
        ("-5", -5),
        ("filter - 5", -5),
        ("filter+10", 10),
        ("security + 3", 53),
        ("raw", -300),
        ("2147483647", i32::MAX),
        ("-2147483648", i32::MIN),
    ] {
        let text =
            format!("table inet t {{ chain c {{ type filter hook input priority {written}; }} }}");
        let base = parse(&text).unwrap().chains[0].base.unwrap();
        assert_eq!(base.priority, priority, "{written}");
    }
    for bad in [
        "2147483648",
        "filter 5",
        "filter + -5",
        "+",
        "-",
        "--5",
        "nice",
        "5 + 5",
        "dstnat",
    ] {
        let text =
            format!("table inet t {{ chain c {{ type filter hook input priority {bad}; }} }}");
        assert!(refused(&text).contains("is not a priority"), "{bad}");
    }
}

#[test]
fn outside_text_cannot_leave_its_place_when_written() {
    let evil = Expr::Log {
        prefix: "a\" accept\n#".into(),
        group: None,
    };
    let mut ruleset = parse(&chain_of("drop")).unwrap();
    ruleset.chains[0].rules[0].0.insert(0, evil);
    assert!(render(&ruleset).contains("\t\tlog prefix \"a? accept?#\" drop\n"));
}

#[test]
fn hostile_repetition_takes_linear_time() {
    let many = |unit: &str, n: usize| unit.repeat(n);
    let texts = [
        chain_of(&format!(
            "{} tcp dport 80",
            many("meta l4proto tcp ", 100_000)
        )),
        chain_of(&many("log ", 200_000)),
        format!(
            "table inet t {{ set s {{ type ipv4_addr; elements = {{ {} }} }} }}",
            many("1.1.1.1, ", 200_000)
        ),
        format!(
            "table inet t {{ set s {{ type ipv4_addr; elements = {{ {} }} }} }}",
            many(",", 500_000)
        ),
        many("table inet t {\n}\n", 100_000),
        many("{", 500_000),
    ];
    let start = std::time::Instant::now();
    for text in &texts {
        let _ = parse(text);
    }
    // A debug build on a busy machine: a quadratic way would take minutes.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(
        rule("meta l4proto tcp meta l4proto tcp tcp dport 80").len(),
        1
    );
}
