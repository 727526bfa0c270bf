//! The format of the third-party cases: policies, pods and a table of expected verdicts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use policy_core::LocalPod;
use policy_core::model::{
    Backends, Cluster, ContainerPort, Labels, Name, Namespace, Pod, PodState, Protocol, Selector, Service,
    ServicePort, TargetPort,
};
use policy_core::parse::{
    RawBlock, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector, parse_policy,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) n: u32,
    pub(crate) description: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    policies: Option<Vec<Value>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: Vec<CasePod>,
    pub(crate) expected: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct CasePod {
    pub(crate) ns: String,
    pub(crate) name: String,
    labels: BTreeMap<String, String>,
    pub(crate) ip: IpAddr,
}

/// The ports on which every pod of the cases listens.
const PORTS: [u16; 2] = [80, 81];

impl Step {
    /// The cluster of this step; every pod is on this node and has a Service of its own.
    pub(crate) fn cluster(&self) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::default();
        for (name, labels) in &self.namespaces {
            let pairs = labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            let content = Namespace::with_labels(name, pairs);
            cluster.namespaces.insert(name.as_str().into(), Arc::new(content));
        }
        let ports: Vec<ContainerPort> = PORTS
            .iter()
            .flat_map(|port| {
                Protocol::ALL.map(|protocol| ContainerPort {
                    name: Some(format!("serve-{port}-{}", protocol.to_string().to_lowercase()).into()),
                    protocol,
                    port: *port,
                    host_port: None,
                })
            })
            .collect();
        let ports: Arc<[ContainerPort]> = ports.into();
        for (index, pod) in self.pods.iter().enumerate() {
            let labels: Labels = pod.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            // The backend of a pod's own Service, so by a label that only it has.
            let own = format!("{}-{}", pod.ns, pod.name);
            let mut pairs: Vec<(Name, Name)> =
                labels.iter().map(|(k, v)| (Name::clone(k), Name::clone(v))).collect();
            pairs.push(("own".into(), own.as_str().into()));
            let content = cluster.namespace_mut(&pod.ns.as_str().into());
            content.pods.insert(
                pod.name.as_str().into(),
                Arc::new(Pod {
                    uid: own.as_str().into(),
                    labels: Arc::new(pairs.into_iter().collect()),
                    addresses: [pod.ip].into(),
                    ports: Arc::clone(&ports),
                    node: None,
                    state: PodState::Live,
                    host_network: false,
                }),
            );
            let service_ports = PORTS.iter().flat_map(|port| {
                Protocol::ALL.map(|protocol| ServicePort {
                    name: format!("{protocol}-{port}").into(),
                    protocol,
                    port: port + 1000,
                    target: TargetPort::Number(*port),
                    node_port: None,
                })
            });
            content.services.insert(
                format!("s-{own}").into(),
                Arc::new(Service {
                    addresses: vec![vip(index)],
                    ports: service_ports.collect(),
                    backends: Backends::Pods(Selector::labels([("own", own.as_str())])),
                }),
            );
        }
        for value in self.policies.iter().flatten() {
            let raw = raw_policy(value)?;
            let (policy, findings) = parse_policy(&raw);
            if !findings.is_empty() {
                bail!("findings: {findings:?}");
            }
            let content = cluster.namespace_mut(&raw.namespace.as_str().into());
            content.policies.insert(raw.name.as_str().into(), Arc::new(policy));
        }
        Ok(cluster)
    }

    /// All pods as pods of this node, slots by their order from 1.
    pub(crate) fn local(&self) -> Vec<LocalPod> {
        let pods = self.pods.iter().zip(1_u32..);
        pods.map(|(pod, slot)| LocalPod {
            slot,
            sandbox: format!("{}-{}", pod.ns, pod.name).into(),
            identity: Some(policy_core::PodIdentity {
                namespace: pod.ns.as_str().into(),
                name: pod.name.as_str().into(),
                uid: None,
            }),
            addresses: vec![pod.ip],
        })
        .collect()
    }
}

/// The address of the Service of the pod at an index; it answers on the port + 1000.
pub(crate) fn vip(index: usize) -> IpAddr {
    let low = u8::try_from(index).expect("few pods");
    IpAddr::from([10, 100, 0, low])
}

fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    Ok(value[key].as_str().with_context(|| format!("{key} in {value}"))?.to_owned())
}

fn raw_policy(value: &Value) -> anyhow::Result<RawPolicy> {
    let spec = &value["spec"];
    Ok(RawPolicy {
        namespace: text(&value["metadata"], "namespace")?,
        name: text(&value["metadata"], "name")?,
        pod_selector: raw_selector(&spec["podSelector"])?,
        policy_types: strings(&spec["policyTypes"]),
        ingress: raw_rules(&spec["ingress"], "from")?,
        egress: raw_rules(&spec["egress"], "to")?,
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn raw_rules(value: &Value, word: &str) -> anyhow::Result<Vec<RawRule>> {
    list(value)
        .iter()
        .map(|rule| {
            Ok(RawRule {
                peers: list(&rule[word]).iter().map(raw_peer).collect::<anyhow::Result<_>>()?,
                ports: list(&rule["ports"]).iter().map(raw_port).collect::<anyhow::Result<_>>()?,
            })
        })
        .collect()
}

fn raw_peer(value: &Value) -> anyhow::Result<RawPeer> {
    let selector = |key: &str| {
        let found = Some(&value[key]).filter(|one| !one.is_null());
        found.map(raw_selector).transpose()
    };
    let block = &value["ipBlock"];
    Ok(RawPeer {
        pod_selector: selector("podSelector")?,
        namespace_selector: selector("namespaceSelector")?,
        ip_block: match block {
            Value::Null => None,
            _ => Some(RawBlock { cidr: text(block, "cidr")?, except: strings(&block["except"]) }),
        },
    })
}

fn raw_selector(value: &Value) -> anyhow::Result<RawSelector> {
    let labels = value["matchLabels"].as_object();
    let match_labels = labels.into_iter().flatten();
    Ok(RawSelector {
        match_labels: match_labels
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        match_expressions: list(&value["matchExpressions"])
            .iter()
            .map(|one| {
                Ok(RawRequirement {
                    key: text(one, "key")?,
                    operator: text(one, "operator")?,
                    values: strings(&one["values"]),
                })
            })
            .collect::<anyhow::Result<_>>()?,
    })
}

fn raw_port(value: &Value) -> anyhow::Result<RawPort> {
    let number = |value: &Value| value.as_i64().map(i32::try_from).transpose();
    Ok(RawPort {
        protocol: value["protocol"].as_str().map(str::to_owned),
        port: match &value["port"] {
            Value::Null => None,
            Value::String(name) => Some(RawPortValue::Name(name.clone())),
            other => number(other)?.map(RawPortValue::Number),
        },
        end_port: number(&value["endPort"])?,
    })
}
