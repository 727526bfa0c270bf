//! Why an ADD cannot have an address.
//!
//! One closed list, from here to the CNI message, the Events and the metric
//! labels. [`Refusal::of`] tells the first thing that stands in the way, and
//! each variant knows what an operator can do about it.

#[cfg(test)]
mod tests;
mod text;

use std::time::Duration;

use crate::backoff::{Backoff, FailureClass};
use crate::eni::{Eni, ForeignReason, Owner, Phase};
use crate::pace::Queued;
use crate::plan::Operation;
use crate::state::{PoolState, Truth};
use crate::targets::{Growth, Targets};
use crate::{EniId, Now, SubnetId};

/// Why the pool may make no EC2 change at all ([`Growth::None`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// An operator provisions the addresses
    /// (`DISABLE_NETWORK_RESOURCE_PROVISIONING`).
    ProvisioningOff,
    /// The instance or its node is going away.
    Terminating,
    /// Custom networking is on, and there is no ENIConfig for this node.
    NoEniConfig {
        /// The name of the one that is missing.
        name: String,
    },
}

/// The reason of a refusal; it goes into the CNI message, an Event and a
/// metric label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// EC2 has not been read yet since the agent started.
    Starting,
    /// EC2 does not answer, or with server errors.
    Ec2Unreachable {
        /// The call that fails.
        operation: Operation,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// The node holds as many pods as it accepts.
    MaxPods {
        /// The limit.
        limit: u32,
    },
    /// EC2 has no free address in any subnet that could give one.
    SubnetFull {
        /// The subnets.
        subnets: Vec<SubnetId>,
        /// How long until they are looked at again.
        wait: Duration,
    },
    /// In prefix mode: no free /28, and no single address either.
    Fragmented {
        /// The subnets.
        subnets: Vec<SubnetId>,
        /// How long until they are looked at again.
        wait: Duration,
    },
    /// No ENI can take another address and no further ENI can be attached.
    EniLimit {
        /// ENIs that take a place, those of others included.
        used: u32,
        /// Places that there are.
        limit: u32,
        /// Whether `MAX_ENI` sets the limit, and not the instance type.
        capped: bool,
        /// Those that are not ours to use, and why.
        foreign: Vec<(EniId, ForeignReason)>,
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
    /// Other nodes wait for the same calls, and this one waits for its turn.
    Queued {
        /// Nodes before this one.
        ahead: u32,
        /// How long until its turn.
        wait: Duration,
    },
    /// The credentials may not make a call.
    PermissionDenied {
        /// The call.
        operation: Operation,
    },
    /// EC2 says that something is configured wrongly: a subnet or a security
    /// group that does not exist.
    Configuration {
        /// The call that it refuses.
        operation: Operation,
    },
    /// There is no ENIConfig for this node.
    NoEniConfig {
        /// The name of the one that is missing.
        name: String,
    },
    /// The pool may not change anything at EC2.
    ProvisioningOff,
    /// The instance or its node is going away.
    Terminating,
    /// An ENI is attached at EC2 and the node has no link for it.
    LinkMissing {
        /// The ENI.
        eni: EniId,
    },
    /// A call fails for another reason.
    CallFails {
        /// The call.
        operation: Operation,
        /// The class of its failure.
        class: FailureClass,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// EC2 is at work and has not finished in time.
    StillGrowing,
}

/// The calls that bring addresses, and a look at the subnets where they hang
/// on it: else the node's own subnet serves without one.
const GROWTH: [Operation; 4] =
    [Operation::Assign, Operation::CreateEni, Operation::Attach, Operation::DescribeSubnets];

fn growth_calls(state: &PoolState, targets: &Targets) -> &'static [Operation] {
    let looks = state.awaits_discovery(targets) || state.subnets.values().any(|subnet| subnet.is_asked_for());
    if looks { &GROWTH } else { &GROWTH[..3] }
}

impl Refusal {
    /// Every word of [`Refusal::as_str`].
    pub const WORDS: [&str; 17] = [
        "starting",
        "ec2_unreachable",
        "max_pods",
        "subnet_full",
        "subnet_fragmented",
        "eni_limit",
        "all_cooling",
        "throttled",
        "queued",
        "permission_denied",
        "configuration",
        "no_eni_config",
        "provisioning_off",
        "terminating",
        "link_missing",
        "ec2_call_fails",
        "still_growing",
    ];

    /// A fixed word for metrics and for the CNI error.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ec2Unreachable { .. } => "ec2_unreachable",
            Self::MaxPods { .. } => "max_pods",
            Self::SubnetFull { .. } => "subnet_full",
            Self::Fragmented { .. } => "subnet_fragmented",
            Self::EniLimit { .. } => "eni_limit",
            Self::AllCooling { .. } => "all_cooling",
            Self::Throttled { .. } => "throttled",
            Self::Queued { .. } => "queued",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::Configuration { .. } => "configuration",
            Self::NoEniConfig { .. } => "no_eni_config",
            Self::ProvisioningOff => "provisioning_off",
            Self::Terminating => "terminating",
            Self::LinkMissing { .. } => "link_missing",
            Self::CallFails { .. } => "ec2_call_fails",
            Self::StillGrowing => "still_growing",
        }
    }

    /// The call whose failure it is; what EC2 said to that call says more.
    pub const fn operation(&self) -> Option<Operation> {
        match self {
            Self::Ec2Unreachable { operation, .. }
            | Self::Throttled { operation, .. }
            | Self::PermissionDenied { operation }
            | Self::Configuration { operation }
            | Self::CallFails { operation, .. } => Some(*operation),
            _ => None,
        }
    }

    /// How long until something is tried again or comes free by itself; zero
    /// where that is being done now, `None` where nobody can say.
    pub const fn wait(&self) -> Option<Duration> {
        match self {
            Self::Ec2Unreachable { wait, .. }
            | Self::SubnetFull { wait, .. }
            | Self::Fragmented { wait, .. }
            | Self::AllCooling { wait }
            | Self::Throttled { wait, .. }
            | Self::Queued { wait, .. }
            | Self::CallFails { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Why a pod that asks now has no address.
    pub fn of(state: &PoolState, targets: &Targets, now: Now) -> Self {
        Self::of_wait(state, targets, now, now)
    }

    /// Why a pod that has waited since `since` has no address. Its first
    /// reason is the one that the operator must see to: what stands in the way
    /// of every call comes before what stands in the way of some.
    pub fn of_wait(state: &PoolState, targets: &Targets, since: Now, now: Now) -> Self {
        let counts = state.counts(targets, now);
        if state.truth() != Truth::Unknown && counts.leased >= targets.max_pods {
            return Self::MaxPods { limit: targets.max_pods };
        }
        if !matches!(state.truth(), Truth::Ec2 { .. }) {
            return match last_failure(state, &[Operation::DescribeEnis], now) {
                Some(failure) => Self::from_failure(failure, now),
                None => state.queued(now).map_or(Self::Starting, |queued| Self::from_queued(queued, now)),
            };
        }
        if targets.growth == Growth::None {
            return match &targets.hold {
                Some(Hold::Terminating) => Self::Terminating,
                Some(Hold::NoEniConfig { name }) => Self::NoEniConfig { name: name.clone() },
                Some(Hold::ProvisioningOff) => Self::ProvisioningOff,
                // The Kubernetes API has not told yet what the node is.
                None => Self::Starting,
            };
        }
        let places = Places::of(state, targets, now);
        if places.none() && counts.pending == 0 {
            return match (state.cooling.values().min(), places.unlinked) {
                (Some(until), _) if counts.cooling > 0 => Self::AllCooling { wait: until.since(now) },
                (_, Some(eni)) => Self::LinkMissing { eni },
                _ => Self::EniLimit {
                    used: places.used,
                    limit: targets.eni_limit(),
                    capped: targets.eni_limit() < targets.limits.enis(),
                    foreign: places.foreign,
                },
            };
        }
        if let Some(failure) = last_failure(state, growth_calls(state, targets), now)
            && failure.1.class != FailureClass::Exhausted
        {
            return Self::from_failure(failure, now);
        }
        if let Some(full) = places.full(state, targets, since, now) {
            return full;
        }
        if let Some(queued) = state.queued(now) {
            return Self::from_queued(queued, now);
        }
        if counts.pending == 0
            && let Some(failure) = last_failure(state, &[Operation::DescribeEnis], now)
        {
            // After a doubt nothing is created until EC2 has been read.
            return Self::from_failure(failure, now);
        }
        match (places.unlinked, state.throttled_at) {
            (Some(eni), _) if counts.pending == 0 => Self::LinkMissing { eni },
            // What came after the throttling's end came too late.
            (_, Some((operation, at))) if at > since => Self::Throttled { operation, wait: Duration::ZERO },
            // The same for its turn.
            _ if state.was_held_after(since) => Self::Queued { ahead: 0, wait: Duration::ZERO },
            _ => Self::StillGrowing,
        }
    }

    fn from_queued(queued: Queued, now: Now) -> Self {
        Self::Queued { ahead: queued.ahead, wait: queued.until.since(now) }
    }

    fn from_failure((operation, backoff): (Operation, Backoff), now: Now) -> Self {
        let wait = backoff.until.since(now);
        match backoff.class {
            FailureClass::Permission => Self::PermissionDenied { operation },
            FailureClass::Config => Self::Configuration { operation },
            FailureClass::Throttled => Self::Throttled { operation, wait },
            FailureClass::Retry => Self::Ec2Unreachable { operation, wait },
            class => Self::CallFails { operation, class, wait },
        }
    }
}

/// The failure of these calls that matters most: one that an operator must
/// mend, then throttling, then one whose pause still runs. One whose pause is
/// over counts until the call has succeeded: it is being tried again.
fn last_failure(state: &PoolState, operations: &[Operation], now: Now) -> Option<(Operation, Backoff)> {
    state
        .backoffs
        .iter()
        .filter(|((operation, _), _)| operations.contains(operation))
        .map(|((operation, _), backoff)| (*operation, *backoff))
        .min_by_key(|(_, backoff)| {
            let rank = match backoff.class {
                FailureClass::Permission => 0,
                FailureClass::Config => 1,
                FailureClass::Throttled => 2,
                _ => 3,
            };
            (backoff.until <= now, rank, backoff.until)
        })
}

/// Where another address could go.
struct Places {
    /// Subnets of attached ENIs that have a free slot.
    on_enis: Vec<SubnetId>,
    /// ENIs that take a place.
    used: u32,
    /// Whether a further ENI can be attached.
    another: bool,
    foreign: Vec<(EniId, ForeignReason)>,
    /// One that is attached at EC2 for longer than a link takes to appear.
    unlinked: Option<EniId>,
}

impl Places {
    fn of(state: &PoolState, targets: &Targets, now: Now) -> Self {
        let slots = targets.limits.slots_per_eni();
        let card = targets.limits.default_card;
        let mut places =
            Self { on_enis: Vec::new(), used: 0, another: false, foreign: Vec::new(), unlinked: None };
        for eni in state.enis() {
            let elsewhere = eni.attachment.as_ref().is_some_and(|at| at.network_card != card);
            if elsewhere {
                continue;
            }
            places.used += 1;
            if let Owner::Foreign(reason) = eni.owner {
                places.foreign.push((eni.id.clone(), reason));
            } else if eni.is_attached() && state.serves(eni, targets) {
                if is_unlinked(state, eni, targets, now) {
                    places.unlinked.get_or_insert_with(|| eni.id.clone());
                } else if eni.slots_used() < slots && !places.on_enis.contains(&eni.subnet) {
                    places.on_enis.push(eni.subnet.clone());
                }
            }
        }
        places.another = places.used < targets.eni_limit();
        places
    }

    fn none(&self) -> bool {
        self.on_enis.is_empty() && !self.another
    }

    /// Every subnet that could give an address is known to have none, or was so
    /// while the pod waited: addresses that came free since were too late.
    fn full(&self, state: &PoolState, targets: &Targets, since: Now, now: Now) -> Option<Refusal> {
        // Where no further ENI can come, only those with room count; where none
        // has, they are being filled from any.
        let subnets = match self.another || self.on_enis.is_empty() {
            true => state.growth_subnets(targets),
            false => self.on_enis.clone(),
        };
        let known: Vec<_> = subnets.iter().filter_map(|subnet| state.subnets.get(subnet)).collect();
        if known.is_empty()
            || known.len() < subnets.len()
            || !known.iter().all(|subnet| subnet.is_full() || subnet.full_at().is_some_and(|at| at > since))
        {
            return None;
        }
        let next = known.iter().flat_map(|subnet| subnet.next_change()).filter(|at| *at > now).min();
        let wait = next.map_or(Duration::ZERO, |at| at.since(now));
        let fragmented = targets.asks_prefixes() && known.iter().any(|subnet| !subnet.may_have_prefix(now));
        Some(match fragmented {
            true => Refusal::Fragmented { subnets, wait },
            false => Refusal::SubnetFull { subnets, wait },
        })
    }
}

fn is_unlinked(state: &PoolState, eni: &Eni, targets: &Targets, now: Now) -> bool {
    match eni.phase {
        Phase::Attached { since } => {
            !state.is_linked(eni) && now.since(since) >= targets.timing.link_patience
        }
        _ => false,
    }
}
