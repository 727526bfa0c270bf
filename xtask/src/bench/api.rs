//! The simulated Kubernetes API, which asks nobody who he is.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::demo::control::parse;
use crate::demo::interrupt::Interrupt;

/// Objects of one request to the simulator: it takes 2 MB.
const AT_ONCE: usize = 500;

/// A client of the API, and of the simulator behind it.
#[derive(Debug)]
pub(super) struct Api {
    url: String,
    control: String,
    http: ureq::Agent,
    /// A large cluster takes a minute to put in.
    interrupt: Interrupt,
}

impl Api {
    /// By the simulator's kubeconfig and the URL of its control endpoint.
    pub(super) fn of(kubeconfig: &Path, control: &str, interrupt: &Interrupt) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig).context("reading the simulator's kubeconfig")?;
        let config: Value = serde_json::from_str(&text).context("the simulator's kubeconfig is no JSON")?;
        let url = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?.to_owned();
        let settings = ureq::Agent::config_builder().http_status_as_error(false).build();
        Ok(Self { url, control: control.to_owned(), http: settings.into(), interrupt: interrupt.clone() })
    }

    /// Puts whole objects in, status included, as if they had been there for long.
    pub(super) fn seed(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let url = format!("{}/kubernetes/seed", self.control);
        let mut objects = objects.into_iter().peekable();
        while objects.peek().is_some() {
            self.interrupt.check()?;
            let some: Vec<Value> = objects.by_ref().take(AT_ONCE).collect();
            let response = self.http.post(&url).send(Value::Array(some).to_string());
            parse::<Value>(&url, response.with_context(|| url.clone())?)?;
        }
        Ok(())
    }

    /// Creates an object.
    pub(super) fn post(&self, path: &str, object: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let request = self.http.post(&url).content_type("application/json");
        let response = request.send(object.to_string()).with_context(|| url.clone())?;
        parse(&url, response)
    }

    /// Merges `change` into an object.
    pub(super) fn patch(&self, path: &str, change: &Value) -> Result<()> {
        let url = format!("{}{path}", self.url);
        let request = self.http.patch(&url).content_type("application/merge-patch+json");
        let response = request.send(change.to_string()).with_context(|| url.clone())?;
        parse::<Value>(&url, response).map(drop)
    }

    /// Deletes an object, at once.
    pub(super) fn delete(&self, path: &str) -> Result<()> {
        let url = format!("{}{path}?gracePeriodSeconds=0", self.url);
        let response = self.http.delete(&url).call().with_context(|| url.clone())?;
        parse::<Value>(&url, response).map(drop)
    }

    /// The uid of a pod.
    pub(super) fn uid(&self, namespace: &str, pod: &str) -> Result<String> {
        let url = format!("{}/api/v1/namespaces/{namespace}/pods/{pod}", self.url);
        let response = self.http.get(&url).call().with_context(|| url.clone())?;
        let object: Value = parse(&url, response)?;
        Ok(object["metadata"]["uid"].as_str().context("a pod without uid")?.to_owned())
    }
}

/// The status of a pod that runs.
pub(super) fn running(address: &str) -> Value {
    json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] })
}
