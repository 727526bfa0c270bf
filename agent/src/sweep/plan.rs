//! Which unattached ENIs nobody wants any more: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use ipam_core::{EniId, EniKind, EniRecord, EniStatus, InstanceId, tags};

use crate::rfc3339;

/// How old an unattached ENI must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For an ENI whose instance is gone. Twice the time after which a node that lives gives up its own.
    pub orphaned: Duration,
    /// For an ENI whose instance lives; longer, since its node may be waiting for EC2 to let it attach.
    pub living: Duration,
}

/// Why an ENI is left alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kept {
    /// It is attached, or on its way in or out.
    InUse,
    /// An operator wants it to be left alone.
    NoManage,
    /// An AWS service manages it.
    Managed,
    /// It is a trunk, an EFA, a branch, or of a kind that we do not know.
    OtherKind,
    /// It carries another cluster's tag or none.
    OtherCluster,
    /// No node's agent made it.
    Untagged,
    /// Its age is not known; it is told from now on.
    Undated,
    /// Its maker's clock is ahead of ours.
    InFuture,
    /// It is too young.
    Young,
    /// It is old enough, but its instance lives and will see to it.
    Living,
}

impl Kept {
    /// Its name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::NoManage => "no_manage",
            Self::Managed => "managed",
            Self::OtherKind => "other_kind",
            Self::OtherCluster => "other_cluster",
            Self::Untagged => "untagged",
            Self::Undated => "undated",
            Self::InFuture => "in_future",
            Self::Young => "young",
            Self::Living => "living",
        }
    }
}

/// What a sweep does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// To be deleted, in this order: the oldest first.
    pub delete: Vec<EniId>,
    /// To be tagged with the present time, so that their age is known next time.
    pub date: Vec<EniId>,
    /// To be left alone.
    pub kept: BTreeMap<EniId, Kept>,
}

/// Instances whose ENIs are old enough to go if the instance is gone: whoever calls [`plan`] asks EC2 which of them
/// live. Empty at almost every sweep.
#[must_use]
pub fn suspects(
    records: &[EniRecord],
    now: SystemTime,
    cluster: &str,
    patience: Patience,
) -> BTreeSet<InstanceId> {
    let old = records.iter().filter(|eni| age(eni, now, cluster).is_ok_and(|age| age > patience.orphaned));
    old.filter_map(instance).collect()
}

/// What to do with each of `records`, which EC2 described as unattached.
///
/// The age of an ENI is told by the tag that its maker wrote at its creation; EC2 itself does not tell it. Is an
/// unattached ENI of that age one that nobody wants? By the state of its node:
///
/// - The instance is gone (terminated, stopped, never heard of): nobody can want it. The bound of 2 T only keeps away
///   from an ENI whose instance EC2 does not list *yet*.
/// - The node lives and has just created it: younger than 2 T, and left alone. A maker whose clock is behind ours
///   makes its ENIs look older than they are, one whose clock is ahead younger (or of the future): hence the longer
///   patience with instances that live.
/// - The node lives and cannot attach it, since EC2 throttles or an attach fails for long: it stays wanted for longer
///   than T. Again the longer patience; and when that is over too, the node's attach ends with NotFound, and it makes
///   another one.
/// - The node lives and has just detached it, long after its creation: what the node does next is to delete it. The
///   sweeper's delete is then the same call made twice; whoever comes second is told NotFound, which both take for
///   success. A node never attaches again what it has detached itself.
/// - The node lives and finds it unattached after a restart: it deletes it after T, or attaches it if it needs one.
///   The latter may meet the sweeper only if the ENI was unattached for the longer patience, and ends as above.
/// - The node lives and is no node of ours any more: nobody but the sweeper can delete it, after the longer patience.
///
/// In none of these is an address of a pod on the ENI: pods have addresses of attached ENIs only, and EC2 refuses to
/// delete one of those (InUse), so that a describe that lags behind an attach does no harm.
#[must_use]
pub fn plan(
    records: &[EniRecord],
    living: &BTreeSet<InstanceId>,
    now: SystemTime,
    cluster: &str,
    patience: Patience,
) -> Plan {
    let mut plan = Plan::default();
    let mut due = Vec::new();
    for eni in records {
        let verdict = age(eni, now, cluster).and_then(|age| {
            let lives = instance(eni).is_some_and(|instance| living.contains(&instance));
            match age {
                age if age <= patience.orphaned => Err(Kept::Young),
                age if lives && age <= patience.living => Err(Kept::Living),
                age => Ok(age),
            }
        });
        match verdict {
            Ok(age) => due.push((age, eni.id.clone())),
            Err(reason) => {
                if reason == Kept::Undated {
                    plan.date.push(eni.id.clone());
                }
                plan.kept.insert(eni.id.clone(), reason);
            }
        }
    }
    due.sort_by(|one, other| other.cmp(one));
    plan.delete = due.into_iter().map(|(_, eni)| eni).collect();
    plan
}

/// The age of an ENI that the sweeper may delete once it is old enough.
fn age(eni: &EniRecord, now: SystemTime, cluster: &str) -> Result<Duration, Kept> {
    let tag = |key: &str| eni.tags.get(key).map(String::as_str);
    if eni.status != EniStatus::Available || eni.attachment.is_some() {
        return Err(Kept::InUse);
    }
    if eni.requester_managed {
        return Err(Kept::Managed);
    }
    if eni.kind != EniKind::Interface {
        return Err(Kept::OtherKind);
    }
    // Whatever an operator wrote there in place of "true": to delete is for good.
    if tag(tags::NO_MANAGE).is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
        return Err(Kept::NoManage);
    }
    if tag(tags::CLUSTER) != Some(cluster) {
        return Err(Kept::OtherCluster);
    }
    if instance(eni).is_none() {
        return Err(Kept::Untagged);
    }
    // A text that is no time is as good as none.
    let created = tag(tags::CREATED_AT).and_then(rfc3339::read).ok_or(Kept::Undated)?;
    now.duration_since(created).map_err(|_| Kept::InFuture)
}

/// The instance whose agent made it.
fn instance(eni: &EniRecord) -> Option<InstanceId> {
    eni.tags.get(tags::INSTANCE_ID).filter(|id| !id.is_empty()).map(InstanceId::new)
}

#[cfg(test)]
mod tests;
