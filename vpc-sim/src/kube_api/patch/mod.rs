//! The patch formats: JSON patch, merge patch, strategic merge patch.

mod merge_keys;
mod strategic;

use serde_json::Value;

use super::error::ApiError;
use super::kinds::ResourceType;

/// The format of a patch, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchFormat {
    Json,
    Merge,
    Strategic,
}

impl PatchFormat {
    /// # Errors
    /// 415 for any other content type, server-side apply included.
    pub(super) fn of(content_type: &str) -> Result<Self, ApiError> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(ApiError::unsupported_media_type(
                    "server-side apply is not supported by this simulated API; use client-side apply \
                     (kubectl apply without --server-side), or a merge patch",
                ))
            }
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json; it was {other:?}"
            ))),
        }
    }
}

/// `current` with the patch applied.
///
/// # Errors
/// 400 or 422 for a patch that cannot be read or does not fit (500 for a
/// strategic one, as on the real server), 415 for a strategic merge patch of a
/// custom resource.
pub(super) fn apply(
    kind: &ResourceType,
    format: PatchFormat,
    patch: &Value,
    mut current: Value,
) -> Result<Value, ApiError> {
    match format {
        PatchFormat::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut current, &operations).map_err(|error| {
                ApiError::unprocessable(format!(
                    "the server rejected our request due to an error in our request: {error}"
                ))
            })?;
        }
        PatchFormat::Merge => {
            check_object(patch)?;
            json_patch::merge(&mut current, patch);
        }
        PatchFormat::Strategic if kind.is_custom() => {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json",
            ));
        }
        PatchFormat::Strategic => {
            check_object(patch)?;
            strategic::merge(&kind.kind, &mut current, patch).map_err(ApiError::unexplained)?;
        }
    }
    Ok(current)
}

fn check_object(patch: &Value) -> Result<(), ApiError> {
    if patch.is_object() {
        return Ok(());
    }
    Err(ApiError::bad_request("error decoding patch: it is not an object"))
}
