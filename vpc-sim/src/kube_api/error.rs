//! Refusals, as the `Status` object that Kubernetes clients read.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::kinds::ResourceType;

/// One field that did not pass, in a 422.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldFault {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl FieldFault {
    pub(super) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    pub(super) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {value}: {detail}");
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    pub(super) fn unsupported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let list: Vec<String> = allowed.iter().map(|one| format!("{one:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    pub(super) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        let message = format!("Forbidden: {detail}");
        Self { field: field.into(), reason: "FieldValueForbidden", message }
    }

    pub(super) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {value}");
        Self { field: field.into(), reason: "FieldValueDuplicate", message }
    }
}

/// A refusal with everything that its `Status` says.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    code: u16,
    reason: &'static str,
    message: String,
    /// Boxed, so that results stay small.
    details: Option<Box<Value>>,
    retry_after: Option<u32>,
    /// `metadata.continue` of an expired continue token.
    resume: Option<String>,
    plain_text: bool,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            retry_after: None,
            resume: None,
            plain_text: false,
        }
    }

    /// With empty details, as where the real server knows no more.
    fn vague(mut self) -> Self {
        self.details = Some(Box::new(json!({})));
        self
    }

    fn about(mut self, kind: &ResourceType, name: &str) -> Self {
        self.details = Some(Box::new(details(&kind.group, &kind.plural, name)));
        self
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The machine-readable reason, such as `NotFound`.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub(super) fn not_found(kind: &ResourceType, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.qualified())).about(kind, name)
    }

    pub(super) fn namespace_not_found(name: &str) -> Self {
        let mut error = Self::new(404, "NotFound", format!("namespaces {name:?} not found"));
        error.details = Some(Box::new(details("", "namespaces", name)));
        error
    }

    /// A resource that a served group and version doesn't have.
    pub(super) fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").vague()
    }

    /// A path that nothing serves; the real server answers in plain text.
    pub(super) fn no_such_path() -> Self {
        Self { plain_text: true, ..Self::new(404, "NotFound", "404 page not found\n") }
    }

    pub(super) fn already_exists(kind: &ResourceType, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// The object is not the one that the request means.
    pub(super) fn other_object(kind: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.kind);
        let mut error = Self::new(409, "Conflict", message);
        error.details = Some(Box::new(details("", &kind.kind, name)));
        error
    }

    pub(super) fn conflict(kind: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The object was changed since the version that the writer had read.
    pub(super) fn modified(kind: &ResourceType, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub(super) fn forbidden(kind: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.qualified());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    pub(super) fn terminating(kind: &ResourceType, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden(kind, name, &why);
        if let Some(Value::Object(details)) = error.details.as_deref_mut() {
            details.insert(
                "causes".into(),
                json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]),
            );
        }
        error
    }

    pub(super) fn invalid(kind: &ResourceType, name: &str, faults: &[FieldFault]) -> Self {
        Self::invalid_kind(&kind.group, &kind.kind, name, faults)
    }

    /// A 422 about an object or about options (`ListOptions`, group `meta.k8s.io`).
    pub(super) fn invalid_kind(group: &str, kind: &str, name: &str, faults: &[FieldFault]) -> Self {
        let lines: Vec<String> = faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes: Vec<Value> = faults
            .iter()
            .map(|f| json!({"reason": f.reason, "message": f.message, "field": f.field}))
            .collect();
        let mut all = details(group, kind, name);
        all["causes"] = Value::Array(causes);
        let mut error = Self::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {list}"));
        error.details = Some(Box::new(all));
        error
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A patch that can be read but does not fit the object.
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message).vague()
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .vague()
    }

    pub(super) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;stream=watch";
        Self::new(406, "NotAcceptable", message).vague()
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub(super) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message).vague()
    }

    /// The version lies before what the history still holds.
    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// A continue token whose version is gone; `resume` continues inconsistently.
    pub(super) fn expired_continue(resume: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. \
            You can start a new list without the continue parameter, or use the continue token in this \
            response to retrieve the remainder of the results. Continuing with the provided token results \
            in an inconsistent list - objects that were created, modified, or deleted between the time the \
            first chunk was returned and now may show up in the list.";
        Self { resume: Some(resume), ..Self::new(410, "Expired", message) }
    }

    /// A version that this store has not reached yet.
    pub(super) fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", message);
        error.details = Some(Box::new(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        })));
        error.retry_after = Some(1);
        error
    }

    /// What a watch meets for a moment after the history was lost.
    pub(super) fn initializing() -> Self {
        let mut error = Self::new(429, "TooManyRequests", "storage is (re)initializing");
        error.details = Some(Box::new(json!({"retryAfterSeconds": 1})));
        error.retry_after = Some(1);
        error
    }

    pub(super) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// A failure for which the real server gives no reason.
    pub(super) fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// A failure that a test asked for, in the form a real server gives it.
    pub(super) fn injected(code: u16, retry_after: Option<u32>) -> Self {
        let mut error = match code {
            429 => Self {
                plain_text: true,
                ..Self::new(429, "TooManyRequests", "Too many requests, please try again later.\n")
            },
            401 => Self::new(401, "Unauthorized", "Unauthorized"),
            403 => Self::new(403, "Forbidden", "injected fault"),
            404 => Self::new(404, "NotFound", "injected fault"),
            409 => Self::new(409, "Conflict", "injected fault"),
            410 => Self::new(410, "Expired", "injected fault"),
            500 => Self::internal("injected fault"),
            503 => Self::new(503, "ServiceUnavailable", "injected fault"),
            504 => Self::new(504, "Timeout", "injected fault"),
            _ => Self::new(code, "Unknown", "injected fault"),
        };
        error.retry_after = retry_after;
        error
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut metadata = json!({});
        if let Some(resume) = &self.resume {
            metadata["continue"] = json!(resume);
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = (**details).clone();
        }
        status["code"] = json!(self.code);
        status
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[key] = json!(value);
        }
    }
    details
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = if self.plain_text {
            (code, self.message).into_response()
        } else {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (code, json, self.status().to_string()).into_response()
        };
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
