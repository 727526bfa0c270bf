//! EC2's truth against what the pool believes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::eni::{Attachment, Eni, ForeignReason, Owner, Phase};
use crate::plan::Action;
use crate::record::{AttachmentStatus, EniKind, EniRecord, EniStatus, tags};
use crate::state::{Identity, PoolState, Truth};
use crate::targets::Targets;
use crate::{EniId, Now, SandboxKey};

/// What a describe changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observation {
    /// ENIs that the pool did not know.
    pub found: Vec<EniId>,
    /// ENIs that EC2 no longer knows.
    pub lost: Vec<EniId>,
    /// Addresses that EC2 has and the pool did not know.
    pub adopted: u32,
    /// Addresses that EC2 no longer has on the ENI.
    pub dropped: u32,
    /// Addresses in use by a sandbox that EC2 no longer has on its ENI:
    /// reported, never reused.
    pub contradicted: Vec<(IpAddr, SandboxKey)>,
}

impl PoolState {
    /// Takes in a describe that was asked for at `asked`; what changed since
    /// then, or within EC2's lag, is not contradicted by it.
    pub fn observe(&mut self, records: &[EniRecord], asked: Now, targets: &Targets, now: Now) -> Observation {
        let mut seen = Observation::default();
        let lag = targets.timing.lag;
        let first = self.truth == Truth::Unknown || self.truth == Truth::Checkpoint;
        let fresh = |at: Now| at + lag > asked;

        for record in records {
            let Some(owner) = classify(record, &self.identity) else {
                continue;
            };
            if self.buried.contains_key(&record.id) {
                continue;
            }
            if let Some(token) = record.tags.get(tags::INTENT) {
                self.unresolved.retain(|create| create.token.as_str() != token);
            }
            let busy = self.is_busy(&record.id);
            let mut eni = match self.enis.remove(&record.id) {
                Some(eni) => eni,
                None => {
                    seen.found.push(record.id.clone());
                    let mut eni = eni_from(record, owner, now);
                    eni.singles.clear();
                    eni.prefixes.clear();
                    eni
                }
            };
            eni.owner = owner;
            if !busy {
                eni.groups.clone_from(&record.groups);
                follow_phase(&mut eni, record, fresh, now);
            }
            self.follow_addresses(&mut eni, record, asked, first, targets, &mut seen, now);
            self.enis.insert(eni.id.clone(), eni);
        }

        let listed: Vec<&EniId> = records.iter().map(|record| &record.id).collect();
        let vanished: Vec<EniId> = self
            .enis
            .values()
            .filter(|eni| !listed.contains(&&eni.id) && !fresh(eni.first_seen) && !self.is_busy(&eni.id))
            .map(|eni| eni.id.clone())
            .collect();
        for id in vanished {
            for lease in self.leases.values().filter(|lease| lease.eni == id) {
                seen.contradicted.push((lease.address, lease.key.clone()));
            }
            self.forget(&id);
            seen.lost.push(id);
        }
        if self.doubt_since.is_some_and(|since| since <= asked) {
            self.doubt_since = None;
        }
        self.truth = Truth::Ec2 { at: asked };
        self.history_known = true;
        let undecided = self.enis.values().filter_map(|eni| match eni.phase {
            Phase::Draining { since } if !self.is_busy(&eni.id) => Some(since + lag),
            _ => None,
        });
        if let Some(at) = undecided.min() {
            self.resync_at(at);
        }
        for eni in self.enis.values() {
            self.subnets.entry(eni.subnet.clone()).or_default();
        }
        seen
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of observe, split off for length; nobody else calls it"
    )]
    fn follow_addresses(
        &mut self,
        eni: &mut Eni,
        record: &EniRecord,
        asked: Now,
        first: bool,
        targets: &Targets,
        seen: &mut Observation,
        now: Now,
    ) {
        let being_returned = |block: IpNetwork| {
            self.intents.values().any(|intent| match &intent.action {
                Action::Unassign { singles, prefixes, .. } => {
                    prefixes.contains(&block)
                        || singles.iter().any(|single| IpNetwork::from(*single) == block)
                }
                _ => false,
            })
        };
        let listed: Vec<IpNetwork> = record
            .singles
            .iter()
            .map(|single| IpNetwork::from(*single))
            .chain(record.prefixes.iter().copied())
            .collect();
        let known: Vec<(IpNetwork, Now)> = eni
            .singles
            .iter()
            .map(|(single, at)| (IpNetwork::from(*single), *at))
            .chain(eni.prefixes.iter().map(|(prefix, at)| (*prefix, *at)))
            .collect();

        eni.doubtful.clear();
        for block in &listed {
            let is_known = known.iter().any(|(known, _)| known == block);
            if !is_known && being_returned(*block) {
                continue;
            }
            if !is_known && self.gone.contains_key(block) {
                eni.doubtful.insert(*block);
                continue;
            }
            let fresh = match host(*block) {
                Some(single) => eni.singles.insert(single, asked).is_none(),
                None => eni.prefixes.insert(*block, asked).is_none(),
            };
            if fresh {
                seen.adopted += 1;
                if first && !self.history_known {
                    // Nobody remembers who had it and until when.
                    let until = now + targets.cooldown;
                    for address in crate::eni::block(*block) {
                        if !self.holders.contains_key(&address) {
                            self.cooling.insert(address, until);
                        }
                    }
                }
            }
        }
        for (block, confirmed) in known {
            if listed.contains(&block) || confirmed + targets.timing.lag > asked {
                continue;
            }
            match host(block) {
                Some(single) => {
                    eni.singles.remove(&single);
                }
                None => {
                    eni.prefixes.remove(&block);
                }
            }
            seen.dropped += 1;
            seen.contradicted.extend(
                self.holders
                    .iter()
                    .filter(|(address, _)| block.contains(**address))
                    .map(|(address, key)| (*address, key.clone())),
            );
        }
    }
}

/// The address of a single-address block.
fn host(block: IpNetwork) -> Option<IpAddr> {
    let whole = if block.is_ipv4() { 32 } else { 128 };
    (block.prefix() == whole).then(|| block.ip())
}

/// Whose ENI it is; `None` when it has nothing to do with this instance.
fn classify(record: &EniRecord, identity: &Identity) -> Option<Owner> {
    let attached_here = record
        .attachment
        .as_ref()
        .is_some_and(|attachment| attachment.instance.as_ref() == Some(&identity.instance));
    let tag = record.tags.get(tags::INSTANCE_ID);
    let tagged_ours = tag.is_some_and(|id| id == identity.instance.as_str());
    if !attached_here {
        // Attached to another instance, or unattached and not of our making.
        let free = record.attachment.is_none() || record.status == EniStatus::Available;
        return (tagged_ours && free).then_some(match foreign(record) {
            Some(reason) => Owner::Foreign(reason),
            None => Owner::Ours,
        });
    }
    if let Some(reason) = foreign(record) {
        return Some(Owner::Foreign(reason));
    }
    let is_primary = record
        .attachment
        .as_ref()
        .is_some_and(|attachment| attachment.device_index == 0 && attachment.network_card == 0);
    Some(if is_primary {
        Owner::Primary
    } else if tagged_ours || (identity.manage_untagged && tag.is_none()) {
        Owner::Ours
    } else {
        Owner::Foreign(ForeignReason::Untagged)
    })
}

fn foreign(record: &EniRecord) -> Option<ForeignReason> {
    if record.tags.get(tags::NO_MANAGE).is_some_and(|value| value == "true") {
        return Some(ForeignReason::NoManage);
    }
    match record.kind {
        EniKind::Trunk => Some(ForeignReason::Trunk),
        EniKind::Efa => Some(ForeignReason::Efa),
        EniKind::Other => Some(ForeignReason::Managed),
        EniKind::Interface => record.requester_managed.then_some(ForeignReason::Managed),
    }
}

/// The ENI that `record` describes, seen for the first time.
pub(crate) fn eni_from(record: &EniRecord, owner: Owner, now: Now) -> Eni {
    Eni {
        id: record.id.clone(),
        mac: record.mac,
        owner,
        subnet: record.subnet.clone(),
        primary_ip: record.primary_ip,
        groups: record.groups.clone(),
        phase: phase_of(record, now),
        attachment: attachment_of(record),
        first_seen: now,
        singles: record.singles.iter().map(|single| (*single, now)).collect(),
        prefixes: record.prefixes.iter().map(|prefix| (*prefix, now)).collect(),
        doubtful: BTreeSet::new(),
    }
}

fn attachment_of(record: &EniRecord) -> Option<Attachment> {
    let attachment = record.attachment.as_ref()?;
    Some(Attachment {
        id: attachment.id.clone(),
        device_index: attachment.device_index,
        network_card: attachment.network_card,
        delete_on_termination: attachment.delete_on_termination,
    })
}

fn phase_of(record: &EniRecord, now: Now) -> Phase {
    match record.attachment.as_ref().map(|attachment| attachment.status) {
        Some(AttachmentStatus::Attaching | AttachmentStatus::Attached) => Phase::Attached { since: now },
        Some(AttachmentStatus::Detaching) => Phase::Detached { since: now },
        None => Phase::Unattached { since: now, wanted: false },
    }
}

/// Brings the phase and the attachment in line with EC2, unless our own last
/// step is newer than what a describe can be trusted to show.
fn follow_phase(eni: &mut Eni, record: &EniRecord, fresh: impl Fn(Now) -> bool, now: Now) {
    let told = phase_of(record, now);
    let next = match (eni.phase, told) {
        (Phase::Attached { since }, Phase::Attached { .. }) => Phase::Attached { since },
        (Phase::Attached { since }, _) if fresh(since) => return,
        (Phase::Unattached { since, wanted }, Phase::Unattached { .. }) => {
            Phase::Unattached { since, wanted }
        }
        // We detached it; EC2 has not caught up, or is still at it.
        (Phase::Detached { since }, Phase::Attached { .. }) if fresh(since) => return,
        (Phase::Detached { .. }, Phase::Unattached { .. } | Phase::Detached { .. }) => return,
        // The detach had no certain outcome. "Attached" may be its lag, "not
        // attached" is final.
        (Phase::Draining { since }, Phase::Attached { .. }) if fresh(since) => return,
        (Phase::Draining { since }, Phase::Unattached { .. }) => Phase::Detached { since },
        (_, told) => told,
    };
    eni.phase = next;
    eni.attachment = match next {
        Phase::Attached { .. } | Phase::Draining { .. } => attachment_of(record),
        Phase::Unattached { .. } | Phase::Detached { .. } => None,
    };
}
