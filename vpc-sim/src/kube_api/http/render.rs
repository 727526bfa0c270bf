//! Objects as bytes, in the form that the client asked for.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kinds::ResourceType;
use super::super::store::{ListPage, Stored};
use super::super::table::{self, Include};
use super::accept::View;
use super::query::Query;

/// The form of an answer, from the request's headers and query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) view: View,
    pub(super) include: Include,
    /// Set for all but the first table of a watch.
    pub(super) omit_columns: bool,
}

impl Form {
    pub(super) fn of(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let include = match query.get("includeObject") {
            "None" => Include::Nothing,
            "Object" => Include::Object,
            _ => Include::Metadata,
        };
        Ok(Self { view: View::negotiate(accept)?, include, omit_columns: false })
    }

    /// Appends one object.
    pub(super) fn write_object(self, out: &mut Vec<u8>, kind: &ResourceType, object: &Stored) {
        match self.view {
            View::Whole if !kind.is_event_view() => {
                out.extend_from_slice(kind.head().as_bytes());
                out.extend_from_slice(object.tail());
            }
            View::Whole => out.extend_from_slice(object.value(kind).to_string().as_bytes()),
            View::Metadata => {
                let value = partial(&object.value(kind));
                out.extend_from_slice(value.to_string().as_bytes());
            }
            View::Table => {
                let value = object.value(kind);
                let meta = json!({"resourceVersion": object.version.to_string()});
                let mut table = table::table(kind, std::slice::from_ref(&value), self.include, &meta);
                if self.omit_columns {
                    table["columnDefinitions"] = Value::Null;
                }
                out.extend_from_slice(table.to_string().as_bytes());
            }
        }
    }

    /// A list of objects.
    pub(super) fn list(self, kind: &ResourceType, page: &ListPage) -> Bytes {
        let mut meta = json!({"resourceVersion": page.version.to_string()});
        match &page.resume {
            Some(resume) => meta["continue"] = json!(resume),
            // As the real server does, for custom resources only.
            None if kind.is_custom() && self.view == View::Whole => meta["continue"] = json!(""),
            None => {}
        }
        if let Some(remaining) = page.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        if self.view == View::Table {
            let values: Vec<Value> = page.items.iter().map(|object| object.value(kind)).collect();
            return table::table(kind, &values, self.include, &meta).to_string().into();
        }
        let (list_kind, version) = match self.view {
            View::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1".to_owned()),
            _ => (kind.list_kind.as_str(), kind.api_version()),
        };
        let size: usize = page.items.iter().map(|object| object.tail().len() + 80).sum();
        let mut out = Vec::with_capacity(size + 256);
        let head = format!(r#"{{"kind":"{list_kind}","apiVersion":"{version}","metadata":{meta},"items":["#);
        out.extend_from_slice(head.as_bytes());
        for (n, object) in page.items.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            // The items of a typed list don't repeat their type.
            if self.view == View::Whole && !kind.is_custom() && !kind.is_event_view() {
                out.push(b'{');
                out.extend_from_slice(object.tail());
            } else {
                self.write_object(&mut out, kind, object);
            }
        }
        out.extend_from_slice(b"]}");
        out.into()
    }

    /// An answer with one object.
    pub(super) fn respond(self, code: StatusCode, kind: &ResourceType, object: &Stored) -> Response {
        let mut out = Vec::with_capacity(object.tail().len() + 80);
        self.write_object(&mut out, kind, object);
        json_response(code, out.into())
    }
}

/// `PartialObjectMetadata` of an object.
fn partial(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": value["metadata"],
    })
}

pub(super) fn json_response(code: StatusCode, body: Bytes) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Adds a `Warning` header for each text.
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for text in warnings {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
