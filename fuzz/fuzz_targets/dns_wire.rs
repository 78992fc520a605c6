//! Any bytes, as a query and as upstream's answer to it: a value or an error, never a panic; and
//! what was written anew reads back, and is no longer than a message may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terok_shield::dns::answer::{self, Key, MAX_ADDRESSES};
use terok_shield::dns::gate::reply::{Asker, Waiter};
use terok_shield::dns::name::Name;
use terok_shield::dns::wire::Message;
use terok_shield::dns::wire::query::Query;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = Query::read(bytes) {
        let asker = Asker::Udp(([127, 0, 0, 1], 4000).into());
        let reply = Waiter::new(asker, &query).refuse(5, Some((15, "blocked")));
        let message = Message::new(&reply).expect("a reply has a header");
        let (question, _) = message.question().expect("and its question");
        assert_eq!(question.raw, query.question.raw);
    }
    let Ok(message) = Message::new(bytes) else {
        return;
    };
    let Ok((question, _)) = message.question() else {
        return;
    };
    let key = Key {
        name: question.name,
        qtype: question.qtype,
        dnssec_ok: true,
        checking_disabled: false,
    };
    if let Ok(answer) = answer::read(&message, &key, true) {
        let again = Message::new(&answer.message).expect("an answer has a header");
        let (_, end) = again.question().expect("and its question");
        let mut records = again.records(end);
        assert!(records.by_ref().all(|r| r.is_ok()));
        assert_eq!(records.position(), answer.message.len());
        assert_eq!(answer.ttls.len(), again.counts()[1..].iter().map(|n| usize::from(*n)).sum());
        // A service record may bring several hints past the limit, an address record none.
        assert!(key.qtype > 60 || answer.addresses.len() <= MAX_ADDRESSES);
        let _ = Name::parse(&key.name.to_text());
    }
});
