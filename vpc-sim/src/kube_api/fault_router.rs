//! The faults of a [`Store`] over HTTP, for tests in other processes; made to
//! be merged into a control endpoint.
//!
//! | request | effect |
//! |---|---|
//! | `POST /kubernetes/expire` `{refuse_ms?}` | the history is lost: watches end, new ones get 429 for `refuse_ms` (1000), then 410 |
//! | `POST /kubernetes/history` `{changes}` | how many changes of each resource can be watched |
//! | `POST /kubernetes/watches/close` `{path?, abort?}` | ends open watches, cleanly or (`abort`) by breaking the connection → `{closed}` |
//! | `POST /kubernetes/watches/stall` `{stall}` | holds back all watches, or lets them go on |
//! | `GET /kubernetes/watches` | `[{uri, user_agent}]`, the open watches |
//! | `POST /kubernetes/fail` `{path?, verbs?, code?, retry_after?, delay_ms?, times?}` | refuses or delays the next `times` (1) requests |
//! | `POST /kubernetes/clear` | ends all failures and stalls |
//! | `POST /kubernetes/seed` `[object…]` | creates whole objects, status included, 2 MB at a time → `{created}` |
//! | `GET /kubernetes/version` | `{version}`, of the latest change |
//!
//! Bodies are JSON and may be left out where every field may. An unknown field
//! is refused.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
        .route("/kubernetes/seed", post(seed))
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
    stall: bool,
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
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| Refusal(error.to_string()))
}

async fn expire(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    match read::<Expire>(&body)?.refuse_ms {
        Some(refuse_ms) => store.expire_history_for(Duration::from_millis(refuse_ms)),
        None => store.expire_history(),
    }
    Ok(Json(json!({})))
}

async fn history(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    store.set_history_limit(read::<History>(&body)?.changes);
    Ok(Json(json!({})))
}

async fn close(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: Close = read(&body)?;
    let how = if request.abort { Closing::Abort } else { Closing::Clean };
    Ok(Json(json!({"closed": store.close_watches(&request.path, how)})))
}

async fn stall(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    store.stall_watches(read::<Stall>(&body)?.stall);
    Ok(Json(json!({})))
}

async fn watches(State(store): State<Arc<Store>>) -> Json<Value> {
    let open = store.open_watches();
    Json(open.iter().map(|watch| json!({"uri": watch.uri, "user_agent": watch.user_agent})).collect())
}

async fn fail(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: Fail = read(&body)?;
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
    Ok(Json(json!({})))
}

async fn clear(State(store): State<Arc<Store>>) -> Json<Value> {
    store.clear_faults();
    Json(json!({}))
}

async fn seed(State(store): State<Arc<Store>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let created = store.seed(read(&body)?).map_err(|error| Refusal(error.status().to_string()))?;
    Ok(Json(json!({"created": created})))
}

async fn version(State(store): State<Arc<Store>>) -> Json<Value> {
    Json(json!({"version": store.version()}))
}
