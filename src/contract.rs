//! Every fixed name, number and prefix that others depend on, once.
//!
//! What stands here is read by hubs, orchestrators, scripts and prepared containers. Changing a
//! value changes the product's outside; nothing else in the crate may spell one of these again.

/// The bundle layout this binary reads and writes (`terok.shield.version`).
pub const BUNDLE_VERSION: u32 = 14;

/// OCI annotation keys (adversarial input: an image can carry them too).
pub mod annotation {
    /// Profile names joined by `:`. Its presence is what triggers the hooks.
    pub const PROFILES: &str = "terok.shield.profiles";
    /// Container name as the operator typed it.
    pub const NAME: &str = "terok.shield.name";
    /// Absolute path of the state bundle.
    pub const STATE_DIR: &str = "terok.shield.state_dir";
    /// Bundle version, decimal.
    pub const VERSION: &str = "terok.shield.version";
    /// `true` or `false`.
    pub const AUDIT_ENABLED: &str = "terok.shield.audit_enabled";
    /// IP address of the DNS forwarder.
    pub const UPSTREAM_DNS: &str = "terok.shield.upstream_dns";
    /// Name of the DNS tier.
    pub const DNS_TIER: &str = "terok.shield.dns_tier";
    /// Prefix of the orchestrator's identity fields.
    pub const DOSSIER_PREFIX: &str = "dossier.";
    /// The dossier key that names a JSON file of more fields; never sent itself.
    pub const DOSSIER_META_PATH: &str = "dossier.meta_path";
    /// crun writes a hook's stderr to the file this names (it drops it otherwise).
    pub const CRUN_HOOKS_STDERR: &str = "run.oci.hooks.stderr";
}

/// File names inside a hooks directory, and what stands in the descriptors.
pub mod hook_file {
    /// The copy of the binary that the descriptors name.
    pub const BINARY: &str = "terok-shield";
    /// The descriptors: file name, applet, stage.
    pub const DESCRIPTORS: [(&str, &str, &str); 4] = [
        ("terok-shield-createRuntime.json", NFT_HOOK, CREATE_RUNTIME),
        ("terok-shield-poststop.json", NFT_HOOK, POSTSTOP),
        (
            "terok-shield-bridge-createRuntime.json",
            READER_HOOK,
            CREATE_RUNTIME,
        ),
        ("terok-shield-bridge-poststop.json", READER_HOOK, POSTSTOP),
    ];
    /// Applet that protects.
    pub const NFT_HOOK: &str = "nft-hook";
    /// Applet that starts the event reader.
    pub const READER_HOOK: &str = "reader-hook";
    /// OCI stage (runtime-spec, "POSIX-platform Hooks").
    pub const CREATE_RUNTIME: &str = "createRuntime";
    /// OCI stage.
    pub const POSTSTOP: &str = "poststop";
}

/// File names inside a bundle.
pub mod file {
    /// Directory of per-container hook descriptors.
    pub const HOOKS: &str = "hooks";
    /// The ruleset the next start applies, in nft syntax.
    pub const RULESET: &str = "ruleset.nft";
    /// One word: `up`, `down`, `disengaged` or `quarantine`. Absent means `up`.
    pub const POSTURE: &str = "posture";
    /// Names of the container's profiles, one a line (ours).
    pub const PROFILES: &str = "profiles";
    /// DNS forwarder address.
    pub const UPSTREAM_DNS: &str = "upstream.dns";
    /// DNS tier name.
    pub const DNS_TIER: &str = "dns.tier";
    /// Host-loopback TCP ports, one a line.
    pub const LOOPBACK_PORTS: &str = "loopback.ports";
    /// Addresses at which the host's loopback answers, one a line (ours).
    pub const GATEWAYS: &str = "gateways";
    /// Resolved addresses of the profiles.
    pub const PROFILE_ALLOWED: &str = "profile.allowed";
    /// Domain names of the profiles.
    pub const PROFILE_DOMAINS: &str = "profile.domains";
    /// Addresses allowed at run time.
    pub const LIVE_ALLOWED: &str = "live.allowed";
    /// Domains allowed at run time.
    pub const LIVE_DOMAINS: &str = "live.domains";
    /// Addresses allowed until a deadline: `<address> <unix seconds>` a line (ours).
    pub const LIVE_TIMED: &str = "live.timed";
    /// Single services allowed: `<address> <proto> <port>[ <unix seconds>]` a line (ours).
    pub const LIVE_SERVICES: &str = "live.services";
    /// Addresses denied at run time.
    pub const DENY_LIST: &str = "deny.list";
    /// Domains denied at run time.
    pub const DENIED_DOMAINS: &str = "denied.domains";
    /// dnsmasq configuration; its presence means the dnsmasq tier is active.
    pub const DNSMASQ_CONF: &str = "dnsmasq.conf";
    /// dnsmasq's process id.
    pub const DNSMASQ_PID: &str = "dnsmasq.pid";
    /// dnsmasq's query log.
    pub const DNSMASQ_LOG: &str = "dnsmasq.log";
    /// Mounted over the container's `/etc/resolv.conf`.
    pub const RESOLV_CONF: &str = "resolv.conf";
    /// First 12 hex digits of the container's id, newline.
    pub const CONTAINER_ID: &str = "container.id";
    /// Identity of the container's init process: `<pid> <start time>` (ours).
    pub const CONTAINER_INIT: &str = "container.init";
    /// Inode of the network namespace the rules were applied in (ours).
    pub const CONTAINER_NETNS: &str = "container.netns";
    /// Where the orchestrator keeps the dossier's JSON file.
    pub const META_PATH: &str = "meta_path";
    /// The reader's process id.
    pub const READER_PID: &str = "reader.pid";
    /// The reader's stdout and stderr.
    pub const READER_LOG: &str = "reader.log";
    /// One line per refused start.
    pub const HOOK_ERROR_LOG: &str = "hook-error.log";
    /// The audit log.
    pub const AUDIT_LOG: &str = "audit.jsonl";
    /// What the DNS gate answered and refused, for the reader and `watch` (ours).
    pub const DNS_FEED: &str = "dns.feed";
    /// Two lines, both optional: `unlisted refuse|resolve`, `ech strip|keep` (ours).
    pub const GATE_CONF: &str = "gate.conf";
    /// What the DNS gate holds open and for which names (ours).
    pub const GATE_LEARNED: &str = "gate.learned";
    /// Identity of the DNS gate's supervisor: `<pid> <start time>` (ours).
    pub const GATE_PID: &str = "gate.pid";
    /// What the DNS gate has to complain of (ours).
    pub const GATE_LOG: &str = "gate.log";
    /// Socket on which the DNS gate takes `reload` and `status` (ours).
    pub const GATE_SOCKET: &str = "gate.sock";
    /// Socket on which the reader serves its events to `watch` and others (ours).
    pub const EVENTS_SOCKET: &str = "events.sock";
}

/// nftables: the table's name (family `inet`).
pub const TABLE: &str = "terok_shield";
/// Base chain on the output hook.
pub const CHAIN_OUTPUT: &str = "output";
/// Base chain on the input hook.
pub const CHAIN_INPUT: &str = "input";
/// NFLOG group of every log statement.
pub const NFLOG_GROUP: u16 = 100;
/// Packet mark the DNS gate's own queries carry; the workload lacks the capability to set one.
pub const GATE_MARK: u32 = 0x7e0c_0053;

/// Set names.
pub mod set {
    /// Allowed IPv4 destinations.
    pub const ALLOW_V4: &str = "allow_v4";
    /// Allowed IPv6 destinations.
    pub const ALLOW_V6: &str = "allow_v6";
    /// Denied IPv4 destinations.
    pub const DENY_V4: &str = "deny_v4";
    /// Denied IPv6 destinations.
    pub const DENY_V6: &str = "deny_v6";
    /// Private IPv4 destinations that the operator wrote.
    pub const OVERRIDE_V4: &str = "override_v4";
    /// Private IPv6 destinations that the operator wrote.
    pub const OVERRIDE_V6: &str = "override_v6";
    /// Authored IPv4 destinations where `allow_v4` has dnsmasq's default timeout.
    pub const STATIC_V4: &str = "static_v4";
    /// Authored IPv6 destinations where `allow_v6` has dnsmasq's default timeout.
    pub const STATIC_V6: &str = "static_v6";
    /// IPv4 destinations the DNS gate learned; every element carries its own timeout.
    pub const LEARNED_V4: &str = "learned_v4";
    /// IPv6 destinations the DNS gate learned; every element carries its own timeout.
    pub const LEARNED_V6: &str = "learned_v6";
    /// Single IPv4 services: address, protocol, port.
    pub const SERVICE_V4: &str = "service_v4";
    /// Single IPv6 services: address, protocol, port.
    pub const SERVICE_V6: &str = "service_v6";
}

/// Log prefixes as they stand in the kernel, `: ` included.
pub mod log_prefix {
    /// The terminal deny.
    pub const BLOCKED: &str = "TEROK_SHIELD_BLOCKED: ";
    /// The deny set.
    pub const DENIED: &str = "TEROK_SHIELD_DENIED: ";
    /// The hard floor and the private ranges.
    pub const PRIVATE: &str = "TEROK_SHIELD_PRIVATE: ";
    /// A new connection to an allowed destination.
    pub const ALLOWED: &str = "TEROK_SHIELD_ALLOWED: ";
    /// A new connection that only the bypass let out.
    pub const BYPASS: &str = "TEROK_SHIELD_BYPASS: ";
}

/// Private ranges: refused unless the operator wrote them. The first six are the published list;
/// the rest are other spellings of private space (RFC 6598, RFC 4291 section 2.5.5.2, RFC 6052,
/// RFC 8215).
pub const PRIVATE_RANGES: [&str; 10] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "100.64.0.0/10",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
];

/// How many of [`PRIVATE_RANGES`], from the first, are the published list.
pub const PUBLISHED_RANGES: usize = 6;

/// The hard floor: cloud metadata services and their v4-mapped and NAT64 spellings. No profile,
/// verb or answer opens them while the shield is `up` or `down`.
pub const HARD_FLOOR: [&str; 7] = [
    "169.254.169.254",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::ffff:100.100.100.200",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::6464:64c8",
];

/// Default timeout of a set that dnsmasq fills, seconds.
pub const LEARNED_TIMEOUT_SECS: u64 = 30 * 60;
/// Upper bound on learned addresses per family: a hostile zone cannot grow kernel memory.
pub const LEARNED_SET_SIZE: u32 = 65_536;

/// Host-loopback address under pasta (`--map-host-loopback`).
pub const PASTA_HOST_LOOPBACK: &str = "169.254.1.2";
/// DNS forwarder under pasta.
pub const PASTA_DNS: &str = "169.254.1.1";
/// Local DNS address under krun.
pub const KRUN_DNS: &str = "169.254.1.3";

/// Longest string that leaves the process, characters.
pub const SANITIZED_MAX: usize = 256;
