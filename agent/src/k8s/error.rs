//! What can go wrong with the Kubernetes API.

use std::time::Duration;

/// An error of a request or a watch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No configuration was found or it is broken.
    #[error("no usable Kubernetes configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API answered with an error or not at all.
    #[error("{operation} {path} failed")]
    Request {
        /// What was tried: list, watch, get or create.
        operation: &'static str,
        /// The path of the resource.
        path: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("{operation} {path} had no answer within {after:?}")]
    Silent {
        /// What was tried.
        operation: &'static str,
        /// The path of the resource.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The watch ended with an error event.
    #[error("watch of {path} ended with {code} {reason}: {message}")]
    Ended {
        /// The path of the resource.
        path: String,
        /// The code of the status, as of HTTP.
        code: u16,
        /// The reason of the status.
        reason: String,
        /// Its message.
        message: String,
    },
    /// The answer was not what the API promises.
    #[error("{operation} {path}: {what}")]
    Answer {
        /// What was tried.
        operation: &'static str,
        /// The path of the resource.
        path: String,
        /// What was wrong.
        what: String,
    },
}

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It is worth trying again.
    Retry,
    /// The server asks for patience.
    Throttled,
    /// The version asked for is gone; everything must be listed anew.
    Expired,
    /// The request itself is not understood by this server.
    Unsupported,
    /// We may not do this.
    Denied,
    /// The object or the kind is not there.
    Missing,
    /// The configuration is broken.
    Config,
}

impl Error {
    /// What can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_) => ErrorClass::Config,
            Self::Silent { .. } | Self::Answer { .. } => ErrorClass::Retry,
            Self::Ended { code, reason, .. } => Self::of_status(*code, reason),
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Self::of_status(status.code, &status.reason),
                _ => ErrorClass::Retry,
            },
        }
    }

    fn of_status(code: u16, reason: &str) -> ErrorClass {
        match code {
            410 => ErrorClass::Expired,
            // The status of an error event may lack the code.
            0 if matches!(reason, "Expired" | "Gone") => ErrorClass::Expired,
            429 => ErrorClass::Throttled,
            401 | 403 => ErrorClass::Denied,
            404 => ErrorClass::Missing,
            400 | 405 | 406 | 415 | 422 => ErrorClass::Unsupported,
            _ => ErrorClass::Retry,
        }
    }
}

impl ErrorClass {
    /// The word for logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Throttled => "throttled",
            Self::Expired => "expired",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::Missing => "missing",
            Self::Config => "config",
        }
    }
}
