//! One expression of a rule as the kernel lists it. What we would not write ourselves is refused.

use super::op::{Anonymous, Bytes, Op, SetRef};
use super::uapi::{data, expr, op};
use super::wire::{Attributes, Malformed, Table};

/// Why an expression has no [`Op`].
pub enum Refused {
    /// The bytes are no well-formed attributes.
    Malformed,
    /// It is something the model does not have: what.
    Foreign(String),
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

type Result<T> = std::result::Result<T, Refused>;

/// Finds the anonymous set of a name.
pub type Sets<'a> = &'a dyn Fn(&str) -> Option<Anonymous>;

/// All expressions of a rule.
pub fn list(bytes: &[u8], sets: Sets<'_>) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    for attribute in Attributes(bytes) {
        let (_, element) = attribute?;
        let table = Table::<3>::parse(element)?;
        let name = table.text(expr::NAME)?.ok_or(Refused::Malformed)?;
        ops.push(one(name, table.get(expr::DATA).unwrap_or(&[]), sets)?);
    }
    Ok(ops)
}

/// More attributes than any expression we know has.
type Attrs<'a> = Table<'a, 12>;

fn one(name: &str, bytes: &[u8], sets: Sets<'_>) -> Result<Op> {
    let a = Attrs::parse(bytes)?;
    match name {
        "meta" => exactly(name, &a, &[op::META_KEY, op::META_DREG]).and(Ok(Op::Meta {
            key: need(&a, op::META_KEY)?,
            reg: need(&a, op::META_DREG)?,
        })),
        "ct" => exactly(name, &a, &[op::CT_KEY, op::CT_DREG]).and(Ok(Op::Ct {
            key: need(&a, op::CT_KEY)?,
            reg: need(&a, op::CT_DREG)?,
        })),
        "payload" => payload(&a),
        "cmp" => {
            exactly(name, &a, &[op::CMP_SREG, op::CMP_OP, op::CMP_DATA])?;
            Ok(Op::Cmp {
                op: need(&a, op::CMP_OP)?,
                reg: need(&a, op::CMP_SREG)?,
                data: value(&a, op::CMP_DATA)?,
            })
        }
        "bitwise" => bitwise(&a),
        "byteorder" => byteorder(&a),
        "lookup" => lookup(&a, sets),
        "counter" => {
            let known = [op::COUNTER_BYTES, op::COUNTER_PACKETS, op::COUNTER_PAD];
            exactly(name, &a, &known)?;
            Ok(Op::Counter {
                packets: a.be64(op::COUNTER_PACKETS)?.ok_or(Refused::Malformed)?,
                bytes: a.be64(op::COUNTER_BYTES)?.ok_or(Refused::Malformed)?,
            })
        }
        "log" => log(&a),
        "reject" => {
            exactly(name, &a, &[op::REJECT_TYPE, op::REJECT_CODE])?;
            let kind = need(&a, op::REJECT_TYPE)?;
            // A TCP reset has no code.
            let code = a.fixed::<1>(op::REJECT_CODE)?.map_or(0, |[code]| code);
            Ok(Op::Reject { kind, code })
        }
        "immediate" => immediate(&a),
        other => foreign(format!("expression \"{}\"", printable(other))),
    }
}

/// Names come from the kernel, yet their bytes from whoever wrote the table.
fn printable(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

fn foreign<T>(what: String) -> Result<T> {
    Err(Refused::Foreign(what))
}

/// An attribute beyond those we know changes what the expression does.
fn exactly(name: &str, a: &Attrs<'_>, known: &[u16]) -> Result<()> {
    if a.beyond(known) {
        return foreign(format!("an unknown form of expression \"{name}\""));
    }
    Ok(())
}

fn need(a: &Attrs<'_>, kind: u16) -> Result<u32> {
    a.be32(kind)?.ok_or(Refused::Malformed)
}

/// The value inside an attribute of `enum nft_data_attributes`.
fn value(a: &Attrs<'_>, kind: u16) -> Result<Bytes> {
    let nested = Table::<3>::parse(a.get(kind).ok_or(Refused::Malformed)?)?;
    let value = nested.get(data::VALUE).ok_or(Refused::Malformed)?;
    Bytes::new(value).ok_or(Refused::Foreign(
        "a comparison of more than 16 bytes".into(),
    ))
}

fn payload(a: &Attrs<'_>) -> Result<Op> {
    let known = [
        op::PAYLOAD_DREG,
        op::PAYLOAD_BASE,
        op::PAYLOAD_OFFSET,
        op::PAYLOAD_LEN,
    ];
    exactly("payload", a, &known)?;
    Ok(Op::Payload {
        base: need(a, op::PAYLOAD_BASE)?,
        offset: need(a, op::PAYLOAD_OFFSET)?,
        len: need(a, op::PAYLOAD_LEN)?,
        reg: need(a, op::PAYLOAD_DREG)?,
    })
}

fn bitwise(a: &Attrs<'_>) -> Result<Op> {
    let known = [
        op::BITWISE_SREG,
        op::BITWISE_DREG,
        op::BITWISE_LEN,
        op::BITWISE_MASK,
        op::BITWISE_XOR,
        op::BITWISE_OP,
    ];
    exactly("bitwise", a, &known)?;
    let reg = need(a, op::BITWISE_SREG)?;
    let mask = value(a, op::BITWISE_MASK)?;
    let xor = value(a, op::BITWISE_XOR)?;
    let plain = need(a, op::BITWISE_DREG)? == reg
        && need(a, op::BITWISE_LEN)? as usize == mask.as_slice().len()
        && xor.as_slice().len() == mask.as_slice().len()
        && xor.as_slice().iter().all(|&b| b == 0)
        && a.be32(op::BITWISE_OP)?.unwrap_or(0) == 0;
    if !plain {
        return foreign("bit arithmetic other than a mask".into());
    }
    Ok(Op::Mask { reg, mask })
}

fn byteorder(a: &Attrs<'_>) -> Result<Op> {
    let known = [
        op::BYTEORDER_SREG,
        op::BYTEORDER_DREG,
        op::BYTEORDER_OP,
        op::BYTEORDER_LEN,
        op::BYTEORDER_SIZE,
    ];
    exactly("byteorder", a, &known)?;
    let reg = need(a, op::BYTEORDER_SREG)?;
    if need(a, op::BYTEORDER_DREG)? != reg
        || need(a, op::BYTEORDER_OP)? != libc::NFT_BYTEORDER_HTON as u32
    {
        return foreign("a change of byte order".into());
    }
    Ok(Op::Hton {
        reg,
        len: need(a, op::BYTEORDER_LEN)?,
        size: need(a, op::BYTEORDER_SIZE)?,
    })
}

fn lookup(a: &Attrs<'_>, sets: Sets<'_>) -> Result<Op> {
    let known = [op::LOOKUP_SET, op::LOOKUP_SREG, op::LOOKUP_FLAGS];
    exactly("lookup", a, &known)?;
    if a.be32(op::LOOKUP_FLAGS)?.unwrap_or(0) != 0 {
        return foreign("an inverted lookup".into());
    }
    let name = a.text(op::LOOKUP_SET)?.ok_or(Refused::Malformed)?;
    let set = match sets(name) {
        Some(anonymous) => SetRef::Anonymous(anonymous),
        None => SetRef::Named(name.into()),
    };
    Ok(Op::Lookup {
        reg: need(a, op::LOOKUP_SREG)?,
        set,
    })
}

fn log(a: &Attrs<'_>) -> Result<Op> {
    let known = [
        op::LOG_GROUP,
        op::LOG_PREFIX,
        op::LOG_SNAPLEN,
        op::LOG_QTHRESHOLD,
        op::LOG_LEVEL,
        op::LOG_FLAGS,
    ];
    exactly("log", a, &known)?;
    let half = |kind| Ok::<_, Refused>(a.fixed::<2>(kind)?.map(u16::from_be_bytes));
    // LOGLEVEL_WARNING (4) is what the kernel takes where no level is given.
    let plain = a.be32(op::LOG_SNAPLEN)?.unwrap_or(0) == 0
        && half(op::LOG_QTHRESHOLD)?.unwrap_or(0) == 0
        && a.be32(op::LOG_LEVEL)?.unwrap_or(4) == 4
        && a.be32(op::LOG_FLAGS)?.unwrap_or(0) == 0;
    if !plain {
        return foreign("a log statement with a level, flags or lengths of its own".into());
    }
    Ok(Op::Log {
        prefix: a.text(op::LOG_PREFIX)?.unwrap_or_default().into(),
        group: half(op::LOG_GROUP)?,
    })
}

fn immediate(a: &Attrs<'_>) -> Result<Op> {
    exactly("immediate", a, &[op::IMMEDIATE_DREG, op::IMMEDIATE_DATA])?;
    let nested = Table::<3>::parse(a.get(op::IMMEDIATE_DATA).ok_or(Refused::Malformed)?)?;
    let (0, Some(verdict)) = (need(a, op::IMMEDIATE_DREG)?, nested.get(data::VERDICT)) else {
        return foreign("a value put into a register".into());
    };
    let verdict = Table::<4>::parse(verdict)?;
    let code = verdict
        .fixed(data::VERDICT_CODE)?
        .map(i32::from_be_bytes)
        .ok_or(Refused::Malformed)?;
    if verdict.beyond(&[data::VERDICT_CODE]) || ![libc::NF_ACCEPT, libc::NF_DROP].contains(&code) {
        return foreign("a jump or another verdict than accept and drop".into());
    }
    Ok(Op::Verdict(code))
}
