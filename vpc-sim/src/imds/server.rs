//! The metadata service over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::token::Tokens;
use super::tree::Tree;
use crate::ec2::{Cloud, FaultRule, InstanceId, dropped_connection};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// How a request's instance is found.
#[derive(Clone)]
pub enum Resolver {
    /// The listener serves one instance.
    Fixed(InstanceId),
    /// By the peer's address, which the instance must hold on an interface. The
    /// listener must be served with
    /// `into_make_service_with_connect_info::<SocketAddr>()`; without it, and
    /// for strangers, the answer is 404.
    PeerAddress,
    /// By a function of the peer's address, served as above.
    Function(Arc<dyn Fn(SocketAddr) -> Option<InstanceId> + Send + Sync>),
}

#[derive(Clone)]
struct Service {
    cloud: Arc<Cloud>,
    resolver: Resolver,
    tokens: Arc<Tokens>,
}

/// Serves the metadata of instances on every path: `PUT /latest/api/token`, and
/// `GET` with a token for everything else.
pub fn router(cloud: Arc<Cloud>, resolver: Resolver) -> Router {
    let service = Service { cloud, resolver, tokens: Arc::default() };
    Router::new().fallback(serve).with_state(service)
}

async fn serve(State(service): State<Service>, request: Request<Body>) -> Response<Body> {
    let Some(instance) = service.instance(&request) else {
        return plain(StatusCode::NOT_FOUND, "");
    };
    let path = request.uri().path();
    let node = service.node(&instance);
    if let Some(fault) = service.cloud.imds_request(&node, path) {
        return fail(&fault).await;
    }
    if path.trim_end_matches('/') == "/latest/api/token" {
        return service.issue(&instance, request.method(), request.headers());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    service.tell(&instance, path, request.headers())
}

impl Service {
    fn instance(&self, request: &Request<Body>) -> Option<InstanceId> {
        let peer = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        match &self.resolver {
            Resolver::Fixed(instance) => Some(instance.clone()),
            Resolver::PeerAddress => self.cloud.instance_by_address(peer()?.ip().to_canonical()),
            Resolver::Function(find) => find(peer()?),
        }
    }

    fn node(&self, instance: &InstanceId) -> String {
        self.cloud.with_state(|state, _| {
            state.instances.get(instance).map(|held| held.node.clone()).unwrap_or_default()
        })
    }

    fn issue(&self, instance: &InstanceId, method: &Method, headers: &HeaderMap) -> Response<Body> {
        if method != Method::PUT {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "");
        }
        // A proxy in front may be one that an attacker talks through.
        if headers.contains_key("x-forwarded-for") {
            return plain(StatusCode::FORBIDDEN, "");
        }
        let now = self.cloud.with_state(|_, now| now);
        let ttl = headers.get(TOKEN_TTL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some((token, seconds)) = self.tokens.issue(instance, now, ttl) else {
            return plain(StatusCode::BAD_REQUEST, "");
        };
        let mut response = plain(StatusCode::OK, &token);
        response.headers_mut().insert(TOKEN_TTL, HeaderValue::from(seconds));
        response
    }

    fn tell(&self, instance: &InstanceId, path: &str, headers: &HeaderMap) -> Response<Body> {
        let token = headers.get(TOKEN).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let found = self.cloud.with_state(|state, now| {
            if !self.tokens.is_good(instance, now, token) {
                return Err(StatusCode::UNAUTHORIZED);
            }
            let text = Tree::of(state, instance, now).and_then(|tree| tree.get(path));
            text.ok_or(StatusCode::NOT_FOUND)
        });
        match found {
            Ok(text) => plain(StatusCode::OK, &text),
            Err(status) => plain(status, ""),
        }
    }
}

async fn fail(fault: &FaultRule) -> Response<Body> {
    match fault.kind.as_str() {
        "timeout_after_effect" => {
            tokio::time::sleep(Duration::from_millis(fault.hold_ms.unwrap_or(600_000))).await;
            dropped_connection()
        }
        "unauthorized" => plain(StatusCode::FORBIDDEN, ""),
        "throttle" => plain(StatusCode::TOO_MANY_REQUESTS, ""),
        _ => {
            let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
            plain(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "")
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::SERVER, HeaderValue::from_static("EC2ws"));
    response
}
