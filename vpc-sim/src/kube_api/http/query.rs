//! Query parameters.

use super::super::error::{ApiError, FieldFault};
use super::super::kinds::{ResourceType, known_fields};
use super::super::selector::{FieldSelector, LabelSelector, Selector};
use super::super::store::{ListQuery, Strictness, VersionMatch, WriteOptions};
use serde_json::json;

/// The parameters of a request, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter; empty if it is missing.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.as_str())
    }

    /// Present and not `false` or `0`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|(name, value)| name == key && !matches!(value.as_str(), "false" | "0"))
    }

    /// A flag that was given, whatever its value.
    pub(super) fn tristate(&self, key: &str) -> Option<bool> {
        self.0.iter().any(|(name, _)| name == key).then(|| self.flag(key))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }

    /// Both selectors, if `kind` knows the fields.
    pub(super) fn selector(&self, kind: &ResourceType) -> Result<Selector, ApiError> {
        let (labels, fields) = (self.get("labelSelector"), self.get("fieldSelector"));
        let selector = Selector {
            labels: LabelSelector::parse(labels).map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(fields).map_err(ApiError::bad_request)?,
        };
        for path in selector.fields.paths() {
            let known = path == "metadata.name"
                || path == "metadata.namespace" && kind.namespaced
                || known_fields(kind).contains(&path);
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
        }
        Ok(selector)
    }

    /// The parameters of a list.
    pub(super) fn list(&self, kind: &ResourceType) -> Result<ListQuery, ApiError> {
        let version = self.version()?;
        let matching = self.matching()?;
        let resume = Some(self.get("continue")).filter(|token| !token.is_empty()).map(str::to_owned);
        let mut faults = Vec::new();
        if self.tristate("sendInitialEvents").is_some() {
            faults
                .push(FieldFault::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if let Some(matching) = matching {
            let field = "resourceVersionMatch";
            if version.is_none() {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                faults.push(FieldFault::forbidden(field, detail));
            }
            if resume.is_some() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                faults.push(FieldFault::forbidden(field, detail));
            }
            if matching == VersionMatch::Exact && version == Some(0) {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                faults.push(FieldFault::forbidden(field, detail));
            }
        }
        if !faults.is_empty() {
            return Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &faults));
        }
        if resume.is_some() && version.is_some_and(|version| version > 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(why));
        }
        let limit = usize::try_from(self.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        Ok(ListQuery { selector: self.selector(kind)?, version, matching, limit, resume })
    }

    /// `resourceVersion`, if it is given.
    pub(super) fn version(&self) -> Result<Option<u64>, ApiError> {
        match self.get("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: \
                     parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }

    /// `resourceVersionMatch`, if it is given.
    pub(super) fn matching(&self) -> Result<Option<VersionMatch>, ApiError> {
        match self.get("resourceVersionMatch") {
            "" => Ok(None),
            "NotOlderThan" => Ok(Some(VersionMatch::NotOlderThan)),
            "Exact" => Ok(Some(VersionMatch::Exact)),
            other => {
                let allowed = ["Exact", "NotOlderThan", ""];
                let fault = FieldFault::unsupported("resourceVersionMatch", &json!(other), &allowed);
                Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &[fault]))
            }
        }
    }

    /// `dryRun`: `All` or nothing.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let fault = FieldFault::unsupported("dryRun", &json!([other]), &["All"]);
                Err(ApiError::invalid_kind("meta.k8s.io", "CreateOptions", "", &[fault]))
            }
        }
    }

    /// `dryRun` and `fieldValidation`.
    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let strictness = match self.get("fieldValidation") {
            "" | "Warn" => Strictness::Warn,
            "Ignore" => Strictness::Ignore,
            "Strict" => Strictness::Strict,
            other => {
                let allowed = ["", "Ignore", "Strict", "Warn"];
                let fault = FieldFault::unsupported("fieldValidation", &json!(other), &allowed);
                return Err(ApiError::invalid_kind("meta.k8s.io", "CreateOptions", "", &[fault]));
            }
        };
        Ok(WriteOptions { dry_run: self.dry_run()?, strictness, with_status: false })
    }
}

/// Percent-decoding; in queries a plus sign is a space. What is no valid
/// escape stays as it is.
pub(super) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |at: usize| bytes.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding() {
        let query =
            Query::parse("labelSelector=a%3Db%2Cc%20in+(d)&watch=1&limit=5&x=%zz&sendInitialEvents=false");
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
        assert_eq!(query.number("limit").expect("a number"), Some(5));
        assert_eq!(query.get("x"), "%zz");
        assert_eq!(query.tristate("sendInitialEvents"), Some(false));
        assert_eq!(query.tristate("missing"), None);
    }
}
