//! reader-hook: starts a container's event reader and ends it with the container.
//!
//! Reading events protects nobody, so whatever goes wrong is logged and the container starts.

use crate::bundle::Bundle;
use crate::clock;
use crate::contract::{annotation, file};
use crate::error::Result;
use crate::hook;
use crate::netns;
use crate::oci::{Stage, State};
use crate::process::{self, Detached, Identity, PidFd};
use crate::sanitize;
use crate::watch::dossier;
use rustix::fs::OFlags;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The applet we start; its name is how a process is known to be a reader.
const READER: &str = "nflog-reader";
/// How long a reader may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// A log larger than this is begun anew, bytes.
const LOG_MAX: u64 = 64 * 1024;
/// Longest path an orchestrator's file may have.
const PATH_MAX: usize = 4096;

/// Runs one stage with the OCI state from `input`.
pub fn run(stage: Stage, input: impl Read) -> Result<()> {
    let state = State::read(input)?;
    let bundle = Bundle::open(&state.state_dir()?)?;
    let done = match stage {
        Stage::CreateRuntime => start(&state, &bundle),
        Stage::Poststop => stop(&state, &bundle),
    };
    done.inspect_err(|e| {
        let (time, id) = (clock::rfc3339(clock::now()), state.short_id());
        let text = sanitize::text(&e.to_string());
        if let Ok(mut log) = open_log(&bundle) {
            let line = format!("{time} {id} reader-hook: {text}\n");
            let _ = std::io::Write::write_all(&mut log, line.as_bytes());
        }
    })
}

/// Starts the reader in the container's network namespace, unless it runs already.
fn start(state: &State, bundle: &Bundle) -> Result<()> {
    state.annotation(annotation::PROFILES)?;
    state.check_version()?;
    let init = hook::container_init(state)?;
    let _lock = bundle.lock()?;
    hook::refuse_foreign_bundle(state, bundle)?;
    record_meta_path(state, bundle)?;
    let Some(identity) = Identity::of(init.pid()) else {
        return Ok(());
    };
    if let Some(running) = running_reader(bundle)? {
        if running.init == Some(identity) && running.container == state.short_id() {
            return Ok(());
        }
        // The one of an earlier start, in a namespace that is gone or going.
        running.process.terminate(GRACE)?;
    }
    netns::enter(&init)?;
    let reader = spawn(state, bundle, identity)?;
    bundle
        .dir()
        .write(file::READER_PID, format!("{}\n", reader.pid).as_bytes())
}

/// Where the orchestrator keeps its fields: for the reader, and for verbs that come later.
fn record_meta_path(state: &State, bundle: &Bundle) -> Result<()> {
    let path = state.annotations.get(annotation::DOSSIER_META_PATH);
    match path.filter(|p| p.len() < PATH_MAX && p.starts_with('/') && !p.contains('\n')) {
        Some(path) => bundle
            .dir()
            .write(file::META_PATH, format!("{path}\n").as_bytes()),
        None => bundle.dir().remove(file::META_PATH).map(drop),
    }
}

fn spawn(state: &State, bundle: &Bundle, init: Identity) -> Result<Identity> {
    let pairs = state.annotations.iter();
    let fields = dossier::fields_among(pairs.map(|(k, v)| (k.as_str(), v.as_str())));
    let audit = state.annotations.get(annotation::AUDIT_ENABLED);
    let annotations = dossier::annotations_json(&fields, audit.map(String::as_str));
    let name = state.annotations.get(annotation::NAME);
    let name = name.map_or(state.short_id(), String::as_str);
    // A name that began with a dash would be an option.
    let name = sanitize::text(name.trim_start_matches('-'));
    // What identifies the reader comes first: a process's arguments are only looked at so far.
    let args: [OsString; 5] = [
        format!("--container-id={}", state.short_id()).into(),
        format!("--init={}", init.to_string().trim_end()).into(),
        bundle.path().into(),
        name.into(),
        format!("--annotations={annotations}").into(),
    ];
    let program = own_program();
    Detached {
        program: &program,
        argv0: READER,
        args: args.iter().map(OsString::as_os_str).collect(),
        env: Vec::new(),
        output: open_log(bundle).ok(),
        inherit: Vec::new(),
    }
    .spawn()
}

/// Our own binary: by its path, so that `ps` names it, else by the kernel's link to it.
fn own_program() -> OsString {
    match std::env::current_exe() {
        Ok(path) if path.is_file() => path.into(),
        _ => "/proc/self/exe".into(),
    }
}

/// The reader's log, begun anew when it has grown.
fn open_log(bundle: &Bundle) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let file = bundle.dir().open_file(file::READER_LOG, flags)?;
    let file = file.ok_or_else(|| crate::error::Error::new("cannot create the reader's log"))?;
    if file.metadata()?.len() > LOG_MAX {
        file.set_len(0)?;
    }
    Ok(file)
}

/// A living reader of this bundle.
struct Running {
    process: PidFd,
    container: String,
    init: Option<Identity>,
}

/// The recorded reader, if the process of that number is a reader of this bundle.
fn running_reader(bundle: &Bundle) -> Result<Option<Running>> {
    let pid = bundle
        .read_line(file::READER_PID)?
        .and_then(|line| line.parse().ok());
    let Some(process) = pid.and_then(|pid: i32| PidFd::open(pid).ok()) else {
        return Ok(None);
    };
    // The descriptor came first: the arguments are this process's or, if it ended between, those
    // of another one, which the descriptor cannot reach.
    Ok(
        is_reader(&process::arguments(process.pid()), bundle.path()).map(|(container, init)| {
            Running {
                process,
                container,
                init,
            }
        }),
    )
}

/// The container id and init process in the arguments of a reader of this bundle.
fn is_reader(arguments: &[String], bundle: &Path) -> Option<(String, Option<Identity>)> {
    let (argv0, rest) = arguments.split_first()?;
    let name = Path::new(argv0).file_name()?;
    let named = name == READER || rest.first().is_some_and(|a| a == READER);
    let path = String::from_utf8_lossy(bundle.as_os_str().as_bytes());
    if !named || !rest.iter().any(|a| OsStr::new(a) == &*path) {
        return None;
    }
    let value = |flag: &str| rest.iter().find_map(|a| a.strip_prefix(flag));
    let container = value("--container-id=")?.to_string();
    Some((container, value("--init=").and_then(Identity::parse)))
}

/// Ends the container's reader: it says goodbye to the hub by itself.
fn stop(state: &State, bundle: &Bundle) -> Result<()> {
    let Some(running) = running_reader(bundle)? else {
        return bundle.dir().remove(file::READER_PID).map(drop);
    };
    // Another container's by now, or the same one's that runs again.
    let lives = running.init.is_some_and(|init| init.is_alive());
    if running.container != state.short_id() || lives {
        return Ok(());
    }
    running.process.terminate(GRACE)?;
    bundle.dir().remove(file::READER_PID)?;
    bundle.dir().remove(file::EVENTS_SOCKET).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn only_a_reader_of_this_bundle_is_taken_for_one() {
        let bundle = Path::new("/b/box");
        let good = [
            "nflog-reader",
            "--container-id=0123456789ab",
            "--init=7 9",
            "/b/box",
            "box",
        ];
        let init = Identity { pid: 7, start: 9 };
        assert_eq!(
            is_reader(&arguments(&good), bundle),
            Some(("0123456789ab".to_string(), Some(init)))
        );
        let by_name = [
            "/x/terok-shield",
            "nflog-reader",
            "/b/box",
            "box",
            "--container-id=0",
        ];
        assert_eq!(
            is_reader(&arguments(&by_name), bundle),
            Some(("0".to_string(), None))
        );
        for bad in [
            &[][..],
            &["nflog-reader"],
            &["nflog-reader", "--container-id=0", "/b/other", "box"],
            &["sleep", "--container-id=0", "/b/box"],
            &["nflog-reader", "/b/box", "box"],
        ] {
            assert_eq!(is_reader(&arguments(bad), bundle), None, "{bad:?}");
        }
    }
}
