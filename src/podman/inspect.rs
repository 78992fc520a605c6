//! `podman container inspect` of one container.
//!
//! Annotations may come from the image: adversarial input, for whoever uses them to judge.

use super::run::Podman;
use super::value::{get, list, number, parse, text};
use crate::error::{Error, Result};
use miniserde::json::Value;
use std::net::IpAddr;

/// What podman says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Full id, hex.
    pub id: String,
    /// Name.
    pub name: String,
    /// `running`, `exited`, `created`, `paused`, …
    pub status: String,
    /// Init process as the host counts; `None` where none runs.
    pub pid: Option<i32>,
    /// Annotations, in podman's order.
    pub annotations: Vec<(String, String)>,
    /// Path of the network namespace, where podman made one that has a name.
    pub netns: Option<String>,
    /// `bridge`, `pasta`, `slirp4netns`, `none`, `host`, `container:<id>`, …
    pub network_mode: Option<String>,
    /// Gateways of its networks.
    pub gateways: Vec<IpAddr>,
    /// Name servers given with `--dns`.
    pub dns: Vec<IpAddr>,
    /// Path of the file mounted over its `/etc/resolv.conf`.
    pub resolv_conf: Option<String>,
    /// Restart policy: `always`, `on-failure`, `no`; `None` where none was given.
    pub restart: Option<String>,
    /// When podman started it last, as podman writes it.
    pub started_at: Option<String>,
}

impl Container {
    /// Asks podman for a container by name or id; `None` if there is none.
    pub fn ask(podman: &Podman, container: &str) -> Result<Option<Self>> {
        let args = ["container", "inspect", "--", container];
        let output = podman.output(&args)?;
        if output.status.success() {
            return Self::parse(&output.stdout).map(Some);
        }
        // podman 4: "Error: inspecting object: no such container x"; podman 5 the same words.
        let missing = String::from_utf8_lossy(&output.stderr)
            .to_ascii_lowercase()
            .contains("no such container");
        if missing {
            Ok(None)
        } else {
            Err(output.error(&args))
        }
    }

    /// Reads podman's answer: a list of one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value = parse(bytes);
        let one = value.as_ref().and_then(|v| match v {
            Value::Array(array) => array.first(),
            _ => None,
        });
        one.and_then(Self::read).ok_or_else(|| {
            Error::new("podman container inspect did not answer with a container's id and state")
        })
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        let found = self.annotations.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    }

    fn read(value: &Value) -> Option<Self> {
        let own = |path: &[&str]| text(value, path).map(str::to_owned);
        let address = |value: &Value, path: &[&str]| text(value, path)?.parse().ok();
        let mut gateways: Vec<IpAddr> = Vec::new();
        let networks = get(value, &["NetworkSettings", "Networks"]);
        let networks = match networks {
            Some(Value::Object(networks)) => networks.values().collect(),
            _ => Vec::new(),
        };
        let settings = get(value, &["NetworkSettings"]);
        for network in networks.into_iter().chain(settings) {
            for key in ["Gateway", "IPv6Gateway"] {
                let gateway: Option<IpAddr> = address(network, &[key]);
                gateways.extend(gateway.filter(|g| !gateways.contains(g)));
            }
        }
        let annotations = match get(value, &["Config", "Annotations"]) {
            Some(Value::Object(map)) => map
                .iter()
                .filter_map(|(key, value)| match value {
                    Value::String(text) => Some((key.clone(), text.clone())),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let pid = number(value, &["State", "Pid"]).and_then(|pid| i32::try_from(pid).ok());
        Some(Self {
            id: own(&["Id"])?,
            name: own(&["Name"]).unwrap_or_default(),
            status: own(&["State", "Status"])?,
            pid: pid.filter(|pid| *pid > 0),
            annotations,
            netns: own(&["NetworkSettings", "SandboxKey"]),
            network_mode: own(&["HostConfig", "NetworkMode"]),
            gateways,
            dns: list(value, &["HostConfig", "Dns"])
                .filter_map(|v| text(v, &[])?.parse().ok())
                .collect(),
            resolv_conf: own(&["ResolvConfPath"]),
            restart: own(&["HostConfig", "RestartPolicy", "Name"]),
            started_at: own(&["State", "StartedAt"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = r#"[{"Id":"b82f","Name":"web","ResolvConfPath":"/run/r",
        "State":{"Status":"running","Running":true,"Pid":63,"StartedAt":"2026-11-23T20:53:09Z"},
        "NetworkSettings":{"Gateway":"10.88.0.1","IPv6Gateway":"","SandboxKey":"/run/netns/n",
          "Networks":{"podman":{"Gateway":"10.88.0.1","IPv6Gateway":"fd00::1"},"x":{"Gateway":"10.89.0.1"}}},
        "Config":{"Annotations":{"terok.shield.name":"web","n":7,"a.b":"c"}},
        "HostConfig":{"NetworkMode":"bridge","Dns":["192.0.2.53","x",5],"RestartPolicy":{"Name":""}}}]"#;

    #[test]
    fn a_running_container_is_read() {
        let c = Container::parse(RUNNING.as_bytes()).unwrap();
        assert_eq!(
            (c.id.as_str(), c.name.as_str(), c.status.as_str()),
            ("b82f", "web", "running")
        );
        assert_eq!(c.pid, Some(63));
        assert_eq!(c.annotation("terok.shield.name"), Some("web"));
        assert_eq!(c.annotation("n"), None);
        assert_eq!(c.netns.as_deref(), Some("/run/netns/n"));
        let gateways: Vec<_> = c.gateways.iter().map(IpAddr::to_string).collect();
        assert_eq!(gateways, ["10.88.0.1", "fd00::1", "10.89.0.1"]);
        assert_eq!(c.dns.len(), 1);
        assert_eq!(c.restart, None);
    }

    #[test]
    fn a_stopped_container_has_no_pid() {
        for pid in ["0", "-5", "99999999999", "\"63\"", "null", "1.5"] {
            let text = format!(r#"[{{"Id":"b","State":{{"Status":"exited","Pid":{pid}}}}}]"#);
            assert_eq!(
                Container::parse(text.as_bytes()).unwrap().pid,
                None,
                "{pid}"
            );
        }
    }

    #[test]
    fn an_answer_without_id_or_state_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            "[{}]",
            "[7]",
            r#"[{"Id":"b"}]"#,
            r#"[{"Id":"","State":{"Status":"x"}}]"#,
        ] {
            assert!(Container::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
