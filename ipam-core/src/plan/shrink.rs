//! Giving back what has been surplus for a while.

use super::{Action, Operation};
use crate::Now;
use crate::eni::{Eni, Owner, Phase};
use crate::sizing::PREFIX_SIZE;
use crate::state::{PoolState, Truth};
use crate::targets::{Growth, Targets};

/// Detaches idle ENIs whole, the emptiest first; then, where addresses are
/// counted singly or in prefixes, gives back the rest, one call per ENI.
/// Leased and cooling addresses are never part of it.
pub(super) fn shrink(state: &PoolState, targets: &Targets, now: Now, actions: &mut Vec<Action>) {
    if targets.growth != Growth::Normal || !matches!(state.truth(), Truth::Ec2 { .. }) {
        return;
    }
    let least = state.surplus.as_ref().map_or(0, |window| window.least(now, targets.timing.shrink_after));
    let mut surplus = least.min(state.sizing(targets, now).surplus);
    if surplus == 0 {
        return;
    }

    let mut enis: Vec<Idle> = state
        .enis()
        .filter(|eni| {
            eni.is_managed(targets.use_primary)
                && eni.is_attached()
                && !state.is_busy(&eni.id)
                && !actions.iter().any(|action| action.eni() == Some(&eni.id))
        })
        .map(|eni| Idle::of(state, eni, now))
        .collect();
    enis.sort_by_key(|idle| (idle.eni.owner == Owner::Primary, idle.in_use, idle.free()));

    enis.retain(|idle| {
        let Some(attachment) = idle.eni.attachment.as_ref() else {
            return false;
        };
        let old = matches!(idle.eni.phase, Phase::Attached { since } if now.since(since) >= targets.timing.eni_min_age);
        let whole = idle.eni.owner == Owner::Ours
            && idle.in_use == 0
            && old
            && idle.free() <= surplus
            && !state.rests(Operation::Detach, Some(&idle.eni.id), now);
        if whole {
            surplus -= idle.free();
            actions.push(Action::Detach {
                eni: idle.eni.id.clone(),
                attachment: attachment.id.clone(),
            });
        }
        !whole
    });

    let by_eni = !targets.counts_addresses() && !targets.asks_prefixes();
    for mut idle in enis {
        if surplus == 0 {
            break;
        }
        if state.rests(Operation::Unassign, Some(&idle.eni.id), now) {
            continue;
        }
        let blocks = usize::try_from(surplus / PREFIX_SIZE).unwrap_or(usize::MAX);
        idle.prefixes.truncate(blocks);
        surplus -= u32::try_from(idle.prefixes.len()).unwrap_or(0) * PREFIX_SIZE;
        let singles = if by_eni { 0 } else { surplus };
        idle.singles.truncate(usize::try_from(singles).unwrap_or(usize::MAX));
        surplus -= u32::try_from(idle.singles.len()).unwrap_or(0);
        if !idle.singles.is_empty() || !idle.prefixes.is_empty() {
            actions.push(Action::Unassign {
                eni: idle.eni.id.clone(),
                singles: idle.singles,
                prefixes: idle.prefixes,
            });
        }
    }
}

/// What of an ENI could be given back.
struct Idle<'a> {
    eni: &'a Eni,
    /// Addresses leased or cooling.
    in_use: u32,
    singles: Vec<std::net::IpAddr>,
    prefixes: Vec<ipnetwork::IpNetwork>,
    /// Free addresses in prefixes that are not wholly free.
    scattered: u32,
}

impl<'a> Idle<'a> {
    fn of(state: &PoolState, eni: &'a Eni, now: Now) -> Self {
        let used = |address: &std::net::IpAddr| {
            state.holders.contains_key(address) || state.is_cooling(*address, now)
        };
        let mut idle = Self { eni, in_use: 0, singles: Vec::new(), prefixes: Vec::new(), scattered: 0 };
        // The highest first: the lowest are leased first.
        for single in eni.singles.keys().rev() {
            if used(single) {
                idle.in_use += 1;
            } else {
                idle.singles.push(*single);
            }
        }
        for prefix in eni.prefixes.keys().rev() {
            let in_use = crate::eni::block(*prefix).filter(used).count();
            let in_use = u32::try_from(in_use).unwrap_or(u32::MAX);
            if in_use == 0 {
                idle.prefixes.push(*prefix);
            } else {
                idle.in_use += in_use;
                idle.scattered += PREFIX_SIZE.saturating_sub(in_use);
            }
        }
        idle
    }

    fn free(&self) -> u32 {
        let whole = u32::try_from(self.prefixes.len()).unwrap_or(u32::MAX) * PREFIX_SIZE;
        u32::try_from(self.singles.len()).unwrap_or(u32::MAX) + whole + self.scattered
    }
}
