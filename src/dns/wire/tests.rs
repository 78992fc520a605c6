use super::build::{Ask, Builder, ReplyEdns, query, seal};
use super::edns::{Edns, OPTION_COOKIE, OPTION_EDE, split_cookie};
use super::query::{Query, Unanswerable};
use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A response header with one question for `www.example.org A` and `answers` records promised.
fn response(answers: u16, records: &[u8]) -> Vec<u8> {
    let mut m = vec![0, 7, 0x81, 0x80, 0, 1];
    m.extend_from_slice(&answers.to_be_bytes());
    m.extend_from_slice(&[0; 4]);
    m.extend_from_slice(name("www.example.org").wire());
    m.extend_from_slice(&[0, 1, 0, 1]);
    m.extend_from_slice(records);
    m
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Name, u16)>, Malformed> {
    let message = Message::new(bytes)?;
    let (_, end) = message.question()?;
    message
        .records(end)
        .map(|r| r.map(|r| (r.owner, r.rtype)))
        .collect()
}

#[test]
fn a_compressed_answer_is_read() {
    let m = response(1, b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    let message = Message::new(&m).unwrap();
    let (question, end) = message.question().unwrap();
    assert_eq!(question.name, name("www.example.org"));
    let record = message.records(end).next().unwrap().unwrap();
    assert_eq!(record.owner, question.name);
    assert_eq!(record.ttl(), 60);
    assert_eq!(
        rdata::address(&record),
        Some("192.0.2.1".parse::<IpAddr>().unwrap())
    );
}

#[test]
fn pointers_that_loop_or_lead_forward_are_malformed() {
    let tail = b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    let at = HEADER + 17 + 4;
    for pointer in [at, at + 2, 0, 11, 0x3fff] {
        let mut r = (0xc000 | pointer as u16).to_be_bytes().to_vec();
        r.extend_from_slice(tail);
        assert_eq!(read_all(&response(1, &r)), Err(Malformed), "{pointer}");
    }
    // A label, then a pointer back to that label: grows until 255 unless it is refused.
    let mut r = b"\x01a".to_vec();
    r.extend_from_slice(&(0xc000 | at as u16).to_be_bytes());
    r.extend_from_slice(tail);
    assert_eq!(read_all(&response(1, &r)), Err(Malformed));
}

#[test]
fn lengths_past_the_end_are_malformed() {
    let whole = response(1, b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    assert!(read_all(&whole).is_ok());
    for cut in HEADER..whole.len() {
        assert_eq!(read_all(&whole[..cut]), Err(Malformed), "{cut}");
    }
    for cut in 0..HEADER {
        assert!(Message::new(&whole[..cut]).is_err());
    }
    assert_eq!(
        read_all(&response(
            1,
            b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\xc0\0\x02\x01"
        )),
        Err(Malformed)
    );
    assert_eq!(read_all(&response(1, b"\x40a\0")), Err(Malformed));
    assert_eq!(read_all(&response(1, b"\x80a\0")), Err(Malformed));
}

#[test]
fn a_ttl_with_the_highest_bit_counts_as_zero() {
    let m = response(1, b"\xc0\x0c\0\x01\0\x01\x80\0\0\x01\0\x04\xc0\0\x02\x01");
    let message = Message::new(&m).unwrap();
    let (_, end) = message.question().unwrap();
    assert_eq!(message.records(end).next().unwrap().unwrap().ttl(), 0);
}

#[test]
fn a_query_round_trips_with_edns_and_cookie() {
    let cookie = *b"abcdefgh";
    let ask = Ask {
        edns: true,
        dnssec_ok: true,
        checking_disabled: true,
        cookie: Some((cookie, b"12345678")),
    };
    let bytes = query(9, b"\x03WwW\x07example\x03org\0", rtype::AAAA, &ask);
    let query = Query::read(&bytes).unwrap();
    assert_eq!(query.id, 9);
    assert_eq!(query.question.name, name("www.example.org"));
    assert_eq!(query.question.raw, b"\x03WwW\x07example\x03org\0");
    assert_eq!(query.flags, flag::RD | flag::CD);
    assert!(query.dnssec_ok());
    let edns = query.edns.unwrap();
    assert_eq!(usize::from(edns.payload), UDP_PAYLOAD);
    assert_eq!(
        edns.option(OPTION_COOKIE).and_then(split_cookie),
        Some((cookie, &b"12345678"[..]))
    );
}

#[test]
fn queries_no_server_can_answer_are_told_apart() {
    let good = query(1, name("a.org").wire(), rtype::A, &Ask::default());
    let edit = |at: usize, value: u16| {
        let mut m = good.clone();
        build::set_u16(&mut m, at, value);
        Query::read(&m).map(|q| q.id)
    };
    assert_eq!(Query::read(b"short").map(|q| q.id), Err(Unanswerable::Drop));
    assert_eq!(edit(2, flag::QR), Err(Unanswerable::Drop));
    for (at, value, code) in [
        (2, 4 << 11, rcode::NOTIMP),
        (2, 5 << 11, rcode::NOTIMP),
        (4, 0, rcode::FORMERR),
        (4, 2, rcode::FORMERR),
        (6, 1, rcode::FORMERR),
        (8, 1, rcode::FORMERR),
        (10, 1, rcode::FORMERR),
        (10, 60000, rcode::FORMERR),
    ] {
        assert_eq!(
            edit(at, value),
            Err(Unanswerable::Reply(code)),
            "{at} {value}"
        );
    }
    let mut trailing = good.clone();
    trailing.push(0);
    assert_eq!(
        Query::read(&trailing).map(|q| q.id),
        Err(Unanswerable::Reply(rcode::FORMERR))
    );
}

#[test]
fn edns_of_another_version_twice_or_damaged_is_refused() {
    let ask = Ask {
        edns: true,
        ..Ask::default()
    };
    let good = query(1, name("a.org").wire(), rtype::A, &ask);
    let mut version = good.clone();
    let at = version.len() - 5;
    version[at] = 1;
    assert_eq!(
        Query::read(&version).map(|q| q.id),
        Err(Unanswerable::Reply(rcode::BADVERS))
    );
    let mut twice = good.clone();
    twice.extend_from_slice(&good[good.len() - 11..]);
    build::set_u16(&mut twice, 10, 2);
    assert_eq!(
        Query::read(&twice).map(|q| q.id),
        Err(Unanswerable::Reply(rcode::FORMERR))
    );
    let mut option = good.clone();
    let len = option.len();
    build::set_u16(&mut option, len - 2, 4);
    option.extend_from_slice(&[0, 10, 0, 9]);
    assert_eq!(
        Query::read(&option).map(|q| q.id),
        Err(Unanswerable::Reply(rcode::FORMERR))
    );
}

#[test]
fn a_long_reply_is_cut_to_its_question_and_keeps_its_edns() {
    let owner = name("www.example.org");
    let mut builder = Builder::new(5, flag::QR | flag::RA, owner.wire(), rtype::A);
    let end = builder.len();
    for n in 0..60u8 {
        builder.plain(&owner, rtype::A, 60, &[192, 0, 2, n]);
    }
    builder.counts(60, 0, 0);
    let whole = builder.finish();
    assert_eq!(whole.len(), end + 60 * 16, "owners are compressed");

    let mut cut = whole.clone();
    seal(&mut cut, end, 0, Some(ReplyEdns::default()), 512);
    let message = Message::new(&cut).unwrap();
    assert!(message.has(flag::TC));
    assert_eq!(message.counts(), [1, 0, 0, 1]);
    assert_eq!(cut.len(), end + 11);

    let mut fits = whole.clone();
    seal(&mut fits, end, 0, None, UDP_PAYLOAD);
    assert_eq!(fits, whole);
}

#[test]
fn an_extended_error_stands_in_the_reply() {
    let mut reply = Builder::new(5, flag::QR, name("a.org").wire(), rtype::A).finish();
    let end = reply.len();
    let error = Some((edns::ede::BLOCKED, "not allowed"));
    let edns = ReplyEdns {
        dnssec_ok: true,
        error,
    };
    seal(&mut reply, end, rcode::REFUSED, Some(edns), 512);
    let message = Message::new(&reply).unwrap();
    assert_eq!(message.rcode(), rcode::REFUSED);
    let record = message.records(end).next().unwrap().unwrap();
    let opt = Edns::read(&record).unwrap();
    assert!(opt.dnssec_ok);
    assert_eq!(opt.option(OPTION_EDE), Some(&b"\0\x0fnot allowed"[..]));
}

#[test]
fn records_move_to_another_message_with_their_names() {
    // MX 10 mail.example.org, compressed against the question's name.
    let m = response(
        1,
        b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x09\0\x0a\x04mail\xc0\x10",
    );
    let message = Message::new(&m).unwrap();
    let (_, end) = message.question().unwrap();
    let record = message.records(end).next().unwrap().unwrap();
    let mut builder = Builder::new(1, flag::QR, name("other.net").wire(), 15);
    let begin = builder.len();
    builder.record(&record, 30).unwrap();
    builder.counts(1, 0, 0);
    let moved = builder.finish();
    let moved = Message::new(&moved).unwrap();
    let copy = moved.records(begin).next().unwrap().unwrap();
    assert_eq!(copy.owner, name("www.example.org"));
    assert_eq!(copy.ttl(), 30);
    let (target, _) = read_name(copy.message, copy.rdata_at + 2).unwrap();
    assert_eq!(target, name("mail.example.org"));
}

#[test]
fn record_data_of_the_wrong_shape_is_malformed() {
    for data in [
        &b"\0\x01\0\x01\0\0\0\x3c\0\x05\xc0\0\x02\x01\x01"[..], // A of five octets
        b"\0\x1c\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",          // AAAA of four
        b"\0\x05\0\x01\0\0\0\x3c\0\x03\xc0\x0c\0",              // CNAME and one octet more
        b"\0\x06\0\x01\0\0\0\x3c\0\x04\xc0\x0c\xc0\x0c",        // SOA without its numbers
        b"\0\x0f\0\x01\0\0\0\x3c\0\x01\0",                      // MX cut short
        b"\0\x23\0\x01\0\0\0\x3c\0\x05\0\0\0\0\xff",            // NAPTR string past the end
    ] {
        let mut r = b"\xc0\x0c".to_vec();
        r.extend_from_slice(data);
        let m = response(1, &r);
        let message = Message::new(&m).unwrap();
        let (_, end) = message.question().unwrap();
        let record = message.records(end).next().unwrap().unwrap();
        let mut builder = Builder::new(1, 0, name("a.org").wire(), 1);
        assert!(builder.record(&record, 1).is_err(), "{data:?}");
    }
}

fn https(params: &[u8]) -> Vec<u8> {
    let mut r = b"\xc0\x0c\0\x41\0\x01\0\0\0\x3c".to_vec();
    r.extend_from_slice(&(3 + params.len() as u16).to_be_bytes());
    r.extend_from_slice(b"\0\x01\0");
    r.extend_from_slice(params);
    response(1, &r)
}

fn with_https<T>(params: &[u8], read: impl FnOnce(&Record<'_>) -> T) -> T {
    let m = https(params);
    let message = Message::new(&m).unwrap();
    let (_, end) = message.question().unwrap();
    read(&message.records(end).next().unwrap().unwrap())
}

#[test]
fn hints_of_https_records_are_addresses() {
    let params = b"\0\x04\0\x08\xc0\0\x02\x01\xc0\0\x02\x02\0\x06\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01";
    let mut hints = Vec::new();
    with_https(params, |r| svcb::hints(r, |a| hints.push(a.to_string()))).unwrap();
    assert_eq!(hints, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    for bad in [
        &b"\0\x04\0\x03\xc0\0\x02"[..],
        b"\0\x04\0\0",
        b"\0\x04\0\x09\xc0\0\x02\x01",
        b"\0\x04\0\x04\xc0\0\x02\x01\0\x04\0\x04\xc0\0\x02\x02",
        b"\0\x06\0\x04\xc0\0\x02\x01",
        b"\0\x05\0\0\0\x04\0\x04\xc0\0\x02\x01",
        b"\0",
    ] {
        assert!(
            with_https(bad, |r| svcb::hints(r, |_| ())).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn ech_keys_are_taken_out_and_mandatory_agrees() {
    let params = b"\0\0\0\x04\0\x01\0\x05\0\x01\0\x03\x02h2\0\x05\0\x02xx";
    let kept = with_https(params, svcb::without_ech).unwrap().unwrap();
    assert_eq!(kept, b"\0\0\0\x02\0\x01\0\x01\0\x03\x02h2");
    let only = with_https(b"\0\0\0\x02\0\x05\0\x05\0\x02xx", svcb::without_ech);
    assert_eq!(only.unwrap().unwrap(), b"");
    let none = with_https(b"\0\x01\0\x03\x02h2", svcb::without_ech);
    assert_eq!(none.unwrap(), None);
}

/// Reads everything there is to read in a message, as the gate and the resolver together do.
fn read_everything(bytes: &[u8]) {
    let _ = Query::read(bytes).map(|q| (q.udp_limit(), q.dnssec_ok()));
    let Ok(message) = Message::new(bytes) else {
        return;
    };
    let start = message.question().map_or(HEADER, |(_, end)| end);
    let mut builder = Builder::new(1, 0, b"\0", 1);
    for record in message.records(start).flatten() {
        let _ = builder.record(&record, record.ttl());
        let _ = Edns::read(&record).map(|e| e.options().count());
        let _ = rdata::address(&record);
        let _ = rdata::target(&record);
        let _ = rdata::negative_ttl(&record);
        let _ = svcb::hints(&record, |_| ());
        let _ = svcb::without_ech(&record);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn damaged_messages_are_read_without_a_panic(
        edits in proptest::collection::vec((0usize..80, any::<u8>()), 1..6),
    ) {
        let mut m = https(b"\0\x04\0\x08\xc0\0\x02\x01\xc0\0\x02\x02\0\x05\0\x02xx");
        for (at, value) in edits {
            if let Some(b) = m.get_mut(at) {
                *b = value;
            }
        }
        read_everything(&m);
    }

    #[test]
    fn what_is_written_compressed_reads_back(
        texts in proptest::collection::vec("[a-c]{1,2}(\\.[a-c]{1,2}){0,4}", 1..40),
    ) {
        let names: Vec<Name> = texts.iter().map(|t| name(t)).collect();
        let mut builder = Builder::new(1, 0, names[0].wire(), 1);
        let begin = builder.len();
        for n in &names {
            builder.plain(n, rtype::A, 1, &[1, 2, 3, 4]);
        }
        builder.counts(names.len() as u16, 0, 0);
        let bytes = builder.finish();
        let message = Message::new(&bytes).unwrap();
        let read: Vec<Name> = message.records(begin).map(|r| r.unwrap().owner).collect();
        prop_assert_eq!(read, names);
    }
}
