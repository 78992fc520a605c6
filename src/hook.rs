//! nft-hook: what happens when a container starts and after it has stopped.
//!
//! Exit 0 from createRuntime means: the kernel's read-back equals what was meant. Everything
//! else is an error, and the runtime tears the container down.

use crate::bundle::Bundle;
use crate::clock;
use crate::contract::{self, annotation, file};
use crate::dns::service;
use crate::error::{Context, Error, Result};
use crate::lists::Lists;
use crate::netns;
use crate::nft::classify::{self, State as Held};
use crate::nft::kernel::{Detail, Nft};
use crate::nft::model::{Family, Ruleset};
use crate::nft::policy::{self, Inputs, Posture};
use crate::nft::verify;
use crate::oci::{Stage, State};
use crate::process::{self, Identity, PidFd};
use crate::sanitize;
use rustix::fs::OFlags;
use std::io::Read;

/// Runs one stage with the OCI state from `input`. The error has been written to the bundle's
/// log where the bundle was known; it still has to reach stderr.
pub fn run(stage: Stage, input: impl Read) -> Result<()> {
    let state = State::read(input)?;
    match stage {
        Stage::CreateRuntime => create_runtime(&state),
        Stage::Poststop => poststop(&state),
    }
}

fn create_runtime(state: &State) -> Result<()> {
    state.annotation(annotation::PROFILES)?;
    let bundle = Bundle::open(&state.state_dir()?)?;
    protect(state, &bundle).inspect_err(|e| log_error(&bundle, state, e))
}

/// One line in the bundle's log, for the person who finds the container refused.
fn log_error(bundle: &Bundle, state: &State, error: &Error) {
    if is_stderr(bundle) {
        return;
    }
    let line = format!(
        "{} {} nft-hook: {}\n",
        clock::rfc3339(clock::now()),
        state.short_id(),
        sanitize::text(&error.to_string())
    );
    // The container is refused whether or not this can be written.
    let _ = bundle.dir().append(file::HOOK_ERROR_LOG, line.as_bytes());
}

/// Whether stderr already goes to the bundle's log: crun sends it where the annotation
/// `run.oci.hooks.stderr` says, and one failure is one line.
fn is_stderr(bundle: &Bundle) -> bool {
    let log = bundle
        .dir()
        .open_file(file::HOOK_ERROR_LOG, OFlags::RDONLY)
        .ok()
        .flatten();
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let log = log
        .and_then(|file| rustix::fs::fstat(&file).ok())
        .map(identity);
    log.is_some() && log == rustix::fs::fstat(std::io::stderr()).ok().map(identity)
}

fn protect(state: &State, bundle: &Bundle) -> Result<()> {
    state.check_version()?;
    let init = container_init(state)?;
    let _lock = bundle.lock()?;
    refuse_foreign_bundle(state, bundle)?;
    let meant = meant(bundle)?;
    let identity = Identity::of(init.pid())
        .ok_or_else(|| Error::new("the container's init process has ended"))?;
    let netns = netns::enter(&init)?;
    let mut nft = Nft::open()?;
    refuse_foreign_netns(&mut nft, bundle, netns)?;
    bundle.record_container(state.short_id(), identity)?;
    bundle.record_netns(netns)?;
    let applied = apply(&mut nft, &meant).and_then(|()| service::start(bundle));
    if applied.is_err() {
        // The runtime tears the container down; until then, and should it fail to, nothing of a
        // half-made protection lets anything out.
        let _ = nft.replace(&policy::compile(Posture::Quarantine, &Inputs::default()));
    }
    applied
}

/// The init process, by descriptor, if this is the one our runtime started.
pub(crate) fn container_init(state: &State) -> Result<PidFd> {
    let pid = state
        .pid
        .ok_or_else(|| Error::new("the OCI state has no pid"))?;
    let init = PidFd::open(pid).context(|| "the container's init process")?;
    // crun and runc are the init's parent, and ours; with a second user namespace both of us
    // descend from the container's monitor instead. A pid that belongs to anybody else is not
    // this container's, whatever the state says.
    let caller = nix::unistd::getppid().as_raw();
    let starter = process::parent(pid);
    let related = starter.is_some()
        && (starter == Some(caller) || starter == process::parent(caller))
        && pid != nix::unistd::getpid().as_raw()
        && pid != caller;
    if !related {
        return Err(Error::new(format!(
            "process {pid} was not started by the runtime that called this hook"
        )));
    }
    Ok(init)
}

/// An image can name somebody else's bundle: refuse one whose container is another and lives.
pub(crate) fn refuse_foreign_bundle(state: &State, bundle: &Bundle) -> Result<()> {
    let Some(id) = bundle.container_id()? else {
        return Ok(());
    };
    if id != state.short_id() && bundle.living_init()?.is_some() {
        return Err(Error::new(format!(
            "this bundle belongs to the running container {}",
            sanitize::text(&id)
        )));
    }
    Ok(())
}

/// With `--network=container:X` the namespace is X's, and rules of ours would replace X's.
fn refuse_foreign_netns(nft: &mut Nft, bundle: &Bundle, here: netns::NetnsId) -> Result<()> {
    if bundle.recorded_netns()? == Some(here) {
        return Ok(());
    }
    let held = nft
        .dump(Family::Inet, contract::TABLE, Detail::NoElements)
        .context(|| "cannot see whether this network namespace is shielded already")?;
    match held {
        None => Ok(()),
        Some(_) => Err(Error::new(
            "this network namespace is already shielded for another container (--network=container:…)",
        )),
    }
}

/// What this start shall apply: the bundle's text, unless it is laxer than the bundle's posture.
fn meant(bundle: &Bundle) -> Result<Ruleset> {
    let posture = bundle.posture()?;
    if posture == Posture::Quarantine {
        return bundle.compile(posture);
    }
    let text = bundle.ruleset()?;
    if text.family != Family::Inet || text.table != contract::TABLE {
        return Err(Error::new(format!(
            "{} does not define table inet {}",
            file::RULESET,
            contract::TABLE
        )));
    }
    let says = match classify::classify(&text) {
        Held::Up => Posture::Up,
        Held::Down => Posture::Down,
        Held::Disengaged => Posture::Disengaged,
        Held::Quarantine => Posture::Quarantine,
        _ => {
            return Err(Error::new(format!(
                "{} is no posture of the shield: prepare the container again",
                file::RULESET
            )));
        }
    };
    // A verb that was killed between its two files leaves them apart: the stricter one holds.
    // Grants with a deadline are not in the text, which does not know when it will be applied.
    if says > posture
        || (says != Posture::Quarantine && Lists::read(bundle)?.expire_later(crate::bundle::now()))
    {
        return bundle.compile(posture.min(says));
    }
    Ok(text)
}

/// Applies the rules in one transaction and proves that the kernel holds them.
fn apply(nft: &mut Nft, meant: &Ruleset) -> Result<()> {
    nft.replace(meant)?;
    let held = nft
        .dump(meant.family, &meant.table, Detail::Full)?
        .ok_or_else(|| Error::new("the kernel took the rules but does not list them"))?;
    verify::equal(meant, &held, &|_| false)
        .map_err(|e| Error::new(format!("the kernel holds other rules than meant: {e}")))
}

/// Stops what createRuntime started. Everything that can be cleaned up is, whatever else fails.
fn poststop(state: &State) -> Result<()> {
    let bundle = Bundle::open(&state.state_dir()?)?;
    let _lock = bundle.lock()?;
    let ours = bundle.container_id()?.as_deref() == Some(state.short_id());
    // The same container may be running again already (a restart policy), or another one may have
    // the bundle by now: what runs then is theirs.
    if ours && bundle.living_init()?.is_none() {
        service::stop(&bundle)?;
    }
    Ok(())
}
