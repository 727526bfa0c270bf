//! Get and list.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use super::super::error::ApiError;
use super::super::store::Store;
use super::Call;
use super::path::Target;
use super::render::{Form, json_response};

/// How long a request for a version of the future waits for it.
const WAIT_FOR_VERSION: Duration = Duration::from_secs(3);

pub(super) fn get(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let name = target.name.as_deref().unwrap_or_default();
    let object = call.store.get(&target.kind, target.namespace.as_deref(), name)?;
    Ok(form.respond(StatusCode::OK, &target.kind, &object))
}

pub(super) async fn list(call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let query = call.query.list(&target.kind)?;
    if let Some(version) = query.version {
        wait_for_version(&call.store, version).await?;
    }
    let page = call.store.list(&target.kind, target.namespace.as_deref(), &query)?;
    Ok(json_response(StatusCode::OK, form.list(&target.kind, &page)))
}

/// Waits until the store has reached `version`.
///
/// # Errors
/// 504 if it doesn't within some seconds.
pub(super) async fn wait_for_version(store: &Store, version: u64) -> Result<(), ApiError> {
    const STEP: Duration = Duration::from_millis(50);
    let deadline = tokio::time::Instant::now() + WAIT_FOR_VERSION;
    loop {
        let current = store.version();
        if current >= version {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(ApiError::too_large_version(version, current));
        }
        tokio::time::sleep(STEP).await;
    }
}
