//! What an EC2 error means, decided in one match.

use std::error::Error;

use ipam_core::{Failure, FailureClass, Operation};

/// A failed EC2 call.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {}: {message}", code.as_deref().unwrap_or("no answer"))]
pub struct Ec2Error {
    /// The call.
    pub operation: Operation,
    /// What the failure means to the pool.
    pub class: FailureClass,
    /// EC2's error code; `None` when no answer came.
    pub code: Option<String>,
    /// EC2's message, or what went wrong on the way.
    pub message: String,
    /// Whether the call may have had its effect all the same.
    pub outcome_unknown: bool,
    /// The transport's error, if that is what failed.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Ec2Error {
    /// EC2 answered with an error.
    pub fn answered(operation: Operation, status: u16, code: &str, message: &str) -> Self {
        let class = classify(operation, status, code, message);
        Self {
            operation,
            class,
            code: Some(code.to_owned()),
            message: message.to_owned(),
            outcome_unknown: class == FailureClass::Retry && status >= 500,
            source: None,
        }
    }

    /// No answer came, or one that cannot be understood. `reached` says
    /// whether EC2 may have received the request.
    pub fn unanswered(
        operation: Operation,
        message: impl Into<String>,
        reached: bool,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            class: FailureClass::Retry,
            code: None,
            message: message.into(),
            outcome_unknown: reached,
            source,
        }
    }

    /// The credentials could not be had.
    pub fn no_credentials(
        operation: Operation,
        message: impl Into<String>,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { class: FailureClass::Permission, ..Self::unanswered(operation, message, false, source) }
    }

    /// An answer that lacks what it must have.
    pub fn nonsense(operation: Operation, message: impl Into<String>) -> Self {
        Self { class: FailureClass::Bug, ..Self::unanswered(operation, message, true, None) }
    }

    /// The part that the pool's decisions depend on.
    pub fn failure(&self) -> Failure {
        Failure {
            class: self.class,
            outcome_unknown: self.outcome_unknown,
            prefixes_only: self.code.as_deref() == Some("InsufficientCidrBlocks"),
        }
    }
}

/// The class of an error answer: the only place where EC2's codes are known.
fn classify(operation: Operation, status: u16, code: &str, message: &str) -> FailureClass {
    use FailureClass::{Bug, Config, Exhausted, Limit, NotFound, Permission, Retry, Throttled};
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded" => Throttled,

        "InsufficientFreeAddressesInSubnet" | "InsufficientCidrBlocks" => Exhausted,
        // EC2 answers a create or an assign with a prefix count in a full
        // subnet so: "There aren't sufficient free Ipv4 addresses or prefixes".
        "InvalidParameterValue" if message.contains("sufficient free") => Exhausted,

        "PrivateIpAddressLimitExceeded"
        | "AttachmentLimitExceeded"
        | "InvalidInterface.IpAddressLimitExceeded"
        | "NetworkInterfaceLimitExceeded" => Limit,
        "InvalidParameterValue"
            if operation == Operation::Attach && message.contains("already has an interface attached") =>
        {
            Limit
        }

        // A detach that EC2 has not finished: the ENI can be deleted later.
        "InvalidNetworkInterface.InUse" | "InvalidParameterValue" if operation == Operation::DeleteEni => {
            Retry
        }
        "InvalidNetworkInterface.InUse" => Limit,

        // Unassigning what is not assigned: our view is stale.
        "InvalidParameterValue" if operation == Operation::Unassign => NotFound,
        "InvalidNetworkInterfaceID.NotFound"
        | "InvalidAttachmentID.NotFound"
        | "InvalidInstanceID.NotFound" => NotFound,

        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "OptInRequired"
        | "PendingVerification" => Permission,

        "InvalidSubnetID.NotFound"
        | "InvalidSubnet.NotFound"
        | "InvalidGroup.NotFound"
        | "InvalidSecurityGroupID.NotFound"
        | "SecurityGroupsPerInterfaceLimitExceeded"
        | "UnsupportedOperation"
        | "Unsupported"
        | "InvalidInstanceType"
        | "InvalidInstanceAttributeValue"
        | "IncorrectInstanceState" => Config,

        "InternalError"
        | "InternalFailure"
        | "Unavailable"
        | "ServiceUnavailable"
        | "RequestTimeout"
        // A page that is asked for too late, an object between two states.
        | "InvalidNextToken"
        | "IncorrectState"
        | "DependencyViolation" => Retry,

        _ if status == 429 => Throttled,
        _ if status == 401 || status == 403 => Permission,
        _ if status >= 500 => Retry,
        _ => Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::Ec2Error;
    use ipam_core::FailureClass::{Bug, Config, Exhausted, Limit, NotFound, Permission, Retry, Throttled};
    use ipam_core::Operation::{
        Assign, Attach, CreateEni, DeleteEni, DescribeEnis, DescribeInstanceTypes, DescribeSubnets, Detach,
        Modify, Unassign,
    };

    #[test]
    fn documented_codes() {
        let in_use = "Network interface 'eni-1' is currently in use.";
        let taken = "Instance 'i-1' already has an interface attached at device index '1'.";
        let full = "There aren't sufficient free Ipv4 addresses or prefixes";
        let cases = [
            (Assign, 503, "RequestLimitExceeded", "Request limit exceeded.", Throttled, false),
            (
                Assign,
                400,
                "PrivateIpAddressLimitExceeded",
                "Number of private addresses will exceed limit.",
                Limit,
                false,
            ),
            (Attach, 400, "AttachmentLimitExceeded", "Interface count 4 exceeds the limit", Limit, false),
            (Attach, 400, "InvalidInterface.IpAddressLimitExceeded", "Address count 7", Limit, false),
            (Attach, 400, "InvalidParameterValue", taken, Limit, false),
            (Attach, 400, "InvalidNetworkInterface.InUse", "in use", Limit, false),
            (DeleteEni, 400, "InvalidNetworkInterface.InUse", in_use, Retry, false),
            (DeleteEni, 400, "InvalidParameterValue", in_use, Retry, false),
            (DeleteEni, 400, "InvalidNetworkInterfaceID.NotFound", "", NotFound, false),
            (Detach, 400, "InvalidAttachmentID.NotFound", "", NotFound, false),
            (Unassign, 400, "InvalidParameterValue", "not assigned", NotFound, false),
            (CreateEni, 400, "InsufficientFreeAddressesInSubnet", "", Exhausted, false),
            (Assign, 400, "InsufficientCidrBlocks", "", Exhausted, false),
            (CreateEni, 400, "InvalidParameterValue", full, Exhausted, false),
            (CreateEni, 400, "InvalidSubnetID.NotFound", "", Config, false),
            (CreateEni, 400, "InvalidGroup.NotFound", "", Config, false),
            (CreateEni, 403, "UnauthorizedOperation", "", Permission, false),
            (DescribeEnis, 500, "InternalError", "", Retry, true),
            (DescribeEnis, 503, "Unavailable", "", Retry, true),
            (Assign, 502, "SomethingNew", "", Retry, true),
            (Assign, 400, "SomethingNew", "", Bug, false),
            (Assign, 400, "InvalidParameterCombination", "", Bug, false),
            (CreateEni, 400, "IdempotentParameterMismatch", "", Bug, false),
            (Attach, 400, "InvalidNetworkInterfaceID.NotFound", "", NotFound, false),
            (Modify, 400, "InvalidAttachmentID.NotFound", "", NotFound, false),
            (Attach, 400, "InvalidInstanceID.NotFound", "", NotFound, false),
            (Assign, 400, "InvalidParameterValue", full, Exhausted, false),
            (Assign, 400, "InvalidParameterValue", "address is outside of the subnet", Bug, false),
            (Unassign, 400, "InvalidParameterValue", "the primary address", NotFound, false),
            (DescribeEnis, 400, "InvalidParameterValue", "The filter 'x' is invalid", Bug, false),
            (DescribeEnis, 400, "InvalidNextToken", "", Retry, false),
            (DescribeInstanceTypes, 400, "InvalidInstanceType", "", Config, false),
            (Assign, 400, "InvalidNetworkInterfaceId.Malformed", "", Bug, false),
            (Assign, 412, "DryRunOperation", "", Bug, false),
            (Assign, 400, "MissingParameter", "", Bug, false),
            (Assign, 400, "InvalidAction", "", Bug, false),
            (DescribeSubnets, 500, "ServiceUnavailable", "", Retry, true),
            (Assign, 429, "SomethingNew", "", Throttled, false),
            (Assign, 401, "AuthFailure", "", Permission, false),
            (Assign, 400, "RequestExpired", "", Permission, false),
        ];
        for (operation, status, code, message, class, unknown) in cases {
            let error = Ec2Error::answered(operation, status, code, message);
            assert_eq!(
                (error.class, error.outcome_unknown),
                (class, unknown),
                "{operation} {code} {message}"
            );
        }
    }

    #[test]
    fn only_a_missing_block_leaves_single_addresses() {
        let fragmented = Ec2Error::answered(Assign, 400, "InsufficientCidrBlocks", "");
        assert!(fragmented.failure().prefixes_only);
        let full = Ec2Error::answered(Assign, 400, "InsufficientFreeAddressesInSubnet", "");
        assert!(!full.failure().prefixes_only);
    }
}
