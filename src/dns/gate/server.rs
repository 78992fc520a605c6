//! The gate's loop: queries in, questions upstream, addresses opened, replies out. In this order,
//! always: no reply leaves before the kernel has acknowledged its addresses.

use super::cache::Cache;
use super::clients::{Clients, MAX_QUERY};
use super::control::Control;
use super::door::{Door, Earning};
use super::lists::Verdict;
use super::reply::{self, Asker, Waiter};
use super::report::Report;
use super::settings::{Settings, Unlisted};
use super::upstream::{Done, Upstream};
use crate::dns::answer::{Answer, Key};
use crate::dns::name::Name;
use crate::dns::wire::build::header_only;
use crate::dns::wire::edns::ede;
use crate::dns::wire::query::{Query, Unanswerable};
use crate::dns::wire::{CLASS_IN, HEADER, rcode, rtype, u16_at};
use crate::error::{Error, Result};
use crate::files::Dir;
use crate::nft::policy::Posture;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// Datagrams taken per turn, so that upstream's answers and other clients get theirs.
const DATAGRAMS_PER_TURN: usize = 64;
/// Queries one UDP client may have waiting: half of what may be on its way, so that one busy port
/// leaves room for the others.
const MAX_PER_CLIENT: u16 = 128;
/// Time to live of an address that somebody else resolved, seconds.
const LEARNED_TTL: u32 = 300;

/// The sockets the gate serves. They are made before privileges are dropped, and outlive a gate
/// that dies: what is queued in them waits for the next one.
#[derive(Debug)]
pub struct Sockets {
    /// Bound UDP socket, not blocking.
    pub udp: OwnedFd,
    /// Listening TCP socket, not blocking.
    pub tcp: OwnedFd,
    /// Listening control socket in the bundle, not blocking.
    pub control: OwnedFd,
}

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Resolve it; open its addresses, and answer only if that worked.
    Open,
    /// Resolve it; opening its addresses is a courtesy to the time after the bypass.
    TryOpen,
    /// Resolve it and open nothing.
    Resolve,
    /// Refuse it, for this reason.
    Refuse(&'static str),
}

/// An answer on its way to a client.
struct Outgoing {
    waiter: Waiter,
    name: Name,
    answer: Rc<Answer>,
    age: u32,
    course: Course,
}

/// What happened so far, for `status`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    /// Queries answered from upstream or the cache.
    pub answered: u64,
    /// Queries refused by policy.
    pub refused: u64,
    /// Queries that failed: upstream, or the kernel.
    pub failed: u64,
    /// Queries dropped because too many were waiting.
    pub dropped: u64,
}

/// The gate.
pub struct Gate {
    dir: Dir,
    sockets: Sockets,
    settings: Settings,
    cache: Cache,
    door: Door,
    upstream: Upstream<Waiter>,
    clients: Clients,
    control: Control,
    report: Report,
    per_client: HashMap<SocketAddr, u16>,
    outgoing: Vec<Outgoing>,
    counters: Counters,
    epoch: Instant,
    buffer: Box<[u8]>,
}

impl Gate {
    /// A gate for this bundle. `mark` goes on every packet to upstream.
    ///
    /// # Errors
    /// The bundle cannot be read, or what an earlier gate left open cannot be closed.
    pub fn new(
        dir: Dir,
        sockets: Sockets,
        door: Door,
        report: Report,
        mark: Option<u32>,
    ) -> Result<Self> {
        let settings = Settings::load(&dir)?;
        let mut gate = Self {
            dir,
            sockets,
            cache: Cache::default(),
            door,
            upstream: Upstream::new(&settings.upstream, mark, settings.strip_ech),
            clients: Clients::default(),
            control: Control::default(),
            report,
            per_client: HashMap::new(),
            outgoing: Vec::new(),
            counters: Counters::default(),
            epoch: Instant::now(),
            buffer: vec![0; 4096].into(),
            settings,
        };
        gate.door.enforce(&gate.settings.lists, 0)?;
        Ok(gate)
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Serves until `signals` says otherwise. SIGHUP reloads; any other signal ends the loop.
    ///
    /// # Errors
    /// poll(2) fails.
    pub fn run(&mut self, signals: Option<&nix::sys::signalfd::SignalFd>) -> Result<()> {
        loop {
            let ready = self.wait(signals)?;
            let now = self.now();
            if ready.signal
                && let Some(signals) = signals
            {
                while let Ok(Some(info)) = signals.read_signal() {
                    if info.ssi_signo != libc::SIGHUP as u32 {
                        return Ok(());
                    }
                    self.reload(now);
                }
            }
            self.turn(&ready, now);
        }
    }

    fn wait(&self, signals: Option<&nix::sys::signalfd::SignalFd>) -> Result<Ready> {
        let mut fds = Vec::with_capacity(8 + self.upstream.len());
        for fd in [&self.sockets.udp, &self.sockets.tcp, &self.sockets.control] {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        if let Some(signals) = signals {
            fds.push(PollFd::new(signals, PollFlags::IN));
        }
        let fixed = fds.len();
        self.control.poll_fds(&mut fds);
        let controls = fds.len();
        self.upstream.poll_fds(&mut fds);
        let flights = fds.len();
        self.clients.poll_fds(&mut fds);
        let deadline = [self.upstream.deadline(), self.clients.deadline()]
            .into_iter()
            .flatten()
            .min();
        let timeout = deadline.map(|at| {
            // One more: milliseconds are rounded down, and waking early would mean to spin.
            let left = at.saturating_sub(self.now()) + u64::from(at > 0);
            rustix::event::Timespec {
                tv_sec: (left / 1000) as i64,
                tv_nsec: (left % 1000 * 1_000_000) as i64,
            }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let of = |range: &[PollFd<'_>]| range.iter().map(|f| !f.revents().is_empty()).collect();
        let first: Vec<bool> = of(&fds[..fixed]);
        Ok(Ready {
            udp: first[0],
            tcp: first[1],
            control: first[2],
            signal: first.get(3).copied().unwrap_or(false),
            controls: of(&fds[fixed..controls]),
            flights: of(&fds[controls..flights]),
            clients: of(&fds[flights..]),
        })
    }

    fn turn(&mut self, ready: &Ready, now: u64) {
        let mut done = Vec::new();
        self.upstream.advance(&ready.flights, now, &mut done);
        for done in done {
            self.landed(done, now);
        }
        let mut queries = Vec::new();
        self.clients.advance(&ready.clients, now, &mut queries);
        for (asker, query) in queries {
            self.query(&query, asker, now);
        }
        if ready.tcp {
            self.clients.accept(&self.sockets.tcp, now);
        }
        if ready.udp {
            self.datagrams(now);
        }
        self.flush(now);
        // After the replies: a command may take a while.
        for command in self
            .control
            .advance(ready.control, &self.sockets.control, &ready.controls)
        {
            let reply = self.obey(command.text(), now);
            self.control.reply(command, &reply);
        }
    }

    fn datagrams(&mut self, now: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..DATAGRAMS_PER_TURN {
            let flags = RecvFlags::DONTWAIT;
            match rustix::net::recvfrom(&self.sockets.udp, &mut *buffer, flags) {
                Ok((_, len, Some(from))) => {
                    if let Ok(from) = SocketAddr::try_from(from) {
                        let bytes = buffer.get(..len).unwrap_or(&[]);
                        self.query(bytes, Asker::Udp(from), now);
                    }
                }
                Ok(_) | Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => break,
            }
        }
        self.buffer = buffer;
    }

    /// Takes one query: answers it, or asks upstream, or says no.
    fn query(&mut self, bytes: &[u8], asker: Asker, now: u64) {
        let too_long = bytes.len() > MAX_QUERY;
        let query = match Query::read(bytes) {
            Ok(query) if !too_long => query,
            Err(Unanswerable::Drop) => return self.send(asker, &[], now),
            other => {
                let code = match other {
                    Err(Unanswerable::Reply(code)) if !too_long => code,
                    _ => rcode::REFUSED,
                };
                let (id, flags) = (u16_at(bytes, 0), u16_at(bytes, 2));
                debug_assert!(bytes.len() >= HEADER);
                let reply = header_only(id.unwrap_or(0), flags.unwrap_or(0), code, code > 15);
                return self.send(asker, &reply, now);
            }
        };
        let waiter = Waiter::new(asker, &query);
        let (name, qtype) = (query.question.name, query.question.qtype);
        if query.question.class != CLASS_IN
            || matches!(qtype, 0 | rtype::OPT | rtype::META_FIRST..=rtype::META_LAST)
        {
            let error = (ede::NOT_SUPPORTED, "this kind of query is not answered");
            let reply = waiter.refuse(rcode::REFUSED, Some(error));
            return self.send(asker, &reply, now);
        }
        if let Some((code, data)) = reply::local(&name, qtype) {
            let reply = waiter.local(&name, code, data);
            return self.send(asker, &reply, now);
        }
        let course = self.course(&name);
        if let Course::Refuse(why) = course {
            return self.refuse(&waiter, &name, why, now);
        }
        let key = Key {
            name,
            qtype,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.flags & crate::dns::wire::flag::CD != 0,
        };
        if let Some((answer, age)) = self.cache.get(&key, now) {
            self.outgoing.push(Outgoing {
                waiter,
                name,
                answer,
                age,
                course,
            });
            return;
        }
        self.ask(key, waiter, now);
    }

    fn ask(&mut self, key: Key, waiter: Waiter, now: u64) {
        let asker = waiter.asker;
        if let Asker::Udp(from) = asker {
            let waiting = self.per_client.entry(from).or_insert(0);
            if *waiting >= MAX_PER_CLIENT {
                self.counters.dropped += 1;
                return;
            }
            *waiting += 1;
        }
        if self.upstream.ask(key, waiter, now).is_err() {
            self.counters.dropped += 1;
            self.forget(asker);
            self.send(asker, &[], now);
        }
    }

    /// One query less waits for this client.
    fn forget(&mut self, asker: Asker) {
        if let Asker::Udp(from) = asker
            && let Some(waiting) = self.per_client.get_mut(&from)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.per_client.remove(&from);
            }
        }
    }

    /// What becomes of a name at present.
    fn course(&self, name: &Name) -> Course {
        let bypass = self.settings.posture.is_bypass();
        if self.settings.posture == Posture::Quarantine {
            return Course::Refuse("the container is quarantined");
        }
        match self.settings.lists.verdict(name) {
            Verdict::Denied => Course::Refuse("denied by the operator"),
            Verdict::Allowed if bypass => Course::TryOpen,
            Verdict::Allowed => Course::Open,
            Verdict::Unlisted if bypass || self.settings.unlisted == Unlisted::Resolve => {
                Course::Resolve
            }
            Verdict::Unlisted => Course::Refuse("not an allowed domain"),
        }
    }

    fn refuse(&mut self, waiter: &Waiter, name: &Name, why: &str, now: u64) {
        self.counters.refused += 1;
        self.report.blocked(name, waiter.qtype(), now);
        let reply = waiter.refuse(rcode::REFUSED, Some((ede::BLOCKED, why)));
        self.send(waiter.asker, &reply, now);
    }

    /// Upstream has answered, or will not.
    fn landed(&mut self, done: Done<Waiter>, now: u64) {
        let name = done.key.name;
        for waiter in &done.waiters {
            self.forget(waiter.asker);
        }
        let answer = match done.result {
            Ok(answer) => answer,
            Err(code) => {
                for waiter in done.waiters {
                    self.fail(&waiter, (code, "upstream gave no usable answer"), now);
                }
                return;
            }
        };
        // The lists may have changed since it was asked; and an alias may lead where the
        // operator said no.
        let mut course = self.course(&name);
        let denied = |v: &Name| self.settings.lists.verdict(v) == Verdict::Denied;
        if answer.via.iter().any(denied) {
            course = Course::Refuse("an alias of a denied domain");
        }
        if let Course::Refuse(why) = course {
            for waiter in &done.waiters {
                self.refuse(waiter, &name, why, now);
            }
            return;
        }
        if course == Course::Resolve && !self.settings.posture.is_bypass() {
            self.report.blocked(&name, done.key.qtype, now);
        }
        self.report.answered(&name, &answer);
        self.cache.put(&done.key, Rc::clone(&answer), now);
        for waiter in done.waiters {
            self.outgoing.push(Outgoing {
                waiter,
                name,
                answer: Rc::clone(&answer),
                age: 0,
                course,
            });
        }
    }

    /// Opens what this turn's answers hold, in one batch, and sends them.
    fn flush(&mut self, now: u64) {
        let outgoing = std::mem::take(&mut self.outgoing);
        let earning = |o: &'_ Outgoing| matches!(o.course, Course::Open | Course::TryOpen);
        fn as_earning(o: &Outgoing) -> Earning<'_> {
            Earning {
                name: &o.name,
                answer: &o.answer,
                age: o.age,
            }
        }
        let earnings: Vec<Earning<'_>> = outgoing
            .iter()
            .filter(|o| earning(o))
            .map(as_earning)
            .collect();
        let together = earnings.is_empty() || self.door.admit(&earnings, now).is_ok();
        self.report.flush();
        for out in &outgoing {
            // One bad answer must not fail the others: each again by itself.
            let opened = together || !earning(out) || self.open_one(&as_earning(out), now);
            if opened || out.course == Course::TryOpen {
                self.counters.answered += 1;
                let reply = out.waiter.answer(&out.answer, out.age);
                self.send(out.waiter.asker, &reply, now);
            } else {
                let error = (ede::OTHER, "the firewall did not take the addresses");
                self.fail(&out.waiter, error, now);
            }
        }
        if self.outgoing.capacity() == 0 {
            let mut empty = outgoing;
            empty.clear();
            empty.shrink_to(DATAGRAMS_PER_TURN);
            self.outgoing = empty;
        }
    }

    fn open_one(&mut self, earning: &Earning<'_>, now: u64) -> bool {
        match self.door.admit(&[*earning], now) {
            Ok(()) => true,
            Err(error) => {
                self.report.complain(&error.to_string(), now);
                false
            }
        }
    }

    fn fail(&mut self, waiter: &Waiter, error: (u16, &str), now: u64) {
        self.counters.failed += 1;
        let reply = waiter.refuse(rcode::SERVFAIL, Some(error));
        self.send(waiter.asker, &reply, now);
    }

    fn send(&mut self, asker: Asker, reply: &[u8], now: u64) {
        match asker {
            Asker::Tcp(serial) => self.clients.reply(serial, reply, now),
            Asker::Udp(_) if reply.is_empty() => {}
            Asker::Udp(to) => {
                // A full socket buffer loses the reply as the network would; the client repeats.
                let to = SocketAddrAny::from(to);
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let _ = rustix::net::sendto(&self.sockets.udp, reply, flags, &to);
            }
        }
    }

    fn reload(&mut self, now: u64) -> String {
        match self.try_reload(now) {
            Ok(closed) => {
                let (allowed, denied) = self.settings.lists.counts();
                format!("ok {allowed} allowed, {denied} denied, {closed} addresses closed")
            }
            Err(error) => {
                self.report.complain(&error.to_string(), now);
                format!("error {error}")
            }
        }
    }

    fn try_reload(&mut self, now: u64) -> Result<usize> {
        let settings = Settings::load(&self.dir)?;
        self.upstream
            .set_servers(&settings.upstream, settings.strip_ech);
        self.settings = settings;
        // Aliases were judged by the old lists.
        self.cache.clear();
        self.door.enforce(&self.settings.lists, now)
    }

    fn obey(&mut self, command: &str, now: u64) -> String {
        match command.trim().split_once(' ') {
            None if command.trim() == "reload" => self.reload(now),
            None if command.trim() == "status" => self.status(),
            Some(("learn", rest)) => match self.learn(rest, now) {
                Ok(count) => format!("ok {count} addresses learned"),
                Err(error) => format!("error {error}"),
            },
            _ => "error unknown command: use reload, status or learn NAME ADDRESS...".into(),
        }
    }

    /// Opens addresses that somebody else resolved for an allowed name: programs may hold them
    /// from before the name was allowed, and will not ask again.
    fn learn(&mut self, words: &str, now: u64) -> Result<usize> {
        let mut words = words.split(' ').filter(|w| !w.is_empty());
        let name = words.next().unwrap_or_default();
        let name =
            Name::parse(name).map_err(|e| Error::new(format!("cannot learn {name:?}: {e}")))?;
        if self.settings.lists.verdict(&name) != Verdict::Allowed {
            return Err(Error::new(format!(
                "cannot learn {name}: it is not allowed"
            )));
        }
        let addresses: Option<Box<[_]>> = words
            .map(|w| Some((w.parse().ok()?, LEARNED_TTL)))
            .take(crate::dns::answer::MAX_ADDRESSES)
            .collect();
        let addresses =
            addresses.ok_or_else(|| Error::new("cannot learn: an address is malformed"))?;
        let answer = Answer::of_addresses(addresses);
        let earning = Earning {
            name: &name,
            answer: &answer,
            age: 0,
        };
        self.door.admit(&[earning], now)?;
        self.report.answered(&name, &answer);
        self.report.flush();
        Ok(answer.addresses.len())
    }

    fn status(&self) -> String {
        let (allowed, denied) = self.settings.lists.counts();
        let Counters {
            answered,
            refused,
            failed,
            dropped,
        } = self.counters;
        format!(
            "{{\"pid\":{},\"posture\":\"{}\",\"allowed\":{allowed},\"denied\":{denied},\
             \"open\":{},\"cached\":{},\"in_flight\":{},\"answered\":{answered},\
             \"refused\":{refused},\"failed\":{failed},\"dropped\":{dropped}}}",
            std::process::id(),
            self.settings.posture,
            self.door.len(),
            self.cache.len(),
            self.upstream.len(),
        )
    }
}

/// What poll(2) found.
struct Ready {
    udp: bool,
    tcp: bool,
    control: bool,
    signal: bool,
    controls: Vec<bool>,
    flights: Vec<bool>,
    clients: Vec<bool>,
}
