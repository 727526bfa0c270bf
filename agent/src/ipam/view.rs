//! What others may see of the pool.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam_core::{
    EniId, FailureClass, ForeignReason, Growth, Hold, MacAddr, Now, Observation, Operation, Owner, Phase,
    PoolState, Refusal, SubnetId, Targets, Truth,
};
use ipnetwork::IpNetwork;

/// What the pool's knowledge rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TruthView {
    /// Nothing yet; no address is leased.
    #[default]
    Unknown,
    /// The checkpoint, since EC2 does not answer.
    Checkpoint,
    /// EC2's describe.
    Ec2,
}

/// Where an ENI stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EniPhase {
    /// Created, not attached.
    Unattached,
    /// Attached.
    Attached,
    /// Being detached.
    Draining,
    /// Detached, to be deleted.
    Detached,
}

/// One ENI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EniView {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether it is the instance's first.
    pub is_primary: bool,
    /// Why it is not ours; `None` for the primary ENI and those of our making.
    pub foreign: Option<ForeignReason>,
    /// Where it stands.
    pub phase: EniPhase,
    /// Its device index, while it is attached.
    pub device_index: Option<u32>,
    /// Its network card; 0 while it is not attached.
    pub network_card: u32,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The subnet's block; `None` until EC2 has told it.
    pub subnet_cidr: Option<IpNetwork>,
    /// Its primary address, which pods never get.
    pub primary_ip: IpAddr,
    /// Whether [`super::Pool::link_ready`] has been told for it; always so for
    /// the primary ENI. Without, nothing on it is leased.
    pub is_linked: bool,
    /// Secondary addresses.
    pub addresses: Vec<IpAddr>,
    /// Prefixes.
    pub prefixes: Vec<IpNetwork>,
    /// Addresses on it that sandboxes have.
    pub leased: BTreeSet<IpAddr>,
}

impl EniView {
    /// Whether it should have a link and routes on the host: attached, and
    /// the primary one or ours. One that an operator took out of our hands
    /// keeps them for the pods that have its addresses.
    pub fn is_wanted_on_host(&self) -> bool {
        self.phase == EniPhase::Attached && (self.foreign.is_none() || !self.leased.is_empty())
    }
}

/// Addresses counted by what they are good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddressCounts {
    /// On our ENIs.
    pub total: u32,
    /// In the hands of sandboxes.
    pub leased: u32,
    /// Ready to be leased.
    pub free: u32,
    /// Resting after a release.
    pub cooling: u32,
    /// Asked for, or on an ENI that is on its way.
    pub pending: u32,
    /// Beyond `max-pods`, the rest of a prefix.
    pub withheld: u32,
    /// ADDs that wait.
    pub waiting: u32,
    /// Prefixes on our ENIs.
    pub prefixes: u32,
    /// The most that the instance's ENIs can hold.
    pub capacity: u32,
    /// ENIs attached, those of others included.
    pub enis: u32,
    /// The limit of ENIs.
    pub eni_limit: u32,
    /// Pods that the node accepts.
    pub max_pods: u32,
}

/// The last EC2 call that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastFailure {
    /// The call.
    pub operation: Operation,
    /// What kind of failure it was.
    pub class: FailureClass,
    /// The error and its causes.
    pub message: String,
    /// When.
    pub at: Now,
}

/// What stands between the pool and what it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hindrance {
    /// The word of the refusal that an ADD would get now.
    pub reason: &'static str,
    /// One sentence.
    pub cause: String,
    /// What an operator can do.
    pub remedy: &'static str,
    /// When something is tried again, or comes free by itself.
    pub until: Option<Now>,
}

impl Hindrance {
    /// `None` for a pool that lacks nothing, or is growing.
    fn of(state: &PoolState, targets: &Targets, now: Now) -> Option<Self> {
        if state.sizing(targets, now).missing == 0 && state.waiters().next().is_none() {
            return None;
        }
        let refusal = Refusal::of(state, targets, now);
        if refusal == Refusal::StillGrowing {
            return None;
        }
        // As a point in time it stays the same while nothing changes.
        let until = refusal.wait().filter(|wait| !wait.is_zero()).map(|wait| now + wait);
        Some(Self { reason: refusal.as_str(), cause: refusal.to_string(), remedy: refusal.remedy(), until })
    }
}

/// How often EC2's word differed from the pool's since the start; the first reading is no difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconciled {
    /// ENIs that the pool did not know.
    pub enis_found: u64,
    /// ENIs that EC2 no longer knew.
    pub enis_lost: u64,
    /// Of these, such with pods on them.
    pub enis_lost_in_use: u64,
    /// Addresses and prefixes that the pool did not know.
    pub addresses_adopted: u64,
    /// Addresses and prefixes that EC2 no longer had on their ENI.
    pub addresses_dropped: u64,
    /// Addresses of running pods that EC2 no longer had on their ENI.
    pub addresses_lost_in_use: u64,
}

impl Reconciled {
    /// Adds what a describe changed; `state` has taken it in already.
    pub(super) fn add(&mut self, seen: &Observation, state: &PoolState) {
        let in_use = |eni: &&EniId| state.leases().any(|lease| lease.eni == **eni);
        self.enis_found += count(seen.found.len());
        self.enis_lost += count(seen.lost.len());
        self.enis_lost_in_use += count(seen.lost.iter().filter(in_use).count());
        self.addresses_adopted += u64::from(seen.adopted);
        self.addresses_dropped += u64::from(seen.dropped);
        self.addresses_lost_in_use += count(seen.contradicted.len());
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// How far the pool may change its ENIs and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// As the targets say.
    #[default]
    Normal,
    /// For pods that wait: the node is cordoned.
    DemandOnly,
    /// Not at all: nothing is known of the node yet.
    Unknown,
    /// Not at all: an operator provisions the addresses.
    ProvisioningOff,
    /// Not at all: the instance or its node is going away.
    Terminating,
    /// Not at all: there is no ENIConfig for the node.
    NoEniConfig,
}

impl Reach {
    /// Its name on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::DemandOnly => "demand_only",
            Self::Unknown => "unknown",
            Self::ProvisioningOff => "provisioning_off",
            Self::Terminating => "terminating",
            Self::NoEniConfig => "no_eni_config",
        }
    }

    fn of(targets: &Targets) -> Self {
        match (targets.growth, &targets.hold) {
            (Growth::Normal, _) => Self::Normal,
            (Growth::DemandOnly, _) => Self::DemandOnly,
            (Growth::None, None) => Self::Unknown,
            (Growth::None, Some(Hold::ProvisioningOff)) => Self::ProvisioningOff,
            (Growth::None, Some(Hold::Terminating)) => Self::Terminating,
            (Growth::None, Some(Hold::NoEniConfig { .. })) => Self::NoEniConfig,
        }
    }
}

/// What others may see of the pool. Compared before it is published: a reader
/// is woken only by a change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolView {
    /// Every ENI of the instance, foreign ones included, by id.
    pub enis: Vec<EniView>,
    /// Addresses counted by what they are good for.
    pub counts: AddressCounts,
    /// What the pool's knowledge rests on.
    pub truth: TruthView,
    /// The last EC2 call that failed, if any did since the start.
    pub last_failure: Option<LastFailure>,
    /// How far the pool may change its ENIs and addresses.
    pub reach: Reach,
    /// Addresses in use that EC2 no longer has on their ENI.
    pub contradicted: BTreeSet<IpAddr>,
    /// What stands between the pool and what it lacks, if anything does.
    pub hindrance: Option<Hindrance>,
    /// How often EC2's word differed from the pool's.
    pub reconciled: Reconciled,
}

impl PoolView {
    /// Whether addresses can be leased.
    pub fn is_ready(&self) -> bool {
        self.truth != TruthView::Unknown
    }

    pub(super) fn of(
        state: &PoolState,
        targets: &Targets,
        now: Now,
        last_failure: Option<LastFailure>,
        contradicted: BTreeSet<IpAddr>,
        reconciled: Reconciled,
    ) -> Self {
        let counts = state.counts(targets, now);
        let slots = targets.limits.slots_per_eni();
        let per_slot = if targets.asks_prefixes() { 16 } else { 1 };
        let enis: Vec<EniView> = state.enis().map(|eni| eni_view(state, eni)).collect();
        let ours = enis.iter().filter(|eni| eni.foreign.is_none());
        let prefixes: usize = ours.map(|eni| eni.prefixes.len()).sum();
        let attached = enis.iter().filter(|eni| eni.device_index.is_some()).count();
        Self {
            counts: AddressCounts {
                total: counts.total,
                leased: counts.leased,
                free: counts.free,
                cooling: counts.cooling,
                pending: counts.pending,
                withheld: counts.withheld,
                waiting: counts.waiting,
                prefixes: u32::try_from(prefixes).unwrap_or(u32::MAX),
                capacity: targets.eni_limit() * slots * per_slot,
                enis: u32::try_from(attached).unwrap_or(u32::MAX),
                eni_limit: targets.eni_limit(),
                max_pods: targets.max_pods,
            },
            enis,
            truth: match state.truth() {
                Truth::Unknown => TruthView::Unknown,
                Truth::Checkpoint => TruthView::Checkpoint,
                Truth::Ec2 { .. } => TruthView::Ec2,
            },
            last_failure,
            reach: Reach::of(targets),
            contradicted,
            hindrance: Hindrance::of(state, targets, now),
            reconciled,
        }
    }
}

fn eni_view(state: &PoolState, eni: &ipam_core::Eni) -> EniView {
    EniView {
        id: eni.id.clone(),
        mac: eni.mac,
        is_primary: eni.owner == Owner::Primary,
        foreign: match eni.owner {
            Owner::Foreign(reason) => Some(reason),
            Owner::Primary | Owner::Ours => None,
        },
        phase: match eni.phase {
            Phase::Unattached { .. } => EniPhase::Unattached,
            Phase::Attached { .. } => EniPhase::Attached,
            Phase::Draining { .. } => EniPhase::Draining,
            Phase::Detached { .. } => EniPhase::Detached,
        },
        device_index: eni.attachment.as_ref().map(|at| at.device_index),
        network_card: eni.attachment.as_ref().map_or(0, |at| at.network_card),
        subnet: eni.subnet.clone(),
        subnet_cidr: state.subnet_cidr(&eni.subnet),
        primary_ip: eni.primary_ip,
        is_linked: state.is_linked(eni),
        addresses: eni.singles.keys().copied().collect(),
        prefixes: eni.prefixes.keys().copied().collect(),
        leased: state.leases().filter(|lease| lease.eni == eni.id).map(|lease| lease.address).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eni_that_became_foreign_keeps_its_routes_while_pods_are_on_it() {
        let pod: IpAddr = "10.0.0.7".parse().expect("an address");
        let view = |phase, foreign, leased: &[IpAddr]| EniView {
            id: EniId::new("eni-1"),
            mac: MacAddr([2; 6]),
            is_primary: false,
            foreign,
            phase,
            device_index: Some(1),
            network_card: 0,
            subnet: SubnetId::new("subnet-1"),
            subnet_cidr: None,
            primary_ip: "10.0.0.5".parse().expect("an address"),
            is_linked: true,
            addresses: vec![pod],
            prefixes: Vec::new(),
            leased: leased.iter().copied().collect(),
        };
        let wanted = |phase, foreign, leased: &[IpAddr]| view(phase, foreign, leased).is_wanted_on_host();
        assert!(wanted(EniPhase::Attached, None, &[]));
        for reason in [ForeignReason::NoManage, ForeignReason::Untagged] {
            assert!(wanted(EniPhase::Attached, Some(reason), &[pod]), "{reason:?}");
            assert!(!wanted(EniPhase::Attached, Some(reason), &[]), "{reason:?}");
        }
        for phase in [EniPhase::Unattached, EniPhase::Draining, EniPhase::Detached] {
            assert!(!wanted(phase, None, &[pod]), "{phase:?}");
        }
    }
}
