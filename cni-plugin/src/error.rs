//! Everything that can go wrong, and its CNI code.

use std::{fmt::Write as _, io};

use rpc::{ClientError, Refusal, code};
use serde::Serialize;
use thiserror::Error as ThisError;

use crate::version::Version;

/// Why a verb fails.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error("{name} is missing")]
    MissingVariable { name: &'static str },
    #[error("{name} is not valid: {problem}")]
    Variable { name: &'static str, problem: String },
    #[error("standard input cannot be read")]
    Stdin(#[source] io::Error),
    #[error("the network configuration is not JSON of its form")]
    Json(#[source] serde_json::Error),
    #[error("{field}: version {given:?} is not supported (0.4.0, 1.0.0, 1.1.0 are)")]
    Version { field: &'static str, given: String },
    #[error("{verb} needs cniVersion {needed} or newer")]
    VerbVersion { verb: &'static str, needed: &'static str },
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
    #[error("{field} is not supported")]
    Unsupported { field: &'static str },
    #[error("the network namespace {path} cannot be entered")]
    Namespace {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{ifname} exists in the sandbox and is not ours")]
    ForeignInterface { ifname: String },
    #[error("netlink")]
    Netlink(#[from] netlink::Error),
    #[error("agent")]
    Agent(#[from] ClientError),
    #[error("the agent refuses: {0}")]
    Refused(Refusal),
    #[error("the agent answered {verb} with another verb's answer")]
    Answer { verb: &'static str },
    #[error("the attachment is not as it was made: {problem}")]
    Check { problem: String },
    #[error("not done before the deadline")]
    Deadline,
    /// DEL goes on past errors: the first, and what else failed.
    #[error("{first}; then {others}")]
    Several { first: Box<Error>, others: String },
}

/// The JSON of a CNI error.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Error {
    /// The one place where errors become CNI codes.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::MissingVariable { .. } | Self::Variable { .. } => code::INVALID_ENVIRONMENT,
            // A path that leads nowhere: the container went away meanwhile.
            Self::Namespace { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                code::UNKNOWN_CONTAINER
            }
            Self::Namespace { .. } => code::INVALID_ENVIRONMENT,
            Self::Stdin(_) => code::IO_FAILURE,
            Self::Json(_) => code::DECODING_FAILURE,
            Self::Version { .. } | Self::VerbVersion { .. } => code::INCOMPATIBLE_VERSION,
            Self::Field { .. } => code::INVALID_CONFIGURATION,
            Self::Unsupported { .. } => code::UNSUPPORTED_FIELD,
            Self::Agent(error) if error.is_deadline() || error.is_restart() => code::TRY_AGAIN_LATER,
            Self::Deadline | Self::Netlink(netlink::Error::Deadline { .. }) => code::TRY_AGAIN_LATER,
            Self::Netlink(_) | Self::Agent(_) => code::IO_FAILURE,
            Self::Refused(refusal) => refusal.code,
            Self::Answer { .. } => code::DECODING_FAILURE,
            Self::ForeignInterface { .. } | Self::Check { .. } => code::PLUGIN_SPECIFIC,
            Self::Several { first, .. } => first.code(),
        }
    }

    /// The error and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Writing to a String does not fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }

    pub(crate) fn to_json(&self, version: Version) -> String {
        let chain = self.chain();
        let details = match self {
            Self::Refused(refusal) => refusal.reason.clone(),
            _ => String::new(),
        };
        let document =
            Document { cni_version: version.as_str(), code: self.code(), msg: &chain, details: &details };
        // Four strings and numbers: there is nothing that could fail.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// Joins the errors of steps that were all tried.
    pub(crate) fn join(errors: Vec<Self>) -> Result<(), Self> {
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else {
            return Ok(());
        };
        let others: Vec<String> = errors.map(|error| error.chain()).collect();
        if others.is_empty() {
            return Err(first);
        }
        Err(Self::Several { first: Box::new(first), others: others.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_version_code_and_cause() {
        let error = Error::Namespace { path: "/proc/1/ns/net".into(), source: io::Error::other("no") };
        assert_eq!(
            error.to_json(Version::V0_4_0),
            r#"{"cniVersion":"0.4.0","code":4,"msg":"the network namespace /proc/1/ns/net cannot be entered: no"}"#
        );
        let refusal = Refusal::new(11, "subnet-full", "subnet-1 has no free address");
        assert_eq!(
            Error::Refused(refusal).to_json(Version::V1_1_0),
            r#"{"cniVersion":"1.1.0","code":11,"msg":"the agent refuses: subnet-1 has no free address (subnet-full)","details":"subnet-full"}"#
        );
    }

    #[test]
    fn several_errors_are_one() {
        assert!(Error::join(vec![]).is_ok());
        let joined = Error::join(vec![Error::Deadline, Error::MissingVariable { name: "CNI_IFNAME" }]);
        let error = joined.expect_err("two errors");
        assert_eq!(error.code(), code::TRY_AGAIN_LATER);
        assert_eq!(error.chain(), "not done before the deadline; then CNI_IFNAME is missing");
    }
}
