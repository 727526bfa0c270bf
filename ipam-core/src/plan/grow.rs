//! Asking EC2 for what is missing: when, and how much.

use std::collections::BTreeSet;

use super::Action;
use super::place::Placement;
use crate::sizing::Sizing;
use crate::state::{Counts, PoolState};
use crate::targets::{Growth, Targets};
use crate::{Now, SubnetId};

/// When growth may begin: waiting pods are collected for a moment, a pool that
/// is merely below its warm target waits for more to be missing, or for
/// cooling addresses to come back, whichever is sooner.
pub(super) fn gate(state: &PoolState, targets: &Targets, counts: &Counts, sizing: Sizing) -> Option<Now> {
    if let Some(since) = state.demand_since {
        return Some(since + targets.timing.coalesce);
    }
    if targets.growth == Growth::DemandOnly {
        return None;
    }
    let since = state.short_since?;
    // Cooling addresses are not warm; but where they will cover the shortage
    // and nobody waits, an EC2 call now would only have to be undone. One
    // cooldown is the longest that the warm target is missed for it.
    let delay = if counts.cooling >= sizing.missing {
        targets.timing.refill_delay.max(targets.cooldown)
    } else {
        targets.timing.refill_delay
    };
    // Pods that wait on other nodes come before what nobody here waits for.
    Some(state.warm_turn().map_or(since + delay, |turn| turn.max(since + delay)))
}

/// Asks for what is missing; returns the subnets that should be read, because
/// more is wanted than they are known to have.
pub(super) fn grow(
    state: &PoolState,
    targets: &Targets,
    sizing: Sizing,
    now: Now,
    actions: &mut Vec<Action>,
) -> BTreeSet<SubnetId> {
    let counts = state.counts(targets, now);
    match gate(state, targets, &counts, sizing) {
        Some(at) if at <= now => {}
        _ => return BTreeSet::new(),
    }
    if state.awaits_discovery(targets) {
        return BTreeSet::new();
    }
    let unmet = counts.demand().saturating_sub(counts.free + counts.pending);
    let mut missing = sizing.missing;
    if targets.growth == Growth::DemandOnly {
        missing = missing.min(unmet);
    }
    let usable = counts.leased + counts.free_raw() + counts.pending;
    let headroom = targets.max_pods.saturating_sub(usable);
    let mut placement = Placement::new(state, targets, now, missing, headroom);
    placement.fill_attached(actions);
    if state.warm_waits() {
        // Three calls for what is merely to be warm would be three pods' turns.
        placement.only_for(unmet);
    }
    placement.attach_leftovers(actions);
    placement.create(actions);
    let unplaced = placement.is_unplaced();
    let mut thirsty = placement.thirsty;
    thirsty.retain(|id| {
        state.subnets.get(id).is_some_and(|subnet| {
            subnet.is_asked_for() || unplaced && subnet.is_worth_reading(unmet > 0, now)
        })
    });
    thirsty
}
