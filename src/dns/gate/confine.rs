//! What the gate gives up before it reads the first byte from a client: every capability but
//! CAP_NET_ADMIN, new privileges, the file system outside its bundle, and system calls it has no
//! use for.
//!
//! Capabilities and `no_new_privs` are required. Landlock and seccomp are best effort: a kernel
//! without them, or a runtime that forbids them, still gets DNS.

use crate::error::{Context, Result};
use crate::files::Dir;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Gives up every capability but CAP_NET_ADMIN (nftables, conntrack, the packets' mark), and the
/// ways to gain others.
///
/// # Errors
/// The kernel refuses.
pub fn drop_capabilities() -> Result<()> {
    let what = || "cannot give up capabilities";
    let keep = CapabilitySet::NET_ADMIN;
    let held = rustix::thread::capabilities(None).context(what)?;
    // Taking from the bounding set needs CAP_SETPCAP; whoever lacks it cannot gain by exec either
    // once no_new_privs is set.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for bit in CapabilitySet::all().difference(keep).iter() {
            let _ = rustix::thread::remove_capability_from_bounding_set(bit);
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_no_new_privs(true).context(what)?;
    let kept = held.permitted & keep;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).context(what)
}

/// Restricts the file system to the bundle. Whether that worked.
pub fn landlock(dir: &Dir) -> bool {
    /// `struct landlock_path_beneath_attr` of linux/landlock.h, which is packed.
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    /// The thirteen rights of the first ABI, `LANDLOCK_ACCESS_FS_EXECUTE` to `_MAKE_SYM`.
    static ALL: u64 = (1 << 13) - 1;
    /// WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG.
    const BUNDLE: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8;
    const RULE_PATH_BENEATH: libc::c_int = 1;
    // SAFETY: the attribute is one u64 that lives through the call, and its size is given.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ALL,
            size_of::<u64>(),
            0,
        )
    };
    if ruleset < 0 {
        return false;
    }
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
    let rule = PathBeneath {
        allowed_access: BUNDLE,
        parent_fd: dir.as_fd().as_raw_fd(),
    };
    // SAFETY: `rule` has the layout of the header and lives through the call.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    // SAFETY: takes a descriptor and flags.
    added == 0
        && unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } == 0
}

/// The system calls a serving gate makes, with glibc and with musl. Everything else fails with
/// EPERM: no program is started, no process signalled but itself, no namespace entered.
const SYSCALLS: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_socket,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// `AUDIT_ARCH_*` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Restricts the system calls to those a serving gate makes. Whether that worked.
pub fn seccomp() -> bool {
    let program = filter();
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `fprog` and the program it points to live through the call; the kernel copies them.
    unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const fprog,
        ) == 0
    }
}

/// The filter as classic BPF over `struct seccomp_data`: number at 0, architecture at 4.
fn filter() -> Vec<libc::sock_filter> {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let equal = |k, jt, jf| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let end = |k| op(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    let mut program = vec![
        load(4),
        // Another architecture's numbers would mean other calls.
        equal(ARCH, 1, 0),
        end(libc::SECCOMP_RET_KILL_PROCESS),
        load(0),
    ];
    let count = SYSCALLS.len();
    for (i, number) in SYSCALLS.iter().enumerate() {
        program.push(equal(*number as u32, (count - i) as u8, 0));
    }
    program.push(end(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    program.push(end(libc::SECCOMP_RET_ALLOW));
    program
}
