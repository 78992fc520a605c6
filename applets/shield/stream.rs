//! Verbs that stay: watch.

use super::{Global, parse};
use crate::error::Result;
use crate::watch::live;
use crate::watch::view::{self, Filter};
use argh::FromArgs;

#[derive(FromArgs)]
/// What happens to a container as it happens: packets, refused queries, changes of its shield.
#[argh(
    name = "watch",
    example = "terok-shield watch web\nterok-shield watch --since 2h --filter domain=example.org web\nterok-shield watch --filter source=nflog web | jq .dest",
    note = "Columns on a terminal, JSON lines in a pipe. Ends with Ctrl-C."
)]
struct Watch {
    /// JSON lines even on a terminal
    #[argh(switch)]
    json: bool,
    /// past events, too: since a time (RFC 3339), or for so long (90s, 15m, 2h, 1d)
    #[argh(option, from_str_fn(since))]
    since: Option<i64>,
    /// only events with source=dns|audit|nflog, action=WORD or domain=NAME; can be repeated
    #[argh(option)]
    filter: Vec<String>,
    /// the container's name
    #[argh(positional)]
    container: String,
}

fn since(text: &str) -> Result<i64, String> {
    view::parse_since(text).map_err(|e| e.to_string())
}

/// `terok-shield watch`
pub fn watch(global: &Global, args: &[&str]) -> Result<()> {
    let args: Watch = parse("watch", args)?;
    let mut filter = Filter::default();
    for text in &args.filter {
        filter.add(text)?;
    }
    let container = global.container(&args.container)?;
    let options = live::Options {
        json: args.json,
        since: args.since,
        filter,
    };
    live::run(&container.bundle, &container.name, &options)
}
