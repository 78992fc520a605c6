//! What the DNS tests share: an upstream that does as the asked name says, good or bad.
//!
//! Each test binary uses its own part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terok_shield::dns::name::Name;
use terok_shield::dns::wire::build::{Builder, ReplyEdns, seal, set_u16};
use terok_shield::dns::wire::edns::{OPTION_COOKIE, split_cookie};
use terok_shield::dns::wire::query::Query;
use terok_shield::dns::wire::{Message, flag, rtype};

/// A directory that is removed with its value.
pub struct Temp(pub PathBuf);

impl Temp {
    pub fn new(name: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("shield-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A question that reached the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub name: String,
    pub qtype: u16,
    pub tcp: bool,
    pub port: u16,
    pub id: u16,
    pub edns: bool,
    /// The name as it was spelt.
    pub raw: Vec<u8>,
}

pub type Log = Arc<Mutex<Vec<Asked>>>;

/// The upstream of the tests.
pub struct Upstream {
    pub address: SocketAddr,
    pub log: Log,
}

impl Upstream {
    /// Serves UDP and TCP on a free port of this address.
    pub fn start(ip: &str) -> Self {
        Self::start_on(&format!("{ip}:0"))
    }

    pub fn start_on(at: &str) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(at).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let log = Log::default();
        let for_udp = Arc::clone(&log);
        std::thread::spawn(move || serve_udp(&udp, &for_udp));
        let for_tcp = Arc::clone(&log);
        std::thread::spawn(move || serve_tcp(&tcp, &for_tcp));
        Self { address, log }
    }

    pub fn asked(&self, name: &str) -> Vec<Asked> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|a| a.name == name).cloned().collect()
    }
}

fn note(log: &Log, query: &Query<'_>, from: SocketAddr, tcp: bool) -> usize {
    let mut log = log.lock().unwrap();
    let name = query.question.name.to_text();
    let before = log.iter().filter(|a| a.name == name).count();
    log.push(Asked {
        name,
        qtype: query.question.qtype,
        tcp,
        port: from.port(),
        id: query.id,
        edns: query.edns.is_some(),
        raw: query.question.raw.to_vec(),
    });
    before
}

fn serve_udp(socket: &UdpSocket, log: &Log) {
    let mut buffer = [0; 4096];
    loop {
        let (n, from) = socket.recv_from(&mut buffer).unwrap();
        let Ok(query) = Query::read(&buffer[..n]) else {
            panic!("upstream got what is no query: {:?}", &buffer[..n]);
        };
        let before = note(log, &query, from, false);
        let label = query
            .question
            .name
            .labels()
            .next()
            .unwrap_or_default()
            .to_vec();
        if label.starts_with(b"slow") {
            let (socket, bytes) = (socket.try_clone().unwrap(), buffer[..n].to_vec());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                let query = Query::read(&bytes).unwrap();
                for reply in replies(&query, false, before) {
                    socket.send_to(&reply, from).unwrap();
                }
            });
            continue;
        }
        for reply in replies(&query, false, before) {
            socket.send_to(&reply, from).unwrap();
        }
    }
}

fn serve_tcp(listener: &TcpListener, log: &Log) {
    for stream in listener.incoming() {
        let (mut stream, log) = (stream.unwrap(), Arc::clone(log));
        std::thread::spawn(move || {
            let from = stream.peer_addr().unwrap();
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).unwrap();
                let query = Query::read(&bytes).unwrap();
                let before = note(&log, &query, from, true);
                for reply in replies(&query, true, before) {
                    let mut out = (reply.len() as u16).to_be_bytes().to_vec();
                    out.extend_from_slice(&reply);
                    let _ = stream.write_all(&out);
                }
            }
        });
    }
}

/// A good reply under construction.
pub struct Reply {
    builder: Builder,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Reply {
    pub fn to(query: &Query<'_>) -> Self {
        let flags = flag::QR | flag::RD | flag::RA;
        Self {
            builder: Builder::new(query.id, flags, query.question.raw, query.question.qtype),
            answers: 0,
            authorities: 0,
            additionals: 0,
        }
    }

    pub fn answer(mut self, owner: &str, rtype: u16, ttl: u32, data: &[u8]) -> Self {
        self.builder.plain(&name(owner), rtype, ttl, data);
        self.answers += 1;
        self
    }

    pub fn addresses(self, owner: &str, ttl: u32, addresses: &[&str]) -> Self {
        addresses
            .iter()
            .fold(self, |reply, a| match a.parse().unwrap() {
                IpAddr::V4(a) => reply.answer(owner, rtype::A, ttl, &a.octets()),
                IpAddr::V6(a) => reply.answer(owner, rtype::AAAA, ttl, &a.octets()),
            })
    }

    pub fn soa(mut self, owner: &str, minimum: u32) -> Self {
        let mut data = vec![0, 0];
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&minimum.to_be_bytes());
        self.builder.plain(&name(owner), rtype::SOA, 3600, &data);
        self.authorities += 1;
        self
    }

    pub fn additional(mut self, owner: &str, address: [u8; 4]) -> Self {
        self.builder.plain(&name(owner), rtype::A, 300, &address);
        self.additionals += 1;
        self
    }

    pub fn done(mut self) -> Vec<u8> {
        self.builder
            .counts(self.answers, self.authorities, self.additionals);
        self.builder.finish()
    }

    pub fn code(self, rcode: u16) -> Vec<u8> {
        let mut bytes = self.done();
        let flags = u16::from_be_bytes([bytes[2], bytes[3]]) | rcode;
        set_u16(&mut bytes, 2, flags);
        bytes
    }
}

/// Adds an OPT with this cookie to a reply.
fn with_cookie(mut reply: Vec<u8>, rcode: u16, client: [u8; 8], server: &[u8]) -> Vec<u8> {
    let end = Message::new(&reply).unwrap().question().unwrap().1;
    seal(&mut reply, end, rcode, Some(ReplyEdns::default()), 65_535);
    let at = reply.len() - 2;
    set_u16(&mut reply, at, (4 + 8 + server.len()) as u16);
    reply.extend_from_slice(&OPTION_COOKIE.to_be_bytes());
    reply.extend_from_slice(&((8 + server.len()) as u16).to_be_bytes());
    reply.extend_from_slice(&client);
    reply.extend_from_slice(server);
    reply
}

/// What upstream sends for a question: as its first label says. `before` counts earlier ones.
pub fn replies(query: &Query<'_>, tcp: bool, before: usize) -> Vec<Vec<u8>> {
    let full = query.question.name.to_text();
    let qname = full.as_str();
    let label = qname.split('.').next().unwrap_or_default();
    let reply = || Reply::to(query);
    let good = || reply().addresses(qname, 300, &["198.51.100.1"]).done();
    let edit = |at: usize, value: u16| {
        let mut bytes = good();
        set_u16(&mut bytes, at, value);
        bytes
    };
    let cookie = query
        .edns
        .and_then(|e| e.option(OPTION_COOKIE))
        .and_then(split_cookie);
    let raw_answer = |bytes: &[u8]| {
        let mut out = reply().done();
        set_u16(&mut out, 6, 1);
        out.extend_from_slice(bytes);
        out
    };
    match label {
        "v6" => vec![reply().addresses(qname, 300, &["2001:db8:1::1"]).done()],
        "ttl5" => vec![reply().addresses(qname, 5, &["198.51.100.6"]).done()],
        "ttl0" => vec![reply().addresses(qname, 0, &["198.51.100.2"]).done()],
        "ttl1" => vec![reply().addresses(qname, 1, &["198.51.100.3"]).done()],
        "ttlhuge" => vec![reply().addresses(qname, 0x7fff_ffff, &["198.51.100.4"]).done()],
        "ttlneg" => vec![reply().addresses(qname, 0x8000_0001, &["198.51.100.5"]).done()],
        "chain8" => vec![chain(query, qname, 8)],
        "chain40" => vec![chain(query, qname, 40)],
        "cnameloop" => vec![
            reply()
                .answer(qname, rtype::CNAME, 60, name("x.loop.test").wire())
                .answer("x.loop.test", rtype::CNAME, 60, name(qname).wire())
                .done(),
        ],
        "unordered" => vec![
            reply()
                .addresses("end.zone9.test", 60, &["198.51.100.9"])
                .answer("mid.zone9.test", rtype::CNAME, 60, name("end.zone9.test").wire())
                .answer(qname, rtype::CNAME, 60, name("mid.zone9.test").wire())
                .done(),
        ],
        "dangling" => vec![
            reply().answer(qname, rtype::CNAME, 60, name("gone.zone9.test").wire()).done(),
        ],
        "todenied" => vec![
            reply()
                .answer(qname, rtype::CNAME, 60, name("cdn.denied.test").wire())
                .addresses("cdn.denied.test", 60, &["198.51.100.66"])
                .done(),
        ],
        "big" | "hugetc" if !tcp => vec![{
            let mut bytes = reply().done();
            set_u16(&mut bytes, 2, flag::QR | flag::RD | flag::RA | flag::TC);
            bytes
        }],
        "big" => vec![(0..60).fold(reply(), |r, n| r.answer(qname, 1, 60, &[203, 0, 113, n])).done()],
        "hugetc" => vec![
            (0..1000u16)
                .fold(reply(), |r, n| r.answer(qname, 1, 60, &[203, 0, (n >> 8) as u8, n as u8]))
                .done(),
        ],
        "mixed" => vec![
            reply()
                .addresses(qname, 60, &["10.0.0.5", "169.254.169.254", "198.51.100.77", "127.0.0.1"])
                .done(),
        ],
        "mapped" => vec![
            reply()
                .addresses(qname, 60, &["::ffff:10.0.0.5", "64:ff9b::a9fe:a9fe", "fd00::1"])
                .done(),
        ],
        "wrongid" => vec![edit(0, query.id ^ 1), good()],
        "onlywrongid" => vec![edit(0, query.id ^ 1)],
        "wrongname" => vec![
            {
                let mut bytes = good();
                bytes[13] = b'q';
                bytes
            },
            good(),
        ],
        "wrongtype" => vec![edit(12 + query.question.raw.len(), 28), good()],
        "wrongclass" => vec![edit(12 + query.question.raw.len() + 2, 3), good()],
        "notaresponse" => vec![edit(2, flag::RD), good()],
        "wrongopcode" => vec![edit(2, flag::QR | 2 << 11), good()],
        "noquestion" => vec![edit(4, 0), good()],
        "twoquestions" => vec![edit(4, 2), good()],
        "shortmsg" => vec![good()[..7].to_vec(), vec![], good()],
        "wrongcase" if !tcp => vec![swap_case(good())],
        "lowercase" => vec![lower_case(good())],
        "ptrloop" => vec![raw_answer(&self_pointer(query, 0))],
        "ptrforward" => vec![raw_answer(&self_pointer(query, 4))],
        "rdpastend" => vec![raw_answer(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\xff\xc6\x33\x64\x01")],
        "alen5" => vec![raw_answer(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x05\xc6\x33\x64\x01\x01")],
        "countlies" => vec![edit(6, 9)],
        "trailing" => vec![{
            let mut bytes = good();
            bytes.extend_from_slice(b"junk");
            bytes
        }],
        "badlabel" => vec![raw_answer(b"\x80abc\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x01")],
        "poison" => vec![
            reply()
                .addresses(qname, 300, &["198.51.100.1"])
                .addresses("other.ok.test", 300, &["198.51.100.200"])
                .soa("ok.test", 60)
                .additional("bank.ok.test", [198, 51, 100, 201])
                .done(),
        ],
        "foreignonly" => vec![reply().addresses("other.ok.test", 300, &["198.51.100.202"]).done()],
        "chclass" => vec![raw_answer(b"\xc0\x0c\0\x01\0\x03\0\0\0\x3c\0\x04\xc6\x33\x64\x01")],
        "servfail" => vec![reply().code(2)],
        "refused" => vec![reply().code(5)],
        "nx" => vec![reply().soa("ok.test", 60).code(3)],
        "nxnosoa" => vec![reply().code(3)],
        "nodata" => vec![reply().soa("ok.test", 60).done()],
        "formerredns" if query.edns.is_some() => vec![reply().code(1)],
        "oldserver" if query.edns.is_some() => vec![{
            let mut bytes = reply().code(1)[..12].to_vec();
            set_u16(&mut bytes, 4, 0);
            bytes
        }],
        "badcookie" => match cookie {
            Some((client, [])) => {
                vec![with_cookie(reply().done(), 23, client, b"srvcooki")]
            }
            Some((client, b"srvcooki")) => vec![with_cookie(good(), 0, client, b"srvcooki")],
            _ => vec![],
        },
        "wrongcookie" => match cookie {
            Some((client, _)) => vec![
                with_cookie(
                    reply().addresses(qname, 300, &["198.51.100.203"]).done(),
                    0,
                    [client[0] ^ 1; 8],
                    b"12345678",
                ),
                with_cookie(good(), 0, client, b"12345678"),
            ],
            None => vec![],
        },
        "silent" => vec![],
        "lost" if before == 0 => vec![],
        "txt" => vec![reply().answer(qname, rtype::TXT, 300, b"\x05hello").done()],
        "mx" => vec![{
            let mut data = vec![0, 10];
            data.extend_from_slice(name("mail.ok.test").wire());
            reply().answer(qname, 15, 300, &data).additional("mail.ok.test", [198, 51, 100, 25]).done()
        }],
        "https" => vec![
            reply()
                .answer(
                    qname,
                    rtype::HTTPS,
                    300,
                    b"\0\x01\0\0\x01\0\x03\x02h2\0\x04\0\x08\xc6\x33\x64\x50\x0a\0\0\x05\0\x05\0\x02xx\0\x06\0\x10\x20\x01\x0d\xb8\0\x01\0\0\0\0\0\0\0\0\0\x80",
                )
                .done(),
        ],
        "badhttps" => vec![
            reply().answer(qname, rtype::HTTPS, 300, b"\0\x01\0\0\x04\0\x03\xc6\x33\x64").done(),
        ],
        "ad" => vec![edit(2, flag::QR | flag::RD | flag::RA | flag::AD)],
        // Another address each time: 198.18.0.0/15 is for benchmarks.
        _ if label.starts_with("rotchain") => vec![chain_to(query, qname, 8, &rotating(), 1)],
        _ if label.starts_with("rotv6") => {
            let address = format!("2001:db8:1::{:x}", before + 1);
            vec![reply().addresses(qname, 1, &[&address]).done()]
        }
        _ if label.starts_with("rot") => vec![reply().addresses(qname, 1, &[&rotating()]).done()],
        _ if query.question.qtype == rtype::AAAA => {
            vec![reply().addresses(qname, 300, &["2001:db8:1::2"]).done()]
        }
        _ => vec![good()],
    }
}

fn rotating() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("198.{}.{}.{}", 18 + (n >> 16 & 1), n >> 8 & 255, n & 255)
}

fn chain(query: &Query<'_>, qname: &str, length: usize) -> Vec<u8> {
    chain_to(query, qname, length, "198.51.100.8", 60)
}

fn chain_to(query: &Query<'_>, qname: &str, length: usize, end: &str, ttl: u32) -> Vec<u8> {
    let link = |n: usize| {
        if n == 0 {
            qname.to_string()
        } else {
            format!("c{n}.zone{n}.test")
        }
    };
    let reply = (0..length).fold(Reply::to(query), |reply, n| {
        reply.answer(&link(n), rtype::CNAME, ttl, name(&link(n + 1)).wire())
    });
    reply.addresses(&link(length), ttl, &[end]).done()
}

/// A record whose owner is a pointer to itself, or `ahead` octets further on.
fn self_pointer(query: &Query<'_>, ahead: usize) -> Vec<u8> {
    let at = 12 + query.question.raw.len() + 4 + ahead;
    let mut bytes = (0xc000 | at as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x01");
    bytes
}

fn swap_case(mut bytes: Vec<u8>) -> Vec<u8> {
    for b in bytes.iter_mut().skip(12).take_while(|b| **b != 0) {
        if b.is_ascii_alphabetic() {
            *b ^= 0x20;
        }
    }
    bytes
}

fn lower_case(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes
        .iter_mut()
        .skip(12)
        .take_while(|b| **b != 0)
        .for_each(|b| b.make_ascii_lowercase());
    bytes
}
