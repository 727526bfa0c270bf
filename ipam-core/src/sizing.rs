//! How many addresses the pool should hold.

use crate::state::Counts;
use crate::targets::Targets;

/// Addresses in a delegated IPv4 prefix.
pub(crate) const PREFIX_SIZE: u32 = 16;

/// The pool's size against its targets; all in addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizing {
    /// What the pool should hold leased, free and on their way.
    pub want: u32,
    /// What it lacks.
    pub missing: u32,
    /// What it holds beyond that; only free addresses can be part of it.
    pub surplus: u32,
}

impl Sizing {
    /// Compares `counts` with `targets`.
    ///
    /// Waiting pods and the warm target are asked for in one step. Cooling
    /// addresses are neither warm nor free; they only count towards
    /// `MINIMUM_IP_TARGET`, which is a floor on what the node holds.
    pub fn of(counts: &Counts, targets: &Targets) -> Self {
        let warm = if targets.counts_addresses() {
            targets.warm_ip.unwrap_or(0)
        } else if targets.asks_prefixes() {
            targets.warm_prefix * PREFIX_SIZE
        } else {
            targets.warm_eni * targets.limits.slots_per_eni()
        };
        let demand = counts.leased + counts.demand();
        let want = demand.saturating_add(warm).min(targets.max_pods);
        let floor = targets.minimum_ip.unwrap_or(0).min(targets.max_pods);

        let usable = counts.leased + counts.free_raw() + counts.pending;
        let held = usable + counts.cooling;
        let missing = want
            .saturating_sub(usable)
            .max(floor.saturating_sub(held))
            .min(targets.max_pods.saturating_sub(usable));
        let surplus = usable.saturating_sub(want).min(held.saturating_sub(floor)).min(counts.free_raw());
        Self { want, missing, surplus }
    }
}
