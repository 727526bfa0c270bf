//! Faults that are set for the next calls of an operation.

use serde::{Deserialize, Serialize};

/// The operation name that stands for the metadata service.
pub const IMDS_OPERATION: &str = "IMDS";

/// A fault for the next calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The operation, for example `CreateNetworkInterface`; `IMDS` for any
    /// request to the metadata service; `*` for any operation of EC2.
    pub operation: String,
    /// `throttle`, `server_error`, `timeout_after_effect`, `unauthorized`, or a
    /// code of EC2's, which is answered as it is.
    pub kind: String,
    /// How many calls it hits.
    #[serde(default = "once")]
    pub count: u32,
    /// The node whose calls it hits; without one, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// For `server_error`: 500 (InternalError, the default) or 503 (Unavailable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// For `timeout_after_effect`: milliseconds until the connection is dropped
    /// without an answer. 0 drops it at once; without it, after 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    /// For a code of EC2's: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn once() -> u32 {
    1
}

/// What is wrong with a fault that was to be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// No operation has that name.
    #[error("no operation is called {0}")]
    Operation(String),
    /// Neither a kind of fault nor the shape of a code.
    #[error("{0} is neither a kind of fault nor a code of EC2's")]
    Kind(String),
    /// Something is set that has no meaning with that kind.
    #[error("{field} has no meaning for a fault of kind {kind}")]
    Meaningless {
        /// What is set.
        field: &'static str,
        /// The fault's kind.
        kind: String,
    },
    /// Only 500 and 503 are known.
    #[error("a server error has status 500 or 503, not {0}")]
    Status(u16),
}

impl FaultRule {
    /// A fault of a kind for the next `count` calls of an operation, on all nodes.
    pub fn new(operation: &str, kind: &str, count: u32) -> Self {
        Self {
            operation: operation.to_owned(),
            kind: kind.to_owned(),
            count,
            node: None,
            status: None,
            hold_ms: None,
            message: None,
        }
    }

    /// Checks the fault; `known` tells operations.
    pub(crate) fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), FaultError> {
        let operation = self.operation.as_str();
        if operation != "*" && operation != IMDS_OPERATION && !known(operation) {
            return Err(FaultError::Operation(self.operation.clone()));
        }
        let named = matches!(
            self.kind.as_str(),
            "throttle" | "server_error" | "timeout_after_effect" | "unauthorized"
        );
        let is_code = self.kind.starts_with(|c: char| c.is_ascii_uppercase())
            && self.kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if !named && !is_code {
            return Err(FaultError::Kind(self.kind.clone()));
        }
        for (field, is_set, has_meaning) in [
            ("status", self.status.is_some(), self.kind == "server_error"),
            ("hold_ms", self.hold_ms.is_some(), self.kind == "timeout_after_effect"),
            ("message", self.message.is_some(), is_code),
        ] {
            if is_set && !has_meaning {
                return Err(FaultError::Meaningless { field, kind: self.kind.clone() });
            }
        }
        match self.status {
            Some(status) if status != 500 && status != 503 => Err(FaultError::Status(status)),
            _ => Ok(()),
        }
    }
}

/// The faults that wait for their calls, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FaultRule>);

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        if rule.count > 0 {
            self.0.push(rule);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn waiting(&self) -> &[FaultRule] {
        &self.0
    }

    /// The fault that hits this call, which it uses up.
    pub(crate) fn draw(&mut self, operation: &str, node: &str) -> Option<FaultRule> {
        let hit = self.0.iter().position(|rule| {
            let any = rule.operation == "*" && operation != IMDS_OPERATION;
            (any || rule.operation == operation) && rule.node.as_deref().is_none_or(|only| only == node)
        })?;
        let rule = self.0[hit].clone();
        self.0[hit].count -= 1;
        if self.0[hit].count == 0 {
            self.0.remove(hit);
        }
        Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_as_often_as_it_says_and_where() {
        let mut faults = Faults::default();
        let mut rule = FaultRule::new("CreateTags", "throttle", 2);
        rule.node = Some("a".into());
        faults.add(rule);
        faults.add(FaultRule::new("*", "unauthorized", 1));
        faults.add(FaultRule::new(IMDS_OPERATION, "server_error", 1));
        let mut kind = |operation: &str, node: &str| faults.draw(operation, node).map(|rule| rule.kind);
        assert_eq!(kind("CreateTags", "a").as_deref(), Some("throttle"));
        assert_eq!(kind("CreateTags", "b").as_deref(), Some("unauthorized"));
        assert_eq!(kind("CreateTags", "b"), None);
        assert_eq!(kind("CreateTags", "a").as_deref(), Some("throttle"));
        assert_eq!(kind("CreateTags", "a"), None);
        assert_eq!(kind(IMDS_OPERATION, "a").as_deref(), Some("server_error"));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let base = || FaultRule::new("CreateTags", "throttle", 1);
        for (rule, expected) in [
            (base(), true),
            (FaultRule { operation: "Create".into(), ..base() }, false),
            (FaultRule { kind: "slow".into(), ..base() }, false),
            (FaultRule { kind: "InvalidSubnetID.NotFound".into(), ..base() }, true),
            (FaultRule { hold_ms: Some(1), ..base() }, false),
            (FaultRule { message: Some("m".into()), ..base() }, false),
            (FaultRule { kind: "server_error".into(), status: Some(503), ..base() }, true),
            (FaultRule { kind: "server_error".into(), status: Some(404), ..base() }, false),
        ] {
            let result = rule.check(|operation| operation == "CreateTags");
            assert_eq!(result.is_ok(), expected, "{rule:?} {result:?}");
        }
    }
}
