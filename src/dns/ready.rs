//! Whether a name server answers.

use super::exchange::{Exchange, Outcome, Request, poll};
use super::name::Name;
use super::wire::build::Ask;
use super::wire::rtype;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A name that the gate and our dnsmasq answer by themselves: nothing goes upstream for it
/// (RFC 6761 section 6.4).
const QUESTION: &str = "ready.invalid";
/// Time after which the question is repeated: a server that is just starting may have lost it.
const REPEAT: Duration = Duration::from_millis(100);

/// Asks the server until it answers, with whatever response code.
///
/// # Errors
/// It has not answered within `at_most`.
pub fn wait_for(server: SocketAddr, at_most: Duration) -> Result<()> {
    let name = Name::parse(QUESTION).map_err(|e| Error::new(e.to_string()))?;
    let deadline = Instant::now() + at_most;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while Instant::now() < deadline {
        let until = deadline.min(Instant::now() + REPEAT);
        let request = Request {
            name: &name,
            qtype: rtype::A,
            server,
            tcp: false,
            mix_case: false,
            ask: Ask::default(),
            mark: None,
        };
        // Refused at once where nothing listens yet: then the pause below is the whole wait.
        let mut exchange = Exchange::start(&request).ok();
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis() as u64;
            if left == 0 {
                break;
            }
            let Some(waiting) = &mut exchange else {
                poll(&mut [], left.min(5))?;
                break;
            };
            poll(&mut [PollFd::new(waiting, PollFlags::IN)], left)?;
            match waiting.advance(&mut buffer) {
                Outcome::Pending => {}
                Outcome::Failed => exchange = None,
                _ => return Ok(()),
            }
        }
    }
    Err(Error::new(format!(
        "the DNS server at {server} does not answer"
    )))
}
