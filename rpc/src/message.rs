//! The messages. Unknown fields are ignored and new ones have defaults, so that
//! a neighbour version is understood.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// CNI error codes (CNI specification 1.1.0, section "Error", and STATUS).
pub mod code {
    /// The versions of configuration and plugin do not meet.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported; the message names it.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist; nothing needs cleaning up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or malformed; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed (standard input, the agent's socket, netlink).
    pub const IO_FAILURE: u32 = 5;
    /// Bytes that should be JSON are not.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is not valid; the message names the field.
    pub const INVALID_CONFIGURATION: u32 = 7;
    /// A passing condition: the runtime should try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD cannot be served now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD cannot be served, and running pods may be impaired too.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// First code that plugins may use for themselves; ours for what has no other.
    pub const PLUGIN_SPECIFIC: u32 = 100;
}

/// What an attachment is known by for all of its life: CNI's triple of network
/// name, container id and interface name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxKey {
    /// Name of the network in the conflist, `aws-cni`.
    pub network: String,
    /// `CNI_CONTAINERID`: the sandbox, not a container in it.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface inside the sandbox, `eth0`.
    pub ifname: String,
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// The pod that a sandbox belongs to, as the runtime says in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; runtimes older than containerd 1.4 do not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What travels from plugin to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The version that `request` is written in.
    pub version: u16,
    /// How long the plugin will wait for the answer, in milliseconds from now.
    pub deadline_ms: u64,
    /// What is asked.
    pub request: Request,
}

/// One question to the agent. Every one may be asked again: the answer is the
/// same and nothing is done twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// An address for a sandbox. Provisional until `Attach` on the same
    /// connection is answered. May wait for the pool to grow.
    Lease {
        /// The attachment.
        key: SandboxKey,
        /// `CNI_NETNS`, a path in the plugin's mount namespace: for the log only.
        netns: String,
        /// The pod, where the runtime names one.
        #[serde(default)]
        pod: Option<PodRef>,
        /// The runtime will put an `ingress` qdisc on the host's end later
        /// (bandwidth plugin with an egress rate), so clsact must not be there.
        #[serde(default)]
        egress_shaped: bool,
        /// When the plugin was started ([`crate::monotonic_ns`]); 0 where it does not tell. An ADD that was under
        /// way when its sandbox was deleted is refused, one that came after is not.
        #[serde(default)]
        begun_ns: u64,
    },
    /// The host's end exists and is up, the pod's end is still down: program
    /// routes, filters and policy.
    Attach {
        /// The attachment.
        key: SandboxKey,
        /// Name of the host's end, as given in [`Leased`].
        host_ifname: String,
        /// Its index in the host's network namespace.
        host_ifindex: u32,
    },
    /// Undo everything of an attachment, its link included. Succeeds when there is nothing.
    Release {
        /// The attachment.
        key: SandboxKey,
    },
    /// Is the attachment still as it should be, seen from the host?
    Check {
        /// The attachment.
        key: SandboxKey,
    },
    /// Could an ADD be served?
    Status,
    /// Release all attachments of a network that are not in `valid`, and delete their links.
    Gc {
        /// The network name.
        network: String,
        /// Container id and interface name of every attachment that lives.
        valid: Vec<(String, String)>,
        /// When the plugin was started ([`crate::monotonic_ns`]), and the list older still; 0 where it does not
        /// tell. An attachment that came after is not released for not being in it.
        #[serde(default)]
        begun_ns: u64,
    },
}

impl Request {
    /// The verb in one word, for logs and metric labels.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Lease { .. } => "lease",
            Self::Attach { .. } => "attach",
            Self::Release { .. } => "release",
            Self::Check { .. } => "check",
            Self::Status => "status",
            Self::Gc { .. } => "gc",
        }
    }
}

/// What travels from agent to plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The version that `response` is written in: that of the request, or the
    /// agent's newest when it does not know the request's.
    pub version: u16,
    /// The answer.
    pub response: Response,
}

/// One answer of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To `Lease`.
    Leased(Leased),
    /// To `Attach`: routes, filters and policy are in force.
    Attached,
    /// To `Release`.
    Released,
    /// To `Check`: all is as it should be.
    Checked,
    /// To `Status`.
    Ready,
    /// To `Gc`.
    Collected {
        /// Attachments that were released.
        released: u32,
    },
    /// To any request that is refused.
    Error(Refusal),
}

/// What the plugin needs to wire a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The gateway of each family in `addresses`, 169.254.1.1 for IPv4. No
    /// interface has it; the pod's neighbour entry makes it the host's end.
    pub gateways: Vec<IpAddr>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Name of the host's end ([`crate::host_ifname`]).
    pub host_ifname: String,
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// MAC of the pod's end.
    pub pod_mac: [u8; 6],
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The CNI error code to hand to the runtime ([`code`]).
    pub code: u32,
    /// The reason as one word out of a closed set: metric label, Event reason
    /// and part of the error text. Those that a plugin acts on are in
    /// [`crate::reason`].
    pub reason: String,
    /// One sentence for the person who reads the pod's events.
    pub message: String,
    /// Whether the same request may succeed within the plugin's own deadline.
    /// The plugin tries again; otherwise the runtime does, or nobody.
    pub retryable: bool,
}

impl Refusal {
    /// A refusal that the plugin passes on to the runtime.
    pub fn new(code: u32, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.to_owned(), message: message.into(), retryable: false }
    }

    /// The same, but the plugin may ask again within its deadline.
    pub fn retryable(code: u32, reason: &str, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(code, reason, message) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for Refusal {}
