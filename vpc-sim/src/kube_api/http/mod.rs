//! The API over HTTP: paths, queries, content types, and who answers what.

mod accept;
mod body;
mod path;
mod query;
mod read;
mod render;
mod watch;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::discovery;
use super::error::ApiError;
use super::openapi;
use super::store::Store;
use path::Target;
use query::Query;

/// A router that serves `store`; any number of them may serve the same one.
pub fn router(store: Arc<Store>) -> Router {
    Router::new().fallback(handle).with_state(store)
}

/// One request, taken apart.
struct Call {
    store: Arc<Store>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    query: Query,
    body: Body,
}

async fn handle(State(store): State<Arc<Store>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    answer(Call { store, method, uri, headers, query, body })
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn answer(call: Call) -> Result<Response, ApiError> {
    let path = call.uri.path().to_owned();
    let target = path::parse(&path, |group, version, plural| call.store.kind(group, version, plural));
    let verb = match &target {
        Some(target) => target.verb(&call.method, call.query.flag("watch")),
        None => "get",
    };
    call.store.faults().pass(&path, verb).await?;
    let Some(target) = target else {
        return match path::group_version(&path) {
            Some((group, version)) if discovery::serves(&call.store.types(), &group, &version) => {
                Err(ApiError::no_such_resource())
            }
            _ => document(&call, &path),
        };
    };
    resource(call, target, verb).await
}

/// A request about objects.
async fn resource(call: Call, target: Target, verb: &str) -> Result<Response, ApiError> {
    if let Some(subresource) = &target.subresource {
        let known = match subresource.as_str() {
            "status" => target.kind.has_status,
            "finalize" => target.kind.is(super::kinds::NAMESPACES),
            "binding" => target.kind.is(super::kinds::PODS),
            _ => false,
        };
        if !known {
            return Err(ApiError::no_such_resource());
        }
        if subresource == "binding" {
            return if verb == "create" {
                write::bind(call, &target).await
            } else {
                Err(ApiError::method_not_allowed())
            };
        }
        if !matches!(verb, "get" | "update" | "patch") {
            return Err(ApiError::method_not_allowed());
        }
    }
    match verb {
        "get" => read::get(&call, &target),
        "list" => read::list(call, &target).await,
        "watch" => watch::open(call, &target).await,
        "create" => write::create(call, &target).await,
        "update" => write::replace(call, &target).await,
        "patch" => write::patch(call, &target).await,
        "delete" => write::delete(call, &target).await,
        "deletecollection" => write::delete_collection(call, &target).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Discovery, OpenAPI, version and health.
fn document(call: &Call, path: &str) -> Result<Response, ApiError> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    let accept = call.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let types = call.store.types();
    let path = path.trim_end_matches('/');
    let aggregated = accept::wants_aggregated_discovery(accept);
    let json =
        |value: Value| Ok(([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response());
    match path {
        "/healthz" | "/livez" | "/readyz" => Ok((StatusCode::OK, "ok").into_response()),
        "/version" => json(discovery::version()),
        "/api" | "/apis" if aggregated => {
            let content = [(header::CONTENT_TYPE, discovery::AGGREGATED)];
            Ok((content, discovery::aggregated(&types, path == "/api").to_string()).into_response())
        }
        "/api" => json(discovery::core_versions()),
        "/apis" => json(discovery::groups(&types)),
        "/openapi/v2" => openapi::v2(&types, accept),
        "/openapi/v3" => json(openapi::v3_index(&types)),
        _ => {
            if let Some(group_version) = path.strip_prefix("/openapi/v3/") {
                return json(openapi::v3(&types, group_version).ok_or_else(ApiError::no_such_path)?);
            }
            let found =
                match path.strip_prefix('/').map(|path| path.split('/').collect::<Vec<_>>()).as_deref() {
                    Some(["api", version]) => discovery::resources(&types, "", version),
                    Some(["apis", group]) => discovery::group(&types, group),
                    Some(["apis", group, version]) => discovery::resources(&types, group, version),
                    _ => None,
                };
            json(found.ok_or_else(ApiError::no_such_path)?)
        }
    }
}
