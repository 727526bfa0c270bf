//! Where what is missing is to come from: the ENIs at hand first, in as few
//! calls as possible, then ENIs that a crash left over, then new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::upkeep::{attach, groups_for_ours, taken_devices};
use super::{Action, CreateSpec, Operation, Want};
use crate::backoff::FailureClass;
use crate::eni::{Eni, Owner, Phase};
use crate::sizing::PREFIX_SIZE;
use crate::state::PoolState;
use crate::targets::Targets;
use crate::{EniId, Now, SubnetId};

/// A call under way that could still take in what has come to be missing
/// since is waited for this long: one larger call later instead of another
/// one beside it. A call that hangs must not hold up the rest.
pub(super) const COMING_PATIENCE: Duration = Duration::from_secs(5);

/// The addresses that one slot gives, asked as prefixes or singly.
struct Room {
    eni: EniId,
    subnet: SubnetId,
    slots: u32,
    state: RoomState,
}

/// After a call was throttled one is tried, and the rest follow when that has
/// been answered: more would only be refused with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    NotNeeded,
    Due,
    UnderWay,
}

impl Probe {
    fn made(self) -> Self {
        match self {
            Self::NotNeeded => Self::NotNeeded,
            Self::Due | Self::UnderWay => Self::UnderWay,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RoomState {
    /// It can be asked now.
    Idle,
    /// It can soon: a call on it is about to end, or a short rest is.
    Soon,
    /// Not before long; it is no reason to wait.
    Late,
}

/// One growth step.
pub(super) struct Placement<'a> {
    state: &'a PoolState,
    targets: &'a Targets,
    now: Now,
    /// What was to be placed.
    asked: u32,
    /// What still is.
    missing: u32,
    /// What `max-pods` leaves.
    headroom: u32,
    /// What each subnet can give that has been read, less what is asked of it
    /// already.
    left: BTreeMap<SubnetId, u32>,
    /// Subnets of which a /28 is tried, once at a time.
    tried: BTreeSet<SubnetId>,
    /// Subnets that could not give all that was wanted of them.
    pub(super) thirsty: BTreeSet<SubnetId>,
}

impl<'a> Placement<'a> {
    pub(super) fn new(
        state: &'a PoolState,
        targets: &'a Targets,
        now: Now,
        missing: u32,
        headroom: u32,
    ) -> Self {
        let mut left: BTreeMap<SubnetId, u32> =
            state.subnets.iter().map(|(id, subnet)| (id.clone(), subnet.left(now))).collect();
        let mut tried = BTreeSet::new();
        for intent in state.intents() {
            let (subnet, overhead) = match &intent.action {
                Action::CreateEni { spec, .. } => (Some(&spec.subnet), 1),
                Action::Assign { eni, .. } => (state.enis.get(eni).map(|eni| &eni.subnet), 0),
                _ => (None, 0),
            };
            if let Some(left) = subnet.and_then(|subnet| left.get_mut(subnet)) {
                spend(left, intent.action.addresses_asked() + overhead);
            }
            tried.extend(
                subnet
                    .filter(|subnet| intent.action.want().prefixes > 0 && tries_prefixes(state, subnet))
                    .cloned(),
            );
        }
        Self { state, targets, now, asked: missing, missing, headroom, left, tried, thirsty: BTreeSet::new() }
    }

    /// Of all that was missing only so many are to be placed.
    pub(super) fn only_for(&mut self, addresses: u32) {
        let placed = self.asked - self.missing;
        self.missing = self.missing.min(addresses.saturating_sub(placed));
    }

    /// Whether more is wanted than could be placed.
    pub(super) fn is_unplaced(&self) -> bool {
        self.missing > 0
    }

    /// One assign per ENI, and as few ENIs as possible: what is about to be
    /// possible is waited for, then the fullest of those that can take all
    /// that is missing, else the emptiest and on.
    pub(super) fn fill_attached(&mut self, actions: &mut Vec<Action>) {
        let mut rooms: Vec<Room> = self
            .state
            .enis()
            .filter(|eni| self.state.serves(eni, self.targets) && eni.is_attached() && !eni.is_missing())
            .filter(|eni| !is_stuck(self.state, eni, self.targets, self.now))
            .filter_map(|eni| self.room(eni))
            .filter(|room| room.state != RoomState::Late)
            .collect();
        rooms.sort_by_key(|room| (room.state != RoomState::Soon, room.slots));
        let mut probe = self.probes(Operation::Assign);
        while self.missing > 0 && !rooms.is_empty() {
            let fits = |room: &Room| room.state == RoomState::Soon || self.reach(room) >= self.missing;
            let index = rooms.iter().position(fits).unwrap_or(rooms.len() - 1);
            let room = rooms.remove(index);
            let want = self.want(&room.subnet, room.slots, 0);
            if want == Want::default() {
                self.await_reading(&room.subnet, room.slots);
                continue;
            }
            self.take(&room.subnet, want, 0);
            if room.state == RoomState::Idle && probe != Probe::UnderWay {
                actions.push(Action::Assign { eni: room.eni, want });
                probe = probe.made();
            }
        }
    }

    /// ENIs of ours that a crash left unattached are used before new ones.
    pub(super) fn attach_leftovers(&mut self, actions: &mut Vec<Action>) {
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
                || !self.state.serves(eni, self.targets)
                || actions.iter().any(|action| action.eni() == Some(&eni.id))
                || self.state.is_untouchable(eni)
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

    /// New ENIs for what neither those at hand nor those on their way can take.
    pub(super) fn create(&mut self, actions: &mut Vec<Action>) {
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
        self.await_coming();
        let mut left = self.enis_left(actions);
        let mut probe = self.probes(Operation::CreateEni);
        while self.missing > 0 && left > 0 && probe != Probe::UnderWay {
            let slots = self.targets.limits.slots_per_eni();
            let candidates = self
                .state
                .candidates(self.targets, |subnet| self.left.get(subnet).copied().unwrap_or(u32::MAX));
            let choice = candidates
                .into_iter()
                .map(|subnet| (self.want(&subnet, slots, 1), subnet))
                .find(|(want, _)| *want != Want::default());
            let Some((want, subnet)) = choice else {
                return;
            };
            self.take(&subnet, want, 1);
            left -= 1;
            probe = probe.made();
            actions.push(Action::CreateEni {
                spec: CreateSpec { subnet, groups: groups.clone(), want },
                token: None,
            });
        }
    }

    /// Whether `operation` was throttled the last time that it was tried.
    fn probes(&self, operation: Operation) -> Probe {
        let last = self.state.backoffs.get(&(operation, None));
        if last.is_none_or(|backoff| backoff.class != FailureClass::Throttled) {
            return Probe::NotNeeded;
        }
        let mut running = self.state.intents().map(|intent| intent.action.operation());
        if running.any(|other| other == operation) { Probe::UnderWay } else { Probe::Due }
    }

    /// ENIs on their way have free slots, too: once attached they are filled
    /// by one more call, where another ENI would cost three.
    fn await_coming(&mut self) {
        let slots = self.targets.limits.slots_per_eni();
        let creating = self.state.intents().filter_map(|intent| match &intent.action {
            Action::CreateEni { spec, .. } if self.now.since(intent.started) < COMING_PATIENCE => {
                Some((spec.subnet.clone(), spec.want.singles + spec.want.prefixes))
            }
            _ => None,
        });
        let attaching = self
            .state
            .enis()
            .filter(|eni| {
                matches!(eni.phase, Phase::Unattached { wanted: true, .. })
                    && self.state.serves(eni, self.targets)
            })
            .map(|eni| (eni.subnet.clone(), eni.slots_used()));
        let coming: Vec<(SubnetId, u32)> = creating.chain(attaching).collect();
        for (subnet, used) in coming {
            let free = slots.saturating_sub(used);
            if self.missing > 0 && free > 0 && self.state.subnet_serves(&subnet, self.targets) {
                let want = self.want(&subnet, free, 0);
                self.take(&subnet, want, 0);
            }
        }
    }

    /// After a refusal the subnet is being read: until that has told what
    /// there is, its ENIs' slots are no reason for a further ENI.
    fn await_reading(&mut self, subnet: &SubnetId, slots: u32) {
        let reading_comes = self.state.subnets.get(subnet).is_some_and(|state| state.is_asked_for())
            && !self.state.rests(Operation::DescribeSubnets, None, self.now);
        if reading_comes {
            self.missing = self.missing.saturating_sub(slots);
        }
    }

    fn room(&self, eni: &Eni) -> Option<Room> {
        let slots = self.targets.limits.slots_per_eni();
        let room = slots.saturating_sub(eni.slots_used() + self.slots_asked(&eni.id));
        let under_way = self
            .state
            .intents()
            .find(|intent| {
                intent.action.operation() == Operation::Assign && intent.action.eni() == Some(&eni.id)
            })
            .map(|intent| intent.started + COMING_PATIENCE);
        let rest = self.state.rest_of(Operation::Assign, &eni.id, self.now);
        let state = match (under_way, rest) {
            (Some(until), _) if until > self.now => RoomState::Soon,
            (Some(_), _) => RoomState::Late,
            // Where no ENI may be asked, a further one would be no way round.
            (None, Some((_, true))) => RoomState::Soon,
            (None, Some((until, false))) if until.since(self.now) < COMING_PATIENCE => RoomState::Soon,
            (None, Some(_)) => RoomState::Late,
            (None, None) => RoomState::Idle,
        };
        (room > 0).then(|| Room { eni: eni.id.clone(), subnet: eni.subnet.clone(), slots: room, state })
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
                // What others do with theirs, once it is loose, is their affair.
                (None, _) if matches!(eni.owner, Owner::Foreign(_)) => false,
                (None, Phase::Unattached { wanted, .. }) => wanted && self.state.serves(eni, self.targets),
                (None, _) => true,
            })
            .count();
        // `carry_on` has put attaches of wanted ENIs and repeats of creates in
        // the plan; the former are counted as ENIs already.
        let coming = self.state.intents().map(|intent| &intent.action).chain(planned);
        let coming = coming
            .filter(|action| match action {
                Action::CreateEni { .. } => true,
                Action::Attach { eni, .. } => self.state.enis.get(eni).is_some_and(|eni| match eni.phase {
                    Phase::Unattached { wanted, .. } => !(wanted && self.state.serves(eni, self.targets)),
                    _ => false,
                }),
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
        self.targets.asks_prefixes()
            && known.is_none_or(|subnet| subnet.may_have_prefix(self.now))
            && !self.tried.contains(subnet)
    }

    /// What to ask of one ENI with `slots` free in `subnet`, where the call
    /// takes `overhead` addresses for itself; nothing when the subnet is known
    /// to have none.
    fn want(&mut self, subnet: &SubnetId, slots: u32, overhead: u32) -> Want {
        let left = self.left.get(subnet).map_or(u32::MAX, |left| left.saturating_sub(overhead));
        let known = self.state.subnets.get(subnet);
        let blocks = left / PREFIX_SIZE;
        if self.prefixes_possible(subnet) && blocks > 0 {
            let cap = known.map_or(u32::MAX, |subnet| subnet.prefix_cap()).min(blocks);
            let ask = self.missing.div_ceil(PREFIX_SIZE).min(slots);
            if ask > blocks {
                self.thirsty.insert(subnet.clone());
            }
            return Want { singles: 0, prefixes: ask.min(cap) };
        }
        // By ENI, whole ENIs are filled: that is the unit that is given back.
        let by_eni = !self.targets.counts_addresses() && !self.targets.asks_prefixes();
        let ask = if by_eni { slots } else { self.missing.min(slots) }.min(self.headroom);
        if ask > left {
            self.thirsty.insert(subnet.clone());
        }
        Want { singles: ask.min(left), prefixes: 0 }
    }

    fn take(&mut self, subnet: &SubnetId, want: Want, overhead: u32) {
        self.missing = self.missing.saturating_sub(want.addresses());
        self.headroom = self.headroom.saturating_sub(want.addresses());
        if let Some(left) = self.left.get_mut(subnet) {
            spend(left, want.addresses() + overhead);
        }
        if want.prefixes > 0 && tries_prefixes(self.state, subnet) {
            self.tried.insert(subnet.clone());
        }
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
}

fn tries_prefixes(state: &PoolState, subnet: &SubnetId) -> bool {
    state.subnets.get(subnet).is_some_and(|subnet| subnet.tries_prefixes())
}

/// A subnet of which nothing is known has no bound.
fn spend(left: &mut u32, addresses: u32) {
    if *left != u32::MAX {
        *left = left.saturating_sub(addresses);
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
