//! The gate on the wire, against an upstream that misbehaves on purpose: RFC 1035, 2181, 2308,
//! 6761, 6891, 7766, 7873, 8914, 9460. What a client gets, what upstream saw, and what the kernel
//! was told to open, in that order.

mod dns_support;

use dns_support::{Temp, Upstream, name};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use terok_shield::dns::gate::door::{Door, Opener};
use terok_shield::dns::gate::journal::Journal;
use terok_shield::dns::gate::report::Report;
use terok_shield::dns::gate::server::{Gate, Sockets};
use terok_shield::dns::gate::spawn;
use terok_shield::dns::wire::build::{Ask, query, set_u16};
use terok_shield::dns::wire::edns::{Edns, OPTION_EDE};
use terok_shield::dns::wire::{Message, Section, flag, rcode, rdata, rtype};
use terok_shield::error::{Error, Result};
use terok_shield::files::Dir;

/// A kernel that writes down what it is told.
#[derive(Default)]
struct Kernel {
    open: Vec<(IpAddr, u32)>,
    closed: Vec<IpAddr>,
    generation: u32,
    refuse: bool,
}

struct Recorder(Arc<Mutex<Kernel>>);

impl Opener for Recorder {
    fn open(&mut self, elements: &[(IpAddr, u32)]) -> Result<u32> {
        let mut kernel = self.0.lock().unwrap();
        if kernel.refuse {
            return Err(Error::new("refused"));
        }
        kernel.open.extend_from_slice(elements);
        kernel.generation += 1;
        Ok(1)
    }

    fn close(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let mut kernel = self.0.lock().unwrap();
        kernel.closed.extend_from_slice(addresses);
        kernel.generation += 1;
        Ok(())
    }

    fn generation(&mut self) -> Option<u32> {
        Some(self.0.lock().unwrap().generation)
    }
}

/// A gate in a thread, its upstream and its kernel.
struct Rig {
    bundle: Temp,
    address: SocketAddr,
    upstream: Upstream,
    kernel: Arc<Mutex<Kernel>>,
}

impl Rig {
    fn new(label: &str, files: &[(&str, &str)]) -> Self {
        let upstream = Upstream::start("127.0.0.1");
        let bundle = Temp::new(label);
        bundle.write("profile.domains", "ok.test\n=exact.test\n*.star.test\n");
        bundle.write("denied.domains", "denied.ok.test\ndenied.test\n");
        bundle.write("upstream.dns", &upstream.address.to_string());
        for (file, text) in files {
            bundle.write(file, text);
        }
        let kernel = Arc::new(Mutex::new(Kernel::default()));
        let dir = Dir::open(bundle.path()).unwrap();
        let sockets = Sockets::bind(&dir, "127.0.0.1:0".parse().unwrap());
        // UDP and TCP took different free ports: bind both to UDP's.
        let address = local(&sockets.unwrap().udp);
        let sockets = retry(|| Sockets::bind(&dir, address));
        let for_gate = Arc::clone(&kernel);
        std::thread::spawn(move || {
            let journal = Journal::new(dir.try_clone().unwrap());
            let report = Report::open(dir.try_clone().unwrap());
            let door = Door::new(Box::new(Recorder(for_gate)), journal, 0);
            let mut gate = Gate::new(dir, sockets, door, report, None).unwrap();
            gate.run(None).unwrap();
        });
        Self {
            bundle,
            address,
            upstream,
            kernel,
        }
    }

    fn udp(&self, message: &[u8]) -> Option<Vec<u8>> {
        udp(self.address, message)
    }

    /// Asks for a name with EDNS, over UDP.
    fn ask(&self, qname: &str, qtype: u16) -> Got {
        let ask = Ask {
            edns: true,
            ..Ask::default()
        };
        Got(self
            .udp(&query(4711, name(qname).wire(), qtype, &ask))
            .expect("a reply"))
    }

    fn opened(&self) -> Vec<String> {
        let kernel = self.kernel.lock().unwrap();
        kernel.open.iter().map(|(a, _)| a.to_string()).collect()
    }

    fn timeout_of(&self, address: &str) -> Option<u32> {
        let address: IpAddr = address.parse().unwrap();
        let kernel = self.kernel.lock().unwrap();
        kernel
            .open
            .iter()
            .rev()
            .find(|(a, _)| *a == address)
            .map(|(_, t)| *t)
    }

    fn dir(&self) -> Dir {
        Dir::open(self.bundle.path()).unwrap()
    }
}

fn local(socket: &impl std::os::fd::AsFd) -> SocketAddr {
    rustix::net::getsockname(socket)
        .unwrap()
        .try_into()
        .unwrap()
}

fn retry<T>(mut f: impl FnMut() -> Result<T>) -> T {
    for _ in 0..50 {
        if let Ok(value) = f() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    f().unwrap()
}

fn udp(to: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(6)))
        .unwrap();
    socket.send(message).unwrap();
    let mut buffer = [0; 65_535];
    let n = socket.recv(&mut buffer).ok()?;
    Some(buffer[..n].to_vec())
}

/// The one gate most cases share.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| Rig::new("conformance", &[]))
}

/// A reply.
struct Got(Vec<u8>);

impl Got {
    fn message(&self) -> Message<'_> {
        Message::new(&self.0).unwrap()
    }

    fn rcode(&self) -> u16 {
        self.message().rcode()
    }

    fn addresses(&self) -> Vec<String> {
        let message = self.message();
        let (_, end) = message.question().unwrap();
        let answers = message
            .records(end)
            .map(|r| r.unwrap())
            .filter(|r| r.section == Section::Answer);
        answers
            .filter_map(|r| rdata::address(&r))
            .map(|a| a.to_string())
            .collect()
    }

    fn ttl(&self) -> u32 {
        let message = self.message();
        let (_, end) = message.question().unwrap();
        message.records(end).next().unwrap().unwrap().ttl()
    }

    /// INFO-CODE of the extended error.
    fn error(&self) -> Option<u16> {
        let message = self.message();
        let (_, end) = message.question().unwrap();
        let opt = message
            .records(end)
            .flatten()
            .find(|r| r.rtype == rtype::OPT)?;
        let option = Edns::read(&opt).unwrap().option(OPTION_EDE)?;
        Some(u16::from_be_bytes([option[0], option[1]]))
    }
}

/// Asks, and says what came back: response code and addresses.
fn outcome(qname: &str, qtype: u16) -> (u16, Vec<String>) {
    let got = rig().ask(qname, qtype);
    (got.rcode(), got.addresses())
}

fn ok(addresses: &[&str]) -> (u16, Vec<String>) {
    (0, addresses.iter().map(|a| a.to_string()).collect())
}

const GOOD: &str = "198.51.100.1";

// --- what is answered and opened ---------------------------------------------------------------

#[test]
fn allowed_names_are_answered_and_their_addresses_open() {
    for (qname, qtype, addresses) in [
        ("plain.ok.test", 1, &[GOOD][..]),
        ("PLAIN2.Ok.TEST", 1, &[GOOD]),
        ("ok.test", 1, &[GOOD]),
        ("deep.er.ok.test", 1, &[GOOD]),
        ("exact.test", 1, &[GOOD]),
        ("sub.star.test", 1, &[GOOD]),
        ("v6.ok.test", 28, &["2001:db8:1::1"]),
        ("chain8.ok.test", 1, &["198.51.100.8"]),
        ("unordered.ok.test", 1, &["198.51.100.9"]),
        ("lost.ok.test", 1, &[GOOD]),
        ("slow.ok.test", 1, &[GOOD]),
    ] {
        assert_eq!(outcome(qname, qtype), ok(addresses), "{qname}");
        let opened = rig().opened();
        assert!(
            opened.contains(&addresses[0].to_string()),
            "{qname}: {opened:?}"
        );
    }
}

#[test]
fn unlisted_and_denied_names_are_refused_and_nothing_goes_upstream() {
    for qname in [
        "unlisted.example",
        "x.exact.test",
        "star.test",
        "notok.test",
        "test",
        "denied.ok.test",
        "x.denied.ok.test",
        "1.2.0.192.in-addr.arpa",
    ] {
        for qtype in [1, 28, 16, 65] {
            let got = rig().ask(qname, qtype);
            assert_eq!(got.rcode(), rcode::REFUSED, "{qname}");
            assert_eq!(got.error(), Some(15), "{qname}: Blocked (RFC 8914)");
            assert!(rig().upstream.asked(qname).is_empty(), "{qname}");
        }
    }
}

#[test]
fn a_client_without_edns_gets_none_back() {
    let got = rig()
        .udp(&query(
            1,
            name("unlisted2.example").wire(),
            1,
            &Ask::default(),
        ))
        .unwrap();
    let message = Message::new(&got).unwrap();
    assert_eq!(
        (message.rcode(), message.counts()),
        (rcode::REFUSED, [1, 0, 0, 0])
    );
}

#[test]
fn an_alias_of_a_denied_name_is_refused_and_opens_nothing() {
    let got = rig().ask("todenied.ok.test", 1);
    assert_eq!((got.rcode(), got.error()), (rcode::REFUSED, Some(15)));
    assert!(!rig().opened().contains(&"198.51.100.66".to_string()));
}

#[test]
fn private_and_metadata_addresses_are_told_but_never_opened() {
    let (_, addresses) = outcome("mixed.ok.test", 1);
    assert_eq!(addresses.len(), 4);
    let (_, addresses) = outcome("mapped.ok.test", 28);
    assert_eq!(addresses.len(), 3);
    let opened = rig().opened();
    assert!(opened.contains(&"198.51.100.77".to_string()));
    for never in [
        "10.0.0.5",
        "169.254.169.254",
        "127.0.0.1",
        "::ffff:10.0.0.5",
        "fd00::1",
    ] {
        assert!(!opened.contains(&never.to_string()), "{never}");
    }
}

#[test]
fn an_answer_the_kernel_does_not_take_is_not_given() {
    let rig = Rig::new("refusing", &[]);
    rig.kernel.lock().unwrap().refuse = true;
    assert_eq!(rig.ask("plain.ok.test", 1).rcode(), rcode::SERVFAIL);
    rig.kernel.lock().unwrap().refuse = false;
    assert_eq!(rig.ask("plain.ok.test", 1).addresses(), [GOOD]);
}

// --- times to live -----------------------------------------------------------------------------

#[test]
fn timeouts_follow_the_time_to_live() {
    for (qname, address, timeout, ttl) in [
        ("ttl0.ok.test", "198.51.100.2", 70, 0),
        ("ttl1.ok.test", "198.51.100.3", 70, 1),
        ("ttlhuge.ok.test", "198.51.100.4", 86_400, 86_360),
        // RFC 2181 section 8: the highest bit means zero.
        ("ttlneg.ok.test", "198.51.100.5", 70, 0),
    ] {
        let got = rig().ask(qname, 1);
        assert_eq!(got.addresses(), [address]);
        assert_eq!(got.ttl(), ttl, "{qname}");
        assert_eq!(rig().timeout_of(address), Some(timeout), "{qname}");
    }
}

#[test]
fn cached_answers_age_and_are_not_asked_again() {
    let qname = "aging.ok.test";
    assert_eq!(rig().ask(qname, 1).ttl(), 300);
    std::thread::sleep(Duration::from_millis(1100));
    let aged = rig().ask(qname, 1);
    assert!((297..=299).contains(&aged.ttl()), "{}", aged.ttl());
    assert_eq!(rig().upstream.asked(qname).len(), 1);
    // TTL 0 is never cached.
    let before = rig().upstream.asked("ttl0.cache.ok.test").len();
    rig().ask("ttl0.cache.ok.test", 1);
    rig().ask("ttl0.cache.ok.test", 1);
    assert_eq!(rig().upstream.asked("ttl0.cache.ok.test").len(), before + 2);
}

#[test]
fn absence_is_cached_where_an_soa_says_for_how_long() {
    for (qname, code, asked) in [
        ("nx.ok.test", rcode::NXDOMAIN, 1),
        ("nodata.ok.test", 0, 1),
        ("nxnosoa.ok.test", rcode::NXDOMAIN, 2),
    ] {
        for _ in 0..2 {
            assert_eq!(outcome(qname, 1), (code, vec![]), "{qname}");
        }
        assert_eq!(rig().upstream.asked(qname).len(), asked, "{qname}");
    }
    let (_, none) = outcome("dangling.ok.test", 1);
    assert!(none.is_empty());
}

// --- answers that are none ---------------------------------------------------------------------

#[test]
fn datagrams_that_do_not_answer_the_question_are_passed_over() {
    for label in [
        "wrongid",
        "wrongname",
        "wrongtype",
        "wrongclass",
        "notaresponse",
        "wrongopcode",
        "noquestion",
        "twoquestions",
        "shortmsg",
        "wrongcookie",
    ] {
        let qname = format!("{label}.ok.test");
        assert_eq!(outcome(&qname, 1), ok(&[GOOD]), "{label}");
        assert_eq!(
            rig().upstream.asked(&qname).len(),
            1,
            "{label}: the first wait sufficed"
        );
    }
    assert!(!rig().opened().contains(&"198.51.100.203".to_string()));
}

#[test]
fn malformed_answers_fail_and_open_nothing() {
    let rig = Rig::new("malformed", &[]);
    for label in [
        "ptrloop",
        "ptrforward",
        "rdpastend",
        "alen5",
        "countlies",
        "trailing",
        "badlabel",
        "cnameloop",
        "chain40",
        "badhttps",
    ] {
        let got = rig.ask(
            &format!("{label}.ok.test"),
            if label == "badhttps" { 65 } else { 1 },
        );
        assert_eq!(got.rcode(), rcode::SERVFAIL, "{label}");
        assert_eq!(got.error(), Some(24), "{label}: Invalid Data (RFC 8914)");
    }
    assert_eq!(rig.opened(), Vec::<String>::new());
}

#[test]
fn records_nobody_asked_for_open_nothing() {
    assert_eq!(outcome("poison.ok.test", 1), ok(&[GOOD]));
    assert_eq!(outcome("foreignonly.ok.test", 1), ok(&[]));
    assert_eq!(outcome("chclass.ok.test", 1), ok(&[]));
    rig().ask("mx.ok.test", 15);
    let opened = rig().opened();
    for never in [
        "198.51.100.200",
        "198.51.100.201",
        "198.51.100.202",
        "198.51.100.25",
    ] {
        assert!(!opened.contains(&never.to_string()), "{never}");
    }
}

#[test]
fn failures_of_upstream_are_servfail() {
    for label in ["servfail", "refused", "silent", "onlywrongid"] {
        let begun = Instant::now();
        let got = rig().ask(&format!("{label}.ok.test"), 1);
        assert_eq!(got.rcode(), rcode::SERVFAIL, "{label}");
        assert!(got.error().is_some());
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{label}: before the client gives up"
        );
    }
}

// --- how upstream is asked ---------------------------------------------------------------------

#[test]
fn ids_ports_and_case_are_random() {
    for n in 0..20 {
        rig().ask(&format!("randomness-of-questions-{n}.ok.test"), 1);
    }
    let log = rig().upstream.log.lock().unwrap().clone();
    let asked: Vec<_> = log
        .iter()
        .filter(|a| a.name.starts_with("randomness"))
        .collect();
    let distinct = |f: fn(&&&dns_support::Asked) -> u16| {
        let mut all: Vec<u16> = asked.iter().map(|a| f(&a)).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    assert_eq!(asked.len(), 20);
    assert!(distinct(|a| a.id) >= 18);
    assert!(distinct(|a| a.port) >= 18);
    assert!(
        asked
            .iter()
            .all(|a| a.raw.iter().any(u8::is_ascii_uppercase))
    );
    assert!(
        asked
            .iter()
            .all(|a| a.raw.iter().any(u8::is_ascii_lowercase))
    );
}

#[test]
fn servers_of_many_manners_are_understood() {
    for (label, tcp) in [
        ("formerredns", false),
        ("oldserver", false),
        ("badcookie", false),
        ("wrongcase", true),
        ("lowercase", true),
    ] {
        // A gate of its own: what it learns of a server it keeps.
        let rig = Rig::new(label, &[]);
        let qname = format!("{label}.ok.test");
        assert_eq!(rig.ask(&qname, 1).addresses(), [GOOD], "{label}");
        assert_eq!(
            rig.upstream.asked(&qname).iter().any(|a| a.tcp),
            tcp,
            "{label}"
        );
    }
}

#[test]
fn a_server_without_edns_is_asked_without_from_then_on() {
    let rig = Rig::new("noedns", &[]);
    rig.ask("formerredns.ok.test", 1);
    rig.ask("formerredns.two.ok.test", 1);
    let asked = rig.upstream.asked("formerredns.two.ok.test");
    assert_eq!(asked.iter().map(|a| a.edns).collect::<Vec<_>>(), [false]);
}

#[test]
fn questions_upstream_carry_edns_and_nothing_of_the_client() {
    rig().ask("manner.ok.test", 1);
    let asked = rig().upstream.asked("manner.ok.test");
    assert!(asked[0].edns && !asked[0].tcp && asked[0].id != 4711);
}

#[test]
fn one_question_of_many_clients_goes_upstream_once() {
    let clients: Vec<_> = (0..10)
        .map(|_| std::thread::spawn(|| outcome("slow.together.ok.test", 1)))
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), ok(&[GOOD]));
    }
    assert_eq!(rig().upstream.asked("slow.together.ok.test").len(), 1);
}

#[test]
fn the_next_server_is_asked_when_one_is_silent_or_refuses() {
    let good = Upstream::start("127.0.0.1");
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = format!("{}\n{}\n", dead.local_addr().unwrap(), good.address);
    let rig = Rig::new("rotation", &[("upstream.dns", &servers)]);
    assert_eq!(rig.ask("plain.ok.test", 1).addresses(), [GOOD]);
    let closed = dead.local_addr().unwrap();
    drop(dead);
    let servers = format!("{closed}\n{}\n", good.address);
    let rig = Rig::new("rotation2", &[("upstream.dns", &servers)]);
    let begun = Instant::now();
    assert_eq!(rig.ask("plain2.ok.test", 1).addresses(), [GOOD]);
    assert!(
        begun.elapsed() < Duration::from_millis(700),
        "a closed port is noticed at once"
    );
}

// --- sizes and TCP -----------------------------------------------------------------------------

#[test]
fn truncated_answers_are_fetched_over_tcp() {
    let got = rig().ask("big.ok.test", 1);
    assert_eq!(got.addresses().len(), 60, "960 octets fit 1232");
    assert!(rig().upstream.asked("big.ok.test").iter().any(|a| a.tcp));
    assert!(rig().opened().contains(&"203.0.113.59".to_string()));
}

#[test]
fn replies_respect_what_the_client_can_take() {
    // 60 addresses are 990 octets: too long without EDNS.
    let got = rig()
        .udp(&query(1, name("big.ok.test").wire(), 1, &Ask::default()))
        .unwrap();
    let message = Message::new(&got).unwrap();
    assert!(message.has(flag::TC) && got.len() <= 512);
    assert_eq!(message.counts(), [1, 0, 0, 0]);
    // 256 of 1000 addresses are kept: too long for any UDP.
    let got = rig().ask("hugetc.ok.test", 1);
    assert!(got.message().has(flag::TC) && got.0.len() <= 1232);
    let mut tcp = Tcp::connect(rig().address);
    tcp.send(&query(1, name("hugetc.ok.test").wire(), 1, &Ask::default()));
    let got = Got(tcp.receive().unwrap());
    assert_eq!(got.addresses().len(), 256);
    let opened = rig().opened();
    assert!(
        got.addresses().iter().all(|a| opened.contains(a)),
        "all that is told is open"
    );
}

struct Tcp(TcpStream);

impl Tcp {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(6)))
            .unwrap();
        Self(stream)
    }

    fn send(&mut self, message: &[u8]) {
        let mut out = (message.len() as u16).to_be_bytes().to_vec();
        out.extend_from_slice(message);
        self.0.write_all(&out).unwrap();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
}

#[test]
fn tcp_queries_are_pipelined_and_answered_out_of_order() {
    let mut tcp = Tcp::connect(rig().address);
    tcp.send(&query(
        1,
        name("slow.tcp.ok.test").wire(),
        1,
        &Ask::default(),
    ));
    tcp.send(&query(2, name("unlisted.tcp").wire(), 1, &Ask::default()));
    tcp.send(&query(
        3,
        name("quick.tcp.ok.test").wire(),
        1,
        &Ask::default(),
    ));
    let ids: Vec<u16> = (0..3)
        .map(|_| Message::new(&tcp.receive().unwrap()).unwrap().id())
        .collect();
    assert_eq!(*ids.last().unwrap(), 1, "{ids:?}");
}

#[test]
fn more_pipelined_queries_than_are_taken_at_once_are_all_answered() {
    let mut tcp = Tcp::connect(rig().address);
    for id in 0..200u16 {
        tcp.send(&query(
            id,
            name(&format!("pipe{id}.ok.test")).wire(),
            1,
            &Ask::default(),
        ));
    }
    let mut ids: Vec<u16> = (0..200)
        .map(|_| Message::new(&tcp.receive().unwrap()).unwrap().id())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_tcp_query_may_come_octet_by_octet() {
    let mut tcp = Tcp::connect(rig().address);
    let message = query(9, name("drip.ok.test").wire(), 1, &Ask::default());
    let mut out = (message.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(&message);
    for octet in out {
        tcp.0.write_all(&[octet]).unwrap();
    }
    assert_eq!(Got(tcp.receive().unwrap()).addresses(), [GOOD]);
}

#[test]
fn a_client_that_has_sent_all_still_gets_its_answers() {
    let mut tcp = Tcp::connect(rig().address);
    tcp.send(&query(
        9,
        name("slow.half.ok.test").wire(),
        1,
        &Ask::default(),
    ));
    tcp.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(Got(tcp.receive().unwrap()).addresses(), [GOOD]);
    assert_eq!(tcp.receive(), None, "and then the end");
}

#[test]
fn tcp_messages_of_impossible_length_end_the_connection() {
    for length in [0u16, 5, 11, 1233, 65_535] {
        let mut tcp = Tcp::connect(rig().address);
        tcp.0.write_all(&length.to_be_bytes()).unwrap();
        assert_eq!(tcp.receive(), None, "{length}");
    }
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let mut idle: Vec<Tcp> = (0..60).map(|_| Tcp::connect(rig().address)).collect();
    let mut tcp = Tcp::connect(rig().address);
    tcp.send(&query(9, name("room.ok.test").wire(), 1, &Ask::default()));
    assert_eq!(Got(tcp.receive().unwrap()).addresses(), [GOOD]);
    assert_eq!(idle[0].receive(), None, "the oldest was closed");
}

// --- queries that are none ---------------------------------------------------------------------

/// A query for an allowed name with one field changed.
fn changed(at: usize, value: u16) -> Vec<u8> {
    let mut bytes = query(77, name("changed.ok.test").wire(), 1, &Ask::default());
    set_u16(&mut bytes, at, value);
    bytes
}

#[test]
fn queries_that_cannot_be_read_get_the_code_the_rfcs_give_them() {
    let after_name = 12 + name("changed.ok.test").wire().len();
    for (what, message, code) in [
        ("no question", changed(4, 0), rcode::FORMERR),
        ("two questions", changed(4, 2), rcode::FORMERR),
        ("an answer in a query", changed(6, 1), rcode::FORMERR),
        ("an authority in a query", changed(8, 1), rcode::FORMERR),
        ("a missing additional", changed(10, 1), rcode::FORMERR),
        ("IQUERY", changed(2, 1 << 11), rcode::NOTIMP),
        ("STATUS", changed(2, 2 << 11), rcode::NOTIMP),
        ("NOTIFY", changed(2, 4 << 11), rcode::NOTIMP),
        ("UPDATE", changed(2, 5 << 11), rcode::NOTIMP),
        ("ANY", changed(after_name, 255), rcode::REFUSED),
        ("AXFR", changed(after_name, 252), rcode::REFUSED),
        ("IXFR", changed(after_name, 251), rcode::REFUSED),
        ("MAILB", changed(after_name, 253), rcode::REFUSED),
        ("TKEY", changed(after_name, 249), rcode::REFUSED),
        ("OPT as a type", changed(after_name, 41), rcode::REFUSED),
        ("type 0", changed(after_name, 0), rcode::REFUSED),
        ("class CH", changed(after_name + 2, 3), rcode::REFUSED),
        ("class ANY", changed(after_name + 2, 255), rcode::REFUSED),
    ] {
        let got = rig().udp(&message).expect(what);
        let got = Message::new(&got).unwrap();
        assert_eq!((got.id(), got.rcode()), (77, code), "{what}");
        assert!(got.has(flag::QR), "{what}");
    }
    assert!(rig().upstream.asked("changed.ok.test").is_empty());
}

#[test]
fn oversized_questions_are_refused() {
    let mut message = query(
        78,
        name("oversized.ok.test").wire(),
        1,
        &Ask {
            edns: true,
            ..Ask::default()
        },
    );
    let padding = 1300;
    let at = message.len() - 2;
    set_u16(&mut message, at, 4 + padding);
    message.extend_from_slice(&[0, 12]);
    message.extend_from_slice(&padding.to_be_bytes());
    message.extend_from_slice(&vec![0; usize::from(padding)]);
    let got = rig().udp(&message).unwrap();
    assert_eq!(Message::new(&got).unwrap().rcode(), rcode::REFUSED);
}

#[test]
fn edns_versions_of_the_future_are_badvers() {
    let mut message = query(
        79,
        name("badvers.ok.test").wire(),
        1,
        &Ask {
            edns: true,
            ..Ask::default()
        },
    );
    let at = message.len() - 5;
    message[at] = 1;
    let got = rig().udp(&message).unwrap();
    let got = Message::new(&got).unwrap();
    // BADVERS is 16: the header's half is 0, the OPT's is 1.
    assert_eq!(got.rcode(), 0);
    assert_eq!(got.bytes()[got.bytes().len() - 6], 1);
}

#[test]
fn responses_and_scraps_are_never_answered() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(rig().address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    for message in [
        changed(2, flag::QR),
        changed(2, flag::QR | 5),
        vec![],
        vec![0; 11],
    ] {
        socket.send(&message).unwrap();
    }
    assert!(socket.recv(&mut [0; 512]).is_err());
}

#[test]
fn names_that_the_wire_cannot_hold_are_formerr() {
    let header = |body: &[u8]| {
        let mut m = vec![0, 80, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        m.extend_from_slice(body);
        m
    };
    let long_name = {
        let mut n = Vec::new();
        for _ in 0..5 {
            n.push(63);
            n.extend_from_slice(&[b'a'; 63]);
        }
        n.extend_from_slice(&[0, 0, 1, 0, 1]);
        n
    };
    for body in [
        &b"\xc0\x0c\0\x01\0\x01"[..],
        b"\x05ab\0\0\x01\0\x01",
        b"\x40ab\0\0\x01\0\x01",
        b"\x03abc",
        b"\x03abc\0\0\x01",
        &long_name,
    ] {
        let got = rig().udp(&header(body)).unwrap();
        assert_eq!(
            Message::new(&got).unwrap().rcode(),
            rcode::FORMERR,
            "{body:?}"
        );
    }
}

// --- flags, case, local names ------------------------------------------------------------------

#[test]
fn the_name_comes_back_as_it_was_spelt() {
    for _ in 0..2 {
        let raw = b"\x06sPeLlT\x02oK\x04TesT\x00";
        let got = rig().udp(&query(5, raw, 1, &Ask::default())).unwrap();
        let message = Message::new(&got).unwrap();
        let (question, _) = message.question().unwrap();
        assert_eq!(question.raw, raw, "fetched, then cached");
        assert_eq!(message.id(), 5);
    }
}

#[test]
fn flags_are_those_of_a_recursive_server() {
    let got = rig().ask("flags.ok.test", 1);
    let message = got.message();
    assert!(message.has(flag::QR) && message.has(flag::RA) && message.has(flag::RD));
    assert!(!message.has(flag::AA) && !message.has(flag::TC));
    // AD only for those who ask (RFC 6840 section 5.8).
    assert!(!rig().ask("ad.ok.test", 1).message().has(flag::AD));
    let mut asks = query(6, name("ad.ok.test").wire(), 1, &Ask::default());
    set_u16(&mut asks, 2, flag::RD | flag::AD);
    assert!(
        Message::new(&rig().udp(&asks).unwrap())
            .unwrap()
            .has(flag::AD)
    );
}

#[test]
fn special_names_are_answered_here() {
    assert_eq!(outcome("localhost", 1), ok(&["127.0.0.1"]));
    assert_eq!(outcome("x.localhost", 28), ok(&["::1"]));
    assert_eq!(outcome("localhost", 15), ok(&[]));
    assert_eq!(outcome("ready.invalid", 1), (rcode::NXDOMAIN, vec![]));
    assert!(rig().upstream.asked("localhost").is_empty());
}

#[test]
fn other_types_pass_and_open_nothing() {
    let before = rig().opened().len();
    let got = rig().ask("txt.types.ok.test", 16);
    assert!(got.0.windows(6).any(|w| w == b"\x05hello"));
    assert_eq!(rig().ask("mx.types.ok.test", 15).message().counts()[1], 1);
    assert!(rig().opened().len() >= before);
}

#[test]
fn hints_in_https_answers_are_open_and_ech_stays_unless_policy_says_otherwise() {
    let got = rig().ask("https.ok.test", 65);
    assert!(got.0.windows(6).any(|w| w == b"\0\x05\0\x02xx"));
    let opened = rig().opened();
    assert!(opened.contains(&"198.51.100.80".to_string()));
    assert!(opened.contains(&"2001:db8:1::80".to_string()));
    assert!(!opened.contains(&"10.0.0.5".to_string()));
    let strict = Rig::new("ech", &[("gate.conf", "ech strip\n")]);
    let got = strict.ask("https.ok.test", 65);
    assert!(!got.0.windows(6).any(|w| w == b"\0\x05\0\x02xx"));
    assert!(strict.opened().contains(&"198.51.100.80".to_string()));
}

// --- postures and reload -----------------------------------------------------------------------

#[test]
fn unlisted_names_resolve_where_policy_or_posture_lets_them_and_open_nothing() {
    for (label, file, text) in [
        ("resolve", "gate.conf", "unlisted resolve\n"),
        ("down", "posture", "down\n"),
        ("disengaged", "posture", "disengaged\n"),
    ] {
        let rig = Rig::new(label, &[(file, text)]);
        assert_eq!(
            rig.ask("unlisted.example", 1).addresses(),
            [GOOD],
            "{label}"
        );
        assert!(rig.opened().is_empty(), "{label}");
        assert_eq!(rig.ask("denied.test", 1).rcode(), rcode::REFUSED, "{label}");
    }
    let rig = Rig::new("quarantine", &[("posture", "quarantine\n")]);
    assert_eq!(rig.ask("plain.ok.test", 1).rcode(), rcode::REFUSED);
    assert!(rig.upstream.asked("plain.ok.test").is_empty());
}

#[test]
fn lists_are_read_again_without_a_restart() {
    let rig = Rig::new("reload", &[]);
    assert_eq!(rig.ask("plain.new.test", 1).rcode(), rcode::REFUSED);
    rig.bundle.write("live.domains", "new.test\n");
    assert!(
        spawn::reload(&rig.dir())
            .unwrap()
            .starts_with("ok 4 allowed, 2 denied")
    );
    assert_eq!(rig.ask("v6.new.test", 28).addresses(), ["2001:db8:1::1"]);
    assert_eq!(rig.ask("chain8.ok.test", 1).addresses(), ["198.51.100.8"]);
    rig.bundle.write("denied.domains", "new.test\n");
    spawn::reload(&rig.dir()).unwrap();
    assert_eq!(
        rig.kernel.lock().unwrap().closed,
        ["2001:db8:1::1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(rig.ask("v6.new.test", 28).rcode(), rcode::REFUSED);
    // A list that cannot be read changes nothing.
    rig.bundle.write("live.domains", "not a domain\n");
    let error = spawn::reload(&rig.dir()).unwrap_err().to_string();
    assert!(error.contains("live.domains line 1"), "{error}");
    assert_eq!(rig.ask("plain.ok.test", 1).addresses(), [GOOD]);
    assert!(spawn::status(&rig.dir()).unwrap().contains("\"refused\":2"));
}

#[test]
fn addresses_resolved_elsewhere_are_opened_for_allowed_names_only() {
    let rig = Rig::new("learn", &[]);
    let addresses: Vec<IpAddr> = ["198.51.100.150", "10.9.9.9"]
        .map(|a| a.parse().unwrap())
        .into();
    spawn::learn(&rig.dir(), "a.ok.test", &addresses).unwrap();
    assert_eq!(rig.opened(), ["198.51.100.150"]);
    assert!(spawn::learn(&rig.dir(), "a.other", &addresses).is_err());
}

#[test]
fn the_feed_names_what_was_answered_and_what_was_refused() {
    let rig = Rig::new("feed", &[]);
    rig.ask("chain8.ok.test", 1);
    rig.ask("evil.example", 28);
    rig.ask("evil.example", 28);
    rig.ask("plain.ok.test", 1);
    let feed = std::fs::read_to_string(rig.bundle.path().join("dns.feed")).unwrap();
    assert!(
        feed.contains(" answer chain8.ok.test 198.51.100.8\n"),
        "{feed}"
    );
    assert_eq!(
        feed.matches(" blocked evil.example AAAA\n").count(),
        1,
        "{feed}"
    );
}

// --- load --------------------------------------------------------------------------------------

#[test]
fn a_client_that_floods_leaves_room_for_another() {
    let rig = Rig::new("flood", &[]);
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.connect(rig.address).unwrap();
    for n in 0..2000u16 {
        let qname = name(&format!("silent.f{n}.ok.test"));
        let _ = flood.send(&query(n, qname.wire(), 1, &Ask::default()));
    }
    let begun = Instant::now();
    assert_eq!(rig.ask("plain.ok.test", 1).addresses(), [GOOD]);
    assert!(
        begun.elapsed() < Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
}
