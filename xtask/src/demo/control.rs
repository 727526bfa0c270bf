//! The simulator's control endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A client of it.
#[derive(Debug)]
pub(crate) struct Control {
    url: String,
    http: ureq::Agent,
}

/// A pod as `GET /pods` shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) node: Option<String>,
    pub(crate) eni: Option<String>,
    #[serde(default)]
    pub(crate) ready: bool,
    pub(crate) message: Option<String>,
    pub(crate) netns: Option<String>,
}

impl Pod {
    /// `namespace/name`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// An ENI as `GET /enis` shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Eni {
    pub(crate) id: String,
    pub(crate) node: Option<String>,
    pub(crate) device_index: Option<u32>,
    /// Private addresses, the primary one first.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    #[serde(default)]
    pub(crate) prefixes: Vec<String>,
}

/// One connection to try.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Probe {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
}

/// What came of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) allowed: bool,
}

#[derive(Debug, Serialize)]
struct Probes<'a> {
    timeout_ms: u64,
    probes: &'a [Probe],
}

#[derive(Debug, Deserialize)]
struct Adds {
    ms: Vec<f64>,
}

/// Operation → calls, by node.
pub(crate) type Calls = BTreeMap<String, BTreeMap<String, u64>>;

/// Longest of all: deleting a namespace, and waiting until it is gone.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Control {
    pub(crate) fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            // The body of a refusal says why.
            .http_status_as_error(false)
            .build();
        Self { url: url.trim_end_matches('/').to_owned(), http: config.into() }
    }

    /// Creates or replaces the objects of a manifest in the Kubernetes API.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        self.post_text("/apply", manifest)
    }

    /// Deletes the objects of a manifest, and waits until they are gone.
    pub(crate) fn delete(&self, manifest: &str) -> Result<()> {
        self.post_text("/delete?wait=true", manifest)
    }

    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        self.get("/pods")
    }

    pub(crate) fn enis(&self) -> Result<Vec<Eni>> {
        self.get("/enis")
    }

    pub(crate) fn calls(&self) -> Result<Calls> {
        self.get("/calls")
    }

    /// Durations of all successful ADDs so far, in milliseconds.
    pub(crate) fn add_ms(&self) -> Result<Vec<f64>> {
        Ok(self.get::<Adds>("/adds")?.ms)
    }

    /// Tries all of them, in parallel, from inside the pods.
    pub(crate) fn probe(&self, timeout: Duration, probes: &[Probe]) -> Result<Vec<Outcome>> {
        let timeout_ms = u64::try_from(timeout.as_millis()).context("a time-out too long")?;
        let body = serde_json::to_string(&Probes { timeout_ms, probes })?;
        let url = format!("{}/probe", self.url);
        let response =
            self.http.post(&url).content_type("application/json").send(body).with_context(|| url.clone())?;
        parse(&url, response)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("{}{path}", self.url);
        let response = self.http.get(&url).call().with_context(|| url.clone())?;
        parse(&url, response)
    }

    fn post_text(&self, path: &str, body: &str) -> Result<()> {
        let url = format!("{}{path}", self.url);
        let response =
            self.http.post(&url).content_type("application/yaml").send(body).with_context(|| url.clone())?;
        parse::<serde_json::Value>(&url, response).map(|_| ())
    }
}

/// The body as JSON; its text in the error where the status is none of success.
pub(crate) fn parse<T: DeserializeOwned>(
    url: &str,
    mut response: ureq::http::Response<ureq::Body>,
) -> Result<T> {
    let status = response.status();
    let text =
        response.body_mut().read_to_string().with_context(|| format!("reading the answer of {url}"))?;
    if !status.is_success() {
        bail!("{url}: {status}: {}", text.trim());
    }
    serde_json::from_str(&text).with_context(|| format!("{url} answered: {text}"))
}

impl Outcome {
    /// The cell that it answers.
    pub(crate) fn cell(&self) -> super::matrix::Cell {
        super::matrix::Cell {
            from: self.from.clone(),
            target: super::matrix::Target {
                to: self.to.clone(),
                protocol: self.protocol.clone(),
                port: self.port,
            },
        }
    }
}
