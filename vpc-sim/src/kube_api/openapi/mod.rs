//! OpenAPI, as much as kubectl needs of it.
//!
//! kubectl reads it to learn whether a kind takes `fieldValidation` and
//! `dryRun`; then it leaves the validation to the server, and takes the keys of
//! strategic merge patches from its own types. So the documents name paths,
//! kinds and parameters, and no schemas.

mod gnostic;

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::discovery::{self, VERSION};
use super::error::ApiError;
use super::kinds::ResourceType;

/// As clients ask for it there is an at sign in place of the first dot of the
/// version; but that is no valid media type, and newer clients refuse it.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Query parameters of a patch that clients look for.
const PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

/// `/openapi/v2`, in protobuf or JSON.
pub(super) fn v2(types: &[Arc<ResourceType>], accept: &str) -> Result<Response, ApiError> {
    if accept.contains("proto-openapi.spec.v2") {
        let content = [(header::CONTENT_TYPE, PROTOBUF)];
        return Ok((StatusCode::OK, content, document(types).encode_to_vec()).into_response());
    }
    let json = accept.trim().is_empty() || accept.contains("json") || accept.contains("*/*");
    if !json {
        return Err(ApiError::not_acceptable());
    }
    let mut paths = Map::new();
    for kind in types {
        let parameters: Vec<Value> = PARAMETERS
            .iter()
            .map(|name| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true}))
            .collect();
        paths.insert(object_path(kind), json!({"patch": operation(kind, parameters)}));
    }
    let document = json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": paths, "definitions": {},
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response())
}

/// `/openapi/v3`: where the document of each group and version is.
pub(super) fn v3_index(types: &[Arc<ResourceType>]) -> Value {
    let mut paths = Map::new();
    for group in discovery::group_names(types) {
        for version in discovery::versions(types, group) {
            let name =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{name}");
            paths.insert(name, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/{api/v1 or apis/group/version}`.
pub(super) fn v3(types: &[Arc<ResourceType>], name: &str) -> Option<Value> {
    let (group, version) = match name.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let mut paths = Map::new();
    for kind in discovery::of_version(types, group, version) {
        let parameters: Vec<Value> = PARAMETERS
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        paths.insert(object_path(kind), json!({"patch": operation(kind, parameters)}));
    }
    if paths.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": paths,
        "components": {"schemas": {}},
    }))
}

fn operation(kind: &ResourceType, parameters: Vec<Value>) -> Value {
    json!({
        "operationId": format!("patch{}{}", kind.version, kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    })
}

/// The path of one object, with parameters in braces.
fn object_path(kind: &ResourceType) -> String {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let within = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("{root}/{}/{within}{}/{{name}}", kind.version, kind.plural)
}

/// The v2 document as protobuf messages.
fn document(types: &[Arc<ResourceType>]) -> gnostic::Document {
    let paths = types
        .iter()
        .map(|kind| {
            let named = gnostic::NamedAny {
                name: "x-kubernetes-group-version-kind".into(),
                value: Some(gnostic::Any {
                    // JSON is YAML.
                    yaml: json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
                        .to_string(),
                }),
            };
            let patch = gnostic::Operation {
                operation_id: format!("patch{}{}", kind.version, kind.kind),
                parameters: PARAMETERS.iter().map(|name| gnostic::ParametersItem::query(name)).collect(),
                vendor_extension: vec![named],
            };
            gnostic::NamedPathItem {
                name: object_path(kind),
                value: Some(gnostic::PathItem { patch: Some(patch) }),
            }
        })
        .collect();
    gnostic::Document {
        swagger: "2.0".into(),
        info: Some(gnostic::Info { title: "Kubernetes".into(), version: VERSION.into() }),
        paths: Some(gnostic::Paths { path: paths }),
        definitions: Some(gnostic::Definitions {}),
    }
}
