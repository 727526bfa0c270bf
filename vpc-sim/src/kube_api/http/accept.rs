//! Which form of the answer the client asks for.

use super::super::error::ApiError;

/// A form in which objects can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The objects themselves.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, as kubectl prints it.
    Table,
}

impl View {
    /// The first form in an `Accept` header that can be served.
    ///
    /// # Errors
    /// 406 if there is none, such as when only protobuf is accepted.
    pub(super) fn negotiate(accept: &str) -> Result<Self, ApiError> {
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        ranges(accept).find_map(|range| range.view()).ok_or_else(ApiError::not_acceptable)
    }
}

/// Whether the aggregated form of discovery is asked for (in its v2).
pub(super) fn wants_aggregated_discovery(accept: &str) -> bool {
    ranges(accept).any(|range| {
        range.is_json()
            && range.parameter("as") == Some("APIGroupDiscoveryList")
            && range.parameter("v") == Some("v2")
            && range.parameter("g") == Some("apidiscovery.k8s.io")
    })
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media_type, "application/json" | "application/*" | "*/*")
    }

    fn view(&self) -> Option<View> {
        if !self.is_json() {
            return None;
        }
        let Some(wanted) = self.parameter("as") else { return Some(View::Whole) };
        if self.parameter("g") != Some("meta.k8s.io") || self.parameter("v") != Some("v1") {
            return None;
        }
        match wanted {
            "Table" => Some(View::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Metadata),
            _ => None,
        }
    }
}

fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        Range { media_type, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_possible_form_is_taken() {
        for (accept, expected) in [
            ("", Some(View::Whole)),
            ("*/*", Some(View::Whole)),
            ("application/json", Some(View::Whole)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(View::Whole)),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(View::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", Some(View::Whole)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(View::Metadata)),
            ("text/html", None),
        ] {
            assert_eq!(View::negotiate(accept).ok(), expected, "{accept}");
        }
    }
}
