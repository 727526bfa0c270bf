//! Request bodies.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use serde_json::Value;

use super::super::error::ApiError;
use super::super::protobuf::{self, ProtobufError};

/// The same limit as the real server's.
const LIMIT_BYTES: usize = 3 << 20;

/// The content type of a request; empty if it says none.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Reads a whole body.
pub(super) async fn read(body: Body) -> Result<axum::body::Bytes, ApiError> {
    to_bytes(body, LIMIT_BYTES).await.map_err(|error| {
        ApiError::too_large(format!("cannot read the body (limit is {LIMIT_BYTES} bytes): {error}"))
    })
}

/// Reads an object in JSON, YAML or protobuf; `None` if the body is empty.
///
/// # Errors
/// 415 for another content type, 400 for what cannot be parsed.
pub(super) async fn read_object(headers: &HeaderMap, body: Body) -> Result<Option<Value>, ApiError> {
    let media_type = content_type(headers).split(';').next().unwrap_or_default().trim().to_owned();
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let broken = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
    };
    match media_type.as_str() {
        "" | "application/json" | "*/*" => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(&error))
        }
        "application/yaml" => serde_yaml_ng::from_slice(&bytes).map(Some).map_err(|error| broken(&error)),
        protobuf::MEDIA_TYPE => protobuf::decode(&bytes).map(Some).map_err(|error| match error {
            ProtobufError::UnknownKind { .. } => ApiError::unsupported_media_type(error.to_string()),
            ProtobufError::NoMagic | ProtobufError::Malformed => broken(&error),
        }),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf; it was {other:?}"
        ))),
    }
}
