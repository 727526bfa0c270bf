//! A step as the compiler sees it, and who is where.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use policy_core::model::{
    Backends, Cluster, ContainerPort, Labels, LocalNode, Name, Namespace, Node, Pod, PodState, Protocol,
    Selector, Service, ServiceBackend, ServicePort, TargetPort,
};
use policy_core::parse::{parse_cluster_policy, parse_policy};
use policy_core::{LocalPod, PodIdentity};
use serde_json::Value;

use crate::format::{self, Step};
use crate::objects;

/// The name of the node whose pods are filtered.
pub(crate) const HERE: &str = "here";
/// What is added to a port where every pod has a Service of its own.
pub(crate) const OWN_SERVICE: u16 = 1000;
/// The ports on which a pod listens that says nothing about it.
const PORTS: [u16; 2] = [80, 81];

/// Where a column of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A pod behind our filters.
    Local,
    /// Anything that comes by another link: other nodes, their pods, the world.
    Outside,
    /// The node itself, and what uses its network.
    Node,
    /// A Service: translated by the node.
    Service,
    /// Without an address of its own any more.
    Gone,
}

/// A column of the table.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) kind: Kind,
}

impl Party {
    /// Its address of a family.
    pub(crate) fn address(&self, ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }
}

/// A step, read.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) parties: Vec<Party>,
    /// Every pod has a Service of its own.
    pub(crate) own_services: bool,
    /// What the parser found.
    pub(crate) findings: Vec<String>,
}

impl Scene {
    pub(crate) fn new(step: &Step) -> Result<Self> {
        let node_addresses: Vec<IpAddr> = step.node.iter().flat_map(|node| node.ips.clone()).collect();
        let mut scene = Self {
            cluster: Cluster {
                node: LocalNode { name: HERE.into(), addresses: node_addresses.clone() },
                service_cidrs: step.service_cidrs.clone(),
                ..Cluster::default()
            },
            parties: Vec::new(),
            own_services: step.services.is_none(),
            findings: Vec::new(),
        };
        for (name, labels) in &step.namespaces {
            let content = Namespace::with_labels(name, pairs(labels));
            scene.cluster.namespaces.insert(name.as_str().into(), Arc::new(content));
        }
        let usual = usual_ports();
        for (index, pod) in step.pods.iter().enumerate() {
            scene.pod(pod, index, &usual, &node_addresses)?;
        }
        for other in &step.others {
            let (name, addresses) = (other.name.clone(), other.ips.clone());
            scene.parties.push(Party { name, addresses, kind: Kind::Outside });
        }
        if let Some(node) = &step.node {
            scene.parties.push(Party { name: "node".into(), addresses: node.ips.clone(), kind: Kind::Node });
        }
        for service in step.services.iter().flatten() {
            scene.service(service)?;
        }
        for node in &step.nodes {
            let labels = Arc::new(pairs(&node.labels).collect());
            let content = Node { labels, addresses: node.ips.clone().into() };
            scene.cluster.nodes.insert(node.name.as_str().into(), Arc::new(content));
        }
        scene.policies(step)?;
        Ok(scene)
    }

    fn policies(&mut self, step: &Step) -> Result<()> {
        for value in step.policies.iter().flatten() {
            let raw = objects::policy(value)?;
            let (policy, findings) = parse_policy(&raw);
            self.findings.extend(findings.iter().map(ToString::to_string));
            let content = self.cluster.namespace_mut(&raw.namespace.as_str().into());
            content.policies.insert(raw.name.as_str().into(), Arc::new(policy));
        }
        for value in &step.cluster_policies {
            let raw = objects::cluster_policy(value)?;
            let (policy, findings) = parse_cluster_policy(&raw);
            self.findings.extend(findings.iter().map(ToString::to_string));
            self.cluster.cluster_policies.insert(raw.name.as_str().into(), Arc::new(policy));
        }
        Ok(())
    }

    fn pod(
        &mut self,
        pod: &format::Pod,
        index: usize,
        usual: &Arc<[ContainerPort]>,
        node: &[IpAddr],
    ) -> Result<()> {
        // The backend of a pod's own Service, so by a label that only it has.
        let own = format!("{}-{}", pod.ns, pod.name);
        let labels: Labels = pairs(&pod.labels).chain([("own".into(), own.as_str().into())]).collect();
        let addresses: Vec<IpAddr> = [pod.ip].into_iter().chain(pod.ip2).collect();
        let state = match pod.phase.as_deref() {
            Some("Succeeded" | "Failed") => PodState::Completed,
            _ if pod.terminating => PodState::Terminating,
            _ => PodState::Live,
        };
        let ports = match &pod.ports {
            None => Arc::clone(usual),
            Some(list) => list.iter().map(container_port).collect::<Result<Vec<_>>>()?.into(),
        };
        let content = Pod {
            uid: own.as_str().into(),
            labels: Arc::new(labels),
            addresses: addresses.clone().into(),
            ports,
            node: Some(pod.node.as_deref().unwrap_or(HERE).into()),
            state,
            host_network: pod.host_network,
            audit: pod.audit,
        };
        let kind = match &pod.node {
            _ if state == PodState::Completed => Kind::Gone,
            _ if pod.host_network && node.contains(&pod.ip) => Kind::Node,
            None if !pod.host_network => Kind::Local,
            _ => Kind::Outside,
        };
        self.parties.push(Party { name: format!("{}/{}", pod.ns, pod.name), addresses, kind });
        let namespace = self.cluster.namespace_mut(&pod.ns.as_str().into());
        namespace.pods.insert(pod.name.as_str().into(), Arc::new(content));
        if self.own_services {
            namespace.services.insert(format!("s-{own}").into(), Arc::new(own_service(index, &own)?));
        }
        Ok(())
    }

    fn service(&mut self, service: &format::Service) -> Result<()> {
        let ports = service.ports.iter().map(service_port).collect::<Result<Vec<_>>>()?;
        let backends = if service.endpoints.is_empty() {
            Backends::Pods(Selector::labels(service.selector.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
        } else {
            let listed = |address: &IpAddr| {
                ports
                    .iter()
                    .map(|port| ServiceBackend {
                        port_name: Name::clone(&port.name),
                        protocol: port.protocol,
                        address: *address,
                        port: match &port.target {
                            TargetPort::Number(number) => *number,
                            TargetPort::Named(_) => port.port,
                        },
                    })
                    .collect::<Vec<_>>()
            };
            Backends::Listed(service.endpoints.iter().flat_map(listed).collect())
        };
        let addresses: Vec<IpAddr> = service.ips.iter().chain(&service.external_ips).copied().collect();
        let external = service.external_ips.clone();
        let content = Service { addresses: addresses.clone(), external, ports, backends };
        self.parties.push(Party {
            name: format!("{}/{}", service.ns, service.name),
            addresses,
            kind: Kind::Service,
        });
        let namespace = self.cluster.namespace_mut(&service.ns.as_str().into());
        namespace.services.insert(service.name.as_str().into(), Arc::new(content));
        Ok(())
    }

    /// The place of a party by its name.
    pub(crate) fn party(&self, name: &str) -> Result<usize> {
        self.parties.iter().position(|party| party.name == name).with_context(|| format!("no {name}"))
    }

    /// The local pods; `slot` gives each its slot, `epoch` makes its sandbox another one's.
    pub(crate) fn local(&self, sandbox: &str, slot: impl Fn(&Party) -> Result<u32>) -> Result<Vec<LocalPod>> {
        let local = self.parties.iter().filter(|party| party.kind == Kind::Local);
        let mut pods = Vec::new();
        for party in local {
            let (namespace, name) = party.name.split_once('/').context("a pod's name")?;
            pods.push(LocalPod {
                slot: slot(party)?,
                sandbox: format!("{sandbox} {}", party.name).into(),
                identity: Some(PodIdentity { namespace: namespace.into(), name: name.into(), uid: None }),
                addresses: party.addresses.clone(),
            });
        }
        pods.sort_by_key(|pod| pod.slot);
        ensure!(pods.windows(2).all(|pair| pair[0].slot != pair[1].slot), "two pods with one address");
        Ok(pods)
    }
}

/// The address of the Service of the pod at an index; it answers on the port + 1000.
pub(crate) fn own_vip(index: usize) -> Result<IpAddr> {
    Ok(IpAddr::from([10, 100, 0, u8::try_from(index)?]))
}

fn own_service(index: usize, own: &str) -> Result<Service> {
    let ports = PORTS.iter().flat_map(|port| {
        Protocol::ALL.map(|protocol| ServicePort {
            name: format!("{protocol}-{port}").into(),
            protocol,
            port: port + OWN_SERVICE,
            target: TargetPort::Number(*port),
            node_port: None,
        })
    });
    Ok(Service {
        addresses: vec![own_vip(index)?],
        external: Vec::new(),
        ports: ports.collect(),
        backends: Backends::Pods(Selector::labels([("own", own)])),
    })
}

fn usual_ports() -> Arc<[ContainerPort]> {
    let ports = PORTS.iter().flat_map(|port| {
        Protocol::ALL.map(|protocol| ContainerPort {
            name: Some(format!("serve-{port}-{}", protocol.to_string().to_lowercase()).into()),
            protocol,
            port: *port,
            host_port: None,
        })
    });
    ports.collect()
}

fn pairs(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (Name, Name)> {
    labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()))
}

fn protocol(name: Option<&str>) -> Result<Protocol> {
    let name = name.unwrap_or("TCP");
    Protocol::from_name(name).with_context(|| format!("no protocol {name}"))
}

fn container_port(port: &format::Port) -> Result<ContainerPort> {
    Ok(ContainerPort {
        name: port.name.as_deref().map(Name::from),
        protocol: protocol(port.protocol.as_deref())?,
        port: port.container_port,
        host_port: port.host_port,
    })
}

fn service_port(port: &format::ServicePort) -> Result<ServicePort> {
    Ok(ServicePort {
        name: port.name.as_str().into(),
        protocol: protocol(port.protocol.as_deref())?,
        port: port.port,
        target: match &port.target_port {
            Value::String(name) => TargetPort::Named(name.as_str().into()),
            Value::Null => TargetPort::Number(port.port),
            other => TargetPort::Number(u16::try_from(other.as_u64().context("targetPort")?)?),
        },
        node_port: port.node_port,
    })
}
