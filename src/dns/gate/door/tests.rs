use super::*;
use std::cell::RefCell;

/// A kernel that remembers what it was told.
#[derive(Default)]
struct Kernel {
    generation: u32,
    opened: Vec<Vec<(IpAddr, u32)>>,
    closed: Vec<IpAddr>,
    refuse: bool,
    /// Somebody else replaces the table right after the next opening.
    meddle: bool,
}

struct Fake(Rc<RefCell<Kernel>>);

impl Opener for Fake {
    fn open(&mut self, elements: &[(IpAddr, u32)]) -> Result<u32> {
        let mut kernel = self.0.borrow_mut();
        if kernel.refuse {
            return Err(Error::new("refused"));
        }
        kernel.opened.push(elements.to_vec());
        kernel.generation += 1;
        if std::mem::take(&mut kernel.meddle) {
            kernel.generation += 1;
        }
        Ok(1)
    }

    fn close(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.closed.extend_from_slice(addresses);
        kernel.generation += 1;
        Ok(())
    }

    fn generation(&mut self) -> Option<u32> {
        Some(self.0.borrow().generation)
    }
}

fn door() -> (Door, Rc<RefCell<Kernel>>) {
    let kernel = Rc::new(RefCell::new(Kernel::default()));
    let door = Door::new(Box::new(Fake(Rc::clone(&kernel))), Journal::none(), 0);
    (door, kernel)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn answer(addresses: &[(&str, u32)], via: &[&str]) -> Answer {
    Answer {
        message: Box::default(),
        ttls: Box::default(),
        rcode: 0,
        addresses: addresses
            .iter()
            .map(|(a, ttl)| (a.parse().unwrap(), *ttl))
            .collect(),
        via: via.iter().map(|v| name(v)).collect(),
        lifetime: 60,
    }
}

fn admit(door: &mut Door, queried: &str, answer: &Answer, age: u32, now: u64) -> Result<()> {
    let name = name(queried);
    let earning = Earning {
        name: &name,
        answer,
        age,
    };
    door.admit(&[earning], now)
}

#[test]
fn private_and_metadata_addresses_are_never_opened() {
    let (mut door, kernel) = door();
    let hostile = answer(
        &[
            ("169.254.169.254", 60),
            ("10.0.0.5", 60),
            ("::ffff:10.0.0.5", 60),
            ("::ffff:8.8.8.8", 60),
            ("64:ff9b::a00:5", 60),
            ("100.64.0.1", 60),
            ("100.100.100.200", 60),
            ("fd00:ec2::254", 60),
            ("fe80::1", 60),
            ("127.0.0.1", 60),
            ("0.0.0.0", 60),
            ("255.255.255.255", 60),
            ("224.0.0.251", 60),
            ("::1", 60),
            ("::", 60),
            ("::10.0.0.5", 60),
            ("2002:a00:5::1", 60),
            ("ff02::1", 60),
            ("fec0::1", 60),
        ],
        &[],
    );
    admit(&mut door, "a.org", &hostile, 0, 0).unwrap();
    assert!(kernel.borrow().opened.is_empty());
    assert!(door.is_empty());
}

#[test]
fn an_answer_is_armed_once_and_again_when_it_falls_short() {
    let (mut door, kernel) = door();
    let a = answer(&[("192.0.2.1", 300)], &[]);
    admit(&mut door, "a.org", &a, 0, 0).unwrap();
    let first = kernel.borrow().opened.concat();
    assert_eq!(first, [("192.0.2.1".parse().unwrap(), 340)]);
    // Cached, ten times over its life: what the kernel holds outlives what is promised.
    for age in (0..=270).step_by(30) {
        admit(&mut door, "a.org", &a, age, u64::from(age) * 1000).unwrap();
    }
    assert_eq!(kernel.borrow().opened.len(), 1);
    // Near its end the floor asks for more than is left.
    admit(&mut door, "a.org", &a, 299, 299_000).unwrap();
    assert_eq!(kernel.borrow().opened.last().unwrap()[0].1, 70);
}

#[test]
fn timeouts_keep_the_floor_and_the_cap_and_never_shrink() {
    let (mut door, kernel) = door();
    for (queried, ttl, expected) in [
        ("a.org", 0, 70),
        ("b.org", 5, 70),
        ("c.org", 86_400, 86_400),
        ("d.org", u32::MAX / 2, 86_400),
    ] {
        let address = format!("192.0.2.{ttl}");
        let address = if ttl > 255 { "198.51.100.7" } else { &address };
        kernel.borrow_mut().opened.clear();
        kernel.borrow_mut().generation += 1;
        admit(&mut door, queried, &answer(&[(address, ttl)], &[]), 0, 0).unwrap();
        assert_eq!(kernel.borrow().opened[0][0].1, expected, "{ttl}");
    }
    // Another name with a short life for the same address.
    kernel.borrow_mut().opened.clear();
    let short = answer(&[("198.51.100.7", 1)], &[]);
    admit(&mut door, "e.org", &short, 0, 1000).unwrap();
    assert!(kernel.borrow().opened.is_empty());
}

#[test]
fn a_ruleset_somebody_else_replaced_is_armed_anew() {
    let (mut door, kernel) = door();
    let a = answer(&[("192.0.2.1", 300)], &[]);
    admit(&mut door, "a.org", &a, 0, 0).unwrap();
    kernel.borrow_mut().generation += 1;
    admit(&mut door, "a.org", &a, 1, 1000).unwrap();
    assert_eq!(kernel.borrow().opened.len(), 2);
    // Replaced between our opening and its acknowledgement.
    kernel.borrow_mut().generation += 1;
    kernel.borrow_mut().meddle = true;
    admit(&mut door, "a.org", &a, 2, 2000).unwrap();
    assert_eq!(kernel.borrow().opened.len(), 4);
}

#[test]
fn a_refusal_of_the_kernel_is_told_and_tried_again() {
    let (mut door, kernel) = door();
    let a = answer(&[("192.0.2.1", 300)], &[]);
    kernel.borrow_mut().refuse = true;
    assert!(admit(&mut door, "a.org", &a, 0, 0).is_err());
    kernel.borrow_mut().refuse = false;
    admit(&mut door, "a.org", &a, 1, 1).unwrap();
    assert_eq!(kernel.borrow().opened.len(), 1);
}

#[test]
fn denying_a_name_closes_what_only_it_earned() {
    let (mut door, kernel) = door();
    let lists =
        |denied: &str| Lists::read(&[("a", "a.org\nb.org\nc.org")], &[("d", denied)]).unwrap();
    admit(
        &mut door,
        "a.org",
        &answer(&[("192.0.2.1", 300), ("192.0.2.2", 300)], &[]),
        0,
        0,
    )
    .unwrap();
    admit(
        &mut door,
        "b.org",
        &answer(&[("192.0.2.2", 300)], &[]),
        0,
        0,
    )
    .unwrap();
    admit(
        &mut door,
        "c.org",
        &answer(&[("192.0.2.3", 300)], &["cdn.net"]),
        0,
        0,
    )
    .unwrap();
    assert_eq!(door.enforce(&lists(""), 1).unwrap(), 0);
    assert_eq!(door.enforce(&lists("a.org"), 1).unwrap(), 1);
    assert_eq!(
        kernel.borrow().closed,
        ["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        door.enforce(&lists("a.org\ncdn.net"), 1).unwrap(),
        1,
        "by its alias"
    );
    assert_eq!(door.enforce(&lists("a.org\nb.org\ncdn.net"), 1).unwrap(), 1);
    assert!(door.is_empty());
}

#[test]
fn a_hostile_zone_cannot_open_without_end() {
    let (mut door, _kernel) = door();
    let mut refused = 0;
    for n in 0..MAX_LEASES as u32 + 100 {
        let address = Ipv4Addr::from(0x0800_0000 + n).to_string();
        let a = answer(&[(&address, 80_000)], &[]);
        refused += u32::from(admit(&mut door, &format!("n{n}.org"), &a, 0, 0).is_err());
    }
    assert_eq!(refused, 100);
    assert_eq!(door.len(), MAX_LEASES);
    // A day later there is room.
    let a = answer(&[("192.0.2.1", 60)], &[]);
    admit(&mut door, "a.org", &a, 0, 90_000_000).unwrap();
    assert_eq!(door.len(), 1);
}
