//! Tables, chains, sets and rules as netlink messages, built by libnftnl: the library that nft
//! itself builds them with, so the bytes are nft's.
//!
//! Elements are not built here: one heap object each would cost a hundred megabytes where a set
//! has a hundred thousand of them. See [`super::element`].

use super::op::{Anonymous, Key, Op, SetRef};
use super::uapi;
use crate::nft::model::{Base, Family, Hook, KeyType, Policy, Set, Transport};
use nftnl_sys as sys;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

/// The kernel's limit of expressions in a rule (`NFT_RULE_MAXEXPRS`).
pub const MAX_OPS: usize = 128;
/// The kernel's limit of a name, its zero included (`NFT_NAME_MAXLEN`).
pub const MAX_NAME: usize = 256;

/// Room for one message. The largest is a rule: [`MAX_OPS`] expressions of at most 300 bytes (a
/// lookup in a set whose name has [`MAX_NAME`] bytes) and two names.
const SCRATCH: usize = 64 * 1024;

/// `nfgen_family` of a table family.
pub fn family_number(family: Family) -> u8 {
    (match family {
        Family::Inet => libc::NFPROTO_INET,
        Family::Ip => libc::NFPROTO_IPV4,
        Family::Ip6 => libc::NFPROTO_IPV6,
    }) as u8
}

/// The head of a message.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// `NFT_MSG_*`
    pub message: libc::c_int,
    /// `NLM_F_*`; `NLM_F_REQUEST` is added.
    pub flags: libc::c_int,
    /// Sequence number.
    pub seq: u32,
    /// Table family.
    pub family: Family,
}

/// A name as C wants it.
///
/// # Errors
/// Says so if it is empty, too long for the kernel, or holds a zero byte.
pub fn name(text: &str) -> Result<CString, String> {
    if text.is_empty() || text.len() >= MAX_NAME {
        return Err(format!("a name of {} bytes", text.len()));
    }
    CString::new(text).map_err(|_| format!("a name with a zero byte: {text:?}"))
}

/// Builds messages, one at a time, in its own buffer.
pub struct Builder {
    /// `u64`, because libmnl writes headers in place and they need alignment.
    scratch: Vec<u64>,
}

impl Builder {
    /// A builder with room for the largest message.
    pub fn new() -> Self {
        Self {
            scratch: vec![0; SCRATCH / 8],
        }
    }

    /// A message naming a table.
    pub fn table(&mut self, head: Head, table: &CStr) -> &[u8] {
        let object = Owned::new(
            // SAFETY: allocates; no precondition.
            unsafe { sys::nftnl_table_alloc() },
            sys::nftnl_table_free,
        );
        // SAFETY: the object is alive and the string zero-terminated; libnftnl copies it.
        unsafe {
            sys::nftnl_table_set_str(object.get(), sys::NFTNL_TABLE_NAME as u16, table.as_ptr())
        };
        self.message(head, |header| {
            // SAFETY: `header` begins a message with SCRATCH bytes of room; a name needs 260.
            unsafe { sys::nftnl_table_nlmsg_build_payload(header, object.get()) }
        })
    }

    /// A message naming a chain; with `base` it declares a base chain or sets its policy.
    pub fn chain(&mut self, head: Head, table: &CStr, chain: &CStr, base: Option<Base>) -> &[u8] {
        let object = Owned::new(
            // SAFETY: allocates; no precondition.
            unsafe { sys::nftnl_chain_alloc() },
            sys::nftnl_chain_free,
        );
        let o = object.get();
        // SAFETY: the object is alive and the strings zero-terminated; libnftnl copies them.
        unsafe {
            sys::nftnl_chain_set_str(o, sys::NFTNL_CHAIN_TABLE as u16, table.as_ptr());
            sys::nftnl_chain_set_str(o, sys::NFTNL_CHAIN_NAME as u16, chain.as_ptr());
            if let Some(base) = base {
                sys::nftnl_chain_set_str(o, sys::NFTNL_CHAIN_TYPE as u16, c"filter".as_ptr());
                sys::nftnl_chain_set_u32(
                    o,
                    sys::NFTNL_CHAIN_HOOKNUM as u16,
                    hook_number(base.hook),
                );
                sys::nftnl_chain_set_s32(o, sys::NFTNL_CHAIN_PRIO as u16, base.priority);
                sys::nftnl_chain_set_u32(
                    o,
                    sys::NFTNL_CHAIN_POLICY as u16,
                    policy_number(base.policy),
                );
            }
        }
        self.message(head, |header| {
            // SAFETY: `header` begins a message with SCRATCH bytes of room; two names and five
            // numbers need 700.
            unsafe { sys::nftnl_chain_nlmsg_build_payload(header, object.get()) }
        })
    }

    /// A message declaring a named set. `id` names it within its batch.
    pub fn set(&mut self, head: Head, table: &CStr, set: &CStr, model: &Set, id: u32) -> &[u8] {
        let (key_type, key_len, fields) = key(model.key);
        let mut flags = 0;
        if model.interval {
            flags |= libc::NFT_SET_INTERVAL as u32;
        }
        if model.timeouts {
            flags |= libc::NFT_SET_TIMEOUT as u32;
        }
        let ranges_of_fields = model.interval && !fields.is_empty();
        if ranges_of_fields {
            flags |= uapi::set::FLAG_CONCAT;
        }
        let object = set_object(table, set, flags, key_type, key_len, id);
        if ranges_of_fields {
            set_data(&object, sys::NFTNL_SET_DESC_CONCAT as u16, fields);
        }
        if let Some(size) = model.size {
            // SAFETY: the object is alive.
            unsafe { sys::nftnl_set_set_u32(object.get(), sys::NFTNL_SET_DESC_SIZE as u16, size) };
        }
        if let Some(timeout) = model.default_timeout {
            // SAFETY: the object is alive.
            unsafe { sys::nftnl_set_set_u64(object.get(), sys::NFTNL_SET_TIMEOUT as u16, timeout) };
        }
        let userdata = if fields.is_empty() {
            UDATA_BIG_ENDIAN
        } else {
            UDATA_CONCAT
        };
        set_data(&object, sys::NFTNL_SET_USERDATA as u16, userdata);
        self.set_message(head, &object)
    }

    /// A message naming a set, to delete it.
    pub fn set_name(&mut self, head: Head, table: &CStr, set: &CStr) -> &[u8] {
        let object = Owned::new(
            // SAFETY: allocates; no precondition.
            unsafe { sys::nftnl_set_alloc() },
            sys::nftnl_set_free,
        );
        // SAFETY: the object is alive and the strings zero-terminated; libnftnl copies them.
        unsafe {
            sys::nftnl_set_set_str(object.get(), sys::NFTNL_SET_TABLE as u16, table.as_ptr());
            sys::nftnl_set_set_str(object.get(), sys::NFTNL_SET_NAME as u16, set.as_ptr());
        }
        self.set_message(head, &object)
    }

    /// A message declaring the anonymous set of one rule; the kernel replaces `%d` by a number.
    pub fn anonymous(&mut self, head: Head, table: &CStr, set: &Anonymous, id: u32) -> &[u8] {
        let mut flags = libc::NFT_SET_ANONYMOUS as u32 | libc::NFT_SET_CONSTANT as u32;
        let mut size = set.ranges.len() as u32;
        if set.interval() {
            flags |= libc::NFT_SET_INTERVAL as u32;
            size *= 2; // each range has an end of its own
        }
        let (datatype, len) = (set.key.datatype(), set.key.len() as u32);
        let object = set_object(table, ANONYMOUS, flags, datatype, len, id);
        // SAFETY: the object is alive.
        unsafe { sys::nftnl_set_set_u32(object.get(), sys::NFTNL_SET_DESC_SIZE as u16, size) };
        set_data(
            &object,
            sys::NFTNL_SET_USERDATA as u16,
            &anonymous_userdata(set.key, set.interval()),
        );
        self.set_message(head, &object)
    }

    /// A message naming a rule by its chain; `ops` with the ids of their anonymous sets.
    ///
    /// # Errors
    /// The number of expressions if it exceeds [`MAX_OPS`]; a name that is none.
    pub fn rule(
        &mut self,
        head: Head,
        table: &CStr,
        chain: &CStr,
        ops: &[Op],
        mut anonymous_id: u32,
    ) -> Result<&[u8], String> {
        if ops.len() > MAX_OPS {
            return Err(format!("{} expressions", ops.len()));
        }
        let object = Owned::new(
            // SAFETY: allocates; no precondition.
            unsafe { sys::nftnl_rule_alloc() },
            sys::nftnl_rule_free,
        );
        // SAFETY: the object is alive and the strings zero-terminated; libnftnl copies them.
        unsafe {
            sys::nftnl_rule_set_str(object.get(), sys::NFTNL_RULE_TABLE as u16, table.as_ptr());
            sys::nftnl_rule_set_str(object.get(), sys::NFTNL_RULE_CHAIN as u16, chain.as_ptr());
        }
        for op in ops {
            let expr = expression(op, &mut anonymous_id)?;
            // SAFETY: both objects are alive; the rule takes the expression over.
            unsafe { sys::nftnl_rule_add_expr(object.get(), expr.release()) };
        }
        Ok(self.message(head, |header| {
            // SAFETY: `header` begins a message with SCRATCH bytes of room, enough for MAX_OPS.
            unsafe { sys::nftnl_rule_nlmsg_build_payload(header, object.get()) }
        }))
    }

    fn set_message(&mut self, head: Head, object: &Owned<sys::nftnl_set>) -> &[u8] {
        self.message(head, |header| {
            // SAFETY: `header` begins a message with SCRATCH bytes of room; a set needs 1 KiB.
            unsafe { sys::nftnl_set_nlmsg_build_payload(header, object.get()) }
        })
    }

    fn message(&mut self, head: Head, payload: impl FnOnce(*mut libc::nlmsghdr)) -> &[u8] {
        let start = self.scratch.as_mut_ptr().cast::<u8>();
        // SAFETY: the buffer is aligned and longer than both headers.
        let header = unsafe {
            sys::nftnl_nlmsg_build_hdr(
                start.cast::<c_char>(),
                head.message as u16,
                family_number(head.family).into(),
                (head.flags | libc::NLM_F_REQUEST) as u16,
                head.seq,
            )
        };
        payload(header);
        // SAFETY: `header` points to the initialised header at the start of the buffer.
        let length = unsafe { (*header).nlmsg_len } as usize;
        assert!(length <= SCRATCH, "libnftnl wrote past its bound");
        // SAFETY: the first `length` bytes of the buffer are initialised, and borrowed with it.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

/// An object of libnftnl that is freed when dropped.
struct Owned<T> {
    object: NonNull<T>,
    free: unsafe extern "C" fn(*const T),
}

impl<T> Owned<T> {
    /// # Panics
    /// If the allocator failed: there is nothing left to do with no memory, as in Rust's own.
    fn new(object: *mut T, free: unsafe extern "C" fn(*const T)) -> Self {
        match NonNull::new(object) {
            Some(object) => Self { object, free },
            None => panic!("out of memory"),
        }
    }

    fn get(&self) -> *mut T {
        self.object.as_ptr()
    }

    fn release(self) -> *mut T {
        std::mem::ManuallyDrop::new(self).get()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is alive, ours alone, and `free` is its type's own destructor.
        unsafe { (self.free)(self.object.as_ptr()) }
    }
}

/// The name under which nft declares every anonymous set.
const ANONYMOUS: &CStr = c"__set%d";

/// User data in which nft keeps how to print keys: `{type, length, value}` (libnftnl/udata.h).
/// `NFTNL_UDATA_SET_KEYBYTEORDER` = big endian.
const UDATA_BIG_ENDIAN: &[u8] = &[0, 4, 2, 0, 0, 0];
/// Byte order invalid, and `NFTNL_UDATA_SET_KEY_TYPEOF`: a concatenation without parts.
const UDATA_CONCAT: &[u8] = &[0, 4, 0, 0, 0, 0, 3, 8, 0, 4, 13, 0, 0, 0, 1, 0];

/// Byte order, `merge elements` of an interval set, and the expression the keys come from:
/// payload (7) with nft's numbers of protocol and field, or meta (9) with its key.
fn anonymous_userdata(key: Key, interval: bool) -> Vec<u8> {
    let order = if key == Key::Proto { 1 } else { 2 };
    let mut bytes = vec![0, 4, order, 0, 0, 0];
    if interval {
        bytes.extend([2, 4, 1, 0, 0, 0]);
    }
    let payload = |protocol: u8, field: u8| {
        [
            3, 20, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, protocol, 0, 0, 0, 1, 4, field, 0, 0, 0,
        ]
    };
    match key {
        Key::Port(Transport::Udp) => bytes.extend(payload(6, 2)),
        Key::Port(Transport::Tcp) => bytes.extend(payload(8, 2)),
        Key::Icmpv6 => bytes.extend(payload(14, 1)),
        Key::Proto => bytes.extend([3, 14, 0, 4, 9, 0, 0, 0, 1, 6, 0, 4, 16, 0, 0, 0]),
    }
    bytes
}

/// nft's data type, the key's length, and the lengths of its fields if it is a concatenation.
pub fn key(key: KeyType) -> (u32, u32, &'static [u8]) {
    use uapi::datatype::{INET_PROTOCOL, INET_SERVICE, IP6ADDR, IPADDR, concat};
    match key {
        KeyType::Ipv4 => (IPADDR, 4, &[]),
        KeyType::Ipv6 => (IP6ADDR, 16, &[]),
        KeyType::Ipv4Service => (concat(IPADDR, INET_PROTOCOL, INET_SERVICE), 12, &[4, 1, 2]),
        KeyType::Ipv6Service => (
            concat(IP6ADDR, INET_PROTOCOL, INET_SERVICE),
            24,
            &[16, 1, 2],
        ),
    }
}

/// `NF_INET_*`
pub fn hook_number(hook: Hook) -> u32 {
    (match hook {
        Hook::Input => libc::NF_INET_LOCAL_IN,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Output => libc::NF_INET_LOCAL_OUT,
    }) as u32
}

/// `NF_ACCEPT` or `NF_DROP`
pub fn policy_number(policy: Policy) -> u32 {
    (match policy {
        Policy::Accept => libc::NF_ACCEPT,
        Policy::Drop => libc::NF_DROP,
    }) as u32
}

fn set_object(
    table: &CStr,
    set: &CStr,
    flags: u32,
    key_type: u32,
    key_len: u32,
    id: u32,
) -> Owned<sys::nftnl_set> {
    let object = Owned::new(
        // SAFETY: allocates; no precondition.
        unsafe { sys::nftnl_set_alloc() },
        sys::nftnl_set_free,
    );
    let o = object.get();
    // SAFETY: the object is alive and the strings zero-terminated; libnftnl copies them.
    unsafe {
        sys::nftnl_set_set_str(o, sys::NFTNL_SET_TABLE as u16, table.as_ptr());
        sys::nftnl_set_set_str(o, sys::NFTNL_SET_NAME as u16, set.as_ptr());
        sys::nftnl_set_set_u32(o, sys::NFTNL_SET_FLAGS as u16, flags);
        sys::nftnl_set_set_u32(o, sys::NFTNL_SET_KEY_TYPE as u16, key_type);
        sys::nftnl_set_set_u32(o, sys::NFTNL_SET_KEY_LEN as u16, key_len);
        sys::nftnl_set_set_u32(o, sys::NFTNL_SET_ID as u16, id);
    }
    object
}

fn set_data(object: &Owned<sys::nftnl_set>, attribute: u16, data: &[u8]) {
    // SAFETY: the object is alive; libnftnl copies `data.len()` bytes.
    unsafe {
        sys::nftnl_set_set_data(
            object.get(),
            attribute,
            data.as_ptr().cast::<c_void>(),
            data.len() as u32,
        );
    }
}

/// One expression of a rule under construction.
struct Expression(Owned<sys::nftnl_expr>);

impl Expression {
    fn new(kind: &CStr) -> Self {
        Self(Owned::new(
            // SAFETY: the string is zero-terminated.
            unsafe { sys::nftnl_expr_alloc(kind.as_ptr()) },
            sys::nftnl_expr_free,
        ))
    }

    fn u8(self, attribute: u32, value: u8) -> Self {
        // SAFETY: the object is alive.
        unsafe { sys::nftnl_expr_set_u8(self.0.get(), attribute as u16, value) };
        self
    }

    fn u16(self, attribute: u32, value: u16) -> Self {
        // SAFETY: the object is alive.
        unsafe { sys::nftnl_expr_set_u16(self.0.get(), attribute as u16, value) };
        self
    }

    fn u32(self, attribute: u32, value: u32) -> Self {
        // SAFETY: the object is alive.
        unsafe { sys::nftnl_expr_set_u32(self.0.get(), attribute as u16, value) };
        self
    }

    fn u64(self, attribute: u32, value: u64) -> Self {
        // SAFETY: the object is alive.
        unsafe { sys::nftnl_expr_set_u64(self.0.get(), attribute as u16, value) };
        self
    }

    fn data(self, attribute: u32, data: &[u8]) -> Self {
        // SAFETY: the object is alive; libnftnl copies `data.len()` bytes.
        unsafe {
            sys::nftnl_expr_set(
                self.0.get(),
                attribute as u16,
                data.as_ptr().cast::<c_void>(),
                data.len() as u32,
            );
        }
        self
    }

    fn str(self, attribute: u32, text: &CStr) -> Self {
        // SAFETY: the object is alive and the string zero-terminated; libnftnl copies it.
        unsafe { sys::nftnl_expr_set_str(self.0.get(), attribute as u16, text.as_ptr()) };
        self
    }

    fn release(self) -> *mut sys::nftnl_expr {
        self.0.release()
    }
}

fn expression(op: &Op, anonymous_id: &mut u32) -> Result<Expression, String> {
    Ok(match op {
        Op::Meta { key, reg } => Expression::new(c"meta")
            .u32(sys::NFTNL_EXPR_META_KEY, *key)
            .u32(sys::NFTNL_EXPR_META_DREG, *reg),
        Op::Ct { key, reg } => Expression::new(c"ct")
            .u32(sys::NFTNL_EXPR_CT_KEY, *key)
            .u32(sys::NFTNL_EXPR_CT_DREG, *reg),
        Op::Payload {
            base,
            offset,
            len,
            reg,
        } => Expression::new(c"payload")
            .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, *reg)
            .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, *base)
            .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, *offset)
            .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, *len),
        Op::Cmp { op, reg, data } => Expression::new(c"cmp")
            .u32(sys::NFTNL_EXPR_CMP_SREG, *reg)
            .u32(sys::NFTNL_EXPR_CMP_OP, *op)
            .data(sys::NFTNL_EXPR_CMP_DATA, data.as_slice()),
        Op::Mask { reg, mask } => {
            let length = mask.as_slice().len();
            Expression::new(c"bitwise")
                .u32(sys::NFTNL_EXPR_BITWISE_SREG, *reg)
                .u32(sys::NFTNL_EXPR_BITWISE_DREG, *reg)
                .u32(sys::NFTNL_EXPR_BITWISE_OP, 0) // NFT_BITWISE_BOOL
                .u32(sys::NFTNL_EXPR_BITWISE_LEN, length as u32)
                .data(sys::NFTNL_EXPR_BITWISE_MASK, mask.as_slice())
                .data(sys::NFTNL_EXPR_BITWISE_XOR, &[0; 16][..length])
        }
        Op::Hton { reg, len, size } => Expression::new(c"byteorder")
            .u32(sys::NFTNL_EXPR_BYTEORDER_SREG, *reg)
            .u32(sys::NFTNL_EXPR_BYTEORDER_DREG, *reg)
            .u32(
                sys::NFTNL_EXPR_BYTEORDER_OP,
                libc::NFT_BYTEORDER_HTON as u32,
            )
            .u32(sys::NFTNL_EXPR_BYTEORDER_LEN, *len)
            .u32(sys::NFTNL_EXPR_BYTEORDER_SIZE, *size),
        Op::Lookup { reg, set } => {
            let lookup = Expression::new(c"lookup").u32(sys::NFTNL_EXPR_LOOKUP_SREG, *reg);
            match set {
                SetRef::Named(set) => lookup.str(sys::NFTNL_EXPR_LOOKUP_SET, &name(set)?),
                SetRef::Anonymous(_) => {
                    let id = *anonymous_id;
                    *anonymous_id += 1;
                    lookup
                        .str(sys::NFTNL_EXPR_LOOKUP_SET, ANONYMOUS)
                        .u32(sys::NFTNL_EXPR_LOOKUP_SET_ID, id)
                }
            }
        }
        Op::Counter { packets, bytes } => Expression::new(c"counter")
            .u64(sys::NFTNL_EXPR_CTR_PACKETS, *packets)
            .u64(sys::NFTNL_EXPR_CTR_BYTES, *bytes),
        Op::Log { prefix, group } => {
            let mut log = Expression::new(c"log");
            if !prefix.is_empty() {
                let prefix = CString::new(prefix.as_str()).map_err(|_| "a zero byte")?;
                log = log.str(sys::NFTNL_EXPR_LOG_PREFIX, &prefix);
            }
            match group {
                None => log,
                Some(group) => log.u16(sys::NFTNL_EXPR_LOG_GROUP, *group),
            }
        }
        Op::Reject { kind, code } => Expression::new(c"reject")
            .u32(sys::NFTNL_EXPR_REJECT_TYPE, *kind)
            .u8(sys::NFTNL_EXPR_REJECT_CODE, *code),
        Op::Verdict(verdict) => Expression::new(c"immediate")
            .u32(sys::NFTNL_EXPR_IMM_DREG, libc::NFT_REG_VERDICT as u32)
            .u32(sys::NFTNL_EXPR_IMM_VERDICT, *verdict as u32),
    })
}
