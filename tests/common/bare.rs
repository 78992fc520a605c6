//! A shielded container without podman: a process in a network namespace of its own, a bundle, and
//! the real hook between them. The verbs cannot tell; a start takes milliseconds.

use super::netns::{nft_load, run};
use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use terok_shield::bundle::Bundle;
use terok_shield::contract::{self, annotation, file};
use terok_shield::lists::Lists;
use terok_shield::netns::setns;
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::{Family, Ruleset};
use terok_shield::nft::policy::{self, Inputs, Posture};
use terok_shield::nft::{text, verify};

/// Where every host of the outside listens.
pub const PORT: u16 = 7777;

/// The binary under test.
pub fn binary() -> String {
    let built = || env!("CARGO_BIN_EXE_terok-shield").to_string();
    std::env::var("TEROK_SHIELD_BIN").unwrap_or_else(|_| built())
}

/// A bundle and the container that runs with it, if one does.
#[derive(Debug)]
pub struct Bare {
    root: PathBuf,
    /// The container's name.
    pub name: String,
    init: Option<Child>,
}

impl Bare {
    /// A bundle whose profile allows these networks.
    pub fn prepared(name: &str, allow: &[&str]) -> Self {
        let root = std::env::temp_dir().join(format!("terok-bare-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let bare = Self {
            root,
            name: name.into(),
            init: None,
        };
        let mut mkdir = std::fs::DirBuilder::new();
        mkdir
            .recursive(true)
            .mode(0o700)
            .create(bare.path())
            .unwrap();
        std::fs::create_dir(bare.root.join("config")).unwrap();
        bare.write(file::DNS_TIER, "dig\n");
        let list: String = allow.iter().map(|a| format!("{a}\n")).collect();
        bare.write(file::PROFILE_ALLOWED, &list);
        let ruleset = bare.bundle().compile(Posture::Up).unwrap();
        bare.write(file::RULESET, &text::render(&ruleset));
        bare
    }

    /// The bundle's directory.
    pub fn path(&self) -> PathBuf {
        self.root.join("containers").join(&self.name)
    }

    /// The bundle.
    pub fn bundle(&self) -> Bundle {
        Bundle::open(&self.path()).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    /// A file's lines, sorted.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    }

    /// Starts a container with this bundle, linked to the caller's namespace, through the hook.
    pub fn start(&mut self) {
        self.stop();
        let mut unshare = Command::new("unshare");
        let init = unshare
            .args(["--net", "sleep", "infinity"])
            .spawn()
            .unwrap();
        let pid = init.id();
        self.init = Some(init);
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{pid}/ns/net");
        while std::fs::read_link(&theirs).is_ok_and(|ns| ns == ours) {
            std::thread::sleep(Duration::from_millis(1));
        }
        link(pid);
        let output = self.hook(pid);
        assert!(output.status.success(), "the hook: {output:?}");
    }

    /// Ends the container.
    pub fn stop(&mut self) {
        if let Some(mut init) = self.init.take() {
            let _ = init.kill();
            let _ = init.wait();
            // The pair dies with the namespace, which the kernel takes down in its own time.
            let _ = Command::new("ip").args(["link", "del", "veth0"]).output();
        }
    }

    fn hook(&self, pid: u32) -> Output {
        let path = self.path();
        let state = format!(
            r#"{{"ociVersion":"1.0","id":"{}","pid":{pid},"status":"created","annotations":{{"{}":"t","{}":"{}","{}":"{}"}}}}"#,
            format!("{pid:016x}").repeat(4),
            annotation::PROFILES,
            annotation::VERSION,
            contract::BUNDLE_VERSION,
            annotation::STATE_DIR,
            path.to_str().unwrap(),
        );
        let mut hook = Command::new(binary())
            .args(["nft-hook", "createRuntime"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = hook.stdin.take().unwrap();
        stdin.write_all(state.as_bytes()).unwrap();
        drop(stdin);
        hook.wait_with_output().unwrap()
    }

    /// The container's init.
    pub fn pid(&self) -> u32 {
        self.init.as_ref().expect("it runs").id()
    }

    /// A verb on this container: `allow 192.0.2.1` and so on.
    pub fn verb(&self, words: &str) -> Command {
        let mut command = Command::new(binary());
        command.arg("--state-dir").arg(&self.root);
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        command
            .arg(verb)
            .arg(&self.name)
            .args(rest.split_whitespace());
        command.env("TEROK_SHIELD_CONFIG_DIR", self.root.join("config"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb that must succeed; its standard output.
    pub fn must(&self, words: &str) -> String {
        let output = self.verb(words).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `act` on a thread in the container's network namespace.
    pub fn inside<R: Send + 'static>(
        &self,
        act: impl FnOnce() -> R + Send + 'static,
    ) -> std::thread::JoinHandle<R> {
        let netns = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::spawn(move || {
            setns(netns.as_fd(), rustix::thread::ThreadNameSpaceType::NETWORK).unwrap();
            act()
        })
    }

    /// The kernel's rules, as we read them.
    pub fn held(&self) -> Option<Ruleset> {
        let dump = || {
            let mut nft = Nft::open().unwrap();
            nft.dump(Family::Inet, contract::TABLE, Detail::Full)
                .unwrap()
        };
        self.inside(dump).join().unwrap()
    }

    /// Fails unless the files are all readable, say one thing, and the kernel holds just that.
    pub fn assert_agreement(&self) {
        let bundle = self.bundle();
        Lists::read(&bundle).unwrap();
        let posture = bundle.posture().unwrap();
        let meant = match posture {
            Posture::Quarantine => policy::compile(posture, &Inputs::default()),
            _ => bundle.compile(posture).unwrap(),
        };
        let next_start = bundle.ruleset().unwrap();
        verify::equal(&meant, &next_start, &|_| false).expect("lists and ruleset.nft differ");
        let held = self.held().expect("the kernel holds no rules");
        verify::equal(&meant, &held, &|_| false).expect("lists and kernel differ");
    }

    /// The elements of a set, as Debian's nft lists them.
    pub fn elements(&self, set: &str) -> Vec<String> {
        let pid = self.pid().to_string();
        let table = contract::TABLE;
        let list = ["-t", &pid, "-n", "nft", "list", "set", "inet", table, set];
        let text = run("nsenter", &list);
        let Some((_, rest)) = text.split_once("elements = {") else {
            return Vec::new();
        };
        let (inner, _) = rest.split_once('}').unwrap();
        let mut all: Vec<String> = inner.split(',').map(|e| e.trim().to_string()).collect();
        all.sort();
        all
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Gives the process an interface whose other end is ours, and a default route.
fn link(pid: u32) {
    let pid = pid.to_string();
    let ip = |args: &str| run("ip", &args.split_whitespace().collect::<Vec<_>>());
    ip(&format!(
        "link add veth0 type veth peer name eth0 netns {pid}"
    ));
    ip("addr add 198.18.0.1/30 dev veth0");
    ip("addr add 2001:db8:ffff::1/64 dev veth0 nodad");
    ip("link set veth0 up");
    for args in [
        "link set lo up",
        "addr add 198.18.0.2/30 dev eth0",
        "addr add 2001:db8:ffff::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 198.18.0.1",
        "-6 route add default via 2001:db8:ffff::1",
    ] {
        let words = ["-t", &pid, "-n", "ip"].into_iter();
        run(
            "nsenter",
            &words.chain(args.split_whitespace()).collect::<Vec<_>>(),
        );
    }
}

/// Makes every address of these networks ours, and answers for all of them.
pub fn outside(nets: &[&str]) {
    for net in nets {
        run("ip", &["route", "add", "local", net, "dev", "lo"]);
    }
    for range in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        std::fs::write(Path::new("/proc/sys").join(range), "1").unwrap();
    }
    // The first rule with "ct" turns connection tracking on; here it is not wanted.
    nft_load(
        "table inet outside { chain raw { type filter hook prerouting priority raw; notrack; }; }",
    );
}

/// A socket that hears whatever is sent to any of our addresses on [`PORT`].
pub fn ear() -> UdpSocket {
    let ear = UdpSocket::bind(("::", PORT)).unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    ear
}
