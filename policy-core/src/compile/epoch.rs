//! When flows must be judged again.

use std::collections::BTreeSet;

use ebpf_common::abi::{PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, RowValue};

use crate::ids::{ClassId, ProfileId, SetId};
use crate::tables::Tables;

/// The sets, in the maps now and afterwards, by which some address loses a port that
/// it had. `covers` says whether the first profile allows all that the second allows.
pub(super) fn bumped(
    old: &Tables,
    new: &Tables,
    covers: &dyn Fn(ProfileId, ProfileId) -> bool,
) -> BTreeSet<SetId> {
    let mut moves: BTreeSet<(ClassId, ClassId)> = BTreeSet::new();
    for (address, value) in &old.peers {
        if new.peers.get(address) != Some(value) {
            moves.insert((ClassId(value.class()), new.class_of(*address)));
        }
    }
    for (address, value) in &new.peers {
        if !old.peers.contains_key(address) {
            moves.insert((old.class_of(*address), ClassId(value.class())));
        }
    }
    moves.retain(|(from, to)| from != to);
    let sets: BTreeSet<SetId> = old
        .endpoints
        .values()
        .flat_map(|endpoint| [endpoint.ingress, endpoint.egress])
        .filter(|set| set.0 != 0)
        .collect();
    sets.into_iter()
        .filter(|set| {
            moves.iter().any(|(from, to)| {
                match (old.row(*set, *from), new.row(*set, *to)) {
                    (Some(before), Some(after)) => narrows(before, after, covers),
                    // A set that leaves gives its endpoints a new epoch anyway.
                    _ => false,
                }
            })
        })
        .collect()
}

fn narrows(before: RowValue, after: RowValue, covers: &dyn Fn(ProfileId, ProfileId) -> bool) -> bool {
    match (before.profile, after.profile) {
        (before, after) if before == after => false,
        (PROFILE_DENY_ALL, _) | (_, PROFILE_ALLOW_ALL) => false,
        (PROFILE_ALLOW_ALL, _) | (_, PROFILE_DENY_ALL) => true,
        (before, after) => !covers(ProfileId(after), ProfileId(before)),
    }
}
