//! The example application as it stands in `examples/`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::matrix::{Cell, Table, Target};

/// Manifests, and what they say about pods and ports.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) application: String,
    pub(crate) policies: String,
    /// `namespace/name` of each pod.
    pub(crate) pods: Vec<String>,
    /// The table that was written by hand.
    pub(crate) expected: Table,
}

#[derive(Debug, Deserialize)]
struct Object {
    kind: String,
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    container_port: u16,
    #[serde(default = "tcp")]
    protocol: String,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl Example {
    /// Reads the three files, and checks that the table has a cell for every
    /// pair of a pod and a port that another one listens on.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let application = read("application.yaml")?;
        let expected = Table::parse(&read("expected-matrix.txt")?).context("examples/expected-matrix.txt")?;
        let (pods, targets) = listen(&application).context("examples/application.yaml")?;
        let example = Self { application, policies: read("policies.yaml")?, pods, expected };
        example.check(&targets)?;
        Ok(example)
    }

    fn check(&self, targets: &[Target]) -> Result<()> {
        let cells: Vec<Cell> = self
            .pods
            .iter()
            .flat_map(|from| {
                targets
                    .iter()
                    .filter(move |target| target.to != *from)
                    .map(move |target| Cell { from: from.clone(), target: target.clone() })
            })
            .collect();
        for cell in &cells {
            ensure!(self.expected.cells.contains_key(cell), "the expected matrix has no cell for {cell:?}");
        }
        ensure!(
            cells.len() == self.expected.cells.len(),
            "the expected matrix has {} cells, the application {}",
            self.expected.cells.len(),
            cells.len()
        );
        Ok(())
    }
}

/// Pods, and the ports that they declare.
fn listen(manifest: &str) -> Result<(Vec<String>, Vec<Target>)> {
    let mut pods = Vec::new();
    let mut targets = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(manifest) {
        let object = Object::deserialize(document)?;
        if object.kind != "Pod" {
            continue;
        }
        let id = format!("{}/{}", object.metadata.namespace, object.metadata.name);
        for port in object.spec.containers.iter().flat_map(|c| &c.ports) {
            targets.push(Target {
                to: id.clone(),
                protocol: port.protocol.clone(),
                port: port.container_port,
            });
        }
        pods.push(id);
    }
    Ok((pods, targets))
}

/// The capabilities of the agent's container in the install manifest.
pub(crate) fn capabilities(manifest: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let value = serde_yaml_ng::Value::deserialize(document)?;
        let added =
            &value["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
        if let Some(added) = added.as_sequence() {
            return Ok(added.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect());
        }
    }
    anyhow::bail!("{} adds no capabilities", manifest.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_the_install_manifest() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemonset.yaml");
        let added = capabilities(&manifest).expect("the manifest names them");
        assert!(added.contains(&"NET_ADMIN".to_owned()) && !added.contains(&"SYS_ADMIN".to_owned()));
    }

    #[test]
    fn the_examples_and_their_table_fit_together() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let example = Example::load(&dir).expect("the examples are whole");
        assert!(example.pods.len() >= 6);
        assert!(example.expected.cells.values().any(|allowed| !allowed));
        assert!(example.expected.cells.values().any(|allowed| *allowed));
    }
}
