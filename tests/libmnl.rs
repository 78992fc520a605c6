//! The C libmnl of compat/ against the distribution's: the same calls, the same bytes.
//!
//! compat/mnl.c is compiled as a shared object; it and libmnl.so.0 are loaded side by side. Every
//! case below is a function of one library that writes down all it can see (return values, errno,
//! pointers as offsets, whole buffers), and the two transcripts must be equal.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;

type AttrCb = unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int;
type MsgCb = unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int;
type P = *const c_void;
type M = *mut c_void;

/// Declares the table of functions and its loader: one line per function of <libmnl/libmnl.h>.
macro_rules! library {
    ($($name:ident($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        #[allow(non_snake_case)]
        struct Library { $($name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        impl Library {
            fn load(path: &Path) -> Self {
                let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
                // SAFETY: a valid string; the handle is never closed, so symbols stay valid.
                let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
                assert!(!handle.is_null(), "cannot load {}: {}", path.display(), dl_error());
                Self { $($name: {
                    let symbol = symbol(handle, concat!("mnl_", stringify!($name)));
                    // SAFETY: the type is the header's prototype.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?>(symbol) }
                },)* }
            }
        }
    };
}

library! {
    socket_open(c_int) -> M;
    socket_open2(c_int, c_int) -> M;
    socket_fdopen(c_int) -> M;
    socket_bind(M, c_uint, c_int) -> c_int;
    socket_close(M) -> c_int;
    socket_get_fd(P) -> c_int;
    socket_get_portid(P) -> c_uint;
    socket_sendto(P, P, usize) -> isize;
    socket_recvfrom(P, M, usize) -> isize;
    socket_setsockopt(P, c_int, M, u32) -> c_int;
    socket_getsockopt(P, c_int, M, *mut u32) -> c_int;
    nlmsg_size(usize) -> usize;
    nlmsg_get_payload_len(P) -> usize;
    nlmsg_put_header(M) -> M;
    nlmsg_put_extra_header(M, usize) -> M;
    nlmsg_ok(P, c_int) -> bool;
    nlmsg_next(P, *mut c_int) -> M;
    nlmsg_seq_ok(P, c_uint) -> bool;
    nlmsg_portid_ok(P, c_uint) -> bool;
    nlmsg_get_payload(P) -> M;
    nlmsg_get_payload_offset(P, usize) -> M;
    nlmsg_get_payload_tail(P) -> M;
    nlmsg_batch_start(M, usize) -> M;
    nlmsg_batch_next(M) -> bool;
    nlmsg_batch_stop(M);
    nlmsg_batch_size(M) -> usize;
    nlmsg_batch_reset(M);
    nlmsg_batch_head(M) -> M;
    nlmsg_batch_current(M) -> M;
    nlmsg_batch_is_empty(M) -> bool;
    attr_get_type(P) -> u16;
    attr_get_len(P) -> u16;
    attr_get_payload_len(P) -> u16;
    attr_get_payload(P) -> M;
    attr_get_u8(P) -> u8;
    attr_get_u16(P) -> u16;
    attr_get_u32(P) -> u32;
    attr_get_u64(P) -> u64;
    attr_get_str(P) -> *const c_char;
    attr_put(M, u16, usize, P);
    attr_put_u8(M, u16, u8);
    attr_put_u16(M, u16, u16);
    attr_put_u32(M, u16, u32);
    attr_put_u64(M, u16, u64);
    attr_put_str(M, u16, *const c_char);
    attr_put_strz(M, u16, *const c_char);
    attr_put_check(M, usize, u16, usize, P) -> bool;
    attr_put_u8_check(M, usize, u16, u8) -> bool;
    attr_put_u16_check(M, usize, u16, u16) -> bool;
    attr_put_u32_check(M, usize, u16, u32) -> bool;
    attr_put_u64_check(M, usize, u16, u64) -> bool;
    attr_put_str_check(M, usize, u16, *const c_char) -> bool;
    attr_put_strz_check(M, usize, u16, *const c_char) -> bool;
    attr_nest_start(M, u16) -> M;
    attr_nest_start_check(M, usize, u16) -> M;
    attr_nest_end(M, M);
    attr_nest_cancel(M, M);
    attr_type_valid(P, u16) -> c_int;
    attr_validate(P, c_uint) -> c_int;
    attr_validate2(P, c_uint, usize) -> c_int;
    attr_ok(P, c_int) -> bool;
    attr_next(P) -> M;
    attr_parse(P, c_uint, AttrCb, M) -> c_int;
    attr_parse_nested(P, AttrCb, M) -> c_int;
    attr_parse_payload(P, usize, AttrCb, M) -> c_int;
    cb_run(P, usize, c_uint, c_uint, Option<MsgCb>, M) -> c_int;
    cb_run2(P, usize, c_uint, c_uint, Option<MsgCb>, M, *const Option<MsgCb>, c_uint) -> c_int;
}

fn dl_error() -> String {
    // SAFETY: dlerror gives a string or null; it is copied at once.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            String::new()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

fn symbol(handle: *mut c_void, name: &str) -> *mut c_void {
    let c = CString::new(name).unwrap();
    // SAFETY: an open handle and a valid string.
    let found = unsafe { libc::dlsym(handle, c.as_ptr()) };
    assert!(!found.is_null(), "no symbol {name}: {}", dl_error());
    found
}

/// Ours as a shared object. -Bsymbolic: its calls among its own functions must not resolve to the
/// distribution's, which may be loaded in this process already.
fn build_ours(tag: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libmnl-ours-{tag}.so"));
    let status = Command::new("gcc")
        .args([
            "-shared",
            "-fPIC",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wl,-Bsymbolic",
        ])
        .arg("-o")
        .arg(&out)
        .arg(root.join("compat/mnl.c"))
        .status()
        .expect("gcc runs (make deps)");
    assert!(status.success(), "compat/mnl.c compiles");
    out
}

fn ours(tag: &str) -> Library {
    Library::load(&build_ours(tag))
}

fn theirs() -> Library {
    Library::load(Path::new("libmnl.so.0"))
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn clear_errno() {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = 0 };
}

/// xorshift64*: the same sequence for both libraries.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A buffer aligned as netlink wants it, filled with a pattern so that untouched bytes show. As a
/// message length the pattern is below 2 GiB: above, the two differ on purpose (tested below).
struct Buffer(Vec<u64>);

impl Buffer {
    fn new(bytes: usize) -> Self {
        Self(vec![0x5a5a_5a5a_5a5a_5a5a; bytes.div_ceil(8)])
    }
    fn at(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }
    fn write(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.0.len() * 8);
        // SAFETY: inside the buffer, as just checked.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.at().add(at), data.len()) };
    }
    fn offset(&mut self, p: *const c_void) -> isize {
        if p.is_null() {
            -1
        } else {
            p as isize - self.at() as isize
        }
    }
}

fn header(len: u32, kind: u16, flags: u16, seq: u32, pid: u32) -> Vec<u8> {
    let mut out = len.to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend(pid.to_ne_bytes());
    out
}

fn compare(tag: &str, case: impl Fn(&Library, &mut Random) -> String, rounds: u64) {
    let (ours, theirs) = (ours(tag), theirs());
    for round in 1..=rounds {
        let seed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (a, b) = (
            case(&ours, &mut Random(seed)),
            case(&theirs, &mut Random(seed)),
        );
        assert!(!a.is_empty(), "round {round} wrote nothing down");
        if a != b {
            let at = a
                .lines()
                .zip(b.lines())
                .position(|(x, y)| x != y)
                .unwrap_or(0);
            panic!(
                "round {round} differs at line {at}:\n ours   {}\n theirs {}",
                a.lines().nth(at).unwrap_or("(end)"),
                b.lines().nth(at).unwrap_or("(end)")
            );
        }
    }
}

#[test]
fn ours_has_every_function_of_the_header_but_the_debug_printer() {
    let header = std::fs::read_to_string("/usr/include/libmnl/libmnl.h").unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|l| l.starts_with("extern "))
        .filter_map(|l| l.split('(').next())
        .filter_map(|l| l.rsplit([' ', '*']).next())
        .filter_map(|l| l.strip_prefix("mnl_"))
        .filter(|l| *l != "nlmsg_fprintf")
        .collect();
    declared.sort_unstable();
    let mut have = NAMES.to_vec();
    have.sort_unstable();
    assert_eq!(have, declared);
    ours("names"); // loads each of them
}

#[test]
fn putting_attributes_gives_the_same_bytes() {
    compare(
        "put",
        |lib, random| {
            let mut log = String::new();
            let mut buffer = Buffer::new(8192);
            let nlh: M = buffer.at().cast();
            let text = CString::new("terok_shield output chain").unwrap();
            let mut open: Vec<M> = Vec::new();
            // SAFETY: 60 operations of at most 64 bytes each stay inside 8192.
            unsafe {
                let head = (lib.nlmsg_put_header)(nlh);
                writeln!(log, "header {}", buffer.offset(head)).unwrap();
                let extra = (lib.nlmsg_put_extra_header)(nlh, random.below(21) as usize);
                writeln!(log, "extra {}", buffer.offset(extra)).unwrap();
                for _ in 0..60 {
                    let kind = random.below(200) as u16;
                    let value = random.next();
                    // Around the current length: both sides of the limit are met.
                    let limit = (*nlh.cast::<u32>() as u64 + random.below(48)) as usize;
                    let s = text.as_ptr().add(random.below(26) as usize);
                    let len = random.below(41) as usize;
                    let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                    let data: P = bytes.as_ptr().cast();
                    let op = random.below(19);
                    let start = (lib.nlmsg_get_payload_tail)(nlh);
                    let said = match op {
                        0 => {
                            (lib.attr_put)(nlh, kind, len, data);
                            2
                        }
                        1 => {
                            (lib.attr_put_u8)(nlh, kind, value as u8);
                            2
                        }
                        2 => {
                            (lib.attr_put_u16)(nlh, kind, value as u16);
                            2
                        }
                        3 => {
                            (lib.attr_put_u32)(nlh, kind, value as u32);
                            2
                        }
                        4 => {
                            (lib.attr_put_u64)(nlh, kind, value);
                            2
                        }
                        5 => {
                            (lib.attr_put_str)(nlh, kind, s);
                            2
                        }
                        6 => {
                            (lib.attr_put_strz)(nlh, kind, s);
                            2
                        }
                        7 => (lib.attr_put_check)(nlh, limit, kind, len, data).into(),
                        8 => (lib.attr_put_u8_check)(nlh, limit, kind, value as u8).into(),
                        9 => (lib.attr_put_u16_check)(nlh, limit, kind, value as u16).into(),
                        10 => (lib.attr_put_u32_check)(nlh, limit, kind, value as u32).into(),
                        11 => (lib.attr_put_u64_check)(nlh, limit, kind, value).into(),
                        12 => (lib.attr_put_str_check)(nlh, limit, kind, s).into(),
                        13 => (lib.attr_put_strz_check)(nlh, limit, kind, s).into(),
                        14 => {
                            open.push((lib.attr_nest_start)(nlh, kind));
                            2
                        }
                        15 => {
                            let nest = (lib.attr_nest_start_check)(nlh, limit, kind);
                            if !nest.is_null() {
                                open.push(nest);
                            }
                            u8::from(nest.is_null())
                        }
                        16 | 17 => {
                            if let Some(n) = open.pop() {
                                (lib.attr_nest_end)(nlh, n)
                            };
                            2
                        }
                        _ => {
                            if let Some(n) = open.pop() {
                                (lib.attr_nest_cancel)(nlh, n)
                            };
                            2
                        }
                    };
                    let tail = (lib.nlmsg_get_payload_tail)(nlh);
                    // Theirs leaves the padding as it was, ours zeroes it (tested below).
                    if op <= 13 && tail > start {
                        let padding = start.add(usize::from(*start.cast::<u16>()));
                        ptr::write_bytes(padding, 0, tail as usize - padding as usize);
                    }
                    let tail = buffer.offset(tail);
                    writeln!(log, "{op} {said} {} {tail}", *nlh.cast::<u32>()).unwrap();
                }
            }
            writeln!(log, "{:?}", buffer.bytes()).unwrap();
            log
        },
        400,
    );
}

#[test]
fn batches_fill_overflow_and_carry_over_alike() {
    compare(
        "batch",
        |lib, random| {
            let mut log = String::new();
            // Twice the longest message: what is carried over never overlaps (tested below).
            let limit = 136 + random.below(400) as usize;
            let mut buffer = Buffer::new(2 * limit + 512);
            let base: M = buffer.at().cast();
            // SAFETY: a message of at most 16+96 bytes always fits the doubled buffer.
            unsafe {
                let batch = (lib.nlmsg_batch_start)(base, limit);
                for i in 0..40u32 {
                    let current = (lib.nlmsg_batch_current)(batch);
                    (lib.nlmsg_put_header)(current);
                    let payload = 4 * random.below(12) as usize;
                    (lib.nlmsg_put_extra_header)(current, payload);
                    (lib.attr_put_u32)(current, 1, i);
                    let fits = (lib.nlmsg_batch_next)(batch);
                    if !fits || random.below(10) == 0 {
                        (lib.nlmsg_batch_reset)(batch);
                    }
                    let (current, head) = (
                        (lib.nlmsg_batch_current)(batch),
                        (lib.nlmsg_batch_head)(batch),
                    );
                    writeln!(
                        log,
                        "{fits} {} {} {} {}",
                        (lib.nlmsg_batch_size)(batch),
                        (lib.nlmsg_batch_is_empty)(batch),
                        buffer.offset(current),
                        buffer.offset(head)
                    )
                    .unwrap();
                }
                (lib.nlmsg_batch_stop)(batch);
            }
            writeln!(log, "{:?}", buffer.bytes()).unwrap();
            log
        },
        200,
    );
}

#[test]
fn validation_agrees_on_every_type_and_length() {
    compare(
        "validate",
        |lib, random| {
            let mut log = String::new();
            for kind in (0..14).chain([255, u32::MAX]) {
                for len in 0..24u16 {
                    for last in [0u8, 1] {
                        let mut buffer = Buffer::new(64);
                        let tag = random.next() as u16;
                        buffer.write(0, &(len + 4).to_ne_bytes());
                        buffer.write(2, &tag.to_ne_bytes());
                        if len > 0 {
                            buffer.write(4 + usize::from(len) - 1, &[last]);
                        }
                        let attr: P = buffer.at().cast();
                        // SAFETY: the attribute and its payload lie inside the buffer.
                        unsafe {
                            clear_errno();
                            let said = (lib.attr_validate)(attr, kind);
                            write!(log, "{kind} {len} {last}: {said} {}", errno()).unwrap();
                            for want in [0, 1, 2, 4, 8, 12, 16, 23] {
                                clear_errno();
                                let said = (lib.attr_validate2)(attr, kind, want);
                                write!(log, " {want}:{said}/{}", errno()).unwrap();
                            }
                            clear_errno();
                            let said = (lib.attr_type_valid)(attr, 40);
                            writeln!(log, " t{said}/{}", errno()).unwrap();
                        }
                    }
                }
            }
            log
        },
        3,
    );
}

#[test]
fn getters_and_iterators_agree() {
    compare(
        "getters",
        |lib, random| {
            let mut log = String::new();
            let mut buffer = Buffer::new(256);
            for i in 0..32 {
                buffer.write(i * 8, &random.next().to_ne_bytes());
            }
            buffer.write(100, &[0]); // ends the string
            let p: P = buffer.at().cast();
            // SAFETY: pointer arithmetic and reads of at most 12 bytes, inside 256.
            unsafe {
                let size = random.below(1 << 20) as usize;
                let len = random.below(200) as i32 - 20;
                buffer.write(0, &(random.below(240) as u32).to_ne_bytes());
                let mut left = len;
                let next = (lib.nlmsg_next)(p, &mut left);
                writeln!(
                    log,
                    "{} {} {} {} {left}",
                    (lib.nlmsg_size)(size),
                    (lib.nlmsg_get_payload_len)(p),
                    (lib.nlmsg_ok)(p, len),
                    buffer.offset(next)
                )
                .unwrap();
                for seq in [0, 1, *p.cast::<u32>().add(2)] {
                    write!(log, "{} ", (lib.nlmsg_seq_ok)(p, seq)).unwrap();
                }
                for pid in [0, 1, *p.cast::<u32>().add(3)] {
                    write!(log, "{} ", (lib.nlmsg_portid_ok)(p, pid)).unwrap();
                }
                for q in [
                    (lib.nlmsg_get_payload)(p),
                    (lib.nlmsg_get_payload_tail)(p),
                    (lib.nlmsg_get_payload_offset)(p, random.below(100) as usize),
                ] {
                    write!(log, "{} ", buffer.offset(q)).unwrap();
                }
                buffer.write(0, &(random.below(300) as u16).to_ne_bytes());
                let (payload, next) = ((lib.attr_get_payload)(p), (lib.attr_next)(p));
                writeln!(
                    log,
                    "\n{} {} {} {} {} {}",
                    (lib.attr_get_type)(p),
                    (lib.attr_get_len)(p),
                    (lib.attr_get_payload_len)(p),
                    (lib.attr_ok)(p, len),
                    buffer.offset(payload),
                    buffer.offset(next)
                )
                .unwrap();
                writeln!(
                    log,
                    "{} {} {} {} {:?}",
                    (lib.attr_get_u8)(p),
                    (lib.attr_get_u16)(p),
                    (lib.attr_get_u32)(p),
                    (lib.attr_get_u64)(p),
                    CStr::from_ptr((lib.attr_get_str)(p))
                )
                .unwrap();
            }
            log
        },
        500,
    );
}

/// What a callback writes down, and what it answers: -1 and 0 end the run.
struct Seen {
    base: usize,
    answers: Random,
    log: RefCell<String>,
}

unsafe extern "C" fn on_attr(attr: *const c_void, data: *mut c_void) -> c_int {
    // SAFETY: `data` is the Seen that the caller passed; `attr` is an attribute in its buffer.
    unsafe {
        let seen = &mut *data.cast::<Seen>();
        let (len, kind) = (*attr.cast::<u16>(), *attr.cast::<u16>().add(1));
        let answer = [1, 1, 1, 1, 1, 1, 2, 0, -1, -7][seen.answers.below(10) as usize];
        writeln!(
            seen.log.borrow_mut(),
            "attr {} {len} {kind} -> {answer}",
            attr as usize - seen.base
        )
        .unwrap();
        answer
    }
}

unsafe extern "C" fn on_message(nlh: *const c_void, data: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe {
        let seen = &mut *data.cast::<Seen>();
        let answer = [1, 1, 1, 1, 1, 1, 2, 0, -1, -7][seen.answers.below(10) as usize];
        writeln!(
            seen.log.borrow_mut(),
            "message {} {} -> {answer}",
            nlh as usize - seen.base,
            *nlh.cast::<u16>().add(2)
        )
        .unwrap();
        answer
    }
}

unsafe extern "C" fn on_control(nlh: *const c_void, data: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe {
        let seen = &mut *data.cast::<Seen>();
        let answer = [1, 1, 0, -1][seen.answers.below(4) as usize];
        writeln!(
            seen.log.borrow_mut(),
            "control {} -> {answer}",
            nlh as usize - seen.base
        )
        .unwrap();
        answer
    }
}

#[test]
fn parsing_attributes_visits_the_same_ones() {
    compare(
        "parse",
        |lib, random| {
            let mut buffer = Buffer::new(512);
            let total = 20 + random.below(400) as usize;
            buffer.write(0, &header(total as u32, 20, 0, 1, 2));
            let mut at = 16;
            // Mostly well-formed attributes, now and then a length that is short or runs past the end.
            while at + 4 <= total {
                let len = match random.below(12) {
                    0 => random.below(4) as u16,
                    1 => random.next() as u16,
                    _ => 4 + random.below(24) as u16,
                };
                buffer.write(at, &len.to_ne_bytes());
                buffer.write(at + 2, &(random.next() as u16).to_ne_bytes());
                at += 4 + usize::from(len.saturating_sub(4))
                    .min(64)
                    .next_multiple_of(4);
            }
            let base = buffer.at() as usize;
            let mut seen = Seen {
                base,
                answers: Random(random.next() | 1),
                log: RefCell::default(),
            };
            let data: M = ptr::from_mut(&mut seen).cast();
            let nlh: P = base as P;
            let results = [
                // SAFETY: `total` bytes from 0, and the nest's own length, lie inside the buffer.
                unsafe { (lib.attr_parse)(nlh, random.below(24) as c_uint, on_attr, data) },
                unsafe { (lib.attr_parse_payload)((base + 16) as P, total - 16, on_attr, data) },
                {
                    buffer.write(8, &((total - 8) as u16).to_ne_bytes());
                    unsafe { (lib.attr_parse_nested)((base + 8) as P, on_attr, data) }
                },
            ];
            let mut log = seen.log.into_inner();
            writeln!(log, "{results:?}").unwrap();
            log
        },
        1500,
    );
}

#[test]
fn running_callbacks_over_messages_ends_alike() {
    compare(
        "run",
        |lib, random| {
            let mut buffer = Buffer::new(2048);
            let mut at = 0;
            for _ in 0..random.below(9) {
                let body = 4 * random.below(8) as usize;
                let len = match random.below(14) {
                    0 => random.below(20) as u32,
                    1 => 16 + random.below(4000) as u32,
                    _ => (16 + body) as u32,
                };
                let kind = random.pick(&[1, 2, 2, 3, 4, 5, 9, 16, 16, 16, 20, 1000]);
                let flags = random.pick(&[0, 2, 2, 2, 2, 0x10]);
                let (seq, pid) = (
                    random.pick(&[7, 7, 7, 7, 7, 0, 8]),
                    random.pick(&[5, 5, 5, 5, 5, 0, 6]),
                );
                buffer.write(at, &header(len, kind, flags, seq, pid));
                buffer.write(
                    at + 16,
                    &random.pick(&[0i32, 0, -1, -17, 2, i32::MAX]).to_ne_bytes(),
                );
                at += 16 + body;
            }
            let base = buffer.at() as usize;
            let mut seen = Seen {
                base,
                answers: Random(random.next() | 1),
                log: RefCell::default(),
            };
            let data: M = ptr::from_mut(&mut seen).cast();
            let (seq, pid) = (random.pick(&[7, 7, 0]), random.pick(&[5, 5, 0]));
            let on: Option<MsgCb> =
                random.pick(&[Some(on_message as MsgCb), Some(on_message), None]);
            let control: Vec<Option<MsgCb>> = (0..random.below(7))
                .map(|_| random.pick(&[Some(on_control as MsgCb), None]))
                .collect();
            let mut results = Vec::new();
            // SAFETY: `at` bytes of messages, fewer than the buffer has.
            unsafe {
                clear_errno();
                results.push(((lib.cb_run)(base as P, at, seq, pid, on, data), errno()));
                clear_errno();
                let (array, len) = (control.as_ptr(), control.len() as c_uint);
                results.push((
                    (lib.cb_run2)(base as P, at, seq, pid, on, data, array, len),
                    errno(),
                ));
            }
            let mut log = seen.log.into_inner();
            writeln!(log, "{results:?}").unwrap();
            log
        },
        3000,
    );
}

#[test]
fn sockets_behave_alike() {
    compare(
        "socket",
        |lib, _| {
            let mut log = String::new();
            // SAFETY: buffers and lengths match; each handle is closed once.
            unsafe {
                clear_errno();
                writeln!(
                    log,
                    "bad bus {} {}",
                    (lib.socket_open)(4096).is_null(),
                    errno()
                )
                .unwrap();
                clear_errno();
                writeln!(
                    log,
                    "bad fd {} {}",
                    (lib.socket_fdopen)(-1).is_null(),
                    errno()
                )
                .unwrap();

                let udp = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
                let wrapped = (lib.socket_fdopen)(udp);
                writeln!(
                    log,
                    "udp {} {}",
                    (lib.socket_get_portid)(wrapped),
                    (lib.socket_get_fd)(wrapped) == udp
                )
                .unwrap();
                clear_errno();
                writeln!(log, "bind {} {}", (lib.socket_bind)(wrapped, 0, 0), errno()).unwrap();
                writeln!(log, "close {}", (lib.socket_close)(wrapped)).unwrap();

                let nl = (lib.socket_open2)(
                    libc::NETLINK_ROUTE,
                    libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                );
                let fd = (lib.socket_get_fd)(nl);
                writeln!(
                    log,
                    "flags {} {:o}",
                    libc::fcntl(fd, libc::F_GETFD),
                    libc::fcntl(fd, libc::F_GETFL)
                )
                .unwrap();
                let mut reply = Buffer::new(4096);
                clear_errno();
                writeln!(
                    log,
                    "empty {} {}",
                    (lib.socket_recvfrom)(nl, reply.at().cast(), 4096),
                    errno()
                )
                .unwrap();
                writeln!(log, "close {}", (lib.socket_close)(nl)).unwrap();

                let nl = (lib.socket_open)(libc::NETLINK_ROUTE);
                writeln!(log, "before {}", (lib.socket_get_portid)(nl)).unwrap();
                writeln!(log, "bind {}", (lib.socket_bind)(nl, 0, 0)).unwrap();
                let port = (lib.socket_get_portid)(nl);
                let again = (lib.socket_fdopen)(libc::dup((lib.socket_get_fd)(nl)));
                writeln!(
                    log,
                    "port {} {}",
                    port != 0,
                    (lib.socket_get_portid)(again) == port
                )
                .unwrap();
                (lib.socket_close)(again);
                let mut on: c_int = 1;
                let mut len = 4u32;
                writeln!(
                    log,
                    "set {}",
                    (lib.socket_setsockopt)(
                        nl,
                        libc::NETLINK_EXT_ACK,
                        ptr::from_mut(&mut on).cast(),
                        4
                    )
                )
                .unwrap();
                on = 7;
                writeln!(
                    log,
                    "get {} {on} {len}",
                    (lib.socket_getsockopt)(
                        nl,
                        libc::NETLINK_EXT_ACK,
                        ptr::from_mut(&mut on).cast(),
                        &mut len
                    )
                )
                .unwrap();
                clear_errno();
                writeln!(
                    log,
                    "bad option {} {}",
                    (lib.socket_setsockopt)(nl, 999, ptr::from_mut(&mut on).cast(), 4),
                    errno()
                )
                .unwrap();

                // An acknowledged no-op, answered in full, then into a buffer that is too small.
                for room in [4096, 20] {
                    let request = header(16, 1, 5, 77, 0); // NLMSG_NOOP, REQUEST | ACK
                    writeln!(
                        log,
                        "sent {}",
                        (lib.socket_sendto)(nl, request.as_ptr().cast(), 16)
                    )
                    .unwrap();
                    clear_errno();
                    let got = (lib.socket_recvfrom)(nl, reply.at().cast(), room);
                    reply.write(12, &[0; 4]); // the port id differs, as it must
                    writeln!(log, "got {got} {} {:?}", errno(), &reply.bytes()[..64]).unwrap();
                }
                writeln!(log, "close {}", (lib.socket_close)(nl)).unwrap();
            }
            log
        },
        1,
    );
}

#[test]
fn padding_is_zeroed() {
    let lib = ours("padding");
    for len in 0..9usize {
        let mut buffer = Buffer::new(64);
        // SAFETY: 16 + 4 + 8 bytes of 64.
        unsafe {
            let nlh = (lib.nlmsg_put_header)(buffer.at().cast());
            (lib.attr_put)(nlh, 1, len, b"abcdefgh".as_ptr().cast());
        }
        let end = 20 + len.next_multiple_of(4);
        assert_eq!(&buffer.bytes()[20..20 + len], &b"abcdefgh"[..len]);
        assert!(
            buffer.bytes()[20 + len..end].iter().all(|b| *b == 0),
            "{len}"
        );
        assert_eq!(buffer.bytes()[end], 0x5a, "nothing beyond the padding");
    }
}

#[test]
fn a_message_longer_than_all_before_it_is_carried_over_whole() {
    let lib = ours("carry");
    let mut buffer = Buffer::new(512);
    // SAFETY: two messages of 20 and 120 bytes in a buffer of 512.
    unsafe {
        let batch = (lib.nlmsg_batch_start)(buffer.at().cast(), 128);
        for (payload, fill) in [(4, 1u8), (104, 2)] {
            let nlh = (lib.nlmsg_put_header)((lib.nlmsg_batch_current)(batch));
            let body = (lib.nlmsg_put_extra_header)(nlh, payload);
            ptr::write_bytes(body.cast::<u8>(), fill, payload);
            let fits = (lib.nlmsg_batch_next)(batch);
            assert_eq!(fits, fill == 1);
        }
        (lib.nlmsg_batch_reset)(batch);
        assert_eq!((lib.nlmsg_batch_size)(batch), 120);
        (lib.nlmsg_batch_stop)(batch);
    }
    assert_eq!(&buffer.bytes()[..4], &120u32.to_ne_bytes());
    assert!(buffer.bytes()[16..120].iter().all(|b| *b == 2));
}

#[test]
fn a_length_beyond_2_gib_is_not_within_any_buffer() {
    let lib = ours("length");
    for claimed in [0x8000_0000u32, 0x8000_0010, 0xffff_fff0, u32::MAX] {
        let mut buffer = Buffer::new(64);
        buffer.write(0, &header(claimed, 16, 0, 0, 0));
        // SAFETY: the header lies inside the buffer; nothing past it is read.
        assert!(
            !unsafe { (lib.nlmsg_ok)(buffer.at().cast(), 64) },
            "{claimed:#x}"
        );
    }
}
