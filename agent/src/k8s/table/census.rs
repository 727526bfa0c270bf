//! Which nodes have pods without an address: who needs EC2, and who comes first.
//!
//! Kept by change: of 150,000 pods only the one that changed is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use ipam_core::{AccountLimits, Line, Load, Now, PodRef, Queue, Shape};
use policy_core::model::{Name, Pod, PodState};
use tokio::time::Instant;

use super::Key;
use crate::k8s::convert;
use crate::k8s::object::PodLite;
use crate::rfc3339;

/// What nodes in line share, and what ours is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The cluster's share of the account's request rates.
    pub account: AccountLimits,
    /// How many addresses an ENI brings.
    pub shape: Shape,
}

/// What the pool is told of pods and of other nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Our turn among all nodes.
    pub queue: Queue,
    /// Pods bound to this node that have no address.
    pub here: Vec<PodRef>,
}

/// The label of this product's own pods, and its value.
const OWN_LABEL: (&str, &str) = ("app.kubernetes.io/name", "tidepool");

/// Where a pod counts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Waiting {
        node: Name,
        uid: Name,
        since: Option<SystemTime>,
    },
    /// An agent that has not looked at its ENIs yet.
    Booting {
        node: Name,
        since: Option<SystemTime>,
    },
    Addressed {
        node: Name,
    },
    /// On the host's network: only its node is counted.
    Aside {
        node: Name,
    },
}

impl Standing {
    fn node(&self) -> &Name {
        match self {
            Self::Waiting { node, .. }
            | Self::Booting { node, .. }
            | Self::Addressed { node }
            | Self::Aside { node } => node,
        }
    }

    /// Of a pod that was in the table and not among those that wait.
    fn of_stored(pod: &Pod) -> Option<Self> {
        let node = Name::clone(pod.node.as_ref()?);
        match (pod.state == PodState::Completed || pod.addresses.is_empty(), pod.host_network) {
            (true, _) => None,
            (false, true) => Some(Self::Aside { node }),
            (false, false) => Some(Self::Addressed { node }),
        }
    }

    fn of(pod: &PodLite, node: Name) -> Option<Self> {
        if pod.spec.node_name.is_empty() || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let status = &pod.status;
        let addressed = convert::is_addressed(pod);
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.kind == kind);
        let since = || condition("PodScheduled").and_then(|at| rfc3339::read(&at.last_transition_time));
        let leaves = pod.metadata.deletion_timestamp.is_some();
        if pod.spec.host_network {
            let own = pod.metadata.labels.get(OWN_LABEL.0).is_some_and(|name| name == OWN_LABEL.1);
            let ready = condition("Ready").is_some_and(|ready| ready.status == "True");
            if own && !ready && !leaves {
                return Some(Self::Booting { node, since: since() });
            }
            return addressed.then_some(Self::Aside { node });
        }
        if addressed {
            return Some(Self::Addressed { node });
        }
        let uid = pod.metadata.annotations.mirror.as_deref().unwrap_or(&pod.metadata.uid).into();
        (!leaves).then(|| Self::Waiting { node, uid, since: since() })
    }

    fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Waiting { since, .. } | Self::Booting { since, .. } => *since,
            Self::Addressed { .. } | Self::Aside { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Tally {
    pods: u32,
    waiting: u32,
    addressed: u32,
    booting: u32,
}

impl Tally {
    fn load(&self) -> Load {
        Load { waiting: self.waiting, addressed: self.addressed, booting: self.booting > 0 }
    }
}

pub(super) struct Census {
    us: Name,
    spread: f64,
    line: Line<Name>,
    started: Instant,
    tallies: HashMap<Name, Tally>,
    /// Pods of any node that wait or boot; the table itself keeps only those of
    /// ours.
    waiting: BTreeMap<Key, Standing>,
    /// Those of our own node that wait: looked at with every change.
    ours: BTreeMap<Key, PodRef>,
    /// Nodes to be put in line when the list that is under way has ended: in
    /// the order of their pods' ages, not of the list.
    postponed: BTreeSet<Name>,
    listing: bool,
    listed_once: bool,
    different: bool,
}

impl Census {
    pub(super) fn new(us: &str, fleet: Fleet) -> Self {
        Self {
            us: us.into(),
            spread: ipam_core::spread_of(us),
            line: Line::new(fleet.account, fleet.shape),
            started: Instant::now(),
            tallies: HashMap::new(),
            waiting: BTreeMap::new(),
            ours: BTreeMap::new(),
            postponed: BTreeSet::new(),
            listing: true,
            listed_once: false,
            different: false,
        }
    }

    /// A pod is now as `new` says; `stored` is what the table had of it.
    pub(super) fn note(&mut self, key: &Key, stored: Option<&Pod>, new: Option<(&PodLite, Name)>) {
        let old = self.waiting.remove(key).or_else(|| stored.and_then(Standing::of_stored));
        let new = new.and_then(|(pod, node)| Standing::of(pod, node));
        match &new {
            Some(Standing::Waiting { node, uid, .. }) if *node == self.us => {
                let (namespace, name) = key;
                let uid = (!uid.is_empty()).then(|| uid.to_string());
                let pod = PodRef { namespace: namespace.to_string(), name: name.to_string(), uid };
                self.ours.insert(key.clone(), pod);
            }
            _ => {
                self.ours.remove(key);
            }
        }
        if let Some(waits @ (Standing::Waiting { .. } | Standing::Booting { .. })) = &new {
            self.waiting.insert(key.clone(), waits.clone());
        }
        let counted = |standing: &Option<Standing>| {
            standing.as_ref().map(|standing| (std::mem::discriminant(standing), Name::clone(standing.node())))
        };
        if counted(&old) == counted(&new) {
            return;
        }
        if let Some(old) = &old {
            self.count(old, |count| *count = count.saturating_sub(1));
        }
        if let Some(new) = &new {
            self.count(new, |count| *count += 1);
        }
        for standing in [old, new].into_iter().flatten() {
            self.place(standing.node());
        }
        self.different = true;
    }

    fn count(&mut self, standing: &Standing, change: impl Fn(&mut u32)) {
        let tally = self.tallies.entry(Name::clone(standing.node())).or_default();
        change(&mut tally.pods);
        match standing {
            Standing::Waiting { .. } => change(&mut tally.waiting),
            Standing::Booting { .. } => change(&mut tally.booting),
            Standing::Addressed { .. } => change(&mut tally.addressed),
            Standing::Aside { .. } => {}
        }
        if tally.pods == 0 {
            self.tallies.remove(standing.node());
        }
    }

    fn place(&mut self, node: &Name) {
        if self.listing {
            self.postponed.insert(Name::clone(node));
        } else {
            let load = self.tallies.get(node).map(Tally::load).unwrap_or_default();
            self.line.update(node, load, self.now());
        }
    }

    /// A list of all pods begins.
    pub(super) fn list_begins(&mut self) {
        self.listing = true;
    }

    /// It was whole: what was not in it is gone. The table knows that of the
    /// pods that it keeps, `listed` of the others.
    pub(super) fn list_ends(&mut self, listed: impl Fn(&Key) -> bool) {
        let gone: Vec<Key> = self.waiting.keys().filter(|key| !listed(key)).cloned().collect();
        for key in gone {
            self.note(&key, None, None);
        }
        self.listing = false;
        self.different = true;
        // When the first and the last of a node's pods came.
        let mut came: HashMap<&Name, (SystemTime, SystemTime)> = HashMap::new();
        for standing in self.waiting.values() {
            if let Some(since) = standing.since() {
                let (first, last) = came.entry(standing.node()).or_insert((since, since));
                (*first, *last) = ((*first).min(since), (*last).max(since));
            }
        }
        let mut nodes: Vec<_> = std::mem::take(&mut self.postponed)
            .into_iter()
            .map(|node| (came.get(&node).copied(), ipam_core::spread_of(&node), node))
            .collect();
        // All agents that list find the same order; who waits longest is first.
        let first = |came: &Option<(SystemTime, SystemTime)>| came.map(|(first, _)| first);
        nodes.sort_by(|a, b| first(&a.0).cmp(&first(&b.0)).then(a.1.total_cmp(&b.1)));
        let today = SystemTime::now();
        let loads: Vec<_> = nodes
            .into_iter()
            .map(|(came, _, node)| {
                let load = self.tallies.get(&node).map(Tally::load).unwrap_or_default();
                let age = came.and_then(|(_, last)| today.duration_since(last).ok());
                (node, load, age.unwrap_or(Duration::ZERO))
            })
            .collect();
        let now = self.now();
        self.line.set_nodes(self.nodes());
        if std::mem::replace(&mut self.listed_once, true) {
            for (node, load, _) in loads {
                self.line.update(&node, load, now);
            }
        } else {
            self.line.listed(loads, now);
        }
    }

    /// What the pool should know, if that is different from what it was told last.
    pub(super) fn news(&mut self) -> Option<Waiting> {
        if !self.listed_once || !std::mem::take(&mut self.different) {
            return None;
        }
        let now = self.now();
        self.line.set_nodes(self.nodes());
        let queue = self.line.queue(&self.us, self.spread, now);
        Some(Waiting { queue, here: self.ours.values().cloned().collect() })
    }

    fn nodes(&self) -> u32 {
        u32::try_from(self.tallies.len()).unwrap_or(u32::MAX)
    }

    fn now(&self) -> Now {
        Now::default() + self.started.elapsed()
    }
}
