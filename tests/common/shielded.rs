//! Bundles, hook descriptors and containers as `prepare` and podman would make them.

use super::lab::{BINARY, IMAGE, Ran, Who, in_netns_of, json_string};
use std::path::{Path, PathBuf};
use terok_shield::contract::{self, annotation, file};
use terok_shield::nft::intervals::Grant;
use terok_shield::nft::policy::{self, Inputs, Learning, Posture};
use terok_shield::nft::text;

/// Where the lab's descriptors lie; registered for root and the user alike.
pub const HOOKS: &str = "/run/lab/hooks";
/// A directory that every user and every container may write to.
pub const OUT: &str = "/run/lab/out";

/// When podman runs the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// For containers that carry our annotation: what `setup` installs.
    Annotated,
    /// For every container.
    Always,
}

/// Installs the nft-hook's two descriptors and registers their directory.
pub fn install_hooks(when: When) {
    install_hook_program(when, BINARY, &["nft-hook"]);
}

/// The same with another program in front, the stage last: for fault injection.
pub fn install_hook_program(when: When, program: &str, args: &[&str]) {
    let when = match when {
        When::Annotated => {
            let key = format!("^{}$", annotation::PROFILES.replace('.', "\\."));
            format!(r#"{{"annotations":{{{}:".*"}}}}"#, json_string(&key))
        }
        When::Always => r#"{"always":true}"#.into(),
    };
    std::fs::create_dir_all(HOOKS).unwrap();
    std::fs::create_dir_all(OUT).unwrap();
    Who::Root.must("chmod", &["1777", OUT]);
    for stage in ["createRuntime", "poststop"] {
        // podman gives `args` as the whole argv, so its first word is the program's own name.
        let argv: Vec<String> = args
            .iter()
            .chain([&stage])
            .map(|a| json_string(a))
            .collect();
        let descriptor = format!(
            r#"{{"version":"1.0.0","hook":{{"path":"{program}","args":[{}]}},"when":{when},"stages":["{stage}"]}}"#,
            argv.join(",")
        );
        std::fs::write(
            Path::new(HOOKS).join(format!("terok-shield-{stage}.json")),
            descriptor,
        )
        .unwrap();
    }
    let conf = "/etc/containers/containers.conf";
    let text = std::fs::read_to_string(conf).unwrap();
    if !text.contains("hooks_dir") {
        let line = format!("[engine]\nhooks_dir = [\"{HOOKS}\"]");
        std::fs::write(conf, text.replacen("[engine]", &line, 1)).unwrap();
    }
}

/// A state bundle on disk.
#[derive(Debug)]
pub struct Bundle {
    /// Whose.
    pub who: Who,
    /// The container's name.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
}

impl Bundle {
    /// A bundle that allows these addresses and networks, as `prepare` would write it.
    pub fn new(who: Who, name: &str, allow: &[&str]) -> Self {
        Self::with(who, name, allow, &ruleset(Posture::Up, allow))
    }

    /// A bundle with this text as its ruleset.
    pub fn with(who: Who, name: &str, allow: &[&str], ruleset: &str) -> Self {
        let path = who.bundle_path(name);
        who.mkdir(&path);
        let bundle = Self {
            who,
            name: name.into(),
            path,
        };
        bundle.write(file::RULESET, ruleset);
        bundle.write(file::DNS_TIER, "dig\n");
        let list: String = allow.iter().map(|a| format!("{a}\n")).collect();
        bundle.write(file::PROFILE_ALLOWED, list);
        bundle
    }

    /// Writes one of its files.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        self.who.write(&self.path.join(name), content);
    }

    /// Reads one of its files; empty if missing.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }

    /// The annotations `prepare` gives a container with this bundle.
    pub fn annotations(&self) -> Vec<(String, String)> {
        let path = self.path.to_str().unwrap();
        [
            (annotation::PROFILES, "base"),
            (annotation::NAME, &self.name),
            (annotation::STATE_DIR, path),
            (annotation::VERSION, &contract::BUNDLE_VERSION.to_string()),
            (annotation::AUDIT_ENABLED, "true"),
            (annotation::DNS_TIER, "dig"),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .to_vec()
    }
}

/// The text of a ruleset that allows these addresses and networks.
pub fn ruleset(posture: Posture, allow: &[&str]) -> String {
    let inputs = Inputs {
        allow: grants(allow),
        ..Inputs::default()
    };
    text::render(&policy::compile(posture, &inputs))
}

/// The same for a container whose names the gate resolves, with this forwarder.
pub fn gate_ruleset(allow: &[&str], forwarder: &str) -> String {
    let inputs = Inputs {
        allow: grants(allow),
        learning: Learning::Gate,
        forwarder: forwarder.parse().ok(),
        ..Inputs::default()
    };
    text::render(&policy::compile(Posture::Up, &inputs))
}

fn grants(allow: &[&str]) -> Vec<Grant> {
    let grant = |net: &&str| Grant {
        net: net.parse().unwrap(),
        remaining: None,
    };
    allow.iter().map(grant).collect()
}

/// One `podman run`, to be adjusted before it goes.
#[derive(Debug)]
pub struct Run {
    /// Whose podman.
    pub who: Who,
    /// `--name`.
    pub name: String,
    /// `--network=…`.
    pub network: String,
    /// All annotations but the one for the hook's stderr.
    pub annotations: Vec<(String, String)>,
    /// Further arguments before the image.
    pub options: Vec<String>,
    /// What the workload runs.
    pub command: Vec<String>,
}

impl Run {
    /// A container with this bundle.
    pub fn new(bundle: &Bundle, network: &str) -> Self {
        Self {
            who: bundle.who,
            name: bundle.name.clone(),
            network: network.into(),
            annotations: bundle.annotations(),
            options: vec![],
            command: ["sleep", "infinity"].map(String::from).to_vec(),
        }
    }

    /// Replaces or adds an annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.retain(|(k, _)| k != key);
        self.annotations.push((key.into(), value.into()));
        self
    }

    /// Adds arguments before the image.
    pub fn option(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|s| s.to_string()));
        self
    }

    /// Sets the workload's command.
    pub fn workload(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|s| s.to_string()).collect();
        self
    }

    /// The file crun writes this container's hook's stderr to.
    pub fn stderr_file(&self) -> PathBuf {
        Path::new(OUT).join(format!("{}.stderr", self.name))
    }

    /// Runs `podman run --detach`, or in the foreground.
    pub fn go(&self, detach: bool) -> Ran {
        let mut args = vec!["run".to_string(), "--name".into(), self.name.clone()];
        if detach {
            args.push("--detach".into());
        }
        args.push(self.network.clone());
        args.extend(["--cap-drop=NET_ADMIN", "--cap-drop=NET_RAW"].map(String::from));
        let stderr = (
            annotation::CRUN_HOOKS_STDERR.to_string(),
            self.stderr_file().to_str().unwrap().to_string(),
        );
        for (key, value) in self.annotations.iter().chain([&stderr]) {
            args.extend(["--annotation".into(), format!("{key}={value}")]);
        }
        args.extend(self.options.iter().cloned());
        args.push(IMAGE.into());
        args.extend(self.command.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.who.podman(&args)
    }

    /// Starts it; it must come up.
    pub fn start(self) -> Container {
        let ran = self.go(true);
        let said = std::fs::read_to_string(self.stderr_file()).unwrap_or_default();
        assert!(ran.ok(), "{}: {ran:?}; the hook said: {said}", self.name);
        Container {
            who: self.who,
            name: self.name,
        }
    }
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    /// Whose podman.
    pub who: Who,
    /// Its name.
    pub name: String,
}

impl Container {
    /// The pid of its init.
    pub fn pid(&self) -> u32 {
        let format = "--format={{.State.Pid}}";
        let text = self.who.must("podman", &["inspect", format, &self.name]);
        text.trim().parse().unwrap()
    }

    /// Its id.
    pub fn id(&self) -> String {
        let text = self
            .who
            .must("podman", &["inspect", "--format={{.Id}}", &self.name]);
        text.trim().into()
    }

    /// Runs a command in it.
    pub fn exec(&self, command: &[&str]) -> Ran {
        let mut args = vec!["exec", self.name.as_str()];
        args.extend(command);
        self.who.podman(&args)
    }

    /// What happens to a UDP packet from inside: `open`, `timeout`, or the ICMP code's name.
    pub fn probe(&self, host: &str, port: &str) -> String {
        let ran = self.exec(&["shield-probe", host, port]);
        assert!(ran.ok(), "probe {host} {port}: {ran:?}");
        let value = |key: &str| {
            let rest = ran.stdout.split(&format!("\"{key}\":")).nth(1)?;
            Some(
                rest.trim_start()
                    .trim_start_matches('"')
                    .split(['"', ',', '}'])
                    .next()?
                    .to_string(),
            )
        };
        match value("result").as_deref() {
            Some("icmp-error") => value("icmp_code_name").unwrap_or_default(),
            Some(result) => result.to_string(),
            None => panic!("probe {host} {port}: {ran:?}"),
        }
    }

    /// What a TCP server there says, or `None` if it cannot be reached within two seconds.
    pub fn tcp(&self, host: &str, port: &str) -> Option<String> {
        let ran = self.exec(&["nc", "-w", "2", host, port]);
        (ran.ok() && !ran.stdout.is_empty()).then_some(ran.stdout)
    }

    /// Our table in its network namespace, as Debian's nft lists it; `None` without one.
    pub fn table(&self) -> Option<String> {
        table_in(self.pid())
    }
}

/// Our table in the network namespace of a process, as Debian's nft lists it.
pub fn table_in(pid: u32) -> Option<String> {
    let ran = in_netns_of(pid, "nft", &["list", "table", "inet", contract::TABLE]);
    ran.ok().then_some(ran.stdout)
}
