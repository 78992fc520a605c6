//! Questions on their way upstream: at most [`MAX_FLIGHTS`] at a time, each asked once however many
//! clients wait for it, retried, rotated among the servers, and given up in time.

use crate::dns::answer::{self, Answer, Fault, Key};
use crate::dns::exchange::{self, Exchange, Outcome, Request};
use crate::dns::wire::build::Ask;
use crate::dns::wire::edns::ede;
use crate::dns::wire::{Message, rcode};
use rustix::event::{PollFd, PollFlags};
use std::net::SocketAddr;
use std::rc::Rc;

/// Most questions on their way at a time.
pub const MAX_FLIGHTS: usize = 256;
/// Most of them over TCP: these may hold up to 64 KiB each.
const MAX_TCP: usize = 16;
/// Clients that wait for one question.
const MAX_WAITERS: usize = 64;
/// How long each attempt may take, milliseconds. Together under the 5 s of glibc and musl.
const ATTEMPTS: [u64; 3] = [800, 1400, 2200];
/// Changes of manner (TCP, without EDNS, with a cookie...) that cost no attempt.
const MAX_CHANGES: u8 = 5;

/// A server, and what was learned of it.
struct Server {
    address: SocketAddr,
    /// It understands EDNS.
    edns: bool,
    /// It gives the letters' case back.
    keeps_case: bool,
    /// Our cookie for it, and the one it gave us.
    cookie: [u8; 8],
    server_cookie: Vec<u8>,
}

/// A question on its way, and who waits for it.
struct Flight<W> {
    key: Key,
    waiters: Vec<W>,
    exchange: Option<Exchange>,
    server: usize,
    attempt: usize,
    changes: u8,
    tcp: bool,
    deadline: u64,
    /// What to say if nothing comes of it.
    complaint: u16,
}

/// What came of a question.
pub struct Done<W> {
    /// The question.
    pub key: Key,
    /// Who asked.
    pub waiters: Vec<W>,
    /// The answer, or the INFO-CODE of an extended error.
    pub result: Result<Rc<Answer>, u16>,
}

/// The questions on their way. `W` is what is kept of each waiting client.
pub struct Upstream<W> {
    servers: Vec<Server>,
    mark: Option<u32>,
    strip_ech: bool,
    flights: Vec<Flight<W>>,
    /// Flights over TCP, and those that became so during this turn.
    tcp: usize,
    buffer: Box<[u8]>,
}

/// Why a question cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<W> Upstream<W> {
    /// Questions go to these servers, first the first, with this mark on each packet.
    pub fn new(servers: &[SocketAddr], mark: Option<u32>, strip_ech: bool) -> Self {
        let mut upstream = Self {
            servers: Vec::new(),
            mark,
            strip_ech,
            flights: Vec::new(),
            tcp: 0,
            buffer: vec![0; usize::from(u16::MAX)].into(),
        };
        upstream.set_servers(servers, strip_ech);
        upstream
    }

    /// Asks these servers from now on; what was learned of those that stay is kept.
    pub fn set_servers(&mut self, addresses: &[SocketAddr], strip_ech: bool) {
        self.strip_ech = strip_ech;
        if self.servers.iter().map(|s| &s.address).eq(addresses) {
            return;
        }
        let server = |address: &SocketAddr| Server {
            address: *address,
            edns: true,
            keeps_case: true,
            // Without randomness no question is ever sent, so a constant cookie here never leaves.
            cookie: exchange::random().unwrap_or_default(),
            server_cookie: Vec::new(),
        };
        self.servers = addresses.iter().map(server).collect();
        for flight in &mut self.flights {
            flight.server = 0;
        }
    }

    /// Number of questions on their way.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Asks upstream on behalf of `waiter`, or lets it wait for the same question's answer.
    ///
    /// # Errors
    /// [`Full`]: too many questions are on their way, or too many clients wait for this one.
    pub fn ask(&mut self, key: Key, waiter: W, now: u64) -> Result<(), Full> {
        if let Some(flight) = self.flights.iter_mut().find(|f| f.key == key) {
            if flight.waiters.len() == MAX_WAITERS {
                return Err(Full);
            }
            flight.waiters.push(waiter);
            return Ok(());
        }
        if self.flights.len() == MAX_FLIGHTS {
            return Err(Full);
        }
        let mut flight = Flight {
            key,
            waiters: vec![waiter],
            exchange: None,
            server: 0,
            attempt: 0,
            changes: 0,
            tcp: false,
            deadline: now,
            complaint: ede::NO_REACHABLE_AUTHORITY,
        };
        // A flight that cannot begin ends at the next `finish`, as one that failed under way.
        self.launch(&mut flight, now);
        self.flights.push(flight);
        Ok(())
    }

    /// Sends a flight's question. Without an exchange afterwards, no server could be asked.
    fn launch(&mut self, flight: &mut Flight<W>, now: u64) {
        flight.exchange = None;
        if flight.tcp {
            if self.tcp >= MAX_TCP {
                return;
            }
            self.tcp += 1;
        }
        while flight.attempt < ATTEMPTS.len() {
            let Some(server) = self.servers.get(flight.server) else {
                return;
            };
            let request = Request {
                name: &flight.key.name,
                qtype: flight.key.qtype,
                server: server.address,
                tcp: flight.tcp,
                mix_case: server.keeps_case,
                ask: Ask {
                    edns: server.edns,
                    dnssec_ok: server.edns && flight.key.dnssec_ok,
                    checking_disabled: flight.key.checking_disabled,
                    cookie: server
                        .edns
                        .then_some((server.cookie, &server.server_cookie[..])),
                },
                mark: self.mark,
            };
            if let Ok(exchange) = Exchange::start(&request) {
                flight.exchange = Some(exchange);
                flight.deadline = now + ATTEMPTS[flight.attempt];
                return;
            }
            self.next_attempt(flight);
        }
    }

    fn next_attempt(&self, flight: &mut Flight<W>) {
        flight.attempt += 1;
        flight.tcp = false;
        flight.server = (flight.server + 1) % self.servers.len().max(1);
    }

    /// The sockets to wait for, in the order [`Upstream::advance`] expects their readiness.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        for exchange in self.flights.iter().filter_map(|f| f.exchange.as_ref()) {
            let flags = if exchange.wants_write() {
                PollFlags::OUT
            } else {
                PollFlags::IN
            };
            fds.push(PollFd::new(exchange, flags));
        }
    }

    /// When the next deadline passes; at once where a flight could not begin.
    pub fn deadline(&self) -> Option<u64> {
        let of = |f: &Flight<W>| {
            if f.exchange.is_some() { f.deadline } else { 0 }
        };
        self.flights.iter().map(of).min()
    }

    /// Goes on with every flight whose socket is ready or whose time is up, and hands over what
    /// has ended. `ready` tells for each socket of [`Upstream::poll_fds`] whether it is ready;
    /// flights begun since then come last and are not in it.
    pub fn advance(&mut self, ready: &[bool], now: u64, done: &mut Vec<Done<W>>) {
        let mut ready = ready.iter().copied();
        let mut flights = std::mem::take(&mut self.flights);
        let over_tcp = |f: &&Flight<W>| f.exchange.as_ref().is_some_and(Exchange::is_tcp);
        self.tcp = flights.iter().filter(over_tcp).count();
        let mut kept = Vec::with_capacity(flights.len());
        for mut flight in flights.drain(..) {
            let is_ready = flight.exchange.is_some() && ready.next().unwrap_or(false);
            let result = match flight.exchange.as_mut() {
                Some(exchange) if is_ready => {
                    let outcome = exchange.advance(&mut self.buffer);
                    self.judge(&mut flight, outcome, now)
                }
                _ => None,
            };
            let result = result.or_else(|| self.expire(&mut flight, now));
            match result {
                None => kept.push(flight),
                Some(result) => done.push(Done {
                    key: flight.key,
                    waiters: flight.waiters,
                    result,
                }),
            }
        }
        self.flights = kept;
    }

    /// Moves a flight whose time is up to its next attempt, or ends it.
    fn expire(&mut self, flight: &mut Flight<W>, now: u64) -> Option<Result<Rc<Answer>, u16>> {
        if flight.exchange.is_some() && now < flight.deadline {
            return None;
        }
        if flight.attempt < ATTEMPTS.len() {
            self.next_attempt(flight);
            self.launch(flight, now);
        }
        flight.exchange.is_none().then_some(Err(flight.complaint))
    }

    fn judge(
        &mut self,
        flight: &mut Flight<W>,
        outcome: Outcome,
        now: u64,
    ) -> Option<Result<Rc<Answer>, u16>> {
        let server = self.servers.get_mut(flight.server)?;
        let mut change = false;
        match outcome {
            Outcome::Pending => return None,
            Outcome::Answer(len) => {
                let message = Message::new(self.buffer.get(..len)?).ok()?;
                match look(server, &message, &flight.key, self.strip_ech) {
                    Look::Answer(answer) => return Some(Ok(Rc::new(answer))),
                    Look::AskAgain => change = true,
                    Look::Useless(complaint) => flight.complaint = complaint,
                }
            }
            Outcome::Truncated => {
                flight.tcp = true;
                change = true;
            }
            Outcome::CaseChanged => {
                // A forger who guessed id and port, or a server that writes names its own way.
                // TCP tells them apart: nobody else can answer there.
                if flight.tcp {
                    server.keeps_case = false;
                }
                flight.tcp = true;
                change = true;
            }
            Outcome::Failed => {}
        }
        if change && flight.changes < MAX_CHANGES {
            flight.changes += 1;
        } else {
            self.next_attempt(flight);
        }
        self.launch(flight, now);
        None
    }
}

enum Look {
    Answer(Answer),
    /// The server was asked in a manner it does not know; that is noted.
    AskAgain,
    Useless(u16),
}

/// Reads a response and learns from it how this server wants to be asked.
fn look(server: &mut Server, message: &Message<'_>, key: &Key, strip_ech: bool) -> Look {
    let end = message.question().map(|(_, end)| end);
    if let Ok(end) = end
        && let Some((_, cookie)) = exchange::cookie_of(message, end)
        && !cookie.is_empty()
    {
        server.server_cookie = cookie.to_vec();
    }
    match answer::read(message, key, strip_ech) {
        Ok(answer) => Look::Answer(answer),
        Err(Fault::Rcode(rcode::FORMERR | rcode::NOTIMP)) if server.edns => {
            server.edns = false;
            Look::AskAgain
        }
        Err(Fault::Rcode(rcode::BADCOOKIE)) => Look::AskAgain,
        Err(Fault::Rcode(_)) => Look::Useless(ede::OTHER),
        // Servers from before EDNS may answer with a bare header.
        Err(Fault::Malformed)
            if end.is_err()
                && server.edns
                && matches!(message.rcode(), rcode::FORMERR | rcode::NOTIMP) =>
        {
            server.edns = false;
            Look::AskAgain
        }
        Err(Fault::Malformed) => Look::Useless(ede::INVALID_DATA),
    }
}
