//! Which of podman's options a shielded container may have.
//!
//! Every option podman-run(1) documents (4.3 to 5.x) stands in one of the tables below. An option
//! that does not is refused: what we do not know may lift the shield. Only the words before the
//! image are podman's; what follows belongs to the workload.
//!
//! Judged harmless although they sound otherwise: `--publish` (the input chain lets nothing in),
//! `--dns` and `--add-host` (names and resolvers do not open addresses), `--sysctl` (podman lets
//! through only what belongs to the container's own namespaces, and none of it passes the output
//! chain), `--uts=host` and `--cgroupns=host` (nothing there reaches the network), `--ip` and
//! `--mac-address` (the rules match destinations), `--userns=keep-id` and `--uidmap` (the network
//! namespace still belongs to podman, and the workload has no NET_ADMIN in it).

use crate::error::{Error, Result};
use crate::sanitize::quoted;
use std::path::{Component, Path, PathBuf};

/// Takes no value, and is harmless.
const SWITCHES: &[&str] = &[
    "detach",
    "disable-content-trust",
    "env-host",
    "help",
    "http-proxy",
    "init",
    "interactive",
    "no-healthcheck",
    "no-hostname",
    "no-hosts",
    "oom-kill-disable",
    "passwd",
    "publish-all",
    "quiet",
    "read-only",
    "read-only-tmpfs",
    "replace",
    "rm",
    "rmi",
    "rootfs",
    "sig-proxy",
    "tls-verify",
    "tty",
    "unsetenv-all",
];

/// Takes a value, and is harmless whatever that is.
const OPTIONS: &[&str] = &[
    "add-host",
    "arch",
    "attach",
    "authfile",
    "blkio-weight",
    "blkio-weight-device",
    "cert-dir",
    "cgroup-conf",
    "cgroup-parent",
    "cgroupns",
    "cgroups",
    "chrootdirs",
    "cidfile",
    "conmon-pidfile",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-shares",
    "cpus",
    "cpuset-cpus",
    "cpuset-mems",
    "creds",
    "decryption-key",
    "detach-keys",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "dns",
    "dns-opt",
    "dns-option",
    "dns-search",
    "entrypoint",
    "env",
    "env-file",
    "env-merge",
    "expose",
    "gidmap",
    "gpus",
    "group-add",
    "group-entry",
    "health-cmd",
    "health-interval",
    "health-log-destination",
    "health-max-log-count",
    "health-max-log-size",
    "health-on-failure",
    "health-retries",
    "health-start-period",
    "health-startup-cmd",
    "health-startup-interval",
    "health-startup-retries",
    "health-startup-success",
    "health-startup-timeout",
    "health-timeout",
    "hostname",
    "hostuser",
    "image-volume",
    "init-path",
    "ip",
    "ip6",
    "label",
    "label-file",
    "log-driver",
    "log-opt",
    "mac-address",
    "memory",
    "memory-reservation",
    "memory-swap",
    "memory-swappiness",
    "network-alias",
    "oom-score-adj",
    "os",
    "passwd-entry",
    "personality",
    "pidfile",
    "pids-limit",
    "platform",
    "publish",
    "pull",
    "rdt-class",
    "requires",
    "restart",
    "retry",
    "retry-delay",
    "sdnotify",
    "secret",
    "shm-size",
    "shm-size-systemd",
    "stop-signal",
    "stop-timeout",
    "subgidname",
    "subuidname",
    "sysctl",
    "systemd",
    "timeout",
    "tmpfs",
    "tz",
    "uidmap",
    "ulimit",
    "umask",
    "unsetenv",
    "user",
    "uts",
    "variant",
    "workdir",
];

/// Refused whatever their value, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("name", "the container's name is the one before --"),
    ("network", "the shield chooses the network"),
    ("net", "the shield chooses the network"),
    (
        "pod",
        "a pod's containers share a network that this shield does not hold",
    ),
    (
        "pod-id-file",
        "a pod's containers share a network that this shield does not hold",
    ),
    (
        "hooks-dir",
        "it replaces the hooks that shield the container",
    ),
    (
        "annotation",
        "annotations are how the hooks know the container",
    ),
    (
        "cap-add",
        "a capability over the network would undo the rules",
    ),
    ("cap-drop", "the shield drops what has to be dropped"),
    ("privileged", "a privileged container can change its rules"),
    (
        "device-cgroup-rule",
        "it can open devices that carry traffic past the rules",
    ),
    ("volumes-from", "what it mounts cannot be checked"),
    (
        "preserve-fds",
        "inherited descriptors can be sockets of the host",
    ),
    (
        "preserve-fd",
        "inherited descriptors can be sockets of the host",
    ),
];

/// Judges an option's value; the error is the reason.
type Check = fn(&str, &[PathBuf]) -> Result<(), String>;

/// Allowed with some values only.
const CHECKED: &[(&str, Check)] = &[
    ("pid", own_namespace),
    ("ipc", own_namespace),
    ("userns", user_namespace),
    ("security-opt", security_opt),
    ("seccomp-policy", seccomp_policy),
    ("device", device),
    ("volume", volume),
    ("mount", mount),
];

/// Short options with a value, and the long ones they stand for.
const SHORT_OPTIONS: &[(char, &str)] = &[
    ('a', "attach"),
    ('c', "cpu-shares"),
    ('e', "env"),
    ('h', "hostname"),
    ('l', "label"),
    ('m', "memory"),
    ('p', "publish"),
    ('u', "user"),
    ('v', "volume"),
    ('w', "workdir"),
];

/// Short options without one.
const SHORT_SWITCHES: &[(char, &str)] = &[
    ('d', "detach"),
    ('i', "interactive"),
    ('P', "publish-all"),
    ('q', "quiet"),
    ('t', "tty"),
];

/// Checks the words of `podman run` that follow its name: options, image, command. `protected`
/// are the shield's own places on the host, which no mount may reach.
pub fn check(words: &[&str], protected: &[PathBuf]) -> Result<()> {
    let mut rest = words.iter();
    while let Some(&word) = rest.next() {
        if word == "--" {
            return match rest.next() {
                Some(_) => Ok(()),
                None => Err(no_image()),
            };
        }
        if let Some(long) = word.strip_prefix("--") {
            check_long(long, &mut rest, protected)?;
        } else if word.len() > 1 && word.starts_with('-') {
            check_short(&word[1..], &mut rest, protected)?;
        } else {
            return Ok(());
        }
    }
    Err(no_image())
}

fn no_image() -> Error {
    Error::usage("no image given: terok-shield run NAME -- [podman options] IMAGE [command]")
}

type Words<'a, 'b> = std::slice::Iter<'a, &'b str>;

fn check_long(long: &str, rest: &mut Words<'_, '_>, protected: &[PathBuf]) -> Result<()> {
    let (name, given) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    if SWITCHES.contains(&name) {
        return Ok(());
    }
    refuse(name)?;
    let check = CHECKED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, check)| check);
    if check.is_none() && !OPTIONS.contains(&name) {
        return Err(Error::new(format!(
            "podman option {} is not known to be harmless: refused",
            quoted(&format!("--{name}"))
        )));
    }
    let value = given
        .or_else(|| rest.next().copied())
        .ok_or_else(|| Error::usage(format!("podman option --{name} takes a value")))?;
    judge(name, value, protected)
}

/// A cluster such as `-it`, or an option with its value behind it or in the next word.
fn check_short(cluster: &str, rest: &mut Words<'_, '_>, protected: &[PathBuf]) -> Result<()> {
    for (at, letter) in cluster.char_indices() {
        if SHORT_SWITCHES.iter().any(|(short, _)| *short == letter) {
            // pflag takes `-t=false` as one switch with a value.
            if cluster[at + letter.len_utf8()..].starts_with('=') {
                return Ok(());
            }
            continue;
        }
        let Some((_, name)) = SHORT_OPTIONS.iter().find(|(short, _)| *short == letter) else {
            return Err(Error::new(format!(
                "podman option {} is not known to be harmless: refused",
                quoted(&format!("-{letter}"))
            )));
        };
        let behind = &cluster[at + letter.len_utf8()..];
        let value = match behind.strip_prefix('=').unwrap_or(behind) {
            "" => rest
                .next()
                .copied()
                .ok_or_else(|| Error::usage(format!("podman option -{letter} takes a value")))?,
            behind => behind,
        };
        return judge(name, value, protected);
    }
    Ok(())
}

fn refuse(name: &str) -> Result<()> {
    match REFUSED.iter().find(|(known, _)| *known == name) {
        Some((_, why)) => Err(Error::new(format!(
            "podman option --{name} is refused: {why}"
        ))),
        None => Ok(()),
    }
}

fn judge(name: &str, value: &str, protected: &[PathBuf]) -> Result<()> {
    let Some((_, check)) = CHECKED.iter().find(|(known, _)| *known == name) else {
        return Ok(());
    };
    check(value, protected).map_err(|why| {
        Error::new(format!(
            "podman option --{name} {} is refused: {why}",
            quoted(value)
        ))
    })
}

fn own_namespace(value: &str, _: &[PathBuf]) -> Result<(), String> {
    match value {
        "" | "private" | "shareable" | "none" => Ok(()),
        _ => Err("the container must have a namespace of its own".into()),
    }
}

fn user_namespace(value: &str, _: &[PathBuf]) -> Result<(), String> {
    match value.split(':').next().unwrap_or(value) {
        "" | "auto" | "keep-id" | "nomap" | "private" => Ok(()),
        _ => Err("the container must not have the host's user namespace, nor another's".into()),
    }
}

fn security_opt(value: &str, _: &[PathBuf]) -> Result<(), String> {
    let harmless = [
        "no-new-privileges",
        "no-new-privileges:true",
        "no-new-privileges=true",
    ];
    if harmless.contains(&value) || value.starts_with("mask=") {
        return Ok(());
    }
    Err("it can lift the container's confinement".into())
}

fn seccomp_policy(value: &str, _: &[PathBuf]) -> Result<(), String> {
    match value {
        "default" => Ok(()),
        _ => Err("the image would choose its own system call filter".into()),
    }
}

/// Devices that carry no traffic and no host memory; everything else is refused.
fn device(value: &str, _: &[PathBuf]) -> Result<(), String> {
    let host = value.split(':').next().unwrap_or(value);
    let harmless = [
        "/dev/dri",
        "/dev/nvidia",
        "/dev/snd",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/kfd",
        "/dev/video",
    ];
    // A CDI name: vendor.com/class=device.
    let cdi = !host.starts_with('/') && host.contains('/') && host.contains('=');
    let plain = !Path::new(host)
        .components()
        .any(|c| c == Component::ParentDir);
    if cdi || plain && harmless.iter().any(|known| host.starts_with(known)) {
        return Ok(());
    }
    Err("only graphics, sound, FUSE and KVM devices are known not to pass the rules".into())
}

fn volume(value: &str, protected: &[PathBuf]) -> Result<(), String> {
    match value.split_once(':') {
        Some((source, _)) => source_path(source, protected),
        // An anonymous volume.
        None => Ok(()),
    }
}

fn mount(value: &str, protected: &[PathBuf]) -> Result<(), String> {
    value
        .split(',')
        .filter_map(|field| field.split_once('='))
        .filter(|(key, _)| matches!(*key, "src" | "source"))
        .try_for_each(|(_, source)| source_path(source, protected))
}

/// Refuses what would hand the workload the shield itself, or the means to go around it.
fn source_path(source: &str, protected: &[PathBuf]) -> Result<(), String> {
    if !source.starts_with(['/', '.', '~']) {
        return Ok(()); // a named volume
    }
    let given = PathBuf::from(source);
    // Links are resolved where they can be: a link into a protected place is one.
    let resolved = given
        .canonicalize()
        .or_else(|_| std::path::absolute(&given));
    let path = resolved.map_err(|e| e.to_string())?;
    if path.components().any(|c| c == Component::ParentDir) {
        return Err("it cannot be resolved".into());
    }
    let text = path.to_string_lossy();
    if ["podman.sock", "docker.sock", "/bus", "/systemd/private"]
        .iter()
        .any(|s| text.ends_with(s))
    {
        return Err("through that socket the workload can start programs on the host".into());
    }
    let system = ["/proc", "/sys", "/dev"];
    if system.iter().any(|dir| path.starts_with(dir)) || path == Path::new("/") {
        return Err("it hands the host's system files to the workload".into());
    }
    match protected
        .iter()
        .find(|p| p.starts_with(&path) || path.starts_with(p))
    {
        Some(place) => Err(format!("the workload could rewrite {}", place.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        check(
            &words,
            &[
                PathBuf::from("/home/u/.local/state/terok/shield"),
                PathBuf::from("/home/u/.config/containers"),
            ],
        )
    }

    #[test]
    fn every_spelling_of_what_lifts_the_shield_is_refused() {
        for line in [
            "--net=host img",
            "--net host img",
            "--network host img",
            "--network=container:x img",
            "--privileged img",
            "--privileged=true img",
            "--rm --privileged img",
            "--cap-add=NET_ADMIN img",
            "--cap-add ALL img",
            "--cap-drop x img",
            "--security-opt seccomp=unconfined img",
            "--security-opt=label=disable img",
            "--security-opt apparmor=unconfined img",
            "--security-opt unmask=ALL img",
            "--annotation a=b img",
            "--pid=host img",
            "--pid host img",
            "--ipc host img",
            "--userns=host img",
            "--userns host img",
            "--userns ns:/proc/1/ns/user img",
            "--device /dev/net/tun img",
            "--device=/dev/net/tun:/dev/x img",
            "--device /dev/dri/../net/tun img",
            "--device /dev/mem img",
            "--pod p img",
            "--name x img",
            "--hooks-dir /x img",
            "-it --net=host img",
            "-dit --privileged img",
            "-e A=b --pid=host img",
            "-v /home/u:/h img",
            "-v/home/u/.config:/h img",
            "-v=/:/h img",
            "--volume /proc:/p img",
            "-itv /home/u/.local/state/terok/shield/containers/x:/h img",
            "--mount type=bind,src=/home/u/.config/containers/x,dst=/y img",
            "-v /run/podman/podman.sock:/s img",
            "-v /run/user/1000/bus:/s img",
            "--volumes-from x img",
            "--preserve-fds 1 img",
            "--seccomp-policy image img",
            "--unheard-of img",
            "--unheard-of=x img",
            "-X img",
            "--device-cgroup-rule a img",
        ] {
            let error = verdict(line).expect_err(line);
            assert_eq!(error.exit_code(), 1, "{line}: {error}");
        }
    }

    #[test]
    fn the_workload_s_own_words_are_its_own() {
        for line in [
            "img --privileged",
            "--rm img --net=host",
            "-it img sh -c --pid=host",
            "-- img --privileged",
            "-e --privileged img",
        ] {
            verdict(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn ordinary_options_pass_with_their_values() {
        for line in [
            "--rm -it img",
            "-d -p 8080:80 -v data:/data -v /srv/code:/code:Z -w /code img sleep 5",
            "-eA=b -uroot -h web img",
            "--env A=b --user=1000:1000 --userns=keep-id:uid=5 img",
            "--memory 1g --pids-limit=100 --restart on-failure img",
            "-t=false img",
            "--device /dev/dri img",
            "--device nvidia.com/gpu=all img",
            "--security-opt no-new-privileges img",
            "--pid private img",
            "--mount type=tmpfs,dst=/x --tmpfs /tmp --volume /anonymous img",
        ] {
            verdict(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn a_line_without_an_image_is_a_usage_error() {
        for line in ["--rm", "--rm --", "-e", "-e A=b", "--env"] {
            assert_eq!(verdict(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
