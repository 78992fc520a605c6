//! Runs a test's body inside `tests/lab/lab`: real podman in namespaces of its own.
//!
//! The test executable starts itself again in there, so a body is ordinary Rust: it runs as real
//! root of the lab, and reaches the ordinary user through [`Who::Tester`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The binary under test, where the lab puts it.
pub const BINARY: &str = "/run/lab/bin/terok-shield";
/// The image of every lab: busybox, the binary under test as `terok-shield` and `shield-probe`.
pub const IMAGE: &str = "localhost/terok-tiny";

const INSIDE: &str = "TEROK_LAB_INSIDE";

/// Runs `body` in a lab of its own; fails, and shows all it printed, if it does.
///
/// The closure's type names the test that called this, which is how the inner run finds it.
pub fn in_lab<F: FnOnce()>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let name = std::any::type_name::<F>();
    let name = name.split("::").skip(1).take_while(|p| *p != "{{closure}}");
    let name = name.collect::<Vec<_>>().join("::");
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab");
    // A lab that hangs must not hang CI; --kill-child in it ends everything below.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "120"])
        .arg(lab)
        .arg(std::env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("TEROK_SHIELD_BIN", binary_under_test())
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) is needed");
    let said = Ran::from(output);
    assert!(
        said.ok() && said.stdout.contains("test result: ok. 1 passed"),
        "in the lab, {name}:\n{}{}",
        said.stdout,
        said.stderr
    );
}

/// The static binary: `$TEROK_SHIELD_BIN`, else what `make` leaves behind.
fn binary_under_test() -> PathBuf {
    if let Some(path) = std::env::var_os("TEROK_SHIELD_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "TEROK_SHIELD_BIN={path:?} is no file");
        return path.canonicalize().unwrap();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let musl = format!("{}-unknown-linux-musl/release", std::env::consts::ARCH);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(target)
        .join(musl)
        .join("terok-shield");
    assert!(
        path.is_file(),
        "{path:?} is missing: run `make` first, or set TEROK_SHIELD_BIN"
    );
    path
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Whether it exited 0.
    pub fn ok(&self) -> bool {
        self.status == Some(0)
    }
}

/// Whose podman.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Real root of the lab: rootful containers.
    Root,
    /// The ordinary user `tester`: rootless containers.
    Tester,
}

impl Who {
    /// A command as this user, in the lab's own network namespace.
    pub fn command(self, program: &str, args: &[&str]) -> Command {
        let mut command = match self {
            Who::Root => Command::new(program),
            Who::Tester => {
                let mut c = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/as-user"));
                c.arg(program);
                c
            }
        };
        command.args(args).stdin(Stdio::null());
        command
    }

    /// A command as root of the user namespace in which this user's hooks run.
    pub fn command_as_hook(self, program: &str, args: &[&str]) -> Command {
        match self {
            Who::Root => self.command(program, args),
            Who::Tester => {
                let mut c = self.command("podman", &["unshare", program]);
                c.args(args);
                c
            }
        }
    }

    /// Runs a command as this user.
    pub fn run(self, program: &str, args: &[&str]) -> Ran {
        let output = self.command(program, args).output();
        output.unwrap_or_else(|e| panic!("{program}: {e}")).into()
    }

    /// Runs a command that must succeed; its standard output.
    pub fn must(self, program: &str, args: &[&str]) -> String {
        let ran = self.run(program, args);
        assert!(ran.ok(), "{self:?} {program} {args:?}: {ran:?}");
        ran.stdout
    }

    /// Runs podman.
    pub fn podman(self, args: &[&str]) -> Ran {
        self.run("podman", args)
    }

    /// The state bundle of a container.
    pub fn bundle_path(self, name: &str) -> PathBuf {
        let root = match self {
            Who::Root => "/var/lib/terok/shield",
            Who::Tester => "/home/tester/.local/state/terok/shield",
        };
        Path::new(root).join("containers").join(name)
    }

    /// Makes a directory of this user's, 0700, with its parents.
    pub fn mkdir(self, path: &Path) {
        self.must("mkdir", &["-p", path.to_str().unwrap()]);
        self.must("chmod", &["700", path.to_str().unwrap()]);
    }

    /// Writes a file of this user's.
    pub fn write(self, path: &Path, content: impl AsRef<[u8]>) {
        std::fs::write(path, content).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        if self == Who::Tester {
            chown_tester(path);
        }
    }
}

/// Gives a path to the ordinary user.
pub fn chown_tester(path: &Path) {
    Who::Root.must("chown", &["-h", "tester:", path.to_str().unwrap()]);
}

/// A process that is ended when the test is over.
#[derive(Debug)]
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace that outlives containers, held open by a sleeping process.
#[derive(Debug)]
pub struct Netns {
    _holder: Background,
    /// The holder's pid.
    pub pid: u32,
}

impl Netns {
    /// An empty namespace, owned by the user namespace in which `who`'s containers run.
    pub fn new(who: Who) -> Self {
        let script = "echo $$; ip link set lo up; exec sleep infinity";
        let mut command = who.command_as_hook("unshare", &["--net", "sh", "-c", script]);
        let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = holder.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let holder = Background(holder);
        let pid = line
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("no namespace for {who:?}: {line:?}"));
        Self {
            _holder: holder,
            pid,
        }
    }

    /// podman's word for it.
    pub fn network(&self) -> String {
        format!("--network=ns:/proc/{}/ns/net", self.pid)
    }
}

/// Runs a program as real root in the network namespace of a process.
pub fn in_netns_of(pid: u32, program: &str, args: &[&str]) -> Ran {
    let net = format!("--net=/proc/{pid}/ns/net");
    let mut all = vec![net.as_str(), program];
    all.extend(args);
    Who::Root.run("nsenter", &all)
}

/// Waits until `done`, at most `limit`; what it gave.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// JSON text of a string.
pub fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
