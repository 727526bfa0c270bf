//! The host's network under one lock: what is wanted, and the sockets to make it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netlink::{
    Batch, Family, Mac, Socket, TABLE_MAIN,
    link::{self, Ipv4Conf, LinkChange},
    neighbour,
    nft::{self, TableFamily},
    route, rule,
};

use super::{
    Action, ActionKind, Desired, EniLink, Finding, HostNetError, NodeNet, PodRoute,
    execute::execute,
    observed::observe,
    plan::plan_wanted,
    sysctl,
    wanted::{Wanted, pod_neighbour, pod_route, pod_rules, wanted},
};

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
}

/// The host's network. Clones share it. Calls block for as long as the kernel takes (tens of microseconds, more
/// while RTNL is held): call them from `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct HostNet {
    /// Held through a whole reconciliation, so that a pod that comes or goes meanwhile is neither undone nor
    /// brought back by a plan made before. Never held across an await.
    state: Arc<Mutex<State>>,
    /// Ports of our sockets: changes that were asked for on them are our own.
    ports: Arc<[u32]>,
}

#[derive(Debug)]
struct State {
    route: Socket,
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
        Ok(Self { state: Arc::new(Mutex::new(state)), ports })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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
        // Without a table of its own any more (it was on another ENI before), the old rule must not stay.
        if let Some(before) = state.pods.get(&pod.address)
            && before.table != pod.table
        {
            for rule in pod_rules(before).iter().filter(|rule| rule.table != TABLE_MAIN) {
                rule::delete(&mut batch, rule);
            }
        }
        let forwarding = vec![(Ipv4Conf::Forwarding, 1)];
        link::change(&mut batch, &LinkChange { ipv4: forwarding, ..LinkChange::of(pod.host_ifindex) });
        if let Some(neighbour) = pod_neighbour(pod) {
            neighbour::replace(&mut batch, &neighbour);
        }
        route::replace(&mut batch, &pod_route(pod));
        for rule in pod_rules(pod) {
            rule::add(&mut batch, &rule);
        }
        match state.route.run(batch) {
            Ok(_) => {
                state.installed.pod(pod);
                state.pods.insert(pod.address, pod.clone());
                Ok(())
            }
            Err(error) => {
                state.pods.remove(&pod.address);
                // The first error counts; what cannot be undone now is undone by the next reconciliation.
                let _ = state.route.run(removal(pod));
                Err(error.into())
            }
        }
    }

    /// A pod that was wired before: nothing is written now, the next [`Self::reconcile`] puts back what is missing.
    pub fn adopt_pod(&self, pod: &PodRoute) {
        self.lock().pods.insert(pod.address, pod.clone());
    }

    /// Takes a pod's routes, rules and neighbour entry away, at once. Gone already is success. A pod that has got
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
        state.route.run(removal(pod))?;
        Ok(())
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
        let entry = entries.iter().find(|one| one.link == link.index && one.protocol == netlink::PROTOCOL);
        Ok(Some(HostLink { ifindex: link.index, mac: link.mac, pod_mac: entry.map(|one| one.mac) }))
    }

    /// Observes, plans, executes. Does nothing before [`Self::set_node`].
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked, or the first action that it refused; all others were tried.
    pub fn reconcile(&self) -> Result<Report, HostNetError> {
        let mut state = self.lock();
        let State { route, nft, node: Some(node), pods, pods_complete, installed } = &mut *state else {
            return Ok(Report { findings: vec![Finding::NotAsked], ..Report::default() });
        };
        let family = TableFamily::of(node.primary.primary_ip);
        let desired = Desired { node: node.clone(), pods: pods.values().cloned().collect() };
        let observed = observe(&desired, route, nft)?;
        let wanted = wanted(&desired, &observed.links);
        let mut actions = plan_wanted(&wanted, &observed);
        if !*pods_complete {
            actions.retain(|action| !action.removes());
        }
        let mut report = Report { findings: wanted.findings.clone(), ..Report::default() };
        for action in actions.iter().filter(|action| installed.had(action)) {
            *report.repairs.entry(action.kind()).or_default() += 1;
        }
        // Until all is done, nothing counts as put back.
        *installed = Wanted::default();
        execute(&actions, family, route, nft)?;
        *installed = wanted;
        report.actions = actions;
        let has_link = |eni: &&EniLink| !report.findings.contains(&Finding::EniWithoutLink { mac: eni.mac });
        report.linked = desired.node.secondary.iter().filter(has_link).map(|eni| eni.mac).collect();
        Ok(report)
    }

    /// Whether a change of this link may call for something. Pods' links come and go all the time, and what they
    /// need comes by [`Self::add_pod`]; but one that is taken down loses its route without a word.
    pub(super) fn concerns_link(&self, index: u32, name: &str, up: bool) -> bool {
        let state = self.lock();
        let of_pods = state.node.as_ref().is_some_and(|node| name.starts_with(&node.veth_prefix));
        !of_pods || (!up && state.pods.values().any(|pod| pod.host_ifindex == index))
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
