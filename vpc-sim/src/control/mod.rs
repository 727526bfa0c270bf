//! The control endpoint: what a test or an onlooker asks and sets.
//!
//! | request | does |
//! |---|---|
//! | `GET /calls` | EC2 calls since the last reset: `{node: {operation: count}}`; the node of the top-level listener is `""` |
//! | `POST /calls/reset` | forgets all calls |
//! | `GET /calls/log?node=…&after=…` | the last 10,000 EC2 calls, oldest first; those of a node, those after a number |
//! | `GET /imds/calls` | requests to the metadata service: `{node: {path: count}}` |
//! | `POST /imds/keys` | `{"node", "path", "text"?}`: a key of the node's metadata; without a text it is taken away |
//! | `GET /faults`, `DELETE /faults` | the faults that wait for their calls; takes them back |
//! | `POST /faults` | a [`FaultRule`], or a list of them |
//! | `POST /breakpoint` | a [`BreakpointSpec`], in the place of the node's former one |
//! | `GET /breakpoint?node=…&wait=…&unlike=…` | the node's [`BreakpointView`](crate::ec2::BreakpointView), at the latest after `wait` seconds |
//! | `DELETE /breakpoint?node=…&drop=…` | takes it away: what it holds goes on, or with `drop=true` is never answered |
//! | `GET /settings`, `POST /settings` | the [`Settings`](crate::ec2::Settings); a JSON merge patch of them |
//! | `GET /enis` | all interfaces as they are ([`EniView`](crate::ec2::EniView)) |
//! | `POST /instances/terminate` | `{"node": name}` or `{"instance_id": id}` |
//! | `POST /security-groups` | `{"vpc_id", "name"}` → `{"id"}` |
//! | `POST /subnets` | `{"vpc_id", "cidr", "az", "ipv6_cidr"?}` → `{"id"}` |
//!
//! Bodies are JSON whatever their content type. What is refused is answered
//! with 400 and `{"error": text}`. `vpc-sim/CONTROL.md` has examples.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ec2::{BreakState, BreakpointSpec, CallRecord, Cloud, FaultRule, InstanceId, VpcId};

/// Serves the endpoint's EC2 part. Other parts are merged into it.
pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/calls", get(calls))
        .route("/calls/reset", post(reset_calls))
        .route("/calls/log", get(call_log))
        .route("/imds/calls", get(imds_calls))
        .route("/imds/keys", post(set_metadata))
        .route("/faults", get(faults).post(set_faults).delete(clear_faults))
        .route("/breakpoint", get(breakpoint).post(set_breakpoint).delete(remove_breakpoint))
        .route("/settings", get(settings).post(update_settings))
        .route("/enis", get(enis))
        .route("/instances/terminate", post(terminate))
        .route("/security-groups", post(add_security_group))
        .route("/subnets", post(add_subnet))
        .with_state(cloud)
}

/// A refusal: 400, with all causes in one text.
#[derive(Debug)]
pub struct Refused(String);

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self(text)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

/// A body as JSON, whatever its content type says: `curl -d` says it is a form.
pub fn parse_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    Ok(serde_json::from_slice(body)?)
}

async fn calls(State(cloud): State<Arc<Cloud>>) -> Response {
    Json(cloud.calls()).into_response()
}

async fn reset_calls(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    cloud.reset_calls();
    Json(json!({}))
}

async fn call_log(State(cloud): State<Arc<Cloud>>, RawQuery(query): RawQuery) -> Result<Response, Refused> {
    let asked = Query::parse(query.as_deref(), &["node", "after"])?;
    let after: u64 = asked.parsed("after")?.unwrap_or(0);
    let wanted =
        |call: &CallRecord| call.number > after && asked.text("node").is_none_or(|node| call.node == node);
    let calls: Vec<CallRecord> = cloud.call_log().into_iter().filter(wanted).collect();
    Ok(Json(calls).into_response())
}

async fn imds_calls(State(cloud): State<Arc<Cloud>>) -> Response {
    Json(cloud.imds_calls()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataKey {
    node: String,
    path: String,
    text: Option<String>,
}

async fn set_metadata(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked: MetadataKey = parse_body(&body)?;
    let known = cloud
        .instance_by_node(&asked.node)
        .is_some_and(|instance| cloud.set_metadata(&instance, &asked.path, asked.text));
    if !known {
        return Err(Refused(format!("node: no instance {:?} runs", asked.node)));
    }
    Ok(Json(json!({})))
}

async fn faults(State(cloud): State<Arc<Cloud>>) -> Response {
    Json(cloud.faults()).into_response()
}

async fn set_faults(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let rules: Vec<FaultRule> = match parse_body::<Value>(&body)? {
        list @ Value::Array(_) => serde_json::from_value(list)?,
        one => vec![serde_json::from_value(one)?],
    };
    for rule in rules {
        cloud.set_fault(rule)?;
    }
    Ok(Json(json!({ "waiting": cloud.faults() })))
}

async fn clear_faults(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    cloud.clear_faults();
    Json(json!({}))
}

/// The longest that a question for a breakpoint may wait, in seconds.
const LONGEST_WAIT_S: u64 = 600;

/// Names the node that a question for a breakpoint is about.
fn no_breakpoint(node: &str) -> Refused {
    Refused(format!("node: no breakpoint is set for {node:?}"))
}

async fn set_breakpoint(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Response, Refused> {
    let spec: BreakpointSpec = parse_body(&body)?;
    Ok(Json(cloud.set_breakpoint(spec)?).into_response())
}

async fn breakpoint(State(cloud): State<Arc<Cloud>>, RawQuery(query): RawQuery) -> Result<Response, Refused> {
    let asked = Query::parse(query.as_deref(), &["node", "wait", "unlike"])?;
    let node = asked.text("node").unwrap_or_default();
    let wait = Duration::from_secs(asked.parsed("wait")?.unwrap_or(0).min(LONGEST_WAIT_S));
    let unlike = match asked.text("unlike") {
        Some(state) => serde_json::from_value(state.into())?,
        None => BreakState::Waiting,
    };
    let found = cloud.wait_for_breakpoint(node, unlike, wait).await;
    Ok(Json(found.ok_or_else(|| no_breakpoint(node))?).into_response())
}

async fn remove_breakpoint(
    State(cloud): State<Arc<Cloud>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let asked = Query::parse(query.as_deref(), &["node", "drop"])?;
    let node = asked.text("node").unwrap_or_default();
    let removed = cloud.remove_breakpoint(node, asked.parsed("drop")?.unwrap_or(false));
    Ok(Json(removed.ok_or_else(|| no_breakpoint(node))?).into_response())
}

/// What follows the question mark. Names of nodes need no escapes: they are
/// those of hosts.
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Refuses what is not in `known`.
    fn parse(text: Option<&'a str>, known: &[&str]) -> Result<Self, Refused> {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<_> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        match pairs.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(Refused(format!("{name} means nothing here"))),
            None => Ok(Self(pairs)),
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refused> {
        let parse =
            |text: &str| text.parse().map_err(|_| Refused(format!("{name}: {text:?} means nothing here")));
        self.text(name).map(parse).transpose()
    }
}

async fn settings(State(cloud): State<Arc<Cloud>>) -> Response {
    Json(cloud.settings()).into_response()
}

async fn update_settings(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Response, Refused> {
    let patch: Value = parse_body(&body)?;
    Ok(Json(cloud.update_settings(&patch)?).into_response())
}

async fn enis(State(cloud): State<Arc<Cloud>>) -> Response {
    Json(cloud.enis()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Terminate {
    node: Option<String>,
    instance_id: Option<InstanceId>,
}

async fn terminate(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked: Terminate = parse_body(&body)?;
    let named = asked.node.as_deref().and_then(|node| cloud.instance_by_node(node));
    let Some(instance) = asked.instance_id.or(named) else {
        return Err(Refused("no such instance runs".to_owned()));
    };
    cloud.terminate_instance(&instance)?;
    Ok(Json(json!({ "instance_id": instance })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    vpc_id: VpcId,
    name: String,
}

async fn add_security_group(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked: NewGroup = parse_body(&body)?;
    let id = cloud.add_security_group(&asked.vpc_id, &asked.name)?;
    Ok(Json(json!({ "id": id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSubnet {
    vpc_id: VpcId,
    cidr: Ipv4Network,
    az: String,
    ipv6_cidr: Option<Ipv6Network>,
}

async fn add_subnet(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked: NewSubnet = parse_body(&body)?;
    let id = match asked.ipv6_cidr {
        None => cloud.add_subnet(&asked.vpc_id, asked.cidr, &asked.az)?,
        Some(cidr6) => cloud.add_dual_stack_subnet(&asked.vpc_id, asked.cidr, cidr6, &asked.az)?,
    };
    Ok(Json(json!({ "id": id })))
}
