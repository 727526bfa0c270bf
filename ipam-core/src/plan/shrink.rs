//! Giving back what has been surplus for a while.

use super::{Action, Operation};
use crate::Now;
use crate::eni::{Eni, Owner, Phase};
use crate::sizing::PREFIX_SIZE;
use crate::state::{PoolState, Truth};
use crate::targets::{Growth, Targets};

/// Gives back what may not be leased any more once its last pod has gone and
/// its last address has cooled down: ENIs of ours whose subnet no longer
/// serves pods, and secondary addresses of the primary ENI and of those that
/// we may not detach.
pub(super) fn drain(state: &PoolState, targets: &Targets, now: Now, actions: &mut Vec<Action>) {
    if targets.growth != Growth::Normal || !matches!(state.truth(), Truth::Ec2 { .. }) {
        return;
    }
    for eni in state.enis() {
        let foreign = matches!(eni.owner, Owner::Foreign(_));
        if foreign || state.serves(eni, targets) || !eni.is_attached() || state.is_untouchable(eni) {
            continue;
        }
        let idle = Idle::of(state, eni, now);
        let action = match (eni.owner, eni.attachment.as_ref()) {
            _ if idle.in_use > 0 => continue,
            (Owner::Ours, Some(attachment)) if eni.is_tagged => {
                Action::Detach { eni: eni.id.clone(), attachment: attachment.id.clone() }
            }
            _ if !idle.singles.is_empty() || !idle.prefixes.is_empty() => {
                Action::Unassign { eni: eni.id.clone(), singles: idle.singles, prefixes: idle.prefixes }
            }
            _ => continue,
        };
        let planned = actions.iter().any(|action| action.eni() == Some(&eni.id));
        if !planned && !state.rests(action.operation(), Some(&eni.id), now) {
            actions.push(action);
        }
    }
}

/// Detaches idle ENIs whole, the emptiest first; then, where addresses are
/// counted singly or in prefixes, gives back the rest, one call per ENI.
/// Leased and cooling addresses are never part of it.
pub(super) fn shrink(state: &PoolState, targets: &Targets, now: Now, actions: &mut Vec<Action>) {
    if targets.growth != Growth::Normal || !matches!(state.truth(), Truth::Ec2 { .. }) {
        return;
    }
    give_up_empty(state, targets, now, actions);
    let span = targets.timing.shrink_after;
    if state.surplus.as_ref().is_none_or(|window| window.is_rising(now, span)) {
        return;
    }
    let least = state.surplus.as_ref().map_or(0, |window| window.least(now, span));
    let mut surplus = least.min(state.sizing(targets, now).surplus);
    if surplus == 0 {
        return;
    }

    let mut enis: Vec<Idle> = state
        .enis()
        .filter(|eni| {
            state.serves(eni, targets)
                && eni.is_attached()
                && !state.is_untouchable(eni)
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
        let action = if idle.eni.is_tagged {
            Action::Detach { eni: idle.eni.id.clone(), attachment: attachment.id.clone() }
        } else {
            // Not ours to detach; what it holds is.
            Action::Unassign {
                eni: idle.eni.id.clone(),
                singles: idle.singles.clone(),
                prefixes: idle.prefixes.clone(),
            }
        };
        let whole = idle.eni.owner == Owner::Ours
            && idle.in_use == 0
            && old
            && idle.free() <= surplus
            && (idle.eni.is_tagged || idle.free() > 0)
            && !state.rests(action.operation(), Some(&idle.eni.id), now);
        if whole {
            surplus -= idle.free();
            actions.push(action);
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
        // Where prefixes are not asked for any more, one that nobody uses goes
        // whole, and single addresses take its part of the warm pool.
        let blocks =
            if targets.asks_prefixes() { surplus / PREFIX_SIZE } else { surplus.div_ceil(PREFIX_SIZE) };
        idle.prefixes.truncate(usize::try_from(blocks).unwrap_or(usize::MAX));
        let given = u32::try_from(idle.prefixes.len()).unwrap_or(0) * PREFIX_SIZE;
        surplus = surplus.saturating_sub(given);
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

/// An ENI that has given back all its addresses serves nobody, and holds a
/// place and an address of the subnet.
fn give_up_empty(state: &PoolState, targets: &Targets, now: Now, actions: &mut Vec<Action>) {
    let is_empty = |eni: &&Eni| eni.owner == Owner::Ours && eni.is_tagged && eni.addresses().next().is_none();
    for eni in state.enis().filter(is_empty) {
        let (Phase::Attached { since }, Some(attachment)) = (eni.phase, eni.attachment.as_ref()) else {
            continue;
        };
        let planned = actions.iter().any(|action| action.eni() == Some(&eni.id));
        if now.since(since) >= targets.timing.eni_min_age
            && !planned
            && !state.is_untouchable(eni)
            && !state.rests(Operation::Detach, Some(&eni.id), now)
        {
            actions.push(Action::Detach { eni: eni.id.clone(), attachment: attachment.id.clone() });
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
