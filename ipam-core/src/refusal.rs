//! Why an ADD cannot have an address.

use std::fmt;
use std::time::Duration;

use crate::backoff::FailureClass;
use crate::plan::Operation;
use crate::state::{PoolState, Truth};
use crate::targets::{Growth, Targets};
use crate::{Now, SubnetId};

/// The reason of a refusal; it goes into the CNI message, an Event and a
/// metric label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The pool does not know its ENIs yet.
    NotReady,
    /// The node holds as many pods as it accepts.
    MaxPods {
        /// The limit.
        limit: u32,
    },
    /// EC2 has no free address in the subnet.
    SubnetFull {
        /// The subnet.
        subnet: SubnetId,
    },
    /// No ENI can take another address and no further ENI can be attached.
    EniLimit {
        /// The limit of ENIs.
        limit: u32,
    },
    /// All that is left cools down.
    AllCooling {
        /// How long until the first address is free again.
        wait: Duration,
    },
    /// EC2 throttles the account.
    Throttled {
        /// The call that is throttled.
        operation: Operation,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// The credentials may not make a call.
    PermissionDenied {
        /// The call.
        operation: Operation,
    },
    /// A call fails for another reason.
    CallFails {
        /// The call.
        operation: Operation,
        /// The class of its failure.
        class: FailureClass,
    },
    /// The pool may not grow: the node is going away, or an operator
    /// provisions the addresses.
    GrowthForbidden,
    /// EC2 is at work and has not finished in time.
    StillGrowing,
}

impl Refusal {
    /// A fixed word for metrics and for the CNI error.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::MaxPods { .. } => "max_pods",
            Self::SubnetFull { .. } => "subnet_full",
            Self::EniLimit { .. } => "eni_limit",
            Self::AllCooling { .. } => "all_cooling",
            Self::Throttled { .. } => "throttled",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::CallFails { .. } => "ec2_call_fails",
            Self::GrowthForbidden => "growth_forbidden",
            Self::StillGrowing => "still_growing",
        }
    }

    /// Why a pod that waits now has no address.
    pub(crate) fn of(state: &PoolState, targets: &Targets, now: Now) -> Self {
        if state.truth == Truth::Unknown {
            let denied = state.backoffs.iter().find(|((operation, _), backoff)| {
                *operation == Operation::DescribeEnis && backoff.class == FailureClass::Permission
            });
            return match denied {
                Some(((operation, _), _)) => Self::PermissionDenied { operation: *operation },
                None => Self::NotReady,
            };
        }
        let counts = state.counts(targets, now);
        if counts.leased >= targets.max_pods {
            return Self::MaxPods { limit: targets.max_pods };
        }
        let growth = [Operation::Assign, Operation::CreateEni, Operation::Attach];
        let mut failing: Vec<_> = state
            .backoffs
            .iter()
            .filter(|((operation, _), backoff)| growth.contains(operation) && backoff.until > now)
            .map(|((operation, _), backoff)| (*operation, *backoff))
            .collect();
        failing.sort_by_key(|(_, backoff)| backoff.until);
        let of_class = |class| failing.iter().find(|(_, backoff)| backoff.class == class).copied();
        if let Some((operation, _)) = of_class(FailureClass::Permission) {
            return Self::PermissionDenied { operation };
        }
        if let Some((operation, backoff)) = of_class(FailureClass::Throttled) {
            return Self::Throttled { operation, wait: backoff.until.since(now) };
        }
        if targets.growth == Growth::None {
            return Self::GrowthForbidden;
        }
        let full = state.subnets.iter().find(|(_, subnet)| subnet.is_full());
        if let Some((subnet, _)) = full {
            return Self::SubnetFull { subnet: subnet.clone() };
        }
        if let Some((operation, backoff)) = failing.first() {
            return Self::CallFails { operation: *operation, class: backoff.class };
        }
        if counts.pending > 0 {
            return Self::StillGrowing;
        }
        match state.cooling.values().min() {
            Some(until) if counts.cooling > 0 => Self::AllCooling { wait: until.since(now) },
            _ => Self::EniLimit { limit: targets.eni_limit() },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("the agent does not know the node's ENIs yet"),
            Self::MaxPods { limit } => write!(f, "the node holds {limit} pods, as many as it accepts"),
            Self::SubnetFull { subnet } => write!(f, "subnet {subnet} has no free address"),
            Self::EniLimit { limit } => {
                write!(f, "every address of the {limit} ENIs that the node can have is in use")
            }
            Self::AllCooling { wait } => {
                write!(f, "all free addresses cool down, the first for another {:.1} s", wait.as_secs_f64())
            }
            Self::Throttled { operation, wait } => {
                write!(f, "EC2 throttles {operation}; the next attempt is in {:.1} s", wait.as_secs_f64())
            }
            Self::PermissionDenied { operation } => {
                write!(f, "the agent's credentials do not allow {operation}")
            }
            Self::CallFails { operation, class } => {
                write!(f, "{operation} fails ({})", class.as_str())
            }
            Self::GrowthForbidden => f.write_str("the pool of this node may not grow"),
            Self::StillGrowing => f.write_str("EC2 has not finished in time"),
        }
    }
}
