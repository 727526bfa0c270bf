//! Who takes part: three namespaces with three pods each, their ports, their Services, and policies.

use std::net::Ipv4Addr;

use system_tests::kube_proxy::{Endpoint, Service, Transport};
use system_tests::probe::Protocol;

/// A protocol and a port of a pod.
pub(crate) type Port = (Protocol, u16);

pub(crate) const TCP_80: Port = (Protocol::Tcp, 80);
pub(crate) const TCP_81: Port = (Protocol::Tcp, 81);
pub(crate) const UDP_80: Port = (Protocol::Udp, 80);
pub(crate) const UDP_81: Port = (Protocol::Udp, 81);
pub(crate) const SCTP_80: Port = (Protocol::Sctp, 80);
pub(crate) const SCTP_81: Port = (Protocol::Sctp, 81);
/// What every pod has a container for.
pub(crate) const PORTS: [Port; 6] = [TCP_80, TCP_81, UDP_80, UDP_81, SCTP_80, SCTP_81];

/// One of the nine, by letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: char,
    pub(crate) name: char,
}

const fn pod(namespace: char, name: char) -> Pod {
    Pod { namespace, name }
}

pub(crate) const X_A: Pod = pod('x', 'a');
pub(crate) const X_B: Pod = pod('x', 'b');
pub(crate) const X_C: Pod = pod('x', 'c');
pub(crate) const Y_A: Pod = pod('y', 'a');
pub(crate) const Y_B: Pod = pod('y', 'b');
pub(crate) const NAMESPACES: [char; 3] = ['x', 'y', 'z'];
pub(crate) const PODS: [Pod; 9] =
    [X_A, X_B, X_C, Y_A, Y_B, pod('y', 'c'), pod('z', 'a'), pod('z', 'b'), pod('z', 'c')];

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Pod {
    pub(crate) fn place(self) -> usize {
        PODS.iter().position(|pod| *pod == self).unwrap_or_default()
    }

    /// By turns, so that each namespace and each letter has pods on both.
    pub(crate) fn node(self) -> &'static str {
        ["node-1", "node-2"][self.place() % 2]
    }

    pub(crate) fn cluster_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 20, 10, 100 + u8::try_from(self.place()).unwrap_or_default())
    }

    /// Its Service's port for one of its own: in `x` the same, elsewhere another one.
    pub(crate) fn service_port(self, port: u16) -> u16 {
        match self.namespace {
            'x' => port,
            'y' => 8000 + port,
            _ => 9000 + port,
        }
    }

    /// Its Service's ports as kube-proxy has them.
    pub(crate) fn services(self, address: Ipv4Addr) -> impl Iterator<Item = Service> {
        PORTS.into_iter().map(move |(protocol, port)| Service {
            name: format!("{}-{}-{port}-{}", self.namespace, self.name, protocol.to_string().to_lowercase()),
            transport: match protocol {
                Protocol::Tcp => Transport::Tcp,
                Protocol::Udp => Transport::Udp,
                _ => Transport::Sctp,
            },
            cluster: (self.cluster_ip(), self.service_port(port)),
            node_port: None,
            endpoints: vec![Endpoint { address: (address, port), node: self.node().into() }],
        })
    }

    /// The pod and its Service.
    pub(crate) fn manifest(self) -> String {
        let Self { namespace, name } = self;
        let (mut containers, mut ports) = (String::new(), String::new());
        for (protocol, port) in PORTS {
            let served = format!("serve-{port}-{}", protocol.to_string().to_lowercase());
            containers += &format!(
                "    - name: {served}
      image: registry.example/echo
      ports: [{{name: {served}, containerPort: {port}, protocol: {protocol}}}]
"
            );
            let target = if namespace == 'y' { served.clone() } else { port.to_string() };
            let own = self.service_port(port);
            ports += &format!(
                "    - {{name: {served}, port: {own}, targetPort: {target}, protocol: {protocol}}}\n"
            );
        }
        let (node, address) = (self.node(), self.cluster_ip());
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s-{namespace}-{name}, namespace: {namespace}}}
spec:
  clusterIP: {address}
  selector: {{pod: {name}}}
  ports:
{ports}---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{pod: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
{containers}"
        )
    }
}

/// All objects but policies.
pub(crate) fn manifests() -> String {
    let namespaces = NAMESPACES.map(|name| {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{ns: {name}}}}}\n")
    });
    namespaces.into_iter().chain(PODS.map(Pod::manifest)).collect()
}

/// A NetworkPolicy with this spec.
pub(crate) fn policy(namespace: char, name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
    )
}
