//! Everything the pool knows, in one value.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::backoff::Backoff;
use crate::demand::Waiter;
use crate::discovery::Discovery;
use crate::effects::{Intent, IntentId};
use crate::eni::{Eni, Owner, Phase};
use crate::lease::{Grant, Lease, PodRef, SandboxKey};
use crate::pace::Pace;
use crate::plan::{Action, CreateSpec, Operation};
use crate::saved::History;
use crate::sizing::Sizing;
use crate::subnet::SubnetState;
use crate::targets::Targets;
use crate::{ClientToken, EniId, InstanceId, MacAddr, Now, SubnetId};

/// Who this node is, for telling its ENIs from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The instance.
    pub instance: InstanceId,
    /// Whether attached ENIs without any agent's tag are taken for ours
    /// (`MANAGE_UNTAGGED_ENI`).
    pub manage_untagged: bool,
}

/// What the pool's knowledge of its ENIs rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    /// Nothing yet: no address is leased.
    Unknown,
    /// The last agent's checkpoint of this boot, because EC2 does not answer.
    Checkpoint,
    /// A describe that began then.
    Ec2 {
        /// When it was asked for.
        at: Now,
    },
}

/// Addresses counted by what they are good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// On our ENIs, in any state.
    pub total: u32,
    /// In the hands of sandboxes.
    pub leased: u32,
    /// Ready to be leased.
    pub free: u32,
    /// Free, but beyond `max-pods` (the rest of a prefix): never leased.
    pub withheld: u32,
    /// Released less than a cooldown ago.
    pub cooling: u32,
    /// Asked for, or on an ENI that is on its way.
    pub pending: u32,
    /// ADDs that wait.
    pub waiting: u32,
    /// Pods bound to this node that have no address yet, as the Kubernetes
    /// API says; those that wait are among them.
    pub announced: u32,
}

impl Counts {
    /// Pods without an address, by the better informed of two sources.
    pub fn demand(&self) -> u32 {
        self.waiting.max(self.announced)
    }

    pub(crate) fn free_raw(&self) -> u32 {
        self.free + self.withheld
    }
}

/// Surplus addresses over a while: the least of them was needed at no time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SurplusWindow {
    since: Now,
    /// The surplus and when it began, rising: an earlier, higher one does not
    /// matter any more.
    steps: VecDeque<(Now, u32)>,
}

impl SurplusWindow {
    pub(crate) fn new(now: Now, surplus: u32) -> Self {
        Self { since: now, steps: VecDeque::from([(now, surplus)]) }
    }

    /// The surplus is this from `now` on; what is older than `span` is
    /// forgotten.
    pub(crate) fn note(&mut self, now: Now, surplus: u32, span: Duration) {
        while self.steps.back().is_some_and(|(_, last)| *last > surplus) {
            self.steps.pop_back();
        }
        if self.steps.back().is_none_or(|(_, last)| *last < surplus) {
            self.steps.push_back((now, surplus));
        }
        // A step holds until the next one begins.
        while self.steps.get(1).is_some_and(|(begun, _)| now.since(*begun) >= span) {
            self.steps.pop_front();
        }
    }

    /// What was surplus throughout the last `span`; 0 when it is not that old.
    pub(crate) fn least(&self, now: Now, span: Duration) -> u32 {
        if now.since(self.since) < span {
            return 0;
        }
        self.steps.front().map_or(0, |(_, surplus)| *surplus)
    }

    /// Whether more than [`Self::least`] is about to have been surplus for
    /// `span`: then what is given back in one go is given back in fewer calls.
    /// It is waited for as long again, no longer.
    pub(crate) fn is_rising(&self, now: Now, span: Duration) -> bool {
        let since = self.steps.front().map_or(self.since, |(begun, _)| (*begun).max(self.since));
        self.steps.len() > 1 && now.since(since) < span * 2
    }

    /// When [`Self::least`] grows by time alone, or a rise has been waited for
    /// long enough.
    pub(crate) fn next_change(&self, span: Duration) -> impl Iterator<Item = Now> + '_ {
        let steps = self.steps.iter().map(|(begun, _)| *begun);
        std::iter::once(self.since).chain(steps).flat_map(move |begun| [begun + span, begun + span * 2])
    }
}

/// A create whose outcome is not known; repeated with its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UnresolvedCreate {
    pub(crate) token: ClientToken,
    pub(crate) spec: CreateSpec,
}

/// Everything the pool knows.
#[derive(Clone, Debug)]
pub struct PoolState {
    pub(crate) identity: Identity,
    pub(crate) truth: Truth,
    pub(crate) enis: BTreeMap<EniId, Eni>,
    pub(crate) leases: BTreeMap<SandboxKey, Lease>,
    pub(crate) holders: BTreeMap<IpAddr, SandboxKey>,
    pub(crate) cooling: BTreeMap<IpAddr, Now>,
    /// Given back, or in doubt: a describe may list them still, and they are
    /// not to be adopted until then.
    pub(crate) gone: BTreeMap<IpNetwork, Now>,
    /// ENIs deleted lately, which a describe may list still.
    pub(crate) buried: BTreeMap<EniId, Now>,
    /// ENIs that an earlier process was detaching and of which no more is
    /// known; a describe may show them attached still.
    pub(crate) leaving: BTreeMap<EniId, Now>,
    /// Links that the kernel shows, with the host's routes for them in place.
    pub(crate) links: BTreeSet<MacAddr>,
    pub(crate) waiters: VecDeque<Waiter>,
    pub(crate) announced: u32,
    pub(crate) announced_pods: Option<Vec<PodRef>>,
    pub(crate) intents: BTreeMap<IntentId, Intent>,
    pub(crate) unresolved: Vec<UnresolvedCreate>,
    pub(crate) subnets: BTreeMap<SubnetId, SubnetState>,
    pub(crate) discovery: Discovery,
    pub(crate) backoffs: BTreeMap<(Operation, Option<EniId>), Backoff>,
    pub(crate) resync_at: Option<Now>,
    /// The last call of growth that was throttled, and when.
    pub(crate) throttled_at: Option<(Operation, Now)>,
    /// Since when the outcome of some call is not known; no ENI is created
    /// until a later describe has told.
    pub(crate) doubt_since: Option<Now>,
    pub(crate) demand_since: Option<Now>,
    pub(crate) short_since: Option<Now>,
    pub(crate) surplus: Option<SurplusWindow>,
    /// Our turn among all the nodes that need EC2.
    pub(crate) pace: Pace,
    /// Whether the addresses' history of this boot is known.
    pub(crate) history: History,
    /// The last moment for which a describe is wanted: one that was asked for
    /// earlier does not do.
    pub(crate) resync_until: Option<Now>,
    pub(crate) token_seed: String,
    pub(crate) next_intent: u64,
}

impl PoolState {
    /// An empty pool. `token_seed` makes this process's client tokens differ
    /// from every other process's.
    pub fn new(identity: Identity, token_seed: impl Into<String>) -> Self {
        Self {
            identity,
            truth: Truth::Unknown,
            enis: BTreeMap::new(),
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            cooling: BTreeMap::new(),
            gone: BTreeMap::new(),
            buried: BTreeMap::new(),
            leaving: BTreeMap::new(),
            links: BTreeSet::new(),
            waiters: VecDeque::new(),
            announced: 0,
            announced_pods: None,
            intents: BTreeMap::new(),
            unresolved: Vec::new(),
            subnets: BTreeMap::new(),
            discovery: Discovery::default(),
            backoffs: BTreeMap::new(),
            resync_at: Some(Now::default()),
            throttled_at: None,
            doubt_since: None,
            demand_since: None,
            short_since: None,
            surplus: None,
            pace: Pace::default(),
            history: History::Unknown,
            resync_until: None,
            token_seed: token_seed.into(),
            next_intent: 0,
        }
    }

    /// What the pool's knowledge rests on.
    pub fn truth(&self) -> Truth {
        self.truth
    }

    /// Every ENI of the instance that is known, foreign ones included.
    pub fn enis(&self) -> impl Iterator<Item = &Eni> {
        self.enis.values()
    }

    /// Every lease.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease of `key`.
    pub fn lease_of(&self, key: &SandboxKey) -> Option<&Lease> {
        self.leases.get(key)
    }

    /// Addresses that rest, each with the end of its rest.
    pub fn cooling(&self) -> impl Iterator<Item = (IpAddr, Now)> + '_ {
        self.cooling.iter().map(|(address, until)| (*address, *until))
    }

    /// What is being done at EC2 now.
    pub fn intents(&self) -> impl Iterator<Item = &Intent> {
        self.intents.values()
    }

    /// The block of a subnet, once it is known.
    pub fn subnet_cidr(&self, subnet: &SubnetId) -> Option<IpNetwork> {
        self.subnets.get(subnet).and_then(|state| state.cidr)
    }

    /// ADDs that wait, first come first.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter()
    }

    /// Every pause that is still running.
    pub fn backoffs(&self, now: Now) -> impl Iterator<Item = (Operation, Backoff)> + '_ {
        self.backoffs
            .iter()
            .filter(move |(_, backoff)| backoff.until > now)
            .map(|((operation, _), backoff)| (*operation, *backoff))
    }

    /// Whether a create of unknown outcome waits to be repeated.
    pub fn has_unresolved_creates(&self) -> bool {
        !self.unresolved.is_empty()
    }

    /// EC2 does not answer: what the checkpoint holds is served until it does.
    pub fn trust_checkpoint(&mut self) {
        if self.truth == Truth::Unknown && self.history != History::Unknown {
            self.truth = Truth::Checkpoint;
        }
    }

    /// The kernel shows the link of `mac` and the host's routes for it stand
    /// (`ready`), or not any more. It may come before EC2's own reply.
    pub fn set_link(&mut self, mac: MacAddr, ready: bool) {
        if ready {
            self.links.insert(mac);
        } else {
            self.links.remove(&mac);
        }
    }

    /// Whether packets can flow through `eni`. The primary ENI is the node's
    /// own link: without it nobody would ask.
    pub fn is_linked(&self, eni: &Eni) -> bool {
        eni.owner == Owner::Primary || self.links.contains(&eni.mac)
    }

    /// How many pods of this node have no address yet, as the Kubernetes API
    /// says: known before the first ADD arrives.
    pub fn announce(&mut self, pods_without_address: u32) {
        self.announced = pods_without_address;
        self.announced_pods = None;
    }

    /// Truth is to be read again at `at`; an earlier reading that is wanted
    /// already does not do instead.
    pub fn resync_at(&mut self, at: Now) {
        self.resync_until = self.resync_until.max(Some(at));
        self.look_at(at);
    }

    /// Truth is to be read again at `at`, or earlier.
    pub(crate) fn look_at(&mut self, at: Now) {
        self.resync_at = Some(self.resync_at.map_or(at, |set| set.min(at)));
    }

    /// Counts addresses by what they are good for.
    pub fn counts(&self, targets: &Targets, now: Now) -> Counts {
        let mut counts = Counts {
            waiting: u32::try_from(self.waiters.len()).unwrap_or(u32::MAX),
            announced: self.announced,
            leased: u32::try_from(self.leases.len()).unwrap_or(u32::MAX),
            ..Counts::default()
        };
        let mut free = 0;
        for eni in self.enis.values() {
            if matches!(eni.owner, Owner::Foreign(_)) {
                continue;
            }
            // On one that drains nothing is free, or will be.
            let serves = self.serves(eni, targets);
            let leasable = self.is_leasable(eni, targets);
            let arriving = self.is_arriving(eni, targets, now);
            for address in eni.addresses() {
                counts.total += 1;
                if !serves || self.holders.contains_key(&address) {
                    continue;
                } else if self.is_cooling(address, now) {
                    counts.cooling += 1;
                } else if eni.is_suspect(address) {
                    continue;
                } else if leasable {
                    free += 1;
                } else if arriving {
                    counts.pending += 1;
                }
            }
        }
        for intent in self.intents.values() {
            let serves = match &intent.action {
                Action::CreateEni { spec, .. } => self.subnet_serves(&spec.subnet, targets),
                Action::Assign { eni, .. } => self.enis.get(eni).is_some_and(|eni| self.serves(eni, targets)),
                _ => false,
            };
            if serves {
                counts.pending += intent.action.addresses_asked();
            }
        }
        for create in &self.unresolved {
            if self.subnet_serves(&create.spec.subnet, targets) {
                counts.pending += create.spec.want.addresses();
            }
        }
        let room = targets.max_pods.saturating_sub(counts.leased + counts.pending);
        counts.free = free.min(room);
        counts.withheld = free - counts.free;
        counts
    }

    /// The pool's size against its targets.
    pub fn sizing(&self, targets: &Targets, now: Now) -> Sizing {
        Sizing::of(&self.counts(targets, now), targets)
    }

    pub(crate) fn is_cooling(&self, address: IpAddr, now: Now) -> bool {
        self.cooling.get(&address).is_some_and(|until| *until > now)
    }

    /// Whether addresses of `eni` may be leased.
    pub(crate) fn is_leasable(&self, eni: &Eni, targets: &Targets) -> bool {
        self.truth != Truth::Unknown && self.serves(eni, targets) && eni.is_attached() && self.is_linked(eni)
    }

    /// Whether addresses of `eni` are about to become leasable.
    fn is_arriving(&self, eni: &Eni, targets: &Targets, now: Now) -> bool {
        match eni.phase {
            Phase::Unattached { wanted, .. } => wanted,
            Phase::Attached { since } => now.since(since) < targets.timing.link_patience,
            Phase::Draining { .. } | Phase::Detached { .. } => false,
        }
    }

    pub(crate) fn grant(&self, lease: &Lease) -> Option<Grant> {
        let eni = self.enis.get(&lease.eni)?;
        let attachment = eni.attachment.as_ref()?;
        Some(Grant {
            address: lease.address,
            eni: eni.id.clone(),
            mac: eni.mac,
            device_index: attachment.device_index,
            network_card: attachment.network_card,
        })
    }

    /// Whether some action on `eni` is under way.
    pub(crate) fn is_busy(&self, eni: &EniId) -> bool {
        self.intents.values().any(|intent| intent.action.eni() == Some(eni))
    }

    /// Whether nothing is to be planned for `eni` now: some action on it is
    /// under way, or EC2 has left it out and is asked again.
    pub(crate) fn is_untouchable(&self, eni: &Eni) -> bool {
        eni.is_missing() || self.is_busy(&eni.id)
    }

    /// Addresses of `eni` in the hands of sandboxes.
    pub(crate) fn leased_on(&self, eni: &Eni) -> u32 {
        let count = self.leases.values().filter(|lease| lease.eni == eni.id).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Until when `operation` on `eni` must rest, and whether it must on any.
    pub(crate) fn rest_of(&self, operation: Operation, eni: &EniId, now: Now) -> Option<(Now, bool)> {
        let until = |key| self.backoffs.get(&key).map(|backoff| backoff.until);
        let everywhere = until((operation, None)).max(self.turn(operation, now));
        let here = until((operation, Some(eni.clone())));
        match (everywhere, here) {
            (Some(all), Some(one)) if one > all => Some((one, false)),
            (Some(all), _) => Some((all, true)),
            (None, Some(one)) => Some((one, false)),
            (None, None) => None,
        }
        .filter(|(until, _)| *until > now)
    }

    /// Whether `operation` (on `eni`, where that matters) must rest, after a
    /// failure or because others are before us.
    pub(crate) fn rests(&self, operation: Operation, eni: Option<&EniId>, now: Now) -> bool {
        let resting = |key: &(Operation, Option<EniId>)| {
            self.backoffs.get(key).is_some_and(|backoff| backoff.until > now)
        };
        resting(&(operation, None))
            || eni.is_some_and(|eni| resting(&(operation, Some(eni.clone()))))
            || self.turn(operation, now).is_some()
    }
}
