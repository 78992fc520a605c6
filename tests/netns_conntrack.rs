//! Flows really end. Needs root.

#[path = "common/netns.rs"]
mod netns;

use netns::{fresh, nft_load, run};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use terok_shield::conntrack::{cut, cut_all};

/// Rules as the shield's: what is established goes on, anything new is refused.
const CLOSED: &str = "table inet t {
  chain output { type filter hook output priority 0; policy drop
    ct state established,related accept
    reject with icmpx admin-prohibited
  }
  chain input { type filter hook input priority 0; policy drop
    ct state established,related accept
  }
}
";

/// Tracks connections and lets everything through.
const OPEN: &str = "table inet t { chain output { type filter hook output priority 0
  ct state new accept
  }
}
";

/// Addresses of our own that are no loopback addresses.
fn own_addresses() {
    for address in ["192.0.2.1/32", "192.0.2.2/32"] {
        run("ip", &["addr", "add", address, "dev", "lo"]);
    }
    for address in ["2001:db8::1/128", "2001:db8::2/128"] {
        run("ip", &["addr", "add", address, "dev", "lo", "nodad"]);
    }
}

/// A TCP connection over which a byte a millisecond comes in.
struct Download(TcpStream);

impl Download {
    fn from(address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = TcpListener::bind((address, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        std::thread::spawn(move || {
            while server.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let timeout = Some(Duration::from_millis(300));
        client.set_read_timeout(timeout).unwrap();
        let mut download = Self(client);
        assert!(download.lives());
        download
    }

    /// Whether anything comes in that was not there already.
    fn lives(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        self.0.set_nonblocking(true).unwrap();
        while self.0.read(&mut buffer).is_ok_and(|n| n > 0) {}
        self.0.set_nonblocking(false).unwrap();
        match self.0.read(&mut buffer) {
            Ok(n) => n > 0,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

fn switch_to(rules: &str) {
    nft_load(&format!("table inet t\ndelete table inet t\n{rules}"));
}

#[test]
fn a_download_from_a_denied_address_dies_and_others_go_on() {
    fresh(|| {
        own_addresses();
        nft_load(OPEN);
        for (denied, other) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (mut first, mut second) = (Download::from(denied), Download::from(other));
            switch_to(CLOSED);
            assert!(first.lives() && second.lives(), "established flows go on");
            let denied: IpAddr = denied.parse().unwrap();
            let start = Instant::now();
            let flows = cut(&|destination| destination == denied).unwrap();
            assert!(start.elapsed() < Duration::from_millis(100));
            assert_eq!(flows, 1);
            assert!(!first.lives());
            assert!(second.lives());
            switch_to(OPEN);
        }
    });
}

#[test]
fn cutting_all_leaves_loopback() {
    fresh(|| {
        own_addresses();
        nft_load(OPEN);
        let mut doomed: Vec<_> = ["192.0.2.1", "2001:db8::1", "2001:db8::2"]
            .map(Download::from)
            .into();
        let mut spared: Vec<_> = ["127.0.0.1", "::1"].map(Download::from).into();
        switch_to(CLOSED);
        assert_eq!(cut_all(), Ok(3));
        assert!(doomed.iter_mut().all(|d| !d.lives()));
        assert!(spared.iter_mut().all(Download::lives));
        assert_eq!(cut_all(), Ok(0));
    });
}

#[test]
fn thousands_of_flows_are_cut_in_one_call() {
    fresh(|| {
        run("ip", &["addr", "add", "198.18.0.1/15", "dev", "lo"]);
        nft_load(OPEN);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for i in 0..5000_u16 {
            let [high, low] = i.to_be_bytes();
            let to = std::net::Ipv4Addr::new(198, 18, high, low);
            socket.send_to(b"x", (to, 9)).unwrap();
        }
        let half = |a: IpAddr| matches!(a, IpAddr::V4(a) if a.octets()[3] % 2 == 0);
        let cut_half = cut(&half).unwrap();
        assert!((2400..=2510).contains(&cut_half), "{cut_half}");
        assert_eq!(cut(&half), Ok(0));
        let rest = cut_all().unwrap();
        assert!((2400..=2510).contains(&rest), "{rest}");
    });
}
