//! The host's network under one lock: what is wanted, and the sockets to make it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netlink::{
    Batch, Family, Mac, PROTOCOL, Socket,
    link::{self, Ipv4Conf, LinkChange},
    neighbour,
    nft::{self, TableFamily},
    route,
    rule::{self, Rule},
};

use super::{
    Action, ActionKind, Desired, EniLink, Finding, HostNetError, NodeNet, PodRoute,
    execute::execute,
    observed::observe,
    plan::plan_wanted,
    sysctl,
    wanted::{FROM_ENI, Wanted, is_of_pod, leads_from_pod, pod_neighbour, pod_route, pod_rules, wanted},
};
use crate::cause::chain;

/// The host's end of a pod's veth pair, found by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Its index.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// The pod's Ethernet address, from our neighbour entry; none where another plugin wired the pod.
    pub pod_mac: Option<Mac>,
}

/// What a reconciliation did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What was done.
    pub actions: Vec<Action>,
    /// What is wanted and cannot be had now.
    pub findings: Vec<Finding>,
    /// How much of it had been there and was put back: somebody else removed or changed it.
    pub repairs: BTreeMap<ActionKind, u64>,
    /// Secondary ENIs whose links, routes and rules stand.
    pub linked: BTreeSet<Mac>,
    /// What the kernel refused; all else was done.
    pub refused: Option<Refused>,
}

/// Steps that the kernel did not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it said first, with its causes.
    pub error: String,
    /// What is still to be done, by a look at the kernel afterwards.
    pub left: Vec<Action>,
    /// All of that is about secondary ENIs: these are not in [`Report::linked`], and nothing else suffers.
    pub of_secondary_only: bool,
}

/// The host's network. Clones share it. Calls block for as long as the kernel takes (tens of microseconds, more
/// while RTNL is held): call them from `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct HostNet {
    /// Held through a whole reconciliation, so that a pod that comes or goes meanwhile is neither undone nor
    /// brought back by a plan made before. Never held across an await.
    state: Arc<Mutex<State>>,
    /// What announcements of links are compared with, on tokio's own threads: held for an instant, never while the
    /// kernel is asked.
    known: Arc<Mutex<KnownLinks>>,
    /// Ports of our sockets: changes that were asked for on them are our own.
    ports: Arc<[u32]>,
}

/// Which links are pods'.
#[derive(Debug, Default)]
struct KnownLinks {
    veth_prefix: Option<String>,
    pods: BTreeMap<IpAddr, u32>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) route: Socket,
    nft: Socket,
    node: Option<NodeNet>,
    pods: BTreeMap<IpAddr, PodRoute>,
    /// Every pod that survived an agent's restart was added again: what belongs to no pod may go.
    pods_complete: bool,
    /// What was in force when we last looked or changed something: what of it is missing now was taken away.
    installed: Wanted,
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
        let ports = Arc::from([route.port(), nft.port()]);
        let state = State {
            route,
            nft,
            node: None,
            pods: BTreeMap::new(),
            pods_complete: false,
            installed: Wanted::default(),
        };
        Ok(Self { state: Arc::new(Mutex::new(state)), known: Arc::default(), ports })
    }

    fn known(&self) -> MutexGuard<'_, KnownLinks> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the middle leaves the kernel half-way at worst, which the next reconciliation mends.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ports of our sockets, for [`netlink::monitor::Changes::open`].
    pub fn ports(&self) -> Vec<u32> {
        self.ports.to_vec()
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
        for rule in rules_of(&mut state.route, pod.address)?.iter().filter(|rule| !rules.contains(rule)) {
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
                self.known().pods.insert(pod.address, pod.host_ifindex);
                Ok(())
            }
            Err(error) => {
                state.pods.remove(&pod.address);
                self.known().pods.remove(&pod.address);
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
            let standing = rules_of(&mut state.route, pod.address).unwrap_or_else(|error| {
                tracing::warn!(address = %pod.address, error = chain(&error), "the pod's rules cannot be read");
                Vec::new()
            });
            let mut leading: Vec<Rule> =
                standing.into_iter().filter(|rule| leads_from_pod(rule, pod.address)).collect();
            leading.sort_by_key(|rule| rule.protocol != PROTOCOL);
            leading.first().map(|rule| rule.table)
        });
        state.pods.insert(pod.address, PodRoute { table, ..pod.clone() });
        self.known().pods.insert(pod.address, pod.host_ifindex);
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
        let standing = rules_of(&mut state.route, address)?;
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
        self.known().pods.remove(&pod.address);
        let standing = rules_of(&mut state.route, pod.address);
        let mut batch = removal(pod);
        for rule in standing.iter().flatten() {
            rule::delete(&mut batch, rule);
        }
        state.route.run(batch)?;
        standing.map(drop)
    }

    /// Says that every pod that runs was added. Before that nothing is removed: after a restart the kernel still has
    /// the routes of pods that are not known yet.
    pub fn pods_complete(&self) {
        self.lock().pods_complete = true;
    }

    /// Looks up the host's end of a pod's veth pair.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn find(&self, ifname: &str) -> Result<Option<HostLink>, HostNetError> {
        let mut state = self.lock();
        let Some(link) = link::by_name(&mut state.route, ifname)? else {
            return Ok(None);
        };
        let entries = neighbour::list(&mut state.route, Family::V4)?;
        let entry = entries.iter().find(|one| one.link == link.index && one.protocol == PROTOCOL);
        Ok(Some(HostLink { ifindex: link.index, mac: link.mac, pod_mac: entry.map(|one| one.mac) }))
    }

    /// Observes, plans, executes. Does nothing before [`Self::set_node`]. What the kernel refuses is in the report,
    /// beside all that was done.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn reconcile(&self) -> Result<Report, HostNetError> {
        let mut state = self.lock();
        let State { route, nft, node: Some(node), pods, pods_complete, installed } = &mut *state else {
            return Ok(Report { findings: vec![Finding::NotAsked], ..Report::default() });
        };
        let family = TableFamily::of(node.primary.primary_ip);
        let desired = Desired { node: node.clone(), pods: pods.values().cloned().collect() };
        let observed = observe(&desired, route, nft)?;
        let mut wanted = wanted(&desired, &observed.links);
        let steps = |wanted: &Wanted, observed| {
            let mut actions = plan_wanted(wanted, observed);
            if !*pods_complete {
                actions.retain(|action| !action.removes());
            }
            actions
        };
        let mut actions = steps(&wanted, &observed);
        let mut report = Report { findings: wanted.findings.clone(), ..Report::default() };
        for action in actions.iter().filter(|action| installed.had(action)) {
            *report.repairs.entry(action.kind()).or_default() += 1;
        }
        // Until all is done, nothing counts as put back.
        *installed = Wanted::default();
        let mut unlinked = BTreeSet::new();
        if let Err(error) = execute(&actions, family, route, nft) {
            // Which of them it refused, it says best itself.
            let left = steps(&wanted, &observe(&desired, route, nft)?);
            unlinked = enis_of(&left, &desired, &wanted);
            let of_secondary_only = left.iter().all(|action| eni_of(action, &desired, &wanted).is_some());
            actions.retain(|action| !left.contains(action));
            wanted.forget(&left);
            report.refused = Some(Refused { error: chain(&error), left, of_secondary_only });
        }
        report.actions = actions;
        let has_link = |eni: &&EniLink| !report.findings.contains(&Finding::EniWithoutLink { mac: eni.mac });
        let stands = |eni: &&EniLink| !unlinked.contains(&eni.mac);
        let secondary = desired.node.secondary.iter().filter(has_link).filter(stands);
        report.linked = secondary.map(|eni| eni.mac).collect();
        *installed = wanted;
        Ok(report)
    }

    /// Whether a change of this link may call for something. Pods' links come and go all the time, and what they
    /// need comes by [`Self::add_pod`]; but one that is taken down loses its route without a word.
    pub(super) fn concerns_link(&self, index: u32, name: &str, up: bool) -> bool {
        let known = self.known();
        let of_pods = known.veth_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix));
        !of_pods || (!up && known.pods.values().any(|pod| *pod == index))
    }
}

/// The secondary ENI that a step is about; none for a step that concerns the node or a pod.
fn eni_of(action: &Action, desired: &Desired, wanted: &Wanted) -> Option<Mac> {
    let link = match action {
        Action::ChangeLink(change) => Some(change.index),
        Action::AddAddress(address) => Some(address.link),
        Action::PutRoute(route) | Action::RemoveRoute(route) => route.link,
        Action::AddRule(_)
        | Action::RemoveRule(_)
        | Action::PutNeighbour(_)
        | Action::RemoveNeighbour(_)
        | Action::PutTable(_)
        | Action::RemoveTable => None,
    };
    let table = match action {
        // A pod's rule names the same table, and is the pod's.
        Action::AddRule(rule) if rule.priority == FROM_ENI => Some(rule.table),
        _ => None,
    };
    let of = |eni: &&EniLink| {
        link.is_some_and(|link| wanted.enis.get(&eni.mac) == Some(&link)) || table == Some(eni.table)
    };
    desired.node.secondary.iter().find(of).map(|eni| eni.mac)
}

fn enis_of(actions: &[Action], desired: &Desired, wanted: &Wanted) -> BTreeSet<Mac> {
    actions.iter().filter_map(|action| eni_of(action, desired, wanted)).collect()
}

/// Every rule of a pod with this address, whoever made it.
fn rules_of(socket: &mut Socket, address: IpAddr) -> Result<Vec<Rule>, HostNetError> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    Ok(rule::list(socket, family)?.into_iter().filter(|rule| is_of_pod(rule, address)).collect())
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
