//! What the operator asked for, read once from the environment.
//!
//! Knobs keep the names that operators know from aws-node. [`Config::read`] parses every variable before it
//! judges any, so that one start reports all faults. A variable of aws-node that has no effect here is a
//! warning with its reason, never silence.

mod knobs;
mod parse;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipam_core::AccountLimits;
use ipnetwork::Ipv4Network;
use serde::{Serialize, Serializer};

pub use parse::{Environment, ProcessEnvironment};
pub use timing::PoolTiming;

/// The kubelet ends an ADD after 240 s.
const LONGEST_LEASE: Duration = Duration::from_secs(220);

/// As often as aws-node's nodes look, each of them.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);
/// A request for each ENI and more at each look, to the node itself.
const IMDS_PERIOD: Duration = Duration::from_secs(30);
/// A pod deleted by force leaves the API at once, and the kubelet takes its time.
const SANDBOX_PATIENCE: Duration = Duration::from_secs(300);
/// What names a Node's ENIConfig, as an annotation or as a label.
const ENI_CONFIG_KEY: &str = "k8s.amazonaws.com/eniConfig";

const NO_CLUSTER: &str =
    "CLUSTER_NAME is not set: ENIs are not tagged with their cluster, and nobody sweeps leaked ones";

const AUDITED: &str = "TIDEPOOL_POLICY_AUDIT is true: no policy denies anything on this node, what would be denied is only told";
const TRUSTED: &str =
    "TIDEPOOL_TRUST_NODE_ADDRESSES is true: clients of NodePorts bypass ingress policy on this node";

/// How connections that leave the VPC are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Snat {
    /// `AWS_VPC_K8S_CNI_EXTERNALSNAT=true`: a NAT gateway does it, the node does not.
    External,
    /// To the node's primary address, ports chosen at random (`prng`).
    RandomPorts,
    /// To the node's primary address, ports chosen by a random hash (`hashrandom`).
    HashedPorts,
    /// To the node's primary address, ports kept where possible (`none`).
    KeepPorts,
}

/// `TIDEPOOL_POLICY_AUDIT`: whose packets pass that policy would deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PolicyAudit {
    /// `false`: nobody's. Whoever may create a pod may annotate it, and must not be able to lift policy by that.
    #[serde(rename = "false")]
    Nobody,
    /// `annotated`: those of pods with the annotation `tidepool.dev/policy-audit: "true"`.
    #[serde(rename = "annotated")]
    Annotated,
    /// `true`: those of every pod of the node.
    #[serde(rename = "true")]
    Everybody,
}

impl PolicyAudit {
    /// Whether the annotation of a pod counts.
    #[must_use]
    pub const fn heeds_pods(self) -> bool {
        !matches!(self, Self::Nobody)
    }

    /// Whether every pod of the node is audited.
    #[must_use]
    pub const fn is_of_node(self) -> bool {
        matches!(self, Self::Everybody)
    }
}

/// The pool's targets, in aws-node's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolTargets {
    /// `ENABLE_PREFIX_DELEGATION`: /28 prefixes, and single addresses where a subnet has no free /28.
    pub prefixes: bool,
    /// Free /28 prefixes to keep.
    pub warm_prefix: u32,
    /// Free ENIs to keep, where no address target is set.
    pub warm_eni: u32,
    /// Free addresses to keep.
    pub warm_ip: Option<u32>,
    /// The least number of addresses, leased or free.
    pub minimum_ip: Option<u32>,
    /// The most ENIs, beside the instance type's own limit.
    pub max_eni: Option<u32>,
    /// How long a returned address rests before another pod may have it.
    #[serde(serialize_with = "seconds")]
    pub cooldown: Duration,
}

/// `AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG`: pods have addresses of the subnet that an ENIConfig names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CustomNetworking {
    /// `ENI_CONFIG_ANNOTATION_DEF`: the annotation of the Node that names its ENIConfig.
    pub annotation: String,
    /// `ENI_CONFIG_LABEL_DEF`: the label of the Node that names it where no annotation does.
    pub label: String,
}

/// The agent's whole configuration; every field was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// `MY_NODE_NAME`: the Kubernetes Node that this agent serves.
    pub node_name: String,
    /// `CLUSTER_NAME`: written to the tags of ENIs.
    pub cluster_name: Option<String>,
    /// The warm pool's targets.
    pub pool: PoolTargets,
    /// How long the pool waits for what.
    pub timing: PoolTiming,
    /// `TIDEPOOL_EC2_RATE_SCALE`: the part (or multiple) of EC2's published request rates that this cluster may
    /// use.
    #[serde(rename = "ec2_rate_scale", serialize_with = "share")]
    pub ec2_share: AccountLimits,
    /// Not `DISABLE_LEAKED_ENI_CLEANUP`: an elected node deletes the ENIs that others of its cluster left over.
    pub leaked_eni_cleanup: bool,
    /// `TIDEPOOL_SWEEP_PERIOD`: how often that node looks.
    #[serde(serialize_with = "seconds")]
    pub sweep_period: Duration,
    /// `TIDEPOOL_IMDS_PERIOD`: between two looks at the metadata service's list of ENIs and addresses.
    #[serde(serialize_with = "seconds")]
    pub imds_period: Duration,
    /// `TIDEPOOL_SANDBOX_PATIENCE`: how long a pod may be gone from the API before its sandbox is reported.
    #[serde(serialize_with = "seconds")]
    pub sandbox_patience: Duration,
    /// `POD_NAMESPACE`: where the agent's own pod runs, and the Lease of that node is.
    pub pod_namespace: String,
    /// Where it is on: ENIConfigs choose subnet and security groups.
    pub custom_networking: Option<CustomNetworking>,
    /// `ENABLE_SUBNET_DISCOVERY`: new ENIs are made in the subnet with most free addresses among the node's own
    /// and those that their tags offer; of no account with custom networking.
    pub subnet_discovery: bool,
    /// `ADDITIONAL_ENI_TAGS`, without keys that AWS or we reserve.
    pub eni_tags: BTreeMap<String, String>,
    /// `AWS_VPC_ENI_MTU`, in bytes.
    pub eni_mtu: u32,
    /// `POD_MTU`, in bytes; the ENI's where unset.
    pub pod_mtu: u32,
    /// `AWS_VPC_K8S_CNI_VETHPREFIX`: what host ends of veth pairs are called.
    pub veth_prefix: String,
    /// How traffic that leaves the VPC is translated.
    pub snat: Snat,
    /// `AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`: destinations that keep the pod's address.
    pub exclude_snat: Vec<Ipv4Network>,
    /// `AWS_EXTERNAL_SERVICE_CIDRS`: destinations that are always reached by the primary ENI.
    pub external_services: Vec<Ipv4Network>,
    /// `AWS_VPC_CNI_NODE_PORT_SUPPORT`: NodePort connections to pods on secondary ENIs return the way they came.
    pub node_port: bool,
    /// `AWS_VPC_K8S_CNI_CONNMARK`: the bit that marks what leaves by the primary ENI.
    pub mark: u32,
    /// `DISABLE_NETWORK_RESOURCE_PROVISIONING`: no EC2 change at all, somebody else provisions addresses.
    pub provisioning_disabled: bool,
    /// `AWS_MANAGE_ENIS_NON_SCHEDULABLE`: the pool of a cordoned node is kept warm too.
    pub manage_when_cordoned: bool,
    /// `MANAGE_UNTAGGED_ENI`: attached ENIs without any agent's tag are ours.
    pub manage_untagged: bool,
    /// `TIDEPOOL_SERVICE_CIDRS`: where cluster IPs are given from; an address in them that is no Service's is
    /// denied to isolated pods.
    pub service_cidrs: Vec<Ipv4Network>,
    /// `TIDEPOOL_POLICY_AUDIT`: what policy would deny passes, is counted as `audited` and told in flows.
    pub policy_audit: PolicyAudit,
    /// `TIDEPOOL_TRUST_NODE_ADDRESSES`: whatever comes from an address of this node passes ingress policy, and so do
    /// clients of NodePorts that are masqueraded.
    pub trust_node_addresses: bool,
    /// Where leases and the socket live: bound to this boot.
    pub state_dir: PathBuf,
    /// Where the journal of EC2 intents lives: survives a reboot.
    pub journal_dir: PathBuf,
    /// Below a mounted bpffs; maps are pinned here.
    pub bpffs_dir: PathBuf,
    /// Where the runtime looks for plugins.
    pub cni_bin_dir: PathBuf,
    /// Where the runtime looks for conflists.
    pub cni_conf_dir: PathBuf,
    /// `TIDEPOOL_CNI_CACHE_DIR`: where the runtime's libcni keeps results, below `results`.
    pub cni_cache_dir: PathBuf,
    /// `AWS_VPC_K8S_CNI_BACKING_STORE`: aws-node's checkpoint, read when a node is taken over.
    pub incumbent_checkpoint: PathBuf,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http_addr: SocketAddr,
    /// `TIDEPOOL_LOG_JSON`: logs as JSON lines (the default) or as text.
    pub log_json: bool,
    /// A `tracing` filter, from `TIDEPOOL_LOG` or `AWS_VPC_K8S_CNI_LOGLEVEL`.
    pub log_filter: String,
}

impl PoolTargets {
    /// How long an ADD waits for an address: where only cooling ones stand in its way, it outlasts them, as far
    /// as the kubelet's own patience of four minutes allows.
    #[must_use]
    pub fn lease_patience(&self) -> Duration {
        (self.cooldown + Duration::from_secs(5)).clamp(Duration::from_secs(20), LONGEST_LEASE)
    }
}

/// Both keys are judged and known, whether custom networking is on or not.
fn custom_networking(reader: &mut parse::Reader<'_>) -> Option<CustomNetworking> {
    let named = CustomNetworking {
        annotation: reader.label_key("ENI_CONFIG_ANNOTATION_DEF", ENI_CONFIG_KEY),
        label: reader.label_key("ENI_CONFIG_LABEL_DEF", ENI_CONFIG_KEY),
    };
    let is_on = reader.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false);
    for name in ["ENI_CONFIG_ANNOTATION_DEF", "ENI_CONFIG_LABEL_DEF"] {
        if !is_on && reader.text(name).is_some() {
            reader.warn(format!("{name} has no effect without AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true"));
        }
    }
    is_on.then_some(named)
}

fn share<S: Serializer>(limits: &AccountLimits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(limits.share())
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// One thing that is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The variable.
    pub name: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Every fault of the environment at once.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Fault>);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "the configuration has {} fault(s):", self.0.len())?;
        for fault in &self.0 {
            writeln!(f, "  {}: {}", fault.name, fault.message)?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads and checks every variable.
    ///
    /// Returns the configuration with warnings about variables that have no effect.
    ///
    /// # Errors
    ///
    /// All faults together; nothing is half-configured.
    pub fn read(environment: &dyn Environment) -> Result<(Self, Vec<String>), ConfigError> {
        let mut reader = parse::Reader::new(environment);
        let eni_mtu = reader.number("AWS_VPC_ENI_MTU", 576..=9001, 9001);
        let config = Self {
            node_name: reader
                .required("MY_NODE_NAME", "set it from the downward API: fieldRef spec.nodeName"),
            cluster_name: reader.text("CLUSTER_NAME"),
            pool: PoolTargets {
                prefixes: reader.flag("ENABLE_PREFIX_DELEGATION", false),
                warm_prefix: reader.number("WARM_PREFIX_TARGET", 0..=1000, 1),
                warm_eni: reader.number("WARM_ENI_TARGET", 0..=100, 1),
                warm_ip: reader.optional_number("WARM_IP_TARGET", 0..=10_000),
                minimum_ip: reader.optional_number("MINIMUM_IP_TARGET", 0..=10_000),
                max_eni: reader.optional_number("MAX_ENI", 1..=128),
                cooldown: Duration::from_secs(u64::from(reader.number("IP_COOLDOWN_PERIOD", 0..=3600, 30))),
            },
            timing: PoolTiming::read(&mut reader),
            ec2_share: reader.share("TIDEPOOL_EC2_RATE_SCALE"),
            leaked_eni_cleanup: !reader.flag("DISABLE_LEAKED_ENI_CLEANUP", false),
            sweep_period: reader.seconds("TIDEPOOL_SWEEP_PERIOD", 1.0..=86_400.0, SWEEP_PERIOD),
            imds_period: reader.seconds("TIDEPOOL_IMDS_PERIOD", 0.2..=86_400.0, IMDS_PERIOD),
            sandbox_patience: reader.seconds("TIDEPOOL_SANDBOX_PATIENCE", 0.2..=86_400.0, SANDBOX_PATIENCE),
            pod_namespace: reader.text("POD_NAMESPACE").unwrap_or_else(|| "kube-system".to_owned()),
            custom_networking: custom_networking(&mut reader),
            subnet_discovery: reader.flag("ENABLE_SUBNET_DISCOVERY", true),
            eni_tags: reader.tags("ADDITIONAL_ENI_TAGS"),
            eni_mtu,
            pod_mtu: reader.number("POD_MTU", 576..=9001, eni_mtu),
            veth_prefix: reader.veth_prefix("AWS_VPC_K8S_CNI_VETHPREFIX"),
            snat: reader.snat(),
            exclude_snat: reader.cidrs("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
            external_services: reader.cidrs("AWS_EXTERNAL_SERVICE_CIDRS"),
            node_port: reader.flag("AWS_VPC_CNI_NODE_PORT_SUPPORT", true),
            mark: reader.mark("AWS_VPC_K8S_CNI_CONNMARK", 0x80),
            provisioning_disabled: reader.flag("DISABLE_NETWORK_RESOURCE_PROVISIONING", false),
            manage_when_cordoned: reader.flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE", false),
            manage_untagged: reader.flag("MANAGE_UNTAGGED_ENI", false),
            service_cidrs: reader.cidrs("TIDEPOOL_SERVICE_CIDRS"),
            policy_audit: reader.policy_audit(),
            trust_node_addresses: reader.flag("TIDEPOOL_TRUST_NODE_ADDRESSES", false),
            state_dir: reader.path("TIDEPOOL_STATE_DIR", "/run/tidepool"),
            journal_dir: reader.path("TIDEPOOL_JOURNAL_DIR", "/var/lib/tidepool"),
            bpffs_dir: reader.path("TIDEPOOL_BPFFS", "/sys/fs/bpf/tidepool"),
            cni_bin_dir: reader.path("TIDEPOOL_CNI_BIN_DIR", "/opt/cni/bin"),
            cni_conf_dir: reader.path("TIDEPOOL_CNI_CONF_DIR", "/etc/cni/net.d"),
            cni_cache_dir: reader.path("TIDEPOOL_CNI_CACHE_DIR", "/var/lib/cni"),
            incumbent_checkpoint: reader.path("AWS_VPC_K8S_CNI_BACKING_STORE", "/var/run/aws-node/ipam.json"),
            http_addr: reader.address("TIDEPOOL_METRICS_ADDR", "127.0.0.1:61680"),
            log_json: reader.flag("TIDEPOOL_LOG_JSON", true),
            log_filter: reader.log_filter(),
        };
        let mut warnings = knobs::warnings(environment);
        warnings.extend(reader.take_warnings());
        warnings.extend(reader.unknown());
        if config.pool.cooldown >= LONGEST_LEASE {
            warnings.push(format!(
                "IP_COOLDOWN_PERIOD={}: an ADD waits for {} s at most, so that it may fail where only cooling \
                 addresses are left",
                config.pool.cooldown.as_secs(),
                LONGEST_LEASE.as_secs()
            ));
        }
        if config.cluster_name.is_none() {
            warnings.push(NO_CLUSTER.to_owned());
        }
        if config.policy_audit.is_of_node() {
            warnings.push(AUDITED.to_owned());
        }
        if config.trust_node_addresses {
            warnings.push(TRUSTED.to_owned());
        }
        reader.finish()?;
        Ok((config, warnings))
    }
}
