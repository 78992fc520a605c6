//! The static resolver: the addresses of many names at once, in this process, over one poll loop.
//!
//! It asks recursive servers, as the C libraries' stub resolvers do, but all names and both
//! address families in parallel; a list of names takes about as long as its slowest.

use super::answer::{self, Fault, Key};
use super::exchange::{self, Exchange, Outcome, Request};
use super::name::Name;
use super::resolv_conf::Servers;
use super::wire::build::Ask;
use super::wire::{Message, rcode, rtype};
use rustix::event::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Questions on their way at a time: under the 150 that a dnsmasq forwards at once.
const MAX_IN_FLIGHT: usize = 128;
/// Questions over TCP at a time, counted among the former.
const MAX_TCP: usize = 16;
/// Times an incomplete CNAME chain is asked on.
const MAX_FOLLOWED: u8 = 8;
/// Changes of manner (TCP, without EDNS, without mixed case) that cost no attempt.
const MAX_CHANGES: u8 = 4;

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It does not exist.
    NoSuchName,
    /// It exists and has neither IPv4 nor IPv6 addresses.
    NoAddress,
    /// No server answered in time.
    Timeout,
    /// The servers answered with this response code.
    Refused(u16),
    /// The servers' answers break the format.
    Malformed,
    /// No server can be reached.
    Unreachable,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("no such name"),
            Self::NoAddress => f.write_str("the name has no address"),
            Self::Timeout => f.write_str("no DNS server answered in time"),
            Self::Refused(rcode::SERVFAIL) => f.write_str("the DNS servers failed (SERVFAIL)"),
            Self::Refused(rcode::REFUSED) => f.write_str("the DNS servers refused (REFUSED)"),
            Self::Refused(code) => write!(f, "the DNS servers answered with code {code}"),
            Self::Malformed => f.write_str("the DNS servers' answers are malformed"),
            Self::Unreachable => f.write_str("no DNS server can be reached"),
        }
    }
}

/// What became of each name, in the order they were given.
pub type Resolved = Vec<(Name, Result<Vec<IpAddr>, Why>)>;

/// One question: a name and a family.
struct Task {
    /// Index of the name it is for.
    index: usize,
    /// What is asked for now: the name, or the end of its chain so far.
    asked: Name,
    qtype: u16,
    /// Index of the server, and how many times one was asked.
    server: usize,
    attempt: u32,
    tcp: bool,
    edns: bool,
    mix_case: bool,
    changes: u8,
    followed: u8,
    exchange: Option<Exchange>,
    deadline: Instant,
    why: Why,
}

/// Resolves every name to its IPv4 and IPv6 addresses. One bad name never fails the rest. Takes
/// at most `at_most`.
pub fn resolve(names: &[Name], servers: &Servers, at_most: Duration) -> Resolved {
    let mut run = Run {
        servers,
        end: Instant::now() + at_most,
        waiting: tasks(names, servers),
        flying: Vec::new(),
        results: names.iter().map(|_| [None, None]).collect(),
        buffer: vec![0; usize::from(u16::MAX)],
    };
    while !run.is_done() {
        run.launch();
        if run.wait().is_err() {
            break;
        }
    }
    let results = run.results.into_iter().map(join);
    names.iter().copied().zip(results).collect()
}

fn tasks(names: &[Name], servers: &Servers) -> VecDeque<Task> {
    let mut server = 0;
    let mut tasks = VecDeque::with_capacity(names.len() * 2);
    for (index, name) in names.iter().enumerate() {
        for qtype in [rtype::A, rtype::AAAA] {
            tasks.push_back(Task {
                index,
                asked: *name,
                qtype,
                server,
                attempt: 0,
                tcp: servers.tcp,
                edns: servers.edns,
                mix_case: true,
                changes: 0,
                followed: 0,
                exchange: None,
                deadline: Instant::now(),
                why: Why::Timeout,
            });
        }
        if servers.rotate {
            server = (server + 1) % servers.addresses.len().max(1);
        }
    }
    tasks
}

type Half = Option<Result<Vec<IpAddr>, Why>>;

/// Both families' results as one: addresses where either has some, else the reason that says
/// more.
fn join([v4, v6]: [Half; 2]) -> Result<Vec<IpAddr>, Why> {
    let mut addresses = Vec::new();
    let mut why = Why::NoAddress;
    for half in [v4, v6] {
        match half.unwrap_or(Err(Why::Timeout)) {
            Ok(some) => addresses.extend(some),
            // A server that knows no AAAA does not make "no such name" of a name without A.
            Err(e) if why == Why::NoAddress => why = e,
            Err(_) => {}
        }
    }
    if addresses.is_empty() {
        Err(why)
    } else {
        Ok(addresses)
    }
}

/// What is to be done with a task.
enum Next {
    /// Wait on.
    Wait,
    /// Ask again, in the manner now noted in the task.
    Again,
    /// Ask the next server.
    Other,
    /// It has ended.
    Ended(Result<Vec<IpAddr>, Why>),
}

struct Run<'a> {
    servers: &'a Servers,
    end: Instant,
    waiting: VecDeque<Task>,
    flying: Vec<Task>,
    results: Vec<[Half; 2]>,
    buffer: Vec<u8>,
}

impl Run<'_> {
    fn is_done(&self) -> bool {
        (self.waiting.is_empty() && self.flying.is_empty()) || Instant::now() >= self.end
    }

    fn launch(&mut self) {
        let mut tcp = self.flying.iter().filter(|t| t.tcp).count();
        let mut kept_back = VecDeque::new();
        while self.flying.len() < MAX_IN_FLIGHT {
            let Some(mut task) = self.waiting.pop_front() else {
                break;
            };
            if task.tcp && tcp >= MAX_TCP {
                kept_back.push_back(task);
                continue;
            }
            if self.start(&mut task) {
                tcp += usize::from(task.tcp);
                self.flying.push(task);
            } else {
                self.end_task(&task, Err(task.why));
            }
        }
        self.waiting.append(&mut kept_back);
    }

    /// Sends a task's question to the first server, from its own on, that takes it.
    fn start(&self, task: &mut Task) -> bool {
        let count = self.servers.addresses.len();
        while task.attempt < self.servers.attempts * count as u32 {
            let Some(server) = self.servers.addresses.get(task.server) else {
                return false;
            };
            let request = Request {
                name: &task.asked,
                qtype: task.qtype,
                server: *server,
                tcp: task.tcp,
                mix_case: task.mix_case,
                ask: Ask {
                    edns: task.edns,
                    ..Ask::default()
                },
                mark: None,
            };
            match Exchange::start(&request) {
                Ok(exchange) => {
                    task.exchange = Some(exchange);
                    task.deadline = Instant::now() + self.servers.timeout;
                    return true;
                }
                Err(_) => {
                    task.why = Why::Unreachable;
                    self.next_server(task);
                }
            }
        }
        false
    }

    fn next_server(&self, task: &mut Task) {
        task.attempt += 1;
        task.server = (task.server + 1) % self.servers.addresses.len().max(1);
        task.tcp = self.servers.tcp;
        task.edns = self.servers.edns;
        task.mix_case = true;
    }

    fn end_task(&mut self, task: &Task, result: Result<Vec<IpAddr>, Why>) {
        let half = usize::from(task.qtype == rtype::AAAA);
        if let Some(halves) = self.results.get_mut(task.index) {
            halves[half] = Some(result);
        }
    }

    /// Waits until something happens and acts on it.
    fn wait(&mut self) -> crate::error::Result<()> {
        if self.flying.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let wake = self.flying.iter().map(|t| t.deadline).min();
        let until = wake.map_or(self.end, |w| w.min(self.end));
        let left = until.saturating_duration_since(now).as_millis() as u64 + 1;
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.flying.len());
        for exchange in self.flying.iter().filter_map(|t| t.exchange.as_ref()) {
            let flags = if exchange.wants_write() {
                PollFlags::OUT
            } else {
                PollFlags::IN
            };
            fds.push(PollFd::new(exchange, flags));
        }
        exchange::poll(&mut fds, left)?;
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        let now = Instant::now();
        let flying = std::mem::take(&mut self.flying);
        for (mut task, ready) in flying.into_iter().zip(ready) {
            let next = match task.exchange.as_mut() {
                Some(exchange) if ready => {
                    let outcome = exchange.advance(&mut self.buffer);
                    self.judge(&mut task, outcome)
                }
                _ => Next::Wait,
            };
            self.go_on(task, next, now);
        }
        Ok(())
    }

    fn go_on(&mut self, mut task: Task, next: Next, now: Instant) {
        let again = match next {
            Next::Ended(result) => return self.end_task(&task, result),
            Next::Wait if now < task.deadline => return self.flying.push(task),
            Next::Again if task.changes < MAX_CHANGES => {
                task.changes += 1;
                true
            }
            Next::Wait => {
                task.why = Why::Timeout;
                false
            }
            Next::Again | Next::Other => false,
        };
        task.exchange = None;
        if !again {
            self.next_server(&mut task);
        }
        self.waiting.push_back(task);
    }

    fn judge(&self, task: &mut Task, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Pending => Next::Wait,
            Outcome::Answer(len) => self.read(task, self.buffer.get(..len).unwrap_or(&[])),
            Outcome::Truncated => {
                task.tcp = true;
                Next::Again
            }
            Outcome::CaseChanged => {
                // Over TCP nobody else can have answered: this server changes case.
                task.mix_case = !task.tcp;
                task.tcp = true;
                Next::Again
            }
            Outcome::Failed => {
                task.why = Why::Unreachable;
                Next::Other
            }
        }
    }

    fn read(&self, task: &mut Task, bytes: &[u8]) -> Next {
        let Ok(message) = Message::new(bytes) else {
            return Next::Wait;
        };
        let key = Key {
            name: task.asked,
            qtype: task.qtype,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let objects = matches!(message.rcode(), rcode::FORMERR | rcode::NOTIMP);
        match answer::read(&message, &key, false) {
            Ok(answer) if !answer.addresses.is_empty() => {
                Next::Ended(Ok(answer.addresses.iter().map(|(a, _)| *a).collect()))
            }
            Ok(answer) if answer.rcode == rcode::NXDOMAIN => Next::Ended(Err(Why::NoSuchName)),
            Ok(answer) => match answer.via.last() {
                // The chain leads out of what this server told: ask for its end.
                Some(end) if task.followed < MAX_FOLLOWED && answer.lifetime == 0 => {
                    task.followed += 1;
                    task.changes = 0;
                    task.asked = *end;
                    Next::Again
                }
                _ => Next::Ended(Err(Why::NoAddress)),
            },
            Err(_) if objects && task.edns => {
                task.edns = false;
                Next::Again
            }
            Err(Fault::Rcode(code)) => {
                task.why = Why::Refused(code);
                Next::Other
            }
            Err(Fault::Malformed) => {
                task.why = Why::Malformed;
                Next::Other
            }
        }
    }
}
