//! The question, as a person reads it, and the answer, as a person gives it.

use super::Verdict;
use super::queue::Question;
use crate::error::Result;
use crate::nflog::packet::proto;
use crate::output;
use crate::sanitize;
use crate::validate::Domain;
use crate::watch::event::proto_name;

/// How long a timed verdict lasts.
const WHILE: &str = "15m";

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A decision.
    Verdict(Verdict),
    /// Not now.
    Skip,
    /// End the session.
    Quit,
    /// None of the answers, or one that this question does not have.
    Unclear,
}

/// Reads an answer: a key, or a word on a line. Only the first key counts: what follows was typed
/// before the next question could be read.
pub fn answer(text: &str, question: &Question) -> Answer {
    let word = text.trim();
    let dest = || question.dest.to_string();
    let domain = || domain(question).map(str::to_string);
    let verdict = match word.to_ascii_lowercase().as_str() {
        "a" | "allow" => Some(Verdict::Allow(dest())),
        "d" | "deny" => Some(Verdict::Deny(dest())),
        "t" | "timed" => Some(Verdict::AllowFor(dest(), WHILE)),
        "p" | "port" => port(question).map(Verdict::Allow),
        "w" | "whole" | "domain" => domain().map(Verdict::Allow),
        "x" | "deny-domain" => domain().map(Verdict::Deny),
        "s" | "skip" => return Answer::Skip,
        _ if is_quit(word) => return Answer::Quit,
        _ => None,
    };
    verdict.map_or(Answer::Unclear, Answer::Verdict)
}

/// Whether this ends the session.
pub fn is_quit(text: &str) -> bool {
    matches!(text.trim(), "q" | "Q" | "quit")
}

/// The name, where it is one the verbs take: the workload chose what it looked up.
fn domain(question: &Question) -> Option<&str> {
    let name = question.domain.as_str();
    name.parse::<Domain>().is_ok().then_some(name)
}

/// `192.0.2.7:443/tcp`, where the verbs know the protocol.
fn port(question: &Question) -> Option<String> {
    let known = matches!(question.proto, proto::TCP | proto::UDP) && question.port != 0;
    known.then(|| place(question))
}

fn place(question: &Question) -> String {
    let name = proto_name(question.proto);
    match (question.port, question.dest.is_ipv6()) {
        (0, _) => format!("{}/{name}", question.dest),
        (port, true) => format!("[{}]:{port}/{name}", question.dest),
        (port, false) => format!("{}:{port}/{name}", question.dest),
    }
}

/// The screen: what stands on it of the current question.
#[derive(Debug, Default)]
pub struct Prompt {
    terminal: bool,
    // What the prompt's line says; empty while nothing is asked.
    asked: String,
    shown: Option<Question>,
}

impl Prompt {
    /// Introduces the session.
    pub fn begin(&mut self, container: &str, terminal: bool) -> Result<()> {
        self.terminal = terminal;
        let how = if terminal { "q ends" } else { "quit ends" };
        output::line(&format!(
            "Waiting for what {} is kept from; {how}.",
            sanitize::text(container)
        ))
    }

    /// Whether a question stands unanswered.
    pub fn is_asking(&self) -> bool {
        self.shown.is_some()
    }

    /// Asks, or brings the count of what is asked up to date. Nothing is written twice.
    pub fn ask(&mut self, container: &str, question: &Question, others: usize) -> Result<()> {
        let same = self.shown.as_ref().is_some_and(|shown| {
            (shown.dest, shown.port, shown.proto) == (question.dest, question.port, question.proto)
        });
        if !same {
            let name = match question.domain.as_str() {
                "" => String::new(),
                domain => format!(" ({})", sanitize::text(domain)),
            };
            output::line(&format!(
                "\n{} wants {}{name}",
                sanitize::text(container),
                place(question)
            ))?;
            self.asked.clear();
        }
        self.shown = Some(question.clone());
        // In a pipe a question is asked once; on a terminal its line is kept up to date.
        if same && !self.terminal {
            return Ok(());
        }
        let asked = prompt_line(question, others);
        if asked == self.asked {
            return Ok(());
        }
        let again = if self.terminal { "\r\x1b[K" } else { "" };
        let end = if self.terminal { " " } else { "\n" };
        output::text(&format!("{again}{asked}{end}"))?;
        self.asked = asked;
        Ok(())
    }

    /// The question was answered.
    pub fn answered(&mut self, how: &str) -> Result<()> {
        self.shown = None;
        self.asked.clear();
        output::line(how)
    }

    /// Says something between two questions; a question that stands is asked again afterwards.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let begin = if self.asked.is_empty() || !self.terminal {
            ""
        } else {
            "\r\x1b[K"
        };
        self.asked.clear();
        output::text(&format!("{begin}{}\n", sanitize::line(text)))
    }

    /// Explains the answers there are.
    pub fn unclear(&mut self, question: &Question) -> Result<()> {
        self.say(&explanation(question))?;
        if !self.terminal {
            self.shown = None;
        }
        Ok(())
    }

    /// The session is over.
    pub fn end(&mut self) -> Result<()> {
        if self.terminal && self.is_asking() {
            output::line("")?;
        }
        Ok(())
    }
}

fn prompt_line(question: &Question, others: usize) -> String {
    let times = match question.times {
        1 => "once".to_string(),
        n => format!("{n} times"),
    };
    let others = match others {
        0 => String::new(),
        n => format!(", {n} more waiting"),
    };
    let mut keys = String::from("a/d/t/");
    if port(question).is_some() {
        keys.push_str("p/");
    }
    if domain(question).is_some() {
        keys.push_str("w/x/");
    }
    format!("tried {times}{others}: [{keys}s/q, ? explains]")
}

fn explanation(question: &Question) -> String {
    let mut out = format!(
        "a allow {0}, d deny {0}, t allow it for {WHILE}",
        question.dest
    );
    if let Some(port) = port(question) {
        out.push_str(&format!(", p allow only {port}"));
    }
    if let Some(domain) = domain(question) {
        out.push_str(&format!(", w allow all of {domain}, x deny all of it"));
    }
    out.push_str(", s skip, q quit");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(dest: &str, domain: &str) -> Question {
        Question {
            dest: dest.parse().unwrap(),
            port: 443,
            proto: proto::TCP,
            domain: domain.into(),
            times: 2,
        }
    }

    #[test]
    fn keys_and_words_are_the_same_answers() {
        let q = question("2001:db8::7", "a.example");
        let allow = |t: &str| Answer::Verdict(Verdict::Allow(t.into()));
        for (texts, meant) in [
            (["a", "allow\n"], allow("2001:db8::7")),
            (["p", " Port "], allow("[2001:db8::7]:443/tcp")),
            (["w", "domain"], allow("a.example")),
            (
                ["t", "timed"],
                Answer::Verdict(Verdict::AllowFor("2001:db8::7".into(), "15m")),
            ),
            (
                ["d", "deny"],
                Answer::Verdict(Verdict::Deny("2001:db8::7".into())),
            ),
            (
                ["x", "deny-domain"],
                Answer::Verdict(Verdict::Deny("a.example".into())),
            ),
            (["s", "skip"], Answer::Skip),
            (["q", "quit"], Answer::Quit),
            (["\x1b[A", "aa"], Answer::Unclear),
        ] {
            for text in texts {
                assert_eq!(answer(text, &q), meant, "{text:?}");
            }
        }
    }

    #[test]
    fn a_question_without_name_or_port_has_no_such_answers() {
        let mut q = question("192.0.2.7", "");
        assert_eq!(answer("w", &q), Answer::Unclear);
        q.domain = "--help".into();
        assert_eq!(answer("w", &q), Answer::Unclear, "no name a verb takes");
        q.domain.clear();
        q.proto = proto::ICMP;
        q.port = 0;
        assert_eq!(answer("p", &q), Answer::Unclear);
        assert_eq!(place(&q), "192.0.2.7/1");
        assert_eq!(
            prompt_line(&q, 3),
            "tried 2 times, 3 more waiting: [a/d/t/s/q, ? explains]"
        );
    }
}
