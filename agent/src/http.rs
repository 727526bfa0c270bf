//! The agent's HTTP side: metrics, health, and what `tidepool-agent status` and its kin read.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::metrics;
use crate::readiness::Readiness;

/// The query's fields, as they came.
pub type Fields = BTreeMap<String, String>;

/// One page below `/debug/`; an `Err` is a 400 with its text.
pub type Page = Box<dyn Fn(Fields) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

/// Lines as they come.
pub type Lines = BoxStream<'static, String>;

/// What `/debug/flows` answers with; an `Err` is a 400 with its text.
pub type Stream = Box<dyn Fn(Fields) -> BoxFuture<'static, Result<Lines, String>> + Send + Sync>;

/// What is served.
pub struct Site {
    /// The metrics.
    pub registry: Registry,
    /// What `/readyz` answers.
    pub readiness: Readiness,
    /// Called before each scrape, for values that are read rather than counted.
    pub refresh: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Pages below `/debug/`, by name.
    pub pages: BTreeMap<&'static str, Page>,
    /// Flows, one JSON object a line, for as long as the client stays.
    pub flows: Stream,
}

/// Binds `address`.
///
/// # Errors
///
/// Where the address is taken.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the task is dropped.
///
/// # Errors
///
/// Where the listener fails.
pub async fn serve(listener: TcpListener, site: Site) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/debug", get(index))
        .route("/debug/flows", get(flows))
        .route("/debug/{page}", get(page))
        .with_state(Arc::new(site));
    axum::serve(listener, router).await
}

async fn scrape(State(site): State<Arc<Site>>) -> Response {
    (site.refresh)().await;
    match metrics::render(&site.registry) {
        Ok(body) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(site): State<Arc<Site>>) -> Response {
    let status = if site.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, site.readiness.report()).into_response()
}

async fn index(State(site): State<Arc<Site>>) -> Json<Value> {
    let names = site.pages.keys().copied().chain(["flows"]);
    Json(json!(names.map(|name| format!("/debug/{name}")).collect::<Vec<_>>()))
}

async fn flows(State(site): State<Arc<Site>>, Query(fields): Query<Fields>) -> Response {
    match (site.flows)(fields).await {
        Ok(lines) => {
            let lines = lines.map(|line| Ok::<_, Infallible>(line + "\n"));
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Err(message) => (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response(),
    }
}

async fn page(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
    Query(fields): Query<Fields>,
) -> Response {
    let Some(page) = site.pages.get(name.as_str()) else {
        let known = site.pages.keys().copied().collect::<Vec<_>>().join(", ");
        return (StatusCode::NOT_FOUND, format!("no page «{name}»; there are: {known}\n")).into_response();
    };
    match page(fields).await {
        Ok(value) => Json(value).into_response(),
        Err(message) => (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response(),
    }
}
