//! Netlink messages as bytes: a bounded writer and a total reader, both without `unsafe`.
//!
//! Layout: `struct nlmsghdr` (linux/netlink.h) in host byte order, `struct nfgenmsg`
//! (linux/netfilter/nfnetlink.h), then attributes `{u16 length, u16 type, data}` padded to 4.

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of `struct nfgenmsg`.
pub const GENERIC: usize = 4;
/// Longest data of one attribute: its length field has 16 bits and counts its own 4-byte head.
pub const ATTRIBUTE_MAX: usize = u16::MAX as usize - 4;

const TYPE_BITS: u16 = !(libc::NLA_F_NESTED as u16 | libc::NLA_F_NET_BYTEORDER as u16);

/// Appends messages to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    /// The bytes so far.
    pub buf: Vec<u8>,
}

/// Where a message or nested attribute began, to be closed with [`Writer::end_message`] or
/// [`Writer::end_nest`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Mark(usize);

impl Writer {
    /// Begins a netfilter message. `kind` is `subsystem << 8 | message`, `resource` the subsystem
    /// in batch messages and 0 elsewhere.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, family: u8, resource: u16) -> Mark {
        let mark = Mark(self.buf.len());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&[family, 0]);
        self.buf.extend_from_slice(&resource.to_be_bytes());
        mark
    }

    /// Ends a message: its length is known now.
    pub fn end_message(&mut self, mark: Mark) {
        let length = (self.buf.len() - mark.0) as u32;
        self.buf[mark.0..mark.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends one attribute.
    ///
    /// # Panics
    /// If `data` is longer than [`ATTRIBUTE_MAX`]; callers bound what they write.
    pub fn put(&mut self, kind: u16, data: &[u8]) {
        assert!(data.len() <= ATTRIBUTE_MAX, "netlink attribute too long");
        let length = (data.len() + 4) as u16;
        self.buf.extend_from_slice(&length.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(data);
        self.pad();
    }

    /// Appends a string attribute with its terminating zero.
    pub fn put_str(&mut self, kind: u16, text: &str) {
        let mark = self.nest_plain(kind);
        self.buf.extend_from_slice(text.as_bytes());
        self.buf.push(0);
        self.end_nest(mark);
    }

    /// Appends a 32-bit number in network byte order.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Appends a 64-bit number in network byte order.
    pub fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Begins an attribute that holds attributes.
    pub fn nest(&mut self, kind: u16) -> Mark {
        self.nest_plain(kind | libc::NLA_F_NESTED as u16)
    }

    fn nest_plain(&mut self, kind: u16) -> Mark {
        let mark = Mark(self.buf.len());
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        mark
    }

    /// Ends what [`Writer::nest`] began.
    ///
    /// # Panics
    /// If the data is longer than [`ATTRIBUTE_MAX`]; callers bound what they write.
    pub fn end_nest(&mut self, mark: Mark) {
        let length = self.buf.len() - mark.0;
        assert!(length <= ATTRIBUTE_MAX + 4, "netlink attribute too long");
        self.buf[mark.0..mark.0 + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.buf.len().next_multiple_of(4);
        self.buf.resize(padded, 0);
    }
}

/// Bytes that are no well-formed netlink message or attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub seq: u32,
    /// `nlmsg_pid`: the port the message answers.
    pub port: u32,
    /// Everything behind the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Family and attribute bytes behind `struct nfgenmsg`.
    pub fn netfilter(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.body.split_at_checked(GENERIC) {
            Some((head, attributes)) => Ok((head[0], attributes)),
            None => Err(Malformed),
        }
    }

    /// The error of an `NLMSG_ERROR`: `Ok(())` is an acknowledgement, else a positive errno.
    pub fn error(&self) -> Result<Result<(), i32>, Malformed> {
        let code: [u8; 4] = self
            .body
            .get(..4)
            .and_then(|b| b.try_into().ok())
            .ok_or(Malformed)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(Ok(())),
            // A kernel error is -errno, never beyond MAX_ERRNO (linux/err.h).
            code @ -4095..=-1 => Ok(Err(-code)),
            _ => Err(Malformed),
        }
    }
}

/// The messages of one datagram.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        // Whatever is wrong ends the iteration: there is no telling where the next one starts.
        let all = std::mem::take(&mut self.0);
        let Some((head, _)) = all.split_at_checked(HEADER) else {
            return Some(Err(Malformed));
        };
        let length = number(head, 0) as usize;
        let Some(body) = all.get(HEADER..length) else {
            return Some(Err(Malformed));
        };
        self.0 = all.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(Message {
            kind: half(head, 4),
            flags: half(head, 6),
            seq: number(head, 8),
            port: number(head, 12),
            body,
        }))
    }
}

/// The attributes of a message or of a nested attribute: type without its flag bits, and data.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        if all.len() < 4 {
            return Some(Err(Malformed));
        }
        let length = half(all, 0) as usize;
        let Some(data) = all.get(4..length) else {
            return Some(Err(Malformed));
        };
        self.0 = all.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((half(all, 2) & TYPE_BITS, data)))
    }
}

/// The attributes of one object by type: `table[t]`, and whether any had a type of `N` or more.
pub struct Table<'a, const N: usize> {
    by_type: [Option<&'a [u8]>; N],
    /// An attribute of a type this program does not know was there.
    pub unknown: bool,
}

impl<'a, const N: usize> Table<'a, N> {
    /// Sorts attributes by type. One that comes twice is malformed: the kernel sends none so.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut table = Table {
            by_type: [None; N],
            unknown: false,
        };
        for attribute in Attributes(bytes) {
            let (kind, data) = attribute?;
            match table.by_type.get_mut(kind as usize) {
                None => table.unknown = true,
                Some(Some(_)) => return Err(Malformed),
                Some(slot) => *slot = Some(data),
            }
        }
        Ok(table)
    }

    /// The data of an attribute, if it was there.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.by_type.get(kind as usize).copied().flatten()
    }

    /// Whether any of these attributes was there.
    pub fn any(&self, kinds: &[u16]) -> bool {
        kinds.iter().any(|&k| self.get(k).is_some())
    }

    /// Whether attributes besides these were there.
    pub fn beyond(&self, kinds: &[u16]) -> bool {
        self.unknown
            || (0..N as u16).any(|k| self.by_type[k as usize].is_some() && !kinds.contains(&k))
    }

    /// A 32-bit number in network byte order.
    pub fn be32(&self, kind: u16) -> Result<Option<u32>, Malformed> {
        self.fixed(kind).map(|o| o.map(u32::from_be_bytes))
    }

    /// A 64-bit number in network byte order.
    pub fn be64(&self, kind: u16) -> Result<Option<u64>, Malformed> {
        self.fixed(kind).map(|o| o.map(u64::from_be_bytes))
    }

    /// An attribute of exactly `L` bytes.
    pub fn fixed<const L: usize>(&self, kind: u16) -> Result<Option<[u8; L]>, Malformed> {
        match self.get(kind) {
            None => Ok(None),
            Some(data) => data.try_into().map(Some).map_err(|_| Malformed),
        }
    }

    /// A zero-terminated string without its zero.
    pub fn text(&self, kind: u16) -> Result<Option<&'a str>, Malformed> {
        let Some(data) = self.get(kind) else {
            return Ok(None);
        };
        let end = data.iter().position(|&b| b == 0).ok_or(Malformed)?;
        std::str::from_utf8(&data[..end])
            .map(Some)
            .map_err(|_| Malformed)
    }
}

/// Four bytes at `at`, which the caller has checked, in host byte order.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Two bytes at `at`, which the caller has checked, in host byte order.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}
