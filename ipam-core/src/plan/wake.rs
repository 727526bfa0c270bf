//! When time alone could change the plan.

use super::grow;
use super::place::COMING_PATIENCE;
use crate::Now;
use crate::eni::Phase;
use crate::sizing::Sizing;
use crate::state::PoolState;
use crate::targets::Targets;

/// The next point after `now` at which the plan, or who can be served, could
/// differ without any event. It may be early, never late.
pub(super) fn next(state: &PoolState, targets: &Targets, now: Now) -> Option<Now> {
    let timing = &targets.timing;
    let counts = state.counts(targets, now);
    let sizing = Sizing::of(&counts, targets);
    let growth = (sizing.missing > 0).then(|| grow::gate(state, targets, &counts, sizing)).flatten();
    let shrink = state.surplus.iter().flat_map(|window| window.next_change(timing.shrink_after));
    let steps = state.enis().filter_map(|eni| match eni.phase {
        Phase::Unattached { since, .. } => Some(since + timing.give_up_after),
        Phase::Detached { since } => Some(since + timing.delete_delay),
        Phase::Attached { since } if !state.is_linked(eni) => Some(since + timing.link_patience),
        Phase::Attached { since } => Some(since + timing.eni_min_age),
        Phase::Draining { .. } => None,
    });
    let subnets = state.subnets.values().flat_map(|subnet| subnet.next_change());
    [growth, state.resync_at]
        .into_iter()
        .flatten()
        .chain(shrink)
        .chain(steps)
        .chain(subnets)
        .chain(state.turns(now))
        .chain(state.intents().map(|intent| intent.started + COMING_PATIENCE))
        .chain(state.cooling.values().copied())
        .chain(state.waiters.iter().map(|waiter| waiter.deadline))
        .chain(state.backoffs.values().map(|backoff| backoff.until))
        .filter(|at| *at > now)
        .min()
}
