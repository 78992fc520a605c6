//! Refused DNS queries, from what the container's tier writes down.
//!
//! The gate says so itself. dnsmasq answers every name and opens only what is allowed, so there a
//! query for a name outside the lists is what counts as refused: its connection will be.

use crate::bundle::Bundle;
use crate::clock;
use crate::contract::file;
use crate::dns::gate::feed::{self, Record};
use crate::error::Result;
use crate::files::Dir;
use crate::watch::dns_log::{self, Said};
use crate::watch::event::{BLOCKED_QUERY, Event, Source};
use crate::watch::follow::{Follower, From};

/// Bytes read in one go.
const BUDGET: usize = 256 * 1024;

/// The DNS tier's refusals.
#[derive(Debug)]
pub struct Queries {
    container: String,
    dnsmasq: Follower,
    feed: Follower,
}

impl Queries {
    /// Follows both tiers' logs from now on. With `history` the gate's are read from their start;
    /// dnsmasq's lines carry neither year nor zone, so its past cannot be dated.
    pub fn new(dir: &Dir, container: &str, history: bool) -> Result<Self> {
        let from = if history { From::Start } else { From::End };
        Ok(Self {
            container: container.to_string(),
            dnsmasq: Follower::new(dir, file::DNSMASQ_LOG, From::End)?,
            feed: Follower::new(dir, file::DNS_FEED, from)?,
        })
    }

    /// Hands new refusals to `each`; whether there may be more.
    pub fn read(&mut self, bundle: &Bundle, mut each: impl FnMut(Event)) -> Result<bool> {
        let container = &self.container;
        let event = |time, name: &str, query_type: &str| Event {
            time,
            source: Source::Dns.word().into(),
            action: BLOCKED_QUERY.into(),
            container: container.clone(),
            domain: name.into(),
            query_type: query_type.into(),
            ..Event::default()
        };
        let mut more = self.feed.read(bundle.dir(), BUDGET, |line| {
            let line = std::str::from_utf8(line).ok();
            if let Some(Record::Blocked {
                time,
                name,
                query_type,
            }) = line.and_then(feed::parse)
            {
                each(event(time, name, query_type));
            }
        })?;
        let mut lists: Option<(Vec<String>, Vec<String>)> = None;
        let now = clock::now();
        more |= self.dnsmasq.read(bundle.dir(), BUDGET, |line| {
            let line = std::str::from_utf8(line).ok();
            if let Some(Said::Query { name, query_type }) = line.and_then(dns_log::parse_dnsmasq) {
                let (allowed, denied) = lists.get_or_insert_with(|| domains(bundle));
                if !dns_log::covered(name, allowed) || dns_log::covered(name, denied) {
                    each(event(now, name, query_type));
                }
            }
        })?;
        Ok(more)
    }
}

/// The allowed and the denied domains at this moment; what cannot be read allows nothing.
fn domains(bundle: &Bundle) -> (Vec<String>, Vec<String>) {
    let list = |name| bundle.read_list::<String>(name).unwrap_or_default();
    let mut allowed = list(file::PROFILE_DOMAINS);
    allowed.extend(list(file::LIVE_DOMAINS));
    (allowed, list(file::DENIED_DOMAINS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tier_s_refusals_are_events() {
        let path = std::env::temp_dir().join(format!("shield-queries-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        dir.append(
            file::DNS_FEED,
            b"7 blocked gate.example AAAA\n8 answer x.example 192.0.2.1\n",
        )
        .unwrap();
        dir.write(file::PROFILE_DOMAINS, b"good.example\n").unwrap();
        dir.write(file::DENIED_DOMAINS, b"bad.good.example\n")
            .unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let mut queries = Queries::new(&dir, "box", true).unwrap();
        for name in ["www.good.example", "bad.good.example", "other.example"] {
            let line = format!("x dnsmasq[1]: query[A] {name} from 127.0.0.1\n");
            dir.append(file::DNSMASQ_LOG, line.as_bytes()).unwrap();
        }
        let mut seen = Vec::new();
        let more = queries.read(&bundle, |e| seen.push((e.domain, e.query_type)));
        assert!(!more.unwrap());
        let expected = [
            ("gate.example", "AAAA"),
            ("bad.good.example", "A"),
            ("other.example", "A"),
        ];
        assert_eq!(seen, expected.map(|(d, t)| (d.to_string(), t.to_string())));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
