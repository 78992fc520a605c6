//! `simple-clearance`: one person at a terminal decides about each destination a container was
//! kept from.

pub mod ask;
pub mod queue;
pub mod terminal;

use crate::bundle::Bundle;
use crate::dbus;
use crate::error::{Error, Result};
use crate::output;
use crate::sanitize;
use crate::watch::event::{Event, QUEUED};
use crate::watch::live;
use crate::watch::packets::Packets;
use ask::{Answer, Prompt};
use nix::sys::signalfd::SignalFd;
use queue::Queue;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use terminal::{Input, Keys};

/// The name the hub owns while it asks.
pub const HUB_NAME: &str = "org.terok.Shield1";
/// How often to look where the bundle cannot be watched.
const FALLBACK: Duration = Duration::from_millis(250);

/// A decision, in the words of the verbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `allow TARGET`
    Allow(String),
    /// `allow --for DURATION TARGET`
    AllowFor(String, &'static str),
    /// `deny TARGET`
    Deny(String),
}

/// Carries verdicts out, as the verbs `allow` and `deny` do.
pub trait Verdicts {
    /// Does it; what to tell the person.
    fn carry_out(&mut self, verdict: &Verdict) -> Result<String>;
}

/// Refuses to compete with the hub for the same questions.
pub fn refuse_beside_hub() -> Result<()> {
    match dbus::session_name_has_owner(HUB_NAME) {
        Ok(Some(true)) => Err(Error::new(format!(
            "the hub ({HUB_NAME} on the session bus) answers for this desktop's containers: decide there, or stop it first"
        ))),
        Ok(_) => Ok(()),
        Err(e) => {
            output::warn(&format!("Warning: {e}; going on without the hub"));
            Ok(())
        }
    }
}

/// Asks until `q`, the end of input, or a signal.
pub fn run(bundle: &Bundle, container: &str, verdicts: &mut dyn Verdicts) -> Result<()> {
    refuse_beside_hub()?;
    let signals = live::signals()?;
    let changes = live::watch_dir(bundle);
    let mut desk = Clearance {
        bundle,
        container,
        verdicts,
        packets: Packets::default(),
        queue: Queue::default(),
        prompt: Prompt::default(),
        keys: Keys::open()?,
    };
    desk.prompt.begin(container, desk.keys.is_terminal())?;
    let ended = desk.serve(&signals, changes.as_ref());
    // The terminal first: whatever is said after this is said to a sane one.
    desk.keys.restore();
    desk.prompt.end()?;
    ended
}

struct Clearance<'a> {
    bundle: &'a Bundle,
    container: &'a str,
    verdicts: &'a mut dyn Verdicts,
    packets: Packets,
    queue: Queue,
    prompt: Prompt,
    keys: Keys,
}

impl Clearance<'_> {
    fn serve(&mut self, signals: &SignalFd, changes: Option<&OwnedFd>) -> Result<()> {
        loop {
            if matches!(signals.read_signal(), Ok(Some(_))) {
                return Ok(());
            }
            if let Some(changes) = changes {
                live::drain(changes);
            }
            self.packets.connect(self.bundle, self.container)?;
            self.take_events()?;
            self.show()?;
            let mut deadline = self.packets.deadline();
            if changes.is_none() {
                deadline = Some(Instant::now() + FALLBACK);
            }
            let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
            // Answers that came without a question wait, unless they are keys: those are dropped.
            if self.keys.is_terminal() || self.prompt.is_asking() {
                fds.push(PollFd::from_borrowed_fd(self.keys.fd(), PollFlags::IN));
            }
            self.packets.poll_fds(&mut fds);
            if let Some(changes) = changes {
                fds.push(PollFd::new(changes, PollFlags::IN));
            }
            if !(self.prompt.is_asking() && self.keys.has_line()) {
                live::wait_until(&mut fds, deadline)?;
            }
            drop(fds);
            if self.take_input()? {
                return Ok(());
            }
        }
    }

    fn take_events(&mut self) -> Result<()> {
        let queue = &mut self.queue;
        let mut lost = Vec::new();
        self.packets.read(|line| match Event::parse(line) {
            Some(event) if event.action == QUEUED => queue.add(&event),
            Some(_) => {}
            None => lost.push(sanitize::line(line)),
        });
        for line in lost {
            self.prompt.say(&line)?;
        }
        Ok(())
    }

    /// Shows the question that is first in the queue, or how often it was asked by now.
    fn show(&mut self) -> Result<()> {
        let waiting = self.queue.len();
        let dropped = self.queue.take_dropped();
        if dropped > 0 {
            self.prompt.say(&format!(
                "{dropped} more destinations than can wait: try them again"
            ))?;
        }
        let Some(question) = self.queue.first() else {
            return Ok(());
        };
        if !self.prompt.is_asking() {
            // What was typed before the question was read is no answer to it.
            self.keys.forget();
        }
        self.prompt
            .ask(self.container, question, waiting.saturating_sub(1))
    }

    /// Takes what was typed; whether that ends the session.
    fn take_input(&mut self) -> Result<bool> {
        if !self.keys.is_terminal() && !self.prompt.is_asking() {
            return Ok(false);
        }
        let text = match self.keys.read()? {
            Input::Nothing => return Ok(false),
            Input::End => return Ok(true),
            Input::Text(text) => text,
        };
        let Some(question) = self.queue.first() else {
            // `q` is understood at any time.
            return Ok(ask::is_quit(&text));
        };
        match ask::answer(&text, question) {
            Answer::Quit => return Ok(true),
            Answer::Unclear => self.prompt.unclear(question)?,
            Answer::Skip => {
                self.prompt.answered("skipped")?;
                self.queue.skip();
            }
            Answer::Verdict(verdict) => {
                self.prompt.answered("...")?;
                match self.verdicts.carry_out(&verdict) {
                    Ok(said) => {
                        self.prompt.say(&said)?;
                        self.queue.settle(&verdict);
                    }
                    // The question stays: nothing was decided.
                    Err(e) => self.prompt.say(&format!("Error: {e}"))?,
                }
            }
        }
        Ok(false)
    }
}
