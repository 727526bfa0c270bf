mod lost;
mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use rpc::code;
use tokio_util::sync::CancellationToken;

use super::*;

/// A node in memory: what stands on it, and which step fails next.
#[derive(Default)]
pub(crate) struct Node {
    leases: Mutex<BTreeMap<String, (Grant, Option<String>)>>,
    free: Mutex<Vec<IpAddr>>,
    came: tokio::sync::Notify,
    waiting: std::sync::atomic::AtomicUsize,
    routes: Mutex<BTreeSet<IpAddr>>,
    filters: Mutex<BTreeMap<u32, Slot>>,
    links: Mutex<BTreeMap<String, HostEnd>>,
    /// Addresses that routes lead to links, by the link's name.
    routed: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    /// Pods that do not tell their MAC.
    silent: Mutex<BTreeSet<IpAddr>>,
    /// Pods are asked for their MAC at the same time.
    together: Mutex<Option<Arc<tokio::sync::Barrier>>>,
    /// Tables that rules lead pods to.
    tables: Mutex<BTreeMap<IpAddr, u32>>,
    /// Addresses that filters know, by link.
    filtered: Mutex<BTreeMap<u32, IpAddr>>,
    /// Addresses that EC2 does not have.
    strange: Mutex<BTreeSet<IpAddr>>,
    /// Host ends of leases that were adopted, by container id.
    adopted: Mutex<BTreeMap<String, [u8; 6]>>,
    /// The pods that filters were attached for, by link.
    named: Mutex<BTreeMap<u32, Option<PodRef>>>,
    /// Links whose filters leave room for a qdisc of the bandwidth plugin.
    shaped: Mutex<BTreeSet<u32>>,
    keys: Mutex<BTreeMap<String, (SandboxKey, Option<PodRef>)>>,
    failing: Mutex<Option<&'static str>>,
    log: Mutex<Vec<String>>,
}

impl Node {
    fn step(&self, name: &'static str) -> Result<(), Refusal> {
        self.log.lock().unwrap().push(name.to_owned());
        if self.failing.lock().unwrap().take_if(|failing| *failing == name).is_some() {
            return Err(Refusal::new(code::PLUGIN_SPECIFIC, "test", format!("{name} fails")));
        }
        Ok(())
    }

    pub(crate) fn give(&self, last: u8) {
        self.free.lock().unwrap().push(IpAddr::from([10, 0, 0, last]));
        self.came.notify_waiters();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leases.lock().unwrap().is_empty()
            && self.routes.lock().unwrap().is_empty()
            && self.filters.lock().unwrap().is_empty()
    }
}

/// A place in the queue, given up when the wait is dropped.
struct Place<'a>(&'a std::sync::atomic::AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a std::sync::atomic::AtomicUsize) -> Self {
        waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Addresses for Node {
    async fn lease(&self, key: &SandboxKey, _: Option<&PodRef>, _: Instant) -> Result<Grant, Refusal> {
        loop {
            let came = self.came.notified();
            if let Some((grant, _)) = self.leases.lock().unwrap().get(&key.container_id) {
                return Ok(grant.clone());
            }
            if let Some(address) = self.free.lock().unwrap().pop() {
                let grant = Grant { address, table: Some(254), eni: "eni-1".into() };
                self.leases.lock().unwrap().insert(key.container_id.clone(), (grant.clone(), None));
                return Ok(grant);
            }
            let _place = Place::take(&self.waiting);
            came.await;
        }
    }

    async fn commit(&self, key: &SandboxKey, host_ifname: &str) -> Result<(), Refusal> {
        self.step("commit")?;
        self.leases.lock().unwrap().get_mut(&key.container_id).expect("leased").1 =
            Some(host_ifname.to_owned());
        Ok(())
    }

    async fn release(&self, key: &SandboxKey) -> Result<(), Refusal> {
        self.step("release")?;
        self.leases.lock().unwrap().remove(&key.container_id);
        Ok(())
    }

    async fn surviving(&self) -> Vec<Surviving> {
        let leases = self.leases.lock().unwrap();
        let (keys, adopted) = (self.keys.lock().unwrap(), self.adopted.lock().unwrap());
        leases
            .iter()
            .map(|(id, (grant, host_ifname))| {
                let (key, pod) = keys.get(id).cloned().unwrap_or_else(|| (key(id), Some(pod())));
                let (host_ifname, host_mac) = (host_ifname.clone(), adopted.get(id).copied());
                Surviving { key, pod, grant: grant.clone(), host_ifname, host_mac }
            })
            .collect()
    }

    async fn adopt(&self, claim: &Claim) -> Result<Adopted, Refusal> {
        self.step("adopt")?;
        let mut leases = self.leases.lock().unwrap();
        let id = claim.key.container_id.clone();
        if leases.contains_key(&id) || leases.values().any(|(grant, _)| grant.address == claim.address) {
            return Ok(Adopted::Taken);
        }
        let grant = Grant { address: claim.address, table: Some(254), eni: "eni-1".into() };
        leases.insert(id.clone(), (grant, Some(claim.end.ifname.clone())));
        self.adopted.lock().unwrap().insert(id.clone(), claim.end.host_mac);
        self.keys.lock().unwrap().insert(id, (claim.key.clone(), claim.pod.clone()));
        let strange = self.strange.lock().unwrap().contains(&claim.address);
        Ok(if strange { Adopted::Unconfirmed } else { Adopted::Confirmed })
    }

    async fn adopted(&self) -> Result<(), Refusal> {
        self.step("adopted")
    }
}

impl Wiring for Node {
    async fn add_pod(&self, grant: &Grant, _: &HostEnd) -> Result<(), Refusal> {
        self.step("add_pod")?;
        self.routes.lock().unwrap().insert(grant.address);
        Ok(())
    }

    async fn adopt_pod(&self, grant: &Grant, _: &HostEnd) -> Option<u32> {
        self.routes.lock().unwrap().insert(grant.address);
        grant.table.or_else(|| self.tables.lock().unwrap().get(&grant.address).copied())
    }

    async fn set_table(&self, address: IpAddr, table: u32) -> Result<(), Refusal> {
        self.step("set_table")?;
        self.tables.lock().unwrap().insert(address, table);
        Ok(())
    }

    async fn remove_pod(&self, grant: &Grant, _: &HostEnd) -> Result<(), Refusal> {
        self.step("remove_pod")?;
        self.routes.lock().unwrap().remove(&grant.address);
        Ok(())
    }

    async fn lives(&self, end: &HostEnd) -> Result<bool, Refusal> {
        self.step("lives")?;
        Ok(self.links.lock().unwrap().values().any(|present| present.ifindex == end.ifindex))
    }

    async fn unlink(&self, end: &HostEnd) -> Result<(), Refusal> {
        self.step("unlink")?;
        self.links.lock().unwrap().retain(|_, present| present.ifindex != end.ifindex);
        Ok(())
    }

    async fn standing(&self, prefix: &str) -> Result<Vec<Standing>, Refusal> {
        self.step("standing")?;
        let (links, routed) = (self.links.lock().unwrap(), self.routed.lock().unwrap());
        let ours = links.values().filter(|end| end.ifname.starts_with(prefix));
        let addresses = |end: &HostEnd| routed.get(&end.ifname).cloned().unwrap_or_default();
        Ok(ours.map(|end| Standing { end: end.clone(), addresses: addresses(end) }).collect())
    }

    async fn ask_pod_mac(&self, _: &HostEnd, address: IpAddr) -> Option<[u8; 6]> {
        let together = self.together.lock().unwrap().clone();
        if let Some(barrier) = together {
            barrier.wait().await;
        }
        (!self.silent.lock().unwrap().contains(&address)).then_some([6; 6])
    }
}

impl Enforcement for Node {
    async fn attach(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        self.step("attach")?;
        self.filters.lock().unwrap().insert(endpoint.end.ifindex, endpoint.slot);
        if endpoint.egress_shaped {
            self.shaped.lock().unwrap().insert(endpoint.end.ifindex);
        }
        self.named.lock().unwrap().insert(endpoint.end.ifindex, endpoint.pod);
        Ok(())
    }

    async fn detach(&self, endpoint: &Endpoint) {
        self.step("detach").expect("detach cannot fail");
        self.filters.lock().unwrap().remove(&endpoint.end.ifindex);
    }

    async fn addresses_of(&self, ifindex: u32) -> Vec<IpAddr> {
        self.filtered.lock().unwrap().get(&ifindex).copied().into_iter().collect()
    }

    async fn discard(&self, ifindex: u32) {
        self.filters.lock().unwrap().remove(&ifindex);
    }

    async fn slot_of(&self, ifindex: u32) -> Option<Slot> {
        self.filters.lock().unwrap().get(&ifindex).copied()
    }
}

pub(crate) type All = Endpoints<Node, Node, Node>;

pub(crate) fn key(id: &str) -> SandboxKey {
    SandboxKey { network: "aws-cni".into(), container_id: id.into(), ifname: "eth0".into() }
}

pub(crate) fn pod() -> PodRef {
    PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u1".into()) }
}

pub(crate) fn endpoints(node: &Arc<Node>) -> Arc<All> {
    let ports =
        Ports { addresses: Arc::clone(node), wiring: Arc::clone(node), enforcement: Arc::clone(node) };
    Arc::new(Endpoints::new(ports, Shape { veth_prefix: "eni".into(), pod_mtu: 9001 }))
}

fn asked() -> Asked {
    Asked { pod: Some(pod()), egress_shaped: false, begun_ns: rpc::monotonic_ns(), deadline: soon() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The link that an ADD made.
fn stands(node: &Node, leased: &rpc::Leased, ifindex: u32) {
    let ifname = leased.host_ifname.clone();
    let end = HostEnd { ifname: ifname.clone(), ifindex, host_mac: leased.host_mac, pod_mac: leased.pod_mac };
    node.links.lock().unwrap().insert(ifname, end);
}

async fn leased(all: &All, id: &str) -> (rpc::Leased, Provisional) {
    all.lease(&key(id), asked(), &CancellationToken::new()).await.expect("an address is free")
}

async fn added(all: &All, id: &str, ifindex: u32) -> rpc::Leased {
    let (lease, _) = leased(all, id).await;
    all.attach(&key(id), &lease.host_ifname, ifindex).await.expect("nothing fails");
    lease
}

#[tokio::test]
async fn an_add_and_its_repetition_give_the_same_answer() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let first = added(&all, "a", 7).await;
    let second = added(&all, "a", 7).await;
    assert_eq!(first, second);
    assert_eq!(first.host_ifname, rpc::host_ifname("eni", &key("a"), Some(&pod())));
    assert_eq!(node.log.lock().unwrap().as_slice(), ["attach", "add_pod", "commit"]);
}

#[tokio::test]
async fn each_step_that_fails_is_undone() {
    for failing in ["attach", "add_pod", "commit"] {
        let node = Arc::new(Node::default());
        node.give(5);
        let all = endpoints(&node);
        let (lease, provisional) = leased(&all, "a").await;
        *node.failing.lock().unwrap() = Some(failing);
        let refusal = all.attach(&key("a"), &lease.host_ifname, 7).await.expect_err("a step fails");
        assert_eq!(refusal.message, format!("{failing} fails"));
        all.abandon(&provisional).await;
        assert!(node.is_empty(), "{failing} left something");
    }
}

#[tokio::test]
async fn a_connection_that_closes_between_lease_and_attach_gives_the_address_back() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let (_, provisional) = leased(&all, "a").await;
    all.abandon(&provisional).await;
    assert!(node.is_empty());
    let refusal = all.attach(&key("a"), "eni1", 7).await.expect_err("the lease is gone");
    assert_eq!((refusal.reason.as_str(), refusal.retryable), (rpc::reason::UNKNOWN_LEASE, true));
}

#[tokio::test]
async fn an_older_connection_does_not_undo_the_newer_one_s_lease() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let (_, old) = leased(&all, "a").await;
    let (lease, _) = leased(&all, "a").await;
    all.abandon(&old).await;
    all.attach(&key("a"), &lease.host_ifname, 7).await.expect("still leased");
}

#[tokio::test]
async fn a_delete_ends_an_add_that_waits_and_refuses_the_late_one() {
    let node = Arc::new(Node::default());
    let all = endpoints(&node);
    let late = asked();
    let waiting = tokio::spawn({
        let all = Arc::clone(&all);
        async move { all.lease(&key("a"), asked(), &CancellationToken::new()).await }
    });
    while all.registry_len() == 0 {
        tokio::task::yield_now().await;
    }
    all.release(&key("a")).await.expect("nothing to undo");
    let refusal = waiting.await.expect("no panic").expect_err("it was deleted");
    assert_eq!(refusal.reason, rpc::reason::SANDBOX_DELETED);
    node.give(5);
    for begun_ns in [late.begun_ns, 0] {
        let asked = Asked { begun_ns, ..late.clone() };
        let refused =
            all.lease(&key("a"), asked, &CancellationToken::new()).await.expect_err("it was deleted");
        assert_eq!(refused.reason, rpc::reason::SANDBOX_DELETED);
    }
    assert!(node.is_empty());
    assert_eq!(all.registry_len(), 0, "refused ADDs do not pile up");
}

#[tokio::test]
async fn a_container_that_was_deleted_can_be_added_again() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let late = asked();
    added(&all, "a", 7).await;
    all.release(&key("a")).await.expect("deleted");
    node.give(6);
    added(&all, "a", 8).await;
    all.lease(&key("a"), late, &CancellationToken::new()).await.expect_err("it began before the DEL");
    assert_eq!(node.filters.lock().unwrap().keys().copied().collect::<Vec<_>>(), [8], "the newer one runs");
}

#[tokio::test]
async fn a_plugin_that_dies_in_the_queue_leaves_nothing() {
    let node = Arc::new(Node::default());
    let all = endpoints(&node);
    let gone = CancellationToken::new();
    let waiting = tokio::spawn({
        let (all, gone) = (Arc::clone(&all), gone.clone());
        async move { all.lease(&key("a"), asked(), &gone).await }
    });
    while all.registry_len() == 0 {
        tokio::task::yield_now().await;
    }
    gone.cancel();
    waiting.await.expect("no panic").expect_err("nobody listens");
    assert!(node.is_empty());
}

#[tokio::test]
async fn the_late_delete_of_an_old_sandbox_spares_its_successor_of_the_same_name() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let all = endpoints(&node);
    let old = added(&all, "old", 7).await;
    let new = added(&all, "new", 8).await;
    assert_eq!(old.host_ifname, new.host_ifname, "StatefulSet pods share their name");
    all.release(&key("old")).await.expect("deleted");
    assert_eq!(node.filters.lock().unwrap().keys().copied().collect::<Vec<_>>(), [8]);
    assert!(node.routes.lock().unwrap().contains(&new.addresses[0]));
    all.check(&key("new")).await.expect_err("the fake has no link");
}

#[tokio::test]
async fn a_late_add_of_an_older_sandbox_leaves_its_successor_s_link_alone() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    node.give(7);
    let all = endpoints(&node);
    let (never, late) = (asked(), asked());
    let add = |id: &'static str, asked: &Asked| {
        let (all, asked) = (Arc::clone(&all), asked.clone());
        async move { all.lease(&key(id), asked, &CancellationToken::new()).await }
    };
    let (old, _) = add("old", &late).await.expect("nobody else has the name");
    leased(&all, "new").await;
    // Its plugin sees a link of that name and asks again before it takes it out of the way; or comes with its own.
    for refused in [add("never", &never).await.err(), add("old", &late).await.err()] {
        assert_eq!(refused.map(|refusal| refusal.reason).as_deref(), Some(rpc::reason::SANDBOX_DELETED));
    }
    added(&all, "new", 8).await;
    let refusal = all.attach(&key("old"), &old.host_ifname, 7).await.expect_err("it has a successor");
    assert_eq!(refusal.reason, rpc::reason::SANDBOX_DELETED);

    // Another agent does not know which is older, and the DEL of the older one settles it.
    stands(&node, &added(&all, "new", 8).await, 8);
    let all = endpoints(&node);
    all.restore().await.expect("nothing fails");
    let early = Asked { begun_ns: late.begun_ns, ..asked() };
    let refusal =
        all.lease(&key("other"), early.clone(), &CancellationToken::new()).await.expect_err("taken");
    assert!(refusal.retryable, "{refusal}");
    all.release(&key("new")).await.expect("deleted");
    all.lease(&key("other"), early, &CancellationToken::new()).await.expect("free");
}

#[tokio::test]
async fn a_plugin_that_does_not_tell_when_it_began_takes_the_name_over() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let all = endpoints(&node);
    added(&all, "old", 7).await;
    let untold = Asked { begun_ns: 0, ..asked() };
    all.lease(&key("new"), untold, &CancellationToken::new()).await.expect("it begins now");
}

#[tokio::test]
async fn a_delete_takes_the_link_that_the_plugin_could_not_find() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    stands(&node, &added(&all, "a", 7).await, 7);
    *node.failing.lock().unwrap() = Some("unlink");
    all.release(&key("a")).await.expect_err("the kernel fails");
    assert!(!node.is_empty(), "an address is not free while a link may send from it");
    all.release(&key("a")).await.expect("second try");
    assert!(node.is_empty() && node.links.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_sandbox_added_again_on_a_new_link_is_shaped_as_it_asks_now() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    let shaped = Asked { egress_shaped: true, ..asked() };
    let (lease, _) = all.lease(&key("a"), shaped, &CancellationToken::new()).await.expect("leased");
    all.attach(&key("a"), &lease.host_ifname, 8).await.expect("nothing fails");
    assert_eq!(*node.shaped.lock().unwrap(), BTreeSet::from([8]));
}

#[tokio::test]
async fn delete_is_repeatable_and_knows_nothing_of_strangers() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    for _ in 0..3 {
        all.release(&key("a")).await.expect("deleted");
    }
    all.release(&key("never-seen")).await.expect("nothing to delete");
    assert!(node.is_empty());
    assert_eq!(all.registry_len(), 0, "entries do not pile up");
}

#[tokio::test]
async fn a_delete_that_fails_can_be_repeated() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    *node.failing.lock().unwrap() = Some("release");
    all.release(&key("a")).await.expect_err("the pool fails");
    all.release(&key("a")).await.expect("second try");
    assert!(node.is_empty());
}

#[tokio::test]
async fn a_restart_keeps_what_has_a_link_and_gives_back_the_rest() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let before = endpoints(&node);
    let kept = added(&before, "kept", 7).await;
    leased(&before, "half").await;
    let end = HostEnd {
        ifname: kept.host_ifname.clone(),
        ifindex: 7,
        host_mac: kept.host_mac,
        pod_mac: kept.pod_mac,
    };
    node.links.lock().unwrap().insert(kept.host_ifname.clone(), end);
    let slot = node.filters.lock().unwrap()[&7];

    let after = endpoints(&node);
    *node.failing.lock().unwrap() = Some("standing");
    after.restore().await.expect("one failure passes");
    assert_eq!(node.leases.lock().unwrap().keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(
        node.filters.lock().unwrap()[&7],
        slot,
        "the same place, so that no packet meets another's policy"
    );
    after.check(&key("kept")).await.expect("as before");
}

#[tokio::test]
async fn after_a_restart_the_link_is_its_successor_s_and_not_the_old_sandbox_s() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let before = endpoints(&node);
    added(&before, "old", 7).await;
    let new = added(&before, "new", 8).await;
    let end =
        HostEnd { ifname: new.host_ifname.clone(), ifindex: 8, host_mac: new.host_mac, pod_mac: new.pod_mac };
    node.links.lock().unwrap().insert(new.host_ifname.clone(), end);

    let after = endpoints(&node);
    after.restore().await.expect("nothing fails");
    assert_eq!(node.leases.lock().unwrap().keys().collect::<Vec<_>>(), ["new"], "the old one's link is gone");
    after.release(&key("old")).await.expect("its late DEL");
    after.check(&key("new")).await.expect("untouched");
}

#[tokio::test]
async fn an_add_repeated_after_its_filters_were_lost_puts_them_back() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    node.filters.lock().unwrap().clear();
    added(&all, "a", 7).await;
    assert_eq!(node.filters.lock().unwrap().len(), 1);
}
