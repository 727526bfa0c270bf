//! What a world is asked: the agents, the control endpoint, the Kubernetes API, and pods by probes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::house::{items, text};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PORT, World};

impl World {
    /// `GET path` of a node's agent: status and body.
    pub fn agent_page(&self, node: &str, path: &str) -> Result<(u16, String)> {
        let netns = PathBuf::from(text(&self.node(node)?["netns"]));
        let url = format!("http://127.0.0.1:61680{path}");
        in_netns(&netns, move || {
            let mut response = client().get(&url).call()?;
            Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
        })
    }

    /// A page below `/debug/`.
    pub fn debug(&self, node: &str, page: &str) -> Result<Value> {
        let (status, body) = self.agent_page(node, &format!("/debug/{page}"))?;
        ensure!(status == 200, "{page}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// A request to the control endpoint: `GET` without a body, else `POST`.
    pub fn control(&self, path: &str, body: Option<&str>) -> Result<Value> {
        let url = format!("{}{path}", text(&self.up["control"]));
        let mut response = match body {
            None => self.http.get(&url).call()?,
            Some(body) => self.http.post(&url).send(body)?,
        };
        let answer = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "{path}: {} {answer}", response.status());
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// Takes all faults of EC2 back.
    pub fn end_faults(&self) -> Result<()> {
        let url = format!("{}/faults", text(&self.up["control"]));
        ensure!(self.http.delete(&url).call()?.status().is_success(), "the faults stay");
        Ok(())
    }

    /// Takes all faults of the Kubernetes API back.
    pub fn end_kubernetes_faults(&self) -> Result<()> {
        self.control("/kubernetes/clear", Some("{}")).map(drop)
    }

    /// Creates or replaces objects.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.control("/apply", Some(manifest)).map(drop)
    }

    /// Deletes objects and waits until they are gone.
    pub fn delete(&self, manifest: &str) -> Result<()> {
        self.control("/delete?wait=true", Some(manifest)).map(drop)
    }

    /// What the Kubernetes API answers to a GET.
    pub fn kubernetes(&self, path: &str) -> Result<Value> {
        let file = std::fs::read_to_string(text(&self.up["kubeconfig"]))?;
        let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&file)?;
        let server = file["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
        let mut response = self.http.get(format!("{server}{path}")).call()?;
        Ok(serde_json::from_str(&response.body_mut().read_to_string()?)?)
    }

    /// A DELETE at the Kubernetes API.
    pub fn delete_now(&self, path: &str) -> Result<()> {
        let file = std::fs::read_to_string(text(&self.up["kubeconfig"]))?;
        let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&file)?;
        let server = file["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
        let mut response = self.http.delete(format!("{server}{path}")).call()?;
        let answer = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "{path}: {answer}");
        Ok(())
    }

    /// All pods as the kubelet has them.
    pub fn pods(&self) -> Result<Vec<Value>> {
        Ok(items(&self.control("/pods", None)?).cloned().collect())
    }

    /// One pod, by its name in the namespace `default`.
    pub fn pod(&self, name: &str) -> Result<Value> {
        self.pods()?.into_iter().find(|pod| pod["name"] == name).with_context(|| format!("no pod {name}"))
    }

    /// Waits until these pods run.
    pub fn wait_for_pods(&self, names: &[&str]) -> Result<()> {
        self.wait(&format!("{names:?} run"), || {
            let pods = self.pods().ok()?;
            let runs = |name: &&str| pods.iter().any(|pod| pod["name"] == **name && pod["ready"] == true);
            names.iter().all(runs).then_some(())
        })
    }

    /// Asks all at once whether `from` reaches `to` at [`PORT`]: pods of `default`, or addresses.
    pub fn probe(&self, patience_ms: u64, pairs: &[(&str, &str)]) -> Result<Vec<(bool, String)>> {
        let full = |name: &str| match name.parse::<std::net::IpAddr>() {
            Ok(_) => name.to_owned(),
            Err(_) => format!("default/{name}"),
        };
        let probes: Vec<Value> = pairs
            .iter()
            .map(|(from, to)| json!({"from": full(from), "to": full(to), "protocol": "TCP", "port": PORT}))
            .collect();
        let question = json!({"timeout_ms": patience_ms, "probes": probes}).to_string();
        let answer = self.control("/probe", Some(&question))?;
        Ok(items(&answer).map(|one| (one["allowed"] == true, text(&one["detail"]).to_owned())).collect())
    }

    /// One connection that must succeed at once.
    pub fn must_reach(&self, from: &str, to: &str) -> Result<()> {
        let outcome = self.probe(5000, &[(from, to)])?;
        ensure!(outcome[0].0, "{from} does not reach {to}: {}\n{}", outcome[0].1, self.complaints());
        Ok(())
    }

    /// One connection that must not succeed.
    pub fn must_not_reach(&self, from: &str, to: &str) -> Result<()> {
        let outcome = self.probe(400, &[(from, to)])?;
        ensure!(outcome[0].1.starts_with("timed out"), "{from} to {to}: {}", outcome[0].1);
        Ok(())
    }

    /// Waits until a pair is allowed or denied.
    pub fn wait_for_verdict(&self, from: &str, to: &str, allowed: bool) -> Result<()> {
        self.wait(&format!("{from} to {to} is allowed: {allowed}"), || {
            // Shorter than the second after which a lost SYN is sent again: a new try sees a new verdict at once.
            let outcome = self.probe(250, &[(from, to)]).ok()?;
            (outcome[0].0 == allowed).then_some(())
        })
    }

    /// EC2 calls of a node since the last reset.
    pub fn calls(&self, node: &str) -> Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_value(self.control("/calls", None)?[node].clone()).unwrap_or_default())
    }

    /// A metric's value; none where the line is not there.
    pub fn metric(&self, node: &str, line: &str) -> Result<Option<f64>> {
        let (_, body) = self.agent_page(node, "/metrics")?;
        let found = body.lines().find_map(|row| row.strip_prefix(line)?.strip_prefix(' '));
        Ok(found.map(str::parse).transpose()?)
    }

    /// An open connection from a pod to an address, over which the test can talk.
    pub fn connect(&self, from: &str, to: &str) -> Result<std::net::TcpStream> {
        let netns = PathBuf::from(text(&self.pod(from)?["netns"]));
        let target = std::net::SocketAddr::new(text(&self.pod(to)?["ip"]).parse()?, PORT);
        in_netns(&netns, move || Ok(std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5))?))
    }
}

pub fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(90)))
        .http_status_as_error(false)
        .build()
        .into()
}

/// Runs `work` on a thread that enters a network namespace and ends there.
pub fn in_netns<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    let thread = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        work()
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread in {} panicked", netns.display()))?
}
