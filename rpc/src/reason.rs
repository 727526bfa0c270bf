//! Reasons of a [`crate::Refusal`] that the plugin acts on. The agent has more
//! of its own; a plugin passes those on as they are.

/// `Attach` of a lease that the agent does not know (it was restarted since, or
/// the lease was given back): the plugin begins again with `Lease`.
pub const UNKNOWN_LEASE: &str = "unknown-lease";

/// The sandbox was deleted already, or its pod has a newer one: a late ADD must
/// not bring it back.
pub const SANDBOX_DELETED: &str = "sandbox-deleted";

/// The request is written in a version that the agent does not know.
pub const UNKNOWN_VERSION: &str = "unknown-version";

/// The frame cannot be read, or asks for a verb that the agent does not know.
pub const MALFORMED: &str = "malformed-request";

/// The agent lives but has not read EC2 and Kubernetes yet.
pub const NOT_SYNCED: &str = "not-synced";
