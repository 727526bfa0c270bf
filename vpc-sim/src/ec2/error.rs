//! What EC2 answers when it refuses: every code and message, in one place.

use std::borrow::Cow;
use std::fmt;

/// A refusal, as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// EC2's code.
    pub code: Cow<'static, str>,
    /// What it means here.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
}

/// The HTTP status that comes with a code.
fn status_of(code: &str) -> u16 {
    match code {
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        "InternalError" | "InternalFailure" => 500,
        "UnauthorizedOperation" => 403,
        "AuthFailure" => 401,
        "DryRunOperation" => 412,
        _ => 400,
    }
}

impl ApiError {
    /// An error of any code, with that code's status.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = status_of(&code);
        Self { code, message: message.into(), status }
    }

    pub(crate) fn throttled() -> Self {
        Self::new("RequestLimitExceeded", "Request limit exceeded.")
    }

    pub(crate) fn unauthorized(account: &str) -> Self {
        Self::new(
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: \
                 arn:aws:sts::{account}:assumed-role/vpc-sim-node is not authorized. \
                 Encoded authorization failure message: AAAAAAAAAAAAAAAAAAAAAAAA"
            ),
        )
    }

    pub(crate) fn server(status: u16) -> Self {
        let (code, message) = match status {
            503 => ("Unavailable", "The server is overloaded and can't handle the request."),
            _ => ("InternalError", "An internal error has occurred"),
        };
        Self { code: code.into(), message: message.to_owned(), status }
    }

    pub(crate) fn dry_run() -> Self {
        Self::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }

    pub(crate) fn unknown_action(action: &str) -> Self {
        Self::new("InvalidAction", format!("The action {action} is not valid for this web service."))
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
    }

    pub(crate) fn unknown_parameter(parameter: &str) -> Self {
        Self::new("UnknownParameter", format!("The parameter {parameter} is not recognized"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn invalid_value(parameter: &str, value: &str) -> Self {
        Self::invalid(format!("Value ({value}) for parameter {parameter} is invalid."))
    }

    pub(crate) fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    /// An id that exists nowhere. `kind` is as in the code: `InvalidSubnetID`.
    pub(crate) fn not_found(kind: IdKind, id: impl fmt::Display) -> Self {
        let (prefix, noun) = kind.words();
        Self::new(format!("{prefix}.NotFound"), format!("The {noun} '{id}' does not exist"))
    }

    pub(crate) fn malformed(kind: IdKind, id: &str) -> Self {
        let code = match kind {
            // EC2 writes this one with a lower-case d.
            IdKind::Interface => "InvalidNetworkInterfaceId.Malformed".to_owned(),
            IdKind::Group => "InvalidGroupId.Malformed".to_owned(),
            _ => format!("{}.Malformed", kind.words().0),
        };
        Self::new(code, format!("Invalid id: \"{id}\""))
    }

    pub(crate) fn subnet_is_full(subnet: impl fmt::Display) -> Self {
        Self::new(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "The specified subnet '{subnet}' does not have enough free addresses to satisfy the request."
            ),
        )
    }

    pub(crate) fn no_block_in_subnet(subnet: impl fmt::Display) -> Self {
        Self::new(
            "InsufficientCidrBlocks",
            format!(
                "The specified subnet '{subnet}' does not have enough free cidr blocks to satisfy the request."
            ),
        )
    }

    pub(crate) fn too_many_addresses() -> Self {
        Self::new("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    }

    pub(crate) fn incorrect_state(message: impl Into<String>) -> Self {
        Self::new("IncorrectState", message)
    }
}

/// Kinds of ids, as the error codes name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdKind {
    Interface,
    Attachment,
    Instance,
    Subnet,
    Vpc,
    Group,
    TrunkAssociation,
}

impl IdKind {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Interface => ("InvalidNetworkInterfaceID", "networkInterface ID"),
            Self::Attachment => ("InvalidAttachmentID", "attachment ID"),
            Self::Instance => ("InvalidInstanceID", "instance ID"),
            Self::Subnet => ("InvalidSubnetID", "subnet ID"),
            Self::Vpc => ("InvalidVpcID", "vpc ID"),
            Self::Group => ("InvalidGroup", "security group"),
            Self::TrunkAssociation => ("InvalidTrunkAssociationID", "trunk association ID"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_status() {
        for (error, code, status) in [
            (ApiError::throttled(), "RequestLimitExceeded", 503),
            (ApiError::server(500), "InternalError", 500),
            (ApiError::server(503), "Unavailable", 503),
            (ApiError::unauthorized("1"), "UnauthorizedOperation", 403),
            (ApiError::dry_run(), "DryRunOperation", 412),
            (ApiError::missing("X"), "MissingParameter", 400),
            (ApiError::not_found(IdKind::Interface, "eni-1"), "InvalidNetworkInterfaceID.NotFound", 400),
            (ApiError::malformed(IdKind::Interface, "x"), "InvalidNetworkInterfaceId.Malformed", 400),
            (ApiError::malformed(IdKind::Subnet, "x"), "InvalidSubnetID.Malformed", 400),
            (ApiError::not_found(IdKind::Group, "sg-1"), "InvalidGroup.NotFound", 400),
        ] {
            assert_eq!((error.code.as_ref(), error.status), (code, status));
        }
    }
}
