//! The control endpoint's faults of the simulated Kubernetes API.
//!
//! | request | does |
//! |---|---|
//! | `POST /kubernetes/expire` | loses the history: watches end, older versions get 410 |
//! | `POST /kubernetes/watches/close` `{path?, abort?}` | ends watches whose path begins so, cleanly or by a broken connection; `{closed}` |
//! | `POST /kubernetes/watches/stall` `{stall}` | holds back all watch events, or lets them go |
//! | `GET /kubernetes/watches` | the open watches: `[{uri, user_agent}]` |
//! | `POST /kubernetes/fail` `{path?, verbs?, code?, retry_after?, delay_ms?, times?}` | refuses or delays the next requests |
//! | `POST /kubernetes/clear` | ends all of these |

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{Answer, parse};
use crate::kube_api::{Closing, FailRule, Store};

/// The routes, to be merged with the others of the control endpoint.
pub(super) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/kubernetes/expire", post(expire))
        .route("/kubernetes/watches", get(watches))
        .route("/kubernetes/watches/close", post(close))
        .route("/kubernetes/watches/stall", post(stall))
        .route("/kubernetes/fail", post(fail))
        .route("/kubernetes/clear", post(clear))
        .with_state(store)
}

async fn expire(State(store): State<Arc<Store>>) -> Json<Value> {
    store.expire_history();
    Json(json!({}))
}

async fn watches(State(store): State<Arc<Store>>) -> Json<Value> {
    let open = store.open_watches();
    Json(open.iter().map(|watch| json!({"uri": watch.uri, "user_agent": watch.user_agent})).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    #[serde(default)]
    path: String,
    #[serde(default)]
    abort: bool,
}

async fn close(State(store): State<Arc<Store>>, body: Bytes) -> Answer {
    let close: Close = parse(&body)?;
    let how = if close.abort { Closing::Abort } else { Closing::Clean };
    Ok(Json(json!({"closed": store.close_watches(&close.path, how)})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stall {
    stall: bool,
}

async fn stall(State(store): State<Arc<Store>>, body: Bytes) -> Answer {
    let Stall { stall } = parse(&body)?;
    store.stall_watches(stall);
    Ok(Json(json!({})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    #[serde(default)]
    path: String,
    #[serde(default)]
    verbs: Vec<String>,
    code: Option<u16>,
    retry_after: Option<u32>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default = "once")]
    times: u32,
}

fn once() -> u32 {
    1
}

async fn fail(State(store): State<Arc<Store>>, body: Bytes) -> Answer {
    let Fail { path, verbs, code, retry_after, delay_ms, times } = parse(&body)?;
    let delay = Duration::from_millis(delay_ms);
    store.fail_next(FailRule { path, verbs, code, retry_after, delay, times });
    Ok(Json(json!({})).into_response())
}

async fn clear(State(store): State<Arc<Store>>) -> Json<Value> {
    store.clear_faults();
    Json(json!({}))
}
