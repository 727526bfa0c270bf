//! The format of a file of cases.
//!
//! A case with nothing but `policies`, `namespaces`, `pods` and `expected` is of the form that
//! the well-known generators of such cases use; all other fields are ours and may be missing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

/// A row of steps.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// Its number, for messages.
    #[serde(default)]
    pub n: u32,
    /// What it is about.
    pub description: String,
    /// Words to find it by; not read.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Not read.
    #[serde(default)]
    pub in_default_run: bool,
    /// One after the other, with flows that go on.
    pub steps: Vec<Step>,
}

/// A cluster and what must pass in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// How it came about; not read: the fields below are the whole state.
    #[serde(default)]
    pub actions: Value,
    /// What to ask, in the generator's words; not read: `expected` tells.
    #[serde(default)]
    pub probe: Value,
    /// NetworkPolicies as in the API.
    #[serde(default)]
    pub policies: Option<Vec<Value>>,
    /// ClusterNetworkPolicies as in the API (`policy.networking.k8s.io/v1alpha2`).
    #[serde(default)]
    pub cluster_policies: Vec<Value>,
    /// Labels by namespace; that of its name is always there.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The pods; each is a column of the table.
    pub pods: Vec<Pod>,
    /// Addresses outside the cluster; each is a column behind those of the pods.
    #[serde(default)]
    pub others: Vec<Other>,
    /// The node of the pods, as a peer: the column `node` behind those of the others.
    #[serde(default)]
    pub node: Option<Node>,
    /// Services; each is a column behind all others, and only a destination. Missing: every
    /// pod has one of its own at port + 1000, and each probe is asked by way of it too.
    #[serde(default)]
    pub services: Option<Vec<Service>>,
    /// Where cluster IPs are given from.
    #[serde(default)]
    pub service_cidrs: Vec<IpNetwork>,
    /// All nodes of the cluster.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// How many findings the policies give.
    #[serde(default)]
    pub findings: usize,
    /// Live flows: `"NAME: TCP/80 x/a y/b opens"`, `"NAME lives"`, `"NAME dies"`.
    #[serde(default)]
    pub flows: Vec<String>,
    /// Rows `"TCP/80 x/a .eiX"`, `"ICMP x/a …"`, `"UDP/53 IPv6 x/a …"`, `"TCP/80 IPv4 node …"`:
    /// a character for each column: `.` passes, `e` the source's egress alone denies, `i` the
    /// destination's ingress alone, `X` both, `-` is not asked. Of a Service the egress is
    /// judged, and by packets whether a backend is reached.
    pub expected: Vec<String>,
}

/// A pod, or what is said of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Its namespace.
    pub ns: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: IpAddr,
    /// Its address of the other family.
    #[serde(default)]
    pub ip2: Option<IpAddr>,
    /// The ports of its containers. Missing: 80 and 81 of all protocols, `serve-80-tcp` and so on.
    #[serde(default)]
    pub ports: Option<Vec<Port>>,
    /// Another node's name: then its own ends are not judged here.
    #[serde(default)]
    pub node: Option<String>,
    /// It uses its node's network and addresses.
    #[serde(default)]
    pub host_network: bool,
    /// status.phase.
    #[serde(default)]
    pub phase: Option<String>,
    /// It is being deleted.
    #[serde(default)]
    pub terminating: bool,
    /// It is audited.
    #[serde(default)]
    pub audit: bool,
}

/// A container's port.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// TCP when missing.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Its number.
    pub container_port: u16,
    /// The node's port that leads to it.
    #[serde(default)]
    pub host_port: Option<u16>,
}

/// Something outside the cluster, or a node seen as an address only.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Other {
    /// Its name in the table.
    pub name: String,
    /// Its addresses, one of each family.
    pub ips: Vec<IpAddr>,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// A Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its namespace.
    pub ns: String,
    /// Its name.
    pub name: String,
    /// Cluster IPs.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// External IPs.
    #[serde(default)]
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its pods.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Endpoints that somebody wrote down, instead of a selector.
    #[serde(default)]
    pub endpoints: Vec<IpAddr>,
}

/// A port of a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// TCP when missing.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Its number.
    pub port: u16,
    /// A number or a name; the same number when missing.
    #[serde(default)]
    pub target_port: Value,
    /// The port of every node.
    #[serde(default)]
    pub node_port: Option<u16>,
}
