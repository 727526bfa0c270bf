//! The control endpoint's questions about pods and the network, and manifests.
//!
//! | request | answer |
//! |---|---|
//! | `POST /apply` (YAML) | `[{kind, namespace, name}]`, created or replaced through the Kubernetes API |
//! | `POST /delete` (YAML) | the same, deleted in reverse; with `?wait=true` answered when they are gone |
//! | `GET /pods` | `[{namespace, name, ip, ips, node, eni, phase, ready, message, netns}]`, with `--kubelet` |
//! | `GET /adds` | `{ms: […], failed}`: how long each successful ADD took, with `--kubelet` |
//! | `POST /probe` `{timeout_ms, probes: [{from, to, protocol, port}]}` | `[{from, to, protocol, port, allowed, detail}]`, asked at once |
//! | `GET /fabric` | what was carried and dropped, without `--api-only` |
//!
//! Ends of probes are "namespace/name" of a pod, "node:NAME", "internet", or as
//! a destination an address. Errors are `{"error": text}`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::apply::{self, ApplyError};
use crate::fabric::ns::NetNs;
use crate::fabric::{Fabric, INTERNET_HOST, chain};
use crate::kubelet::probe::{self, Ends, Outcome, Probe, Resolved};
use crate::kubelet::{KubeletNode, Kubelets, PodRecord};

/// What the answers are made from.
pub(super) struct Parts {
    pub(super) client: kube::Client,
    pub(super) fabric: Option<Fabric>,
    pub(super) kubelets: Option<Kubelets>,
    pub(super) nodes: Vec<KubeletNode>,
}

/// The routes, to be merged with those of the cloud.
pub(super) fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/apply", post(apply_yaml))
        .route("/delete", post(delete_yaml))
        .route("/pods", get(pods))
        .route("/adds", get(adds))
        .route("/probe", post(probes))
        .route("/fabric", get(fabric))
        .with_state(parts)
}

type Answer = Result<Response, Refusal>;

/// A request that cannot be answered, and why.
struct Refusal(StatusCode, String);

/// Reads a body as JSON, whatever its content type says.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::of_request(error.to_string()))
}

impl Refusal {
    /// The request means nothing, or nothing here.
    fn of_request(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<ApplyError> for Refusal {
    fn from(error: ApplyError) -> Self {
        let status = match &error {
            ApplyError::Document { .. } | ApplyError::UnknownKind(_) => StatusCode::BAD_REQUEST,
            ApplyError::StillThere { .. } => StatusCode::GATEWAY_TIMEOUT,
            ApplyError::Api { .. } => StatusCode::BAD_GATEWAY,
        };
        Self(status, error.to_string())
    }
}

fn absent(option: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("this needs a simulation {option}"))
}

async fn apply_yaml(State(parts): State<Arc<Parts>>, yaml: String) -> Answer {
    Ok(Json(apply::apply(&parts.client, &yaml).await?).into_response())
}

async fn delete_yaml(State(parts): State<Arc<Parts>>, RawQuery(query): RawQuery, yaml: String) -> Answer {
    let wait = match query.as_deref() {
        None | Some("" | "wait=false") => false,
        Some("wait=true") => true,
        Some(other) => return Err(Refusal::of_request(format!("{other:?} means nothing here"))),
    };
    Ok(Json(apply::delete(&parts.client, &yaml, wait).await?).into_response())
}

#[derive(Serialize)]
struct PodView {
    namespace: String,
    name: String,
    ip: Option<IpAddr>,
    ips: Vec<IpAddr>,
    node: Option<String>,
    eni: Option<String>,
    phase: &'static str,
    ready: bool,
    message: Option<String>,
    netns: Option<PathBuf>,
}

async fn pods(State(parts): State<Arc<Parts>>) -> Answer {
    let kubelets = parts.kubelets.as_ref().ok_or_else(|| absent("with --kubelet"))?;
    let eni_of = |ip: IpAddr| parts.fabric.as_ref()?.eni_of(ip);
    let views: Vec<PodView> = kubelets
        .pods()
        .into_iter()
        .map(|pod| {
            let ip = pod.addresses.first().copied();
            PodView {
                eni: ip.and_then(eni_of).map(|eni| eni.to_string()),
                netns: pod.netns.as_ref().map(NetNs::path),
                namespace: pod.namespace,
                name: pod.name,
                ip,
                ips: pod.addresses,
                node: pod.node,
                phase: pod.phase,
                ready: pod.ready,
                message: pod.message,
            }
        })
        .collect();
    Ok(Json(views).into_response())
}

async fn adds(State(parts): State<Arc<Parts>>) -> Answer {
    let kubelets = parts.kubelets.as_ref().ok_or_else(|| absent("with --kubelet"))?;
    Ok(Json(kubelets.add_times()).into_response())
}

async fn fabric(State(parts): State<Arc<Parts>>) -> Answer {
    let fabric = parts.fabric.clone().ok_or_else(|| absent("without --api-only"))?;
    let counters = tokio::task::spawn_blocking(move || fabric.counters())
        .await
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    match counters {
        Ok(counters) => Ok(Json(counters).into_response()),
        Err(error) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeRequest {
    /// How long each probe may take.
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
    probes: Vec<Probe>,
}

fn default_timeout_ms() -> u64 {
    1000
}

async fn probes(State(parts): State<Arc<Parts>>, body: Bytes) -> Answer {
    let request: ProbeRequest = parse(&body)?;
    let ends = EndsTable::new(&parts)?;
    let resolved =
        request.probes.into_iter().map(|probe| Resolved { ends: ends.of(&probe), probe }).collect();
    let bound = Duration::from_millis(request.timeout_ms);
    let outcomes: Vec<Outcome> = probe::run(resolved, bound).await;
    Ok(Json(outcomes).into_response())
}

/// Who can be an end of a probe at this moment.
struct EndsTable<'a> {
    fabric: &'a Fabric,
    nodes: &'a [KubeletNode],
    pods: Vec<PodRecord>,
}

impl<'a> EndsTable<'a> {
    fn new(parts: &'a Parts) -> Result<Self, Refusal> {
        Ok(Self {
            fabric: parts.fabric.as_ref().ok_or_else(|| absent("without --api-only"))?,
            nodes: &parts.nodes,
            pods: parts.kubelets.as_ref().map(Kubelets::pods).unwrap_or_default(),
        })
    }

    fn of(&self, probe: &Probe) -> Result<Ends, String> {
        Ok(Ends { source: self.source(&probe.from)?, destination: self.destination(&probe.to)? })
    }

    fn source(&self, text: &str) -> Result<NetNs, String> {
        if text == "internet" {
            return Ok(self.fabric.internet().clone());
        }
        if let Some(name) = text.strip_prefix("node:") {
            return Ok(self.node(name)?.ns.net().clone());
        }
        self.pod(text)?.netns.clone().ok_or_else(|| format!("{text} has no network"))
    }

    fn destination(&self, text: &str) -> Result<IpAddr, String> {
        if text == "internet" {
            return Ok(INTERNET_HOST.into());
        }
        if let Some(name) = text.strip_prefix("node:") {
            return Ok(self.node(name)?.address);
        }
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        self.pod(text)?.addresses.first().copied().ok_or_else(|| format!("{text} has no address"))
    }

    fn node(&self, name: &str) -> Result<&KubeletNode, String> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| format!("there is no node {name}"))
    }

    /// The pod of that name; of several, one that runs.
    fn pod(&self, text: &str) -> Result<&PodRecord, String> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| format!("{text:?} is no pod"))?;
        self.pods
            .iter()
            .filter(|pod| pod.namespace == namespace && pod.name == name)
            .max_by_key(|pod| pod.ready)
            .ok_or_else(|| format!("there is no pod {text}"))
    }
}
