//! Create, replace, patch, delete, and the binding of pods.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::error::{ApiError, FieldFault};
use super::super::kinds::ResourceType;
use super::super::lookup::{int, text};
use super::super::patch::{self, PatchFormat};
use super::super::store::{DeleteOptions, Deleted, ListPage, Part, Stored, Written};
use super::Call;
use super::body;
use super::path::Target;
use super::render::{Form, json_response, warn};

/// The body's object, which must be there.
async fn object(call: &mut Call) -> Result<Value, ApiError> {
    let body = std::mem::take(&mut call.body);
    body::read_object(&call.headers, body)
        .await?
        .ok_or_else(|| ApiError::bad_request("the request needs an object in its body"))
}

pub(super) async fn create(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let options = call.query.write_options()?;
    let value = object(&mut call).await?;
    let written = call.store.create(&target.kind, target.namespace.as_deref(), value, &options)?;
    Ok(respond(form, StatusCode::CREATED, target, &written))
}

pub(super) async fn bind(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let dry_run = call.query.dry_run()?;
    let binding = object(&mut call).await?;
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    call.store.bind(namespace, name, &binding, dry_run)?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    Ok(json_response(StatusCode::CREATED, status.to_string().into()))
}

pub(super) async fn replace(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let options = call.query.write_options()?;
    let value = object(&mut call).await?;
    let kind = &target.kind;
    let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    let part = part(target);
    let found = text(&value, &["metadata", "name"]);
    if found != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        )));
    }
    let missing = part == Part::Main
        && kind.creates_on_put()
        && call.store.get(kind, namespace, name).is_err_and(|error| error.code() == 404);
    if missing && text(&value, &["metadata", "resourceVersion"]).is_empty() {
        let written = call.store.create(kind, namespace, value, &options)?;
        return Ok(respond(form, StatusCode::CREATED, target, &written));
    }
    let written = call.store.update(kind, (namespace, name), part, &options, |_| Ok(value))?;
    Ok(respond(form, StatusCode::OK, target, &written))
}

pub(super) async fn patch(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let options = call.query.write_options()?;
    let format = PatchFormat::of(body::content_type(&call.headers))?;
    let bytes = body::read(std::mem::take(&mut call.body)).await?;
    let patch: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    let kind = &target.kind;
    let identity = (target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    let change = |current: Value| {
        let uid = current["metadata"]["uid"].clone();
        let patched = patch::apply(kind, format, &patch, current)?;
        let patched_uid = &patched["metadata"]["uid"];
        if !patched_uid.is_null() && *patched_uid != uid {
            let fault = FieldFault::invalid("metadata.uid", patched_uid, "field is immutable");
            return Err(ApiError::invalid(kind, identity.1, &[fault]));
        }
        Ok(patched)
    };
    let written = call.store.update(kind, identity, part(target), &options, change)?;
    Ok(respond(form, StatusCode::OK, target, &written))
}

fn part(target: &Target) -> Part {
    match target.subresource.as_deref() {
        Some("status") => Part::Status,
        Some("finalize") => Part::Finalize,
        _ => Part::Main,
    }
}

fn respond(form: Form, code: StatusCode, target: &Target, written: &Written) -> Response {
    warn(form.respond(code, &target.kind, &written.object), &written.warnings)
}

pub(super) async fn delete(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let options = delete_options(&mut call).await?;
    let name = target.name.as_deref().unwrap_or_default();
    let deleted = call.store.delete(&target.kind, target.namespace.as_deref(), name, &options)?;
    Ok(match deleted {
        Deleted::Removed(object) if !target.kind.returns_deleted() => {
            json_response(StatusCode::OK, success(&target.kind, &object).to_string().into())
        }
        Deleted::Removed(object) | Deleted::Marked(object) => {
            form.respond(StatusCode::OK, &target.kind, &object)
        }
    })
}

pub(super) async fn delete_collection(mut call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let query = call.query.list(&target.kind)?;
    let options = delete_options(&mut call).await?;
    let items = call.store.delete_all(&target.kind, target.namespace.as_deref(), &query, &options)?;
    let page = ListPage { version: call.store.version(), items, resume: None, remaining: None };
    Ok(json_response(StatusCode::OK, form.list(&target.kind, &page)))
}

/// `DeleteOptions`, from the body and the query. There is no garbage
/// collection here, so every propagation policy is the same.
async fn delete_options(call: &mut Call) -> Result<DeleteOptions, ApiError> {
    let body = std::mem::take(&mut call.body);
    let body = body::read_object(&call.headers, body).await?.unwrap_or(Value::Null);
    let precondition = |key: &str| {
        Some(text(&body, &["preconditions", key])).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let in_body = body["dryRun"].as_array().is_some_and(|list| list.iter().any(|one| one == "All"));
    let grace = match call.query.get("gracePeriodSeconds") {
        "" => int(&body, &["gracePeriodSeconds"]),
        seconds => Some(seconds.parse().map_err(|_| {
            ApiError::bad_request(format!("gracePeriodSeconds is not a number: {seconds:?}"))
        })?),
    };
    Ok(DeleteOptions {
        dry_run: call.query.dry_run()? || in_body,
        grace_seconds: grace,
        uid: precondition("uid"),
        version: precondition("resourceVersion"),
    })
}

fn success(kind: &ResourceType, object: &Stored) -> Value {
    let value = object.value(kind);
    let mut details = json!({"name": object.name});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    details["kind"] = json!(kind.plural);
    details["uid"] = value["metadata"]["uid"].clone();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}
