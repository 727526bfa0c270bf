//! The objects of these tests: pods that listen, and policies.

use super::PORT;

/// A pod in `default` that listens, bound to a node, with the label `app`.
pub fn pod(name: &str, node: &str, app: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: {app}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: registry.example/echo
      ports: [{{containerPort: {PORT}}}]
"
    )
}

/// Pods with `app: to` hear only pods with `app: from`.
pub fn only(name: &str, to: &str, from: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {name}
  namespace: default
spec:
  podSelector: {{matchLabels: {{app: {to}}}}}
  policyTypes: [Ingress]
  ingress:
    - from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]
      ports: [{{port: {PORT}}}]
"
    )
}

/// `web` and `other` on the first node, `db` on the second, which hears `web` only.
pub fn trio() -> String {
    [
        pod("web", "node-1", "web"),
        pod("other", "node-1", "other"),
        pod("db", "node-2", "db"),
        only("db", "db", "web"),
    ]
    .concat()
}
