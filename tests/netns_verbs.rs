//! The verbs against the kernel: what flows is cut, what many say at once adds up, and a verb that
//! is killed leaves nothing half-open. Needs root.

#[path = "common/bare.rs"]
mod bare;
#[path = "common/netns.rs"]
mod netns;

use bare::{Bare, PORT, ear, outside};
use netns::fresh;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use terok_shield::contract::{file, set};
use terok_shield::ipnet::IpNet;

/// A small generator of our own: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Servers that send without end to whoever connects to our addresses.
fn serve_endless() {
    let listener = TcpListener::bind(("::", PORT)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.write_all(&[7; 4096]).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
}

/// A download that notes when its last bytes came.
struct Download(Arc<Mutex<Instant>>);

impl Download {
    fn from(bare: &Bare, host: &str) -> Self {
        let to = SocketAddr::new(host.parse().unwrap(), PORT);
        let limit = Duration::from_secs(2);
        let connect = bare.inside(move || TcpStream::connect_timeout(&to, limit).unwrap());
        let mut stream = connect.join().unwrap();
        let last = Arc::new(Mutex::new(Instant::now()));
        let noted = last.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                *noted.lock().unwrap() = Instant::now();
            }
        });
        let download = Self(last);
        std::thread::sleep(Duration::from_millis(50));
        assert!(download.lives(), "no bytes from {host}");
        download
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn lives(&self) -> bool {
        let before = self.last();
        std::thread::sleep(Duration::from_millis(50));
        self.last() > before
    }
}

/// How long after `start` the last bytes came; at least half a second of silence follows.
fn died_after(download: &Download, start: Instant) -> Duration {
    std::thread::sleep(Duration::from_millis(500));
    let last = download.last();
    assert!(
        last.elapsed() > Duration::from_millis(300),
        "it still flows"
    );
    last.saturating_duration_since(start)
}

#[test]
fn a_download_dies_with_deny_and_quarantine_and_others_survive_the_deny() {
    fresh(|| {
        outside(&["192.0.2.0/24", "2001:db8:1::/64"]);
        serve_endless();
        let mut bare = Bare::prepared("flows", &["192.0.2.0/24", "2001:db8:1::/64"]);
        bare.start();
        let mut worst = Duration::ZERO;
        for (denied, other) in [
            ("192.0.2.1", "192.0.2.2"),
            ("2001:db8:1::1", "192.0.2.3"),
            ("192.0.2.4", "2001:db8:1::2"),
        ] {
            let (victim, survivor) = (Download::from(&bare, denied), Download::from(&bare, other));
            let start = Instant::now();
            bare.must(&format!("deny {denied}"));
            let took = died_after(&victim, start);
            assert!(
                survivor.lives(),
                "{other} must survive the deny of {denied}"
            );
            eprintln!("deny of {denied}: its last byte {took:?} after the verb was started");
            worst = worst.max(took);
        }
        let both = [
            Download::from(&bare, "192.0.2.5"),
            Download::from(&bare, "2001:db8:1::5"),
        ];
        assert!(both.iter().all(Download::lives));
        let start = Instant::now();
        bare.must("quarantine");
        for download in &both {
            let took = died_after(download, start);
            eprintln!("quarantine: the last byte {took:?} after the verb was started");
            worst = worst.max(took);
        }
        assert!(worst < Duration::from_millis(100), "{worst:?}");
        bare.must("up");
        assert!(Download::from(&bare, "192.0.2.6").lives());
    });
}

/// What the operator has said so far, by the rule that a deny beats every allowance.
#[derive(Default)]
struct Said {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Said {
    fn allow(&mut self, net: IpNet) {
        self.deny.retain(|n| *n != net);
        self.allow.push(net);
    }

    fn deny(&mut self, net: IpNet) {
        self.allow.retain(|n| *n != net);
        self.deny.push(net);
    }

    fn opens(&self, addr: IpAddr) -> bool {
        let covers = |nets: &[IpNet]| nets.iter().any(|n| n.contains(&addr.into()));
        covers(&self.allow) && !covers(&self.deny)
    }
}

/// The hosts a datagram from inside arrives at, of those it is sent to.
fn reached(bare: &Bare, ear: &UdpSocket, hosts: &[IpAddr], marker: IpAddr) -> BTreeSet<IpAddr> {
    let all: Vec<IpAddr> = hosts.iter().copied().chain([marker]).collect();
    bare.inside(move || {
        for host in all {
            let any = if host.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            // A refused packet is an error of its socket, and no news.
            let _ = UdpSocket::bind(any)
                .unwrap()
                .send_to(host.to_string().as_bytes(), (host, PORT));
        }
    })
    .join()
    .unwrap();
    // One link, in order: when the marker is here, so is everything before it.
    let mut reached = BTreeSet::new();
    let mut buffer = [0; 64];
    loop {
        let n = ear.recv(&mut buffer).expect("the marker must arrive");
        let host: IpAddr = std::str::from_utf8(&buffer[..n]).unwrap().parse().unwrap();
        if host == marker {
            return reached;
        }
        reached.insert(host);
    }
}

#[test]
fn overlapping_networks_are_allowed_and_denied_in_any_order() {
    fresh(|| {
        outside(&[
            "192.0.2.0/24",
            "10.9.0.0/16",
            "2001:db8:1::/64",
            "203.0.113.0/24",
        ]);
        let ear = ear();
        let mut bare = Bare::prepared("overlap", &["203.0.113.1", "192.0.2.64/28"]);
        bare.start();
        let nets = [
            "192.0.2.0/24",
            "192.0.2.0/25",
            "192.0.2.128/25",
            "192.0.2.64/26",
            "192.0.2.70",
            "192.0.2.71",
            "192.0.2.69/32",
            "192.0.2.64/28",
            "10.9.0.0/16",
            "10.9.9.0/24",
            "10.9.9.9",
            "2001:db8:1::/64",
            "2001:db8:1::/120",
            "2001:db8:1::7",
            "2001:db8:1::8/125",
        ];
        let hosts: Vec<IpAddr> = [
            "192.0.2.1",
            "192.0.2.64",
            "192.0.2.69",
            "192.0.2.70",
            "192.0.2.71",
            "192.0.2.72",
            "192.0.2.127",
            "192.0.2.128",
            "192.0.2.255",
            "10.9.0.1",
            "10.9.9.8",
            "10.9.9.9",
            "10.9.9.10",
            "2001:db8:1::7",
            "2001:db8:1::8",
            "2001:db8:1::f",
            "2001:db8:1::ffff",
        ]
        .map(|h| h.parse().unwrap())
        .to_vec();
        let marker: IpAddr = "203.0.113.1".parse().unwrap();
        let mut said = Said::default();
        said.allow("192.0.2.64/28".parse().unwrap());
        let mut random = Random(0x5eed_1234_5678_9abc);
        for step in 0..60 {
            let net = nets[random.below(nets.len() as u64) as usize];
            let verb = ["allow", "deny"][random.below(2) as usize];
            bare.must(&format!("{verb} {net}"));
            match verb {
                "allow" => said.allow(net.parse().unwrap()),
                _ => said.deny(net.parse().unwrap()),
            }
            let expected: BTreeSet<IpAddr> =
                hosts.iter().copied().filter(|h| said.opens(*h)).collect();
            let got = reached(&bare, &ear, &hosts, marker);
            assert_eq!(got, expected, "step {step}: {verb} {net}");
            bare.assert_agreement();
            if step % 15 == 14 {
                bare.start();
                assert_eq!(
                    reached(&bare, &ear, &hosts, marker),
                    expected,
                    "after a restart"
                );
            }
        }
    });
}

#[test]
fn two_hundred_calls_at_once_lose_nothing() {
    fresh(|| {
        let mut bare = Bare::prepared("crowd", &["203.0.113.0/24"]);
        bare.start();
        let bare = &bare;
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        let start = Instant::now();
        std::thread::scope(|scope| {
            for caller in 0..8u32 {
                scope.spawn(move || {
                    for call in 0..25u32 {
                        bare.must(&format!("{} {}", verb(call), address(caller, call)));
                    }
                });
            }
        });
        eprintln!("200 calls from 8 processes at once: {:?}", start.elapsed());
        for (caller, call) in (0..8).flat_map(|c| (0..25).map(move |i| (c, i))) {
            match verb(call) {
                "allow" => allowed.push(address(caller, call)),
                _ => denied.push(address(caller, call)),
            }
        }
        allowed.sort();
        denied.sort();
        assert_eq!(bare.lines(file::LIVE_ALLOWED), allowed);
        assert_eq!(bare.lines(file::DENY_LIST), denied);
        let mut held = allowed.clone();
        held.push("203.0.113.0/24".into());
        held.sort();
        assert_eq!(bare.elements(set::ALLOW_V4), held);
        assert_eq!(bare.elements(set::DENY_V4), denied);
        bare.assert_agreement();
    });

    fn verb(call: u32) -> &'static str {
        ["allow", "deny"][call as usize % 2]
    }

    /// Never two neighbours, which a set would hold as one range.
    fn address(caller: u32, call: u32) -> String {
        format!("198.51.{caller}.{}", call * 4 + 1)
    }
}

#[test]
fn a_verb_killed_anywhere_leaves_a_sound_bundle_and_nothing_open() {
    const KILLS: u32 = 200;
    fresh(|| {
        outside(&["192.0.2.0/24", "203.0.113.0/24"]);
        let ear = ear();
        let mut bare = Bare::prepared("killed", &["203.0.113.0/24"]);
        bare.start();
        // The workload knocks at a door that no verb below opens, as fast as it can.
        let stop = Arc::new(AtomicBool::new(false));
        let knocks = Arc::new(AtomicU64::new(0));
        let knocker = {
            let (stop, knocks) = (stop.clone(), knocks.clone());
            bare.inside(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                while !stop.load(SeqCst) {
                    let _ = socket.send_to(b"192.0.2.99", ("192.0.2.99", PORT));
                    knocks.fetch_add(1, SeqCst);
                }
            })
        };
        let whole = {
            let start = Instant::now();
            bare.must("allow 192.0.2.1");
            start.elapsed()
        };
        let mut random = Random(0x0dd_ba11_cafe_f00d);
        let mut killed = 0;
        for _ in 0..10 * KILLS {
            if killed == KILLS {
                break;
            }
            let words = match random.below(6) {
                0 | 1 => format!("allow 192.0.2.{}", 1 + 2 * random.below(40)),
                2 | 3 => format!("deny 192.0.2.{}", 1 + 2 * random.below(40)),
                4 => "quarantine".into(),
                _ => "up".into(),
            };
            let mut verb = bare.verb(&words);
            verb.stdout(std::process::Stdio::null());
            let mut verb = verb.spawn().unwrap();
            let moment = whole.as_nanos() as u64 * 5 / 4;
            std::thread::sleep(Duration::from_nanos(random.below(moment)));
            verb.kill().unwrap();
            killed += u32::from(!verb.wait().unwrap().success());
            // Whatever the dead verb left, the next one takes it from there.
            bare.must("allow 203.0.113.77");
            bare.assert_agreement();
        }
        stop.store(true, SeqCst);
        knocker.join().unwrap();
        let knocked = knocks.load(SeqCst);
        eprintln!("{killed} verbs killed in the act; {knocked} knocks, none let through");
        assert_eq!(killed, KILLS, "too many verbs were faster than the kill");
        assert!(knocked > 1000);
        ear.set_nonblocking(true).unwrap();
        assert!(ear.recv(&mut [0; 64]).is_err(), "a knock got through");
        // And the ear does hear.
        bare.must("up");
        let open = "203.0.113.77".parse().unwrap();
        ear.set_nonblocking(false).unwrap();
        assert!(reached(&bare, &ear, &[], open).is_empty());
        bare.start();
        bare.assert_agreement();
    });
}
