//! What others may see of the pool.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam_core::{
    EniId, FailureClass, ForeignReason, MacAddr, Now, Operation, Owner, Phase, PoolState, SubnetId, Targets,
    Truth,
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
    /// the primary one or ours.
    pub fn is_wanted_on_host(&self) -> bool {
        self.phase == EniPhase::Attached && self.foreign.is_none()
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
    /// Addresses in use that EC2 no longer has on their ENI.
    pub contradicted: BTreeSet<IpAddr>,
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
            contradicted,
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
