//! The parts of Kubernetes objects that we read. Whatever is not named here is skipped
//! while parsing and never held in memory. Go writes an empty list as `null` in places,
//! so every list and map takes that too.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// An object with metadata.
pub(super) trait Object: serde::de::DeserializeOwned + Clone + Send + 'static {
    fn meta(&self) -> &Meta;
}

pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

type Map = BTreeMap<String, String>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) uid: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_version: String,
    pub(super) deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: Map,
    #[serde(deserialize_with = "nullable")]
    pub(super) annotations: Annotations,
    #[serde(deserialize_with = "nullable")]
    pub(super) owner_references: Vec<Owner>,
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    #[serde(deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
}

/// The annotations that matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    /// Of a mirror pod: the UID by which the kubelet knows the static pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub(super) mirror: Option<String>,
    /// What policy denies this pod shall pass and only be told.
    #[serde(rename = "tidepool.dev/policy-audit")]
    pub(super) policy_audit: Option<String>,
}

macro_rules! object {
    ($name:ident) => {
        impl Object for $name {
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: PodSpec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: PodStatus,
}
object!(PodLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    #[serde(deserialize_with = "nullable")]
    pub(super) node_name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_network: bool,
    #[serde(deserialize_with = "nullable")]
    pub(super) containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<Port>,
    pub(super) restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) container_port: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_port: i64,
    pub(super) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) phase: String,
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pub(super) pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub(super) pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "nullable")]
    pub(super) conditions: Vec<Condition>,
}

/// A pod's condition: when it was scheduled, whether it is ready.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) last_transition_time: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    #[serde(deserialize_with = "nullable")]
    pub(super) ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamespaceLite {
    pub(super) metadata: Meta,
}
object!(NamespaceLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: PolicySpec,
}
object!(PolicyLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicySpec {
    #[serde(deserialize_with = "nullable")]
    pub(super) pod_selector: LabelSelector,
    #[serde(deserialize_with = "nullable")]
    pub(super) policy_types: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ingress: Vec<IngressRule>,
    #[serde(deserialize_with = "nullable")]
    pub(super) egress: Vec<EgressRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LabelSelector {
    #[serde(deserialize_with = "nullable")]
    pub(super) match_labels: Map,
    #[serde(deserialize_with = "nullable")]
    pub(super) match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Requirement {
    pub(super) key: String,
    pub(super) operator: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) values: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IngressRule {
    #[serde(deserialize_with = "nullable")]
    pub(super) from: Vec<Peer>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<PolicyPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EgressRule {
    #[serde(deserialize_with = "nullable")]
    pub(super) to: Vec<Peer>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<PolicyPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Peer {
    pub(super) pod_selector: Option<LabelSelector>,
    pub(super) namespace_selector: Option<LabelSelector>,
    pub(super) ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IpBlock {
    #[serde(deserialize_with = "nullable")]
    pub(super) cidr: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) except: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicyPort {
    pub(super) protocol: Option<String>,
    pub(super) port: Option<IntOrString>,
    pub(super) end_port: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum IntOrString {
    Int(i32),
    String(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: ServiceSpec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: ServiceStatus,
}
object!(ServiceLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) selector: Map,
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub(super) cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub(super) cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub(super) external_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServicePort {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    pub(super) protocol: Option<String>,
    pub(super) port: i64,
    pub(super) target_port: Option<IntOrString>,
    #[serde(deserialize_with = "nullable")]
    pub(super) node_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancer {
    #[serde(deserialize_with = "nullable")]
    pub(super) ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LoadBalancerIngress {
    #[serde(deserialize_with = "nullable")]
    pub(super) ip: String,
    pub(super) ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SliceLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<SlicePort>,
}
object!(SliceLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SliceEndpoint {
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SlicePort {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeLite {
    pub(super) metadata: NodeMeta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: NodeSpec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: NodeStatus,
}

impl Object for NodeLite {
    fn meta(&self) -> &Meta {
        &self.metadata.meta
    }
}

/// A node as a peer: its labels and addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerNodeLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: PeerNodeStatus,
}
object!(PeerNodeLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerNodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<NodeAddress>,
}

/// A Node's metadata: one of its annotations, by a name that the operator chooses, may name its ENIConfig.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeMeta {
    #[serde(flatten)]
    pub(super) meta: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) annotations: Map,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EniConfigLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: EniConfigSpec,
}
object!(EniConfigLite);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EniConfigSpec {
    #[serde(deserialize_with = "nullable")]
    pub(super) subnet: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) security_groups: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NodeSpec {
    #[serde(deserialize_with = "nullable")]
    pub(super) unschedulable: bool,
    #[serde(rename = "providerID", deserialize_with = "nullable")]
    pub(super) provider_id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) capacity: Capacity,
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capacity {
    pub(super) pods: Option<IntOrString>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeAddress {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) address: String,
}
