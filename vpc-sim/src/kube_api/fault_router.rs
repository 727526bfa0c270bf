//! The faults of a [`Store`] over HTTP, for tests in other processes; made to
//! be merged into a control endpoint.
//!
//! | request | effect |
//! |---|---|
//! | `POST /kubernetes/expire` `{refuse_ms?}` | the history is lost: watches end, new ones get 429 for `refuse_ms` (1000), then 410 |
//! | `POST /kubernetes/history` `{changes}` | how many changes of each resource can be watched |
//! | `POST /kubernetes/watches/close` `{path?, abort?}` | ends open watches, cleanly or (`abort`) by breaking the connection → `{closed}` |
//! | `POST /kubernetes/watches/stall` `{stalled}` | holds back all watches, or lets them go on |
//! | `GET /kubernetes/watches` | `[{uri, user_agent}]`, the open watches |
//! | `POST /kubernetes/fail` `{path?, verbs?, code?, retry_after?, delay_ms?, times?}` | refuses or delays the next `times` (1) requests |
//! | `POST /kubernetes/clear` | ends all failures and stalls |
//! | `GET /kubernetes/version` | `{version}`, of the latest change |
//!
//! Bodies are JSON and may be left out where every field may. An unknown field
//! is refused.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::faults::{Closing, FailRule};
use super::store::Store;

/// A router that sets the faults of `store`; see the module's table.
pub fn fault_router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/kubernetes/expire", post(expire))
        .route("/kubernetes/history", post(history))
        .route("/kubernetes/watches/close", post(close))
        .route("/kubernetes/watches/stall", post(stall))
        .route("/kubernetes/watches", get(watches))
        .route("/kubernetes/fail", post(fail))
        .route("/kubernetes/clear", post(clear))
        .route("/kubernetes/version", get(version))
        .with_state(store)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expire {
    refuse_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    changes: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Close {
    path: String,
    abort: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stall {
    stalled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fail {
    path: String,
    verbs: Vec<String>,
    code: Option<u16>,
    retry_after: Option<u32>,
    delay_ms: u64,
    times: Option<u32>,
}

/// A request that cannot be understood.
struct Refusal(String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

/// Reads a body, of which nothing at all means `{}`.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    const LIMIT_BYTES: usize = 64 << 10;
    let bytes = to_bytes(body, LIMIT_BYTES).await.map_err(|error| Refusal(error.to_string()))?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| Refusal(error.to_string()))
}

async fn expire(State(store): State<Arc<Store>>, body: Body) -> Result<Response, Refusal> {
    match read::<Expire>(body).await?.refuse_ms {
        Some(refuse_ms) => store.expire_history_for(Duration::from_millis(refuse_ms)),
        None => store.expire_history(),
    }
    Ok(Json(json!({})).into_response())
}

async fn history(State(store): State<Arc<Store>>, body: Body) -> Result<Response, Refusal> {
    store.set_history_limit(read::<History>(body).await?.changes);
    Ok(Json(json!({})).into_response())
}

async fn close(State(store): State<Arc<Store>>, body: Body) -> Result<Response, Refusal> {
    let request: Close = read(body).await?;
    let how = if request.abort { Closing::Abort } else { Closing::Clean };
    let closed = store.close_watches(&request.path, how);
    Ok(Json(json!({"closed": closed})).into_response())
}

async fn stall(State(store): State<Arc<Store>>, body: Body) -> Result<Response, Refusal> {
    store.stall_watches(read::<Stall>(body).await?.stalled);
    Ok(Json(json!({})).into_response())
}

async fn watches(State(store): State<Arc<Store>>) -> Response {
    let open = store.open_watches();
    let open: Vec<_> =
        open.iter().map(|watch| json!({"uri": watch.uri, "user_agent": watch.user_agent})).collect();
    Json(open).into_response()
}

async fn fail(State(store): State<Arc<Store>>, body: Body) -> Result<Response, Refusal> {
    let request: Fail = read(body).await?;
    if request.code.is_none() && request.delay_ms == 0 {
        return Err(Refusal("code or delay_ms is needed".into()));
    }
    if request.code.is_some_and(|code| !(400..600).contains(&code)) {
        return Err(Refusal("code is not an HTTP error".into()));
    }
    store.fail_next(FailRule {
        path: request.path,
        verbs: request.verbs,
        code: request.code,
        retry_after: request.retry_after,
        delay: Duration::from_millis(request.delay_ms),
        times: request.times.unwrap_or(1),
    });
    Ok(Json(json!({})).into_response())
}

async fn clear(State(store): State<Arc<Store>>) -> Response {
    store.clear_faults();
    Json(json!({})).into_response()
}

async fn version(State(store): State<Arc<Store>>) -> Response {
    Json(json!({"version": store.version()})).into_response()
}
