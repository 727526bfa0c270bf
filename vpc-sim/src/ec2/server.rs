//! The EC2 API over HTTP.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Response, StatusCode, Uri, header};
use tokio::time::Instant;

use super::cloud::Cloud;

/// Whose listener a request comes to: calls are counted and faults set by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeScope(String);

impl NodeScope {
    /// The listener that belongs to no node.
    pub fn top() -> Self {
        Self(String::new())
    }

    /// The listener of a node.
    pub fn node(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The node's name; "" for none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Serves the EC2 query API, version 2016-11-15, on every path. Signatures are
/// not verified, and any credentials will do.
pub fn router(cloud: Arc<Cloud>, scope: NodeScope) -> Router {
    Router::new().fallback(serve).with_state((cloud, scope))
}

async fn serve(
    State((cloud, scope)): State<(Arc<Cloud>, NodeScope)>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response<Body> {
    let arrived = Instant::now();
    // What is not UTF-8 has no meaning; the operation will not know it.
    let mut form = String::from_utf8_lossy(&body).into_owned();
    if method == Method::GET || form.is_empty() {
        form = uri.query().unwrap_or_default().to_owned();
    }
    let passage = cloud.arrives(scope.as_str(), &form);
    if !passage.before_effect().await {
        return dropped_connection();
    }
    let answer = cloud.answer(scope.as_str(), &form);
    cloud.settled(answer.after).await;
    if !passage.after_effect().await {
        return dropped_connection();
    }
    if let Some(held) = answer.hang {
        tokio::time::sleep_until(arrived + held).await;
        return dropped_connection();
    }
    tokio::time::sleep_until(arrived + answer.delay).await;
    let length = answer.body.len();
    let mut response = Response::new(passage.reply(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/xml;charset=UTF-8"));
    if let Ok(value) = header::HeaderValue::from_str(&answer.request_id) {
        headers.insert("x-amzn-requestid", value);
    }
    response
}

/// A response of which nothing is sent: its body fails before the head is
/// flushed, and the connection closes.
pub(crate) fn dropped_connection() -> Response<Body> {
    let failure =
        futures::stream::once(async { Err::<Bytes, io::Error>(io::ErrorKind::ConnectionAborted.into()) });
    Response::new(Body::from_stream(failure))
}
