//! Asking EC2 for what is missing, in as few calls as the limits allow.

use super::upkeep::{attach, groups_for_ours, taken_devices};
use super::{Action, CreateSpec, Operation, Want};
use crate::eni::{Eni, Owner, Phase};
use crate::sizing::{PREFIX_SIZE, Sizing};
use crate::state::{Counts, PoolState};
use crate::targets::{Growth, Targets};
use crate::{EniId, Now, SubnetId};

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
    Some(since + delay)
}

struct Room {
    eni: EniId,
    subnet: SubnetId,
    slots: u32,
    busy: bool,
}

pub(super) fn grow(
    state: &PoolState,
    targets: &Targets,
    sizing: Sizing,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let counts = state.counts(targets, now);
    match gate(state, targets, &counts, sizing) {
        Some(at) if at <= now => {}
        _ => return,
    }
    let mut missing = sizing.missing;
    if targets.growth == Growth::DemandOnly {
        missing = missing.min(counts.demand().saturating_sub(counts.free + counts.pending));
    }
    let usable = counts.leased + counts.free_raw() + counts.pending;
    let mut growth =
        GrowthStep { state, targets, now, missing, headroom: targets.max_pods.saturating_sub(usable) };
    growth.fill_attached(actions);
    growth.attach_leftovers(actions);
    growth.create(actions);
}

struct GrowthStep<'a> {
    state: &'a PoolState,
    targets: &'a Targets,
    now: Now,
    missing: u32,
    /// What `max-pods` leaves.
    headroom: u32,
}

impl GrowthStep<'_> {
    /// One assign per ENI, and as few ENIs as possible: the fullest of those
    /// that can take all that is missing, else the emptiest and on.
    fn fill_attached(&mut self, actions: &mut Vec<Action>) {
        let slots = self.targets.limits.slots_per_eni();
        let mut rooms: Vec<Room> = self
            .state
            .enis()
            .filter(|eni| eni.is_managed(self.targets.use_primary) && eni.is_attached())
            .filter(|eni| !is_stuck(self.state, eni, self.targets, self.now))
            .filter_map(|eni| {
                let asked: u32 = self.slots_asked(&eni.id);
                let room = slots.saturating_sub(eni.slots_used() + asked);
                (room > 0).then(|| Room {
                    eni: eni.id.clone(),
                    subnet: eni.subnet.clone(),
                    slots: room,
                    busy: self.state.is_busy(&eni.id) && self.assign_under_way(&eni.id)
                        || self.state.rests(Operation::Assign, Some(&eni.id), self.now),
                })
            })
            .collect();
        rooms.sort_by_key(|room| room.slots);
        while self.missing > 0 && !rooms.is_empty() {
            let index =
                rooms.iter().position(|room| self.reach(room) >= self.missing).unwrap_or(rooms.len() - 1);
            let room = rooms.remove(index);
            let want = self.want(&room.subnet, room.slots, 0);
            if want == Want::default() {
                continue;
            }
            self.take(want);
            // An ENI with an assign under way, or one that must rest, gets its
            // turn when that has ended; a further ENI would not be sooner.
            if !room.busy {
                actions.push(Action::Assign { eni: room.eni, want });
            }
        }
    }

    /// ENIs of ours that a crash left unattached are used before new ones.
    fn attach_leftovers(&mut self, actions: &mut Vec<Action>) {
        let mut taken = taken_devices(self.state, self.targets);
        for action in actions.iter() {
            if let Action::Attach { device_index, .. } = action {
                taken.insert(*device_index);
            }
        }
        for eni in self.state.enis() {
            let leftover =
                matches!(eni.phase, Phase::Unattached { wanted: false, .. }) && eni.owner == Owner::Ours;
            if self.missing == 0 || self.enis_left(actions) == 0 {
                return;
            }
            if !leftover
                || actions.iter().any(|action| action.eni() == Some(&eni.id))
                || self.state.is_busy(&eni.id)
            {
                continue;
            }
            let brings = u32::try_from(eni.addresses().count()).unwrap_or(u32::MAX);
            if brings == 0 {
                continue;
            }
            // One whose attach must rest is no reason for another one.
            self.missing = self.missing.saturating_sub(brings);
            self.headroom = self.headroom.saturating_sub(brings);
            if !self.state.rests(Operation::Attach, Some(&eni.id), self.now)
                && let Some(action) = attach(eni, self.targets, &mut taken)
            {
                actions.push(action);
            }
        }
    }

    fn create(&mut self, actions: &mut Vec<Action>) {
        // A call whose outcome is not known may have made what is missing.
        if self.state.doubt_since.is_some()
            || self.state.rests(Operation::CreateEni, None, self.now)
            || self.state.rests(Operation::Attach, None, self.now)
        {
            return;
        }
        let Some(groups) = groups_for_ours(self.state, self.targets) else {
            return;
        };
        let mut left = self.enis_left(actions);
        while self.missing > 0 && left > 0 {
            let slots = self.targets.limits.slots_per_eni();
            let choice = self
                .targets
                .subnets
                .iter()
                .map(|subnet| (subnet, self.want(subnet, slots, 1)))
                .find(|(_, want)| *want != Want::default());
            let Some((subnet, want)) = choice else {
                return;
            };
            self.take(want);
            left -= 1;
            actions.push(Action::CreateEni {
                spec: CreateSpec { subnet: subnet.clone(), groups: groups.clone(), want },
                token: None,
            });
        }
    }

    /// ENIs that can still be attached. Whatever occupies a place counts:
    /// ENIs of others, those being detached, creates and attaches to come.
    fn enis_left(&self, planned: &[Action]) -> u32 {
        let card = self.targets.limits.default_card;
        let known = self
            .state
            .enis()
            .filter(|eni| match (&eni.attachment, eni.phase) {
                (Some(attachment), _) => attachment.network_card == card,
                (None, Phase::Unattached { wanted, .. }) => wanted,
                (None, Phase::Detached { .. }) => true,
                (None, _) => true,
            })
            .count();
        // `carry_on` has put attaches of wanted ENIs and repeats of creates in
        // the plan; the former are counted as ENIs already.
        let coming = self.state.intents().map(|intent| &intent.action).chain(planned);
        let coming = coming
            .filter(|action| match action {
                Action::CreateEni { .. } => true,
                Action::Attach { eni, .. } => self
                    .state
                    .enis
                    .get(eni)
                    .is_some_and(|eni| matches!(eni.phase, Phase::Unattached { wanted: false, .. })),
                _ => false,
            })
            .count();
        let resting_creates = self
            .state
            .unresolved
            .iter()
            .filter(|create| {
                !planned.iter().any(|action| {
                    matches!(action, Action::CreateEni { token: Some(token), .. } if *token == create.token)
                })
            })
            .count();
        let used = u32::try_from(known + coming + resting_creates).unwrap_or(u32::MAX);
        self.targets.eni_limit().saturating_sub(used)
    }

    /// Addresses that a room could take in the mode that its subnet allows.
    fn reach(&self, room: &Room) -> u32 {
        if self.prefixes_possible(&room.subnet) { room.slots * PREFIX_SIZE } else { room.slots }
    }

    /// Whether prefixes are wanted, and the subnet may have a free /28.
    fn prefixes_possible(&self, subnet: &SubnetId) -> bool {
        let known = self.state.subnets.get(subnet);
        self.targets.asks_prefixes() && known.is_none_or(|subnet| subnet.may_have_prefix(self.now))
    }

    /// What to ask of one ENI with `slots` free in `subnet`, of which the call
    /// takes `overhead` addresses for itself; nothing when the subnet is known
    /// to be full.
    fn want(&self, subnet: &SubnetId, slots: u32, overhead: u32) -> Want {
        let left = self.state.subnets.get(subnet).map_or(u32::MAX, |subnet| subnet.left(overhead));
        if left == 0 {
            return Want::default();
        }
        if self.prefixes_possible(subnet) {
            return Want { singles: 0, prefixes: self.missing.div_ceil(PREFIX_SIZE).min(slots) };
        }
        // By ENI, whole ENIs are filled: that is the unit that is given back.
        let by_eni = !self.targets.counts_addresses() && !self.targets.asks_prefixes();
        let ask = if by_eni { slots } else { self.missing.min(slots) };
        Want { singles: ask.min(self.headroom).min(left), prefixes: 0 }
    }

    fn take(&mut self, want: Want) {
        self.missing = self.missing.saturating_sub(want.addresses());
        self.headroom = self.headroom.saturating_sub(want.addresses());
    }

    fn slots_asked(&self, eni: &EniId) -> u32 {
        self.state
            .intents()
            .filter_map(|intent| match &intent.action {
                Action::Assign { eni: about, want } if about == eni => Some(want.singles + want.prefixes),
                // Still on the ENI as far as EC2 is concerned.
                Action::Unassign { eni: about, singles, prefixes } if about == eni => {
                    u32::try_from(singles.len() + prefixes.len()).ok()
                }
                _ => None,
            })
            .sum()
    }

    fn assign_under_way(&self, eni: &EniId) -> bool {
        self.state
            .intents()
            .any(|intent| matches!(&intent.action, Action::Assign { eni: about, .. } if about == eni))
    }
}

/// Attached for long, and the kernel does not show its link: addresses on it
/// would serve nobody.
fn is_stuck(state: &PoolState, eni: &Eni, targets: &Targets, now: Now) -> bool {
    match eni.phase {
        Phase::Attached { since } => {
            !state.is_linked(eni) && now.since(since) >= targets.timing.link_patience
        }
        _ => false,
    }
}
