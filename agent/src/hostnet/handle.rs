//! The host's network under one lock: what is wanted, and the sockets to make it so.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netlink::{
    Batch, Family, PROTOCOL, Socket,
    link::{self, Ipv4Conf, LinkChange},
    monitor::{Change, OwnPorts},
    neighbour,
    nft::{self, Table},
    route,
    rule::{self, Mirror, Rule},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    HostNetError, NodeNet, PodRoute,
    known::Known,
    pace::Pace,
    sysctl,
    wanted::{Wanted, is_of_pod, leads_from_pod, pod_neighbour, pod_route, pod_rules},
};
use crate::cause::chain;

/// The host's network. Clones share it. Calls block for as long as the kernel takes (tens of microseconds, more
/// while RTNL is held): call them from `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct HostNet {
    /// Held through a whole reconciliation, so that a pod that comes or goes meanwhile is neither undone nor
    /// brought back by a plan made before. Never held across an await.
    state: Arc<Mutex<State>>,
    /// What announcements of links are compared with, on tokio's own threads: held for an instant, never while the
    /// kernel is asked.
    known: Arc<Mutex<Known>>,
    /// When to look next. Held for an instant, too.
    pace: Arc<Mutex<Pace>>,
    /// Asks [`super::keep`] for a reconciliation.
    pub(super) wake: Arc<Notify>,
    /// Ports of our sockets: changes that were asked for on them are our own.
    ports: Arc<OwnPorts>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) route: Socket,
    pub(super) nft: Socket,
    /// IPv4 rules of all programs: an ADD or a DEL has to know those of its address.
    pub(super) rules: Mirror,
    pub(super) node: Option<NodeNet>,
    pub(super) pods: BTreeMap<IpAddr, PodRoute>,
    /// Every pod that survived an agent's restart was added again: what belongs to no pod may go.
    pub(super) pods_complete: bool,
    /// The table as it was put last, and what the kernel showed of it then.
    pub(super) shown: Option<(Table, nft::Observed)>,
    /// What was in force when we last looked or changed something: what of it is missing now was taken away.
    pub(super) installed: Wanted,
}

impl HostNet {
    /// Works on the calling thread's network namespace. Nothing is changed but the forwarding switch until
    /// [`Self::set_node`] and [`Self::reconcile`].
    ///
    /// # Errors
    ///
    /// Where there is no netlink, or no nf_tables in the kernel.
    pub fn open() -> Result<Self, HostNetError> {
        if let Err(error) = sysctl::enable_forwarding() {
            tracing::info!(%error, "forwarding is turned on link by link");
        }
        let (route, nft) = (Socket::open()?.watch()?, nft::open()?);
        let ports = OwnPorts { route: vec![route.port()], nftables: vec![nft.port()] };
        let state = State {
            route,
            nft,
            rules: Mirror::open(Family::V4)?,
            node: None,
            pods: BTreeMap::new(),
            pods_complete: false,
            shown: None,
            installed: Wanted::default(),
        };
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            known: Arc::default(),
            pace: Arc::new(Mutex::new(Pace::new(Instant::now()))),
            wake: Arc::default(),
            ports: Arc::new(ports),
        })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the middle leaves the kernel half-way at worst, which the next reconciliation mends.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ports of our sockets, for [`netlink::monitor::Changes::open`].
    pub fn ports(&self) -> OwnPorts {
        OwnPorts::clone(&self.ports)
    }

    /// Says what is wanted beside the pods; the next [`Self::reconcile`] makes it so. Returns whether that is news.
    pub fn set_node(&self, node: NodeNet) -> bool {
        let mut state = self.lock();
        if state.node.as_ref() == Some(&node) {
            return false;
        }
        self.known().veth_prefix = Some(node.veth_prefix.clone());
        state.node = Some(node);
        true
    }

    /// Wires a pod on the host's side, at once: neighbour, route, rules, forwarding. Again is the same.
    ///
    /// # Errors
    ///
    /// The first request that the kernel refused; then nothing of the pod is left.
    pub fn add_pod(&self, pod: &PodRoute) -> Result<(), HostNetError> {
        let mut state = self.lock();
        let mut batch = Batch::new();
        // What another pod with this address left, on another ENI or by another plugin, would lead it astray.
        let rules = pod_rules(pod);
        for rule in state.rules_of(pod.address)?.iter().filter(|rule| !rules.contains(rule)) {
            rule::delete(&mut batch, rule);
        }
        let forwarding = vec![(Ipv4Conf::Forwarding, 1)];
        link::change(&mut batch, &LinkChange { ipv4: forwarding, ..LinkChange::of(pod.host_ifindex) });
        if let Some(neighbour) = pod_neighbour(pod) {
            neighbour::replace(&mut batch, &neighbour);
        }
        route::replace(&mut batch, &pod_route(pod));
        for rule in rules {
            rule::add(&mut batch, &rule);
        }
        match state.route.run(batch) {
            Ok(_) => {
                state.installed.pod(pod);
                state.pods.insert(pod.address, pod.clone());
                self.known().add(pod);
                Ok(())
            }
            Err(error) => {
                state.pods.remove(&pod.address);
                self.known().remove(pod.address);
                // The first error counts; what cannot be undone now is undone by the next reconciliation.
                let _ = state.route.run(removal(pod));
                Err(error.into())
            }
        }
    }

    /// A pod that was wired before: nothing is written now, the next [`Self::reconcile`] puts back what is missing.
    /// Where its table is not known, it is read from the rule that stands. Returns the table, if it is known then.
    pub fn adopt_pod(&self, pod: &PodRoute) -> Option<u32> {
        let mut state = self.lock();
        let table = pod.table.or_else(|| {
            let standing = state.rules_of(pod.address).unwrap_or_else(|error| {
                tracing::warn!(address = %pod.address, error = chain(&error), "the pod's rules cannot be read");
                Vec::new()
            });
            let mut leading: Vec<Rule> =
                standing.into_iter().filter(|rule| leads_from_pod(rule, pod.address)).collect();
            leading.sort_by_key(|rule| rule.protocol != PROTOCOL);
            leading.first().map(|rule| rule.table)
        });
        state.pods.insert(pod.address, PodRoute { table, ..pod.clone() });
        self.known().add(pod);
        table
    }

    /// The ENI of a pod that runs is another than it was taken for, or known only now: its rule follows, the new one
    /// before the old one goes. Nothing happens where there is no such pod.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the next [`Self::reconcile`] tries again.
    pub fn set_table(&self, address: IpAddr, table: u32) -> Result<(), HostNetError> {
        let mut state = self.lock();
        let Some(pod) = state.pods.get_mut(&address) else { return Ok(()) };
        pod.table = Some(table);
        let pod = pod.clone();
        let (rules, mut batch) = (pod_rules(&pod), Batch::new());
        rules.iter().for_each(|rule| rule::add(&mut batch, rule));
        let standing = state.rules_of(address)?;
        for rule in standing.iter().filter(|rule| leads_from_pod(rule, address) && !rules.contains(rule)) {
            rule::delete(&mut batch, rule);
        }
        state.route.run(batch)?;
        state.installed.pod(&pod);
        Ok(())
    }

    /// Takes a pod's routes, rules and neighbour entry away, at once; rules of its address also where the incumbent
    /// made them: they would lead the next pod with that address astray. Gone already is success. A pod that has got
    /// the address meanwhile, on another link, keeps it.
    ///
    /// # Errors
    ///
    /// The first request that the kernel refused; the others were made.
    pub fn remove_pod(&self, pod: &PodRoute) -> Result<(), HostNetError> {
        let mut state = self.lock();
        if state.pods.get(&pod.address).is_some_and(|present| present.host_ifindex != pod.host_ifindex) {
            return Ok(());
        }
        state.pods.remove(&pod.address);
        self.known().remove(pod.address);
        let standing = state.rules_of(pod.address);
        let mut batch = removal(pod);
        for rule in standing.iter().flatten() {
            rule::delete(&mut batch, rule);
        }
        state.route.run(batch)?;
        standing.map(drop)
    }

    /// Says that every pod that runs was added. Before that nothing is removed: after a restart the kernel still has
    /// the routes of pods that are not known yet. What is left over goes at once where [`super::keep`] runs.
    pub fn pods_complete(&self) {
        self.lock().pods_complete = true;
        self.wake.notify_one();
    }

    /// Whether this change of somebody else's calls for [`Self::reconcile`]. Does not block.
    pub(super) fn concerned_by(&self, change: &Change) -> bool {
        self.known().concerned_by(change)
    }

    /// Whether the deletion of a pod may have begun with this change. Does not block.
    pub(super) fn is_farewell(&self, change: &Change) -> bool {
        self.known().is_farewell(change)
    }
}

impl State {
    /// Every rule of a pod with this address, whoever made it.
    fn rules_of(&mut self, address: IpAddr) -> Result<Vec<Rule>, HostNetError> {
        let of_pod = |rule: &&Rule| is_of_pod(rule, address);
        if address.is_ipv4() {
            return Ok(self.rules.rules(&mut self.route)?.iter().filter(of_pod).cloned().collect());
        }
        Ok(rule::list(&mut self.route, Family::V6)?.iter().filter(of_pod).cloned().collect())
    }
}

fn removal(pod: &PodRoute) -> Batch {
    let mut batch = Batch::new();
    for rule in pod_rules(pod) {
        rule::delete(&mut batch, &rule);
    }
    route::delete(&mut batch, &pod_route(pod));
    if pod.pod_mac.is_some() {
        neighbour::delete(&mut batch, pod.host_ifindex, pod.address);
    }
    batch
}
