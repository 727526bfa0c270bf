//! EC2's truth against what the pool believes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::eni::{Attachment, Eni, ForeignReason, Owner, Phase};
use crate::plan::Action;
use crate::record::{AttachmentStatus, EniKind, EniRecord, EniStatus, tags};
use crate::saved::History;
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
        // When what this describe leaves open can be told.
        let mut again = Vec::new();
        let fresh = |at: Now| at + lag > asked;
        let mut listed = BTreeSet::new();

        for record in records {
            let Some(owner) = classify(record, &self.identity, targets.limits.default_card) else {
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
                    if let Some(since) = self.leaving.remove(&record.id)
                        && eni.is_attached()
                    {
                        eni.phase = Phase::Draining { since };
                    }
                    eni
                }
            };
            eni.owner = owner;
            eni.is_tagged = has_our_tag(record, &self.identity);
            eni.missing_since = None;
            listed.insert(record.id.clone());
            if !busy {
                eni.groups.clone_from(&record.groups);
                follow_phase(&mut eni, record, fresh, now);
                if let (Phase::Attached { since }, false) = (eni.phase, is_attached(record)) {
                    again.push(since + lag);
                }
            }
            again.extend(self.follow_addresses(&mut eni, record, asked, targets, &mut seen, now));
            self.enis.insert(eni.id.clone(), eni);
        }

        again.extend(self.follow_missing(&listed, asked, targets, &mut seen));
        if self.doubt_since.is_some_and(|since| since <= asked) {
            self.doubt_since = None;
        }
        self.truth = Truth::Ec2 { at: asked };
        if self.history == History::Unknown {
            self.history = History::UnknownBefore(now);
        }
        again.extend(self.enis.values().filter_map(|eni| match eni.phase {
            Phase::Draining { since } if !self.is_busy(&eni.id) => Some(since + lag),
            _ => None,
        }));
        for at in again {
            self.resync_at(at.max(now));
        }
        for eni in self.enis.values().filter(|eni| !matches!(eni.owner, Owner::Foreign(_))) {
            self.subnets.entry(eni.subnet.clone()).or_default();
        }
        seen
    }

    /// Forgets ENIs that EC2 does not list any more. One answer that leaves
    /// out an ENI with pods on it, or with a link on the host, is no proof: a
    /// second one, later than EC2 can lag, is. Against a link that is there
    /// while pods use it no answer is. Returns when the next word is wanted.
    fn follow_missing(
        &mut self,
        listed: &BTreeSet<EniId>,
        asked: Now,
        targets: &Targets,
        seen: &mut Observation,
    ) -> Vec<Now> {
        let lag = targets.timing.lag;
        let mut again = Vec::new();
        let absent: Vec<EniId> = self
            .enis
            .values()
            .filter(|eni| !listed.contains(&eni.id) && eni.first_seen + lag <= asked)
            .filter(|eni| !self.is_busy(&eni.id))
            .map(|eni| eni.id.clone())
            .collect();
        for id in absent {
            let Some(eni) = self.enis.get(&id) else { continue };
            let is_linked = self.is_linked(eni);
            let leases: Vec<(IpAddr, SandboxKey)> = self
                .leases
                .values()
                .filter(|lease| lease.eni == id)
                .map(|lease| (lease.address, lease.key.clone()))
                .collect();
            let since = eni.missing_since.unwrap_or(asked);
            let is_sure = since + lag <= asked || (leases.is_empty() && !is_linked);
            // The instance's first ENI cannot be taken away.
            let stays = is_linked && (!leases.is_empty() || eni.owner == Owner::Primary);
            if is_sure {
                seen.contradicted.extend(leases);
            }
            if is_sure && !stays {
                self.forget(&id);
                seen.lost.push(id);
            } else if let Some(eni) = self.enis.get_mut(&id) {
                eni.missing_since = Some(since);
                let singles = eni.singles.keys().copied().map(IpNetwork::from);
                eni.suspect.extend(singles.chain(eni.prefixes.keys().copied()));
                again.extend((!is_sure).then_some(since + lag));
            }
        }
        again
    }

    /// Returns when EC2's next word is wanted on what this one leaves open.
    fn follow_addresses(
        &mut self,
        eni: &mut Eni,
        record: &EniRecord,
        asked: Now,
        targets: &Targets,
        seen: &mut Observation,
        now: Now,
    ) -> Vec<Now> {
        let mut again = Vec::new();
        let lag = targets.timing.lag;
        // Whether nobody remembers who had what is found, and until when; and
        // whether what we gave back just before our start could still be shown.
        let hold = lag.min(targets.cooldown);
        let (strange, stale) = match self.history {
            History::Known => (false, None),
            History::Unknown => (true, Some(now + hold)),
            History::UnknownBefore(at) => (asked < at + lag, Some(at + hold).filter(|until| asked < *until)),
        };
        // A fresh node's ENI carries nothing that could be taken back: 5,000
        // second looks are four minutes of the account's bucket.
        if !record.singles.is_empty() || !record.prefixes.is_empty() {
            again.extend(stale);
        }
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
            if !is_known && let Some(until) = self.gone.get(block) {
                eni.doubtful.insert(*block);
                again.push(*until);
                continue;
            }
            let fresh = match host(*block) {
                Some(single) => eni.singles.insert(single, asked).is_none(),
                None => eni.prefixes.insert(*block, asked).is_none(),
            };
            if fresh {
                seen.adopted += 1;
                if stale.is_some() {
                    eni.suspect.insert(*block);
                }
                if strange {
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
            if listed.contains(&block) {
                continue;
            }
            if confirmed + lag > asked {
                // EC2's lag, or it has been taken away.
                again.push(confirmed + lag);
                if eni.listed.contains(&block) {
                    eni.suspect.insert(block);
                }
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
            eni.suspect.remove(&block);
            eni.listed.remove(&block);
            seen.dropped += 1;
            seen.contradicted.extend(
                self.holders
                    .iter()
                    .filter(|(address, _)| block.contains(**address))
                    .map(|(address, key)| (*address, key.clone())),
            );
        }
        eni.listed.extend(&listed);
        let attached = is_attached(record);
        if stale.is_none() && attached {
            eni.suspect.retain(|block| !listed.contains(block));
        }
        if !attached && eni.is_attached() && eni.shown_attached {
            // It was attached and is not any more; or this describe is older
            // than the one that showed it.
            eni.suspect.extend(&listed);
        }
        eni.shown_attached |= attached;
        again
    }
}

fn is_attached(record: &EniRecord) -> bool {
    matches!(phase_of(record, Now::default()), Phase::Attached { .. })
}

/// The address of a single-address block.
fn host(block: IpNetwork) -> Option<IpAddr> {
    let whole = if block.is_ipv4() { 32 } else { 128 };
    (block.prefix() == whole).then(|| block.ip())
}

/// Whose ENI it is; `None` when it has nothing to do with this instance.
fn classify(record: &EniRecord, identity: &Identity, default_card: u32) -> Option<Owner> {
    let attached_here = record
        .attachment
        .as_ref()
        .is_some_and(|attachment| attachment.instance.as_ref() == Some(&identity.instance));
    let tagged_ours = has_our_tag(record, identity);
    if !attached_here {
        // Attached to another instance, or unattached and not of our making.
        let free = record.attachment.is_none() || record.status == EniStatus::Available;
        return (tagged_ours && free).then_some(match foreign(record) {
            Some(reason) => Owner::Foreign(reason),
            None => Owner::Ours,
        });
    }
    let attachment = record.attachment.as_ref();
    let on_default_card = attachment.is_some_and(|attachment| attachment.network_card == default_card);
    // The node's own link, whatever its kind (EFA instances have an EFA there)
    // and its tags: without it there is no node. aws-node does the same.
    if on_default_card && attachment.is_some_and(|attachment| attachment.device_index == 0) {
        return Some(Owner::Primary);
    }
    if let Some(reason) = foreign(record) {
        return Some(Owner::Foreign(reason));
    }
    if !on_default_card {
        return Some(Owner::Foreign(ForeignReason::OtherCard));
    }
    Some(if tagged_ours || (identity.manage_untagged && !record.tags.contains_key(tags::INSTANCE_ID)) {
        Owner::Ours
    } else {
        Owner::Foreign(ForeignReason::Untagged)
    })
}

/// Whether an agent of this instance made it.
fn has_our_tag(record: &EniRecord, identity: &Identity) -> bool {
    record.tags.get(tags::INSTANCE_ID).is_some_and(|id| id == identity.instance.as_str())
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
        shown_attached: false,
        listed: BTreeSet::new(),
        suspect: BTreeSet::new(),
        is_tagged: false,
        missing_since: None,
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
