//! Starts on a node whose pods run and whose leases are gone.

use super::*;

/// The pod `name`'s link, as the plugin makes it for sandbox `id`.
fn link(node: &Node, name: &str, id: &str, ifindex: u32, routes: &[u8]) -> HostEnd {
    let pod = PodRef { name: name.into(), ..pod() };
    let ifname = rpc::host_ifname("eni", &key(id), Some(&pod));
    let (host_mac, pod_mac) = transaction::macs(&key(id));
    let end = HostEnd { ifname: ifname.clone(), ifindex, host_mac, pod_mac };
    node.links.lock().unwrap().insert(ifname.clone(), end.clone());
    let addresses = routes.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
    node.routed.lock().unwrap().insert(ifname, addresses);
    end
}

fn record(name: &str, id: &str, last: u8) -> Record {
    let pod = PodRef { name: name.into(), ..pod() };
    let addresses = vec![IpAddr::from([10, 0, 0, last])];
    Record { key: key(id), pod: Some(pod), addresses, host_end: None }
}

fn leases(node: &Node) -> Vec<(String, IpAddr)> {
    node.leases.lock().unwrap().iter().map(|(id, (grant, _))| (id.clone(), grant.address)).collect()
}

async fn started(node: &Arc<Node>, records: &[Record]) -> (Arc<All>, Recovered) {
    let all = endpoints(node);
    let recovered = all.recover(records).await.expect("nothing fails");
    all.restore().await.expect("nothing fails");
    (all, recovered)
}

#[tokio::test]
async fn pods_that_run_get_their_leases_and_endpoints_back() {
    let node = Arc::new(Node::default());
    let end = link(&node, "web-0", "a", 7, &[5]);
    node.filters.lock().unwrap().insert(7, Slot::new(9).expect("a slot"));
    let (all, recovered) = started(&node, &[record("web-0", "a", 5)]).await;
    assert_eq!(recovered, Recovered { confirmed: 1, ..Recovered::default() });
    assert_eq!(leases(&node), [("a".to_owned(), IpAddr::from([10, 0, 0, 5]))]);
    assert_eq!(node.filters.lock().unwrap()[&7].number(), 9, "the slot that its filters know");
    assert!(node.routes.lock().unwrap().contains(&IpAddr::from([10, 0, 0, 5])));
    all.check(&key("a")).await.expect("whole");

    // Another start finds nothing to adopt; its own DEL frees it.
    let (all, again) = started(&node, &[record("web-0", "a", 5)]).await;
    assert_eq!(again, Recovered::default());
    node.links.lock().unwrap().remove(&end.ifname);
    all.release(&key("a")).await.expect("deleted");
    assert!(node.is_empty());
}

#[tokio::test]
async fn the_del_of_an_unknown_sandbox_frees_the_lease_whose_link_went_with_it() {
    let node = Arc::new(Node::default());
    let first = link(&node, "web-0", "a", 7, &[5]);
    link(&node, "web-1", "b", 8, &[6]);
    let (all, recovered) = started(&node, &[]).await;
    assert_eq!((recovered.confirmed, recovered.made_up), (2, 2));
    // A DEL of an older sandbox of the same pod: the link is not its.
    all.release(&key("older")).await.expect("nothing to delete");
    assert_eq!(leases(&node).len(), 2);
    node.links.lock().unwrap().remove(&first.ifname);
    all.release(&key("a")).await.expect("deleted");
    assert_eq!(
        leases(&node).iter().map(|(_, address)| *address).collect::<Vec<_>>(),
        [IpAddr::from([10, 0, 0, 6])]
    );
    assert_eq!(node.filters.lock().unwrap().keys().copied().collect::<Vec<_>>(), [8]);
    assert_eq!(all.view().len(), 1);
}

#[tokio::test]
async fn an_adopted_lease_goes_with_its_link_and_another_one_does_not() {
    let node = Arc::new(Node::default());
    let end = link(&node, "web-0", "a", 7, &[5]);
    let (all, _) = started(&node, &[]).await;
    node.give(6);
    added(&all, "ordinary", 8).await;
    all.give_back_vanished().await;
    assert_eq!(leases(&node).len(), 2, "its link is there");
    // The kernel may give the name to a successor's link.
    node.links.lock().unwrap().insert(end.ifname.clone(), HostEnd { ifindex: 70, ..end });
    all.give_back_vanished().await;
    assert_eq!(leases(&node), [("ordinary".to_owned(), IpAddr::from([10, 0, 0, 6]))]);
}

#[tokio::test]
async fn the_api_names_pods_that_nobody_else_knew() {
    let node = Arc::new(Node::default());
    link(&node, "web-0", "a", 7, &[5]);
    link(&node, "web-1", "b", 8, &[6]);
    link(&node, "web-2", "c", 9, &[7]);
    let (all, _) = started(&node, &[record("web-2", "c", 7)]).await;
    let named =
        |name: &str, last: u8| (PodRef { name: name.into(), ..pod() }, vec![IpAddr::from([10, 0, 0, last])]);
    // The second is a successor that has another address already.
    all.name(&[named("web-0", 5), named("web-1", 16), named("web-2", 7)]).await;
    let names = node.named.lock().unwrap();
    let name = |ifindex: u32| names[&ifindex].as_ref().map(|pod| (pod.namespace.as_str(), pod.name.as_str()));
    assert_eq!(name(7), Some(("shop", "web-0")));
    assert_eq!(name(8).map(|(namespace, _)| namespace), Some(""), "a pod that nothing can select by mistake");
    assert_eq!(name(9), Some(("shop", "web-2")), "named by its record");
}

#[tokio::test]
async fn what_another_plugin_wired_is_known_again_after_the_next_start() {
    let node = Arc::new(Node::default());
    let end = link(&node, "web-0", "a", 7, &[5]);
    let foreign = HostEnd { host_mac: [2, 1, 1, 1, 1, 1], pod_mac: [0; 6], ..end };
    node.links.lock().unwrap().insert(foreign.ifname.clone(), foreign.clone());
    for _ in 0..2 {
        let (all, _) = started(&node, &[record("web-0", "a", 5)]).await;
        let view = all.view();
        let endpoint = view.first().and_then(|view| view.endpoint.clone()).expect("restored");
        assert_eq!(endpoint.end.pod_mac, [6; 6], "as the pod told");
    }
    // A successor's link of the same name is not taken for it.
    node.links.lock().unwrap().insert(foreign.ifname.clone(), HostEnd { host_mac: [2; 6], ..foreign });
    node.routed.lock().unwrap().clear();
    started(&node, &[]).await;
    assert_eq!(leases(&node), []);
}

#[tokio::test]
async fn what_is_lacking_is_made_up_for_or_counted() {
    let node = Arc::new(Node::default());
    link(&node, "web-0", "a", 7, &[5]);
    link(&node, "web-1", "b", 8, &[]);
    link(&node, "web-2", "c", 9, &[]);
    node.filtered.lock().unwrap().insert(9, IpAddr::from([10, 0, 0, 7]));
    node.strange.lock().unwrap().insert(IpAddr::from([10, 0, 0, 5]));
    let (_, recovered) = started(&node, &[]).await;
    assert_eq!(recovered, Recovered { confirmed: 1, unconfirmed: 1, made_up: 2, nameless: 1 });
    assert_eq!(leases(&node).len(), 2);
}

#[tokio::test]
async fn what_an_unfinished_add_left_is_nobody_s() {
    let node = Arc::new(Node::default());
    node.give(5);
    let before = endpoints(&node);
    let (lease, _) = leased(&before, "half").await;
    let end = HostEnd {
        ifname: lease.host_ifname.clone(),
        ifindex: 7,
        host_mac: lease.host_mac,
        pod_mac: lease.pod_mac,
    };
    // Killed inside attach: filters and a route stand, the lease is provisional.
    node.links.lock().unwrap().insert(lease.host_ifname.clone(), end);
    node.routed.lock().unwrap().insert(lease.host_ifname, vec![lease.addresses[0]]);
    node.filters.lock().unwrap().insert(7, Slot::new(3).expect("a slot"));
    let (_, recovered) = started(&node, &[]).await;
    assert_eq!(recovered, Recovered::default(), "it has a lease");
    assert!(node.is_empty());
}

#[tokio::test]
async fn an_address_behind_a_link_of_another_name_is_told_before_it_is_lost() {
    let node = Arc::new(Node::default());
    link(&node, "web-0", "a", 7, &[5]);
    for (ifname, ifindex, last) in [("foo1", 8, 6), ("foo2", 9, 7), ("docker1", 10, 8)] {
        let end = HostEnd { ifname: ifname.into(), ifindex, host_mac: [2; 6], pod_mac: [0; 6] };
        node.links.lock().unwrap().insert(ifname.into(), end);
        node.routed.lock().unwrap().insert(ifname.into(), vec![IpAddr::from([10, 0, 0, last])]);
    }
    let all = endpoints(&node);
    // One is in aws-node's file, one on an ENI; the third is none of our business.
    let records = [record("web-1", "b", 6), record("web-0", "a", 5)];
    let strays = all.strays(&records, |address| address == IpAddr::from([10, 0, 0, 7])).await;
    let told = [6, 7].map(|last: u8| (IpAddr::from([10, 0, 0, last]), format!("foo{}", last - 5)));
    assert_eq!(strays.expect("nothing fails"), told);

    // With a lease it is safe, whatever its link is called.
    let grant = Grant { address: IpAddr::from([10, 0, 0, 7]), table: Some(254), eni: "eni-1".into() };
    node.leases.lock().unwrap().insert("c".into(), (grant, Some("foo2".into())));
    assert_eq!(all.strays(&records, |_| false).await.expect("nothing fails"), told[..1]);
    assert_eq!(all.strays(&[], |_| false).await.expect("nothing fails"), []);
}

#[tokio::test]
async fn a_pod_whose_eni_comes_to_be_known_follows_it() {
    let node = Arc::new(Node::default());
    let address = IpAddr::from([10, 0, 0, 5]);
    let end = link(&node, "web-0", "a", 7, &[5]);
    node.tables.lock().unwrap().insert(address, 3);
    let grant = Grant { address, table: None, eni: "unknown".into() };
    node.leases.lock().unwrap().insert("a".into(), (grant.clone(), Some(end.ifname)));
    let all = endpoints(&node);
    all.restore().await.expect("nothing fails");
    let shown = || all.view().into_iter().map(|view| view.grant).collect::<Vec<_>>();
    let taken = Grant { table: Some(3), ..grant };
    assert_eq!(shown(), std::slice::from_ref(&taken), "as its rule stands");
    all.follow_enis().await;
    assert_eq!(shown(), std::slice::from_ref(&taken), "nothing new");

    let known = Grant { table: Some(2), eni: "eni-2".into(), ..taken };
    node.leases.lock().unwrap().get_mut("a").expect("leased").0 = known.clone();
    *node.failing.lock().unwrap() = Some("set_table");
    all.follow_enis().await;
    assert_ne!(shown(), std::slice::from_ref(&known), "it could not be done");
    all.follow_enis().await;
    assert_eq!(shown(), [known]);
    assert_eq!(node.tables.lock().unwrap()[&address], 2);
    all.release(&key("a")).await.expect("deleted");
    all.follow_enis().await;
    assert_eq!(all.registry_len(), 0);
}

#[tokio::test]
async fn pods_that_say_nothing_are_waited_for_together_and_asked_again() {
    let node = Arc::new(Node::default());
    for (name, ifindex) in [("web-0", 7), ("web-1", 8), ("web-2", 9)] {
        let last = u8::try_from(ifindex).expect("small");
        let end = HostEnd { host_mac: [2; 6], pod_mac: [0; 6], ..link(&node, name, name, ifindex, &[last]) };
        node.links.lock().unwrap().insert(end.ifname.clone(), end);
    }
    node.silent.lock().unwrap().insert(IpAddr::from([10, 0, 0, 8]));
    *node.together.lock().unwrap() = Some(Arc::new(tokio::sync::Barrier::new(3)));
    let records = [record("web-0", "web-0", 7), record("web-1", "web-1", 8), record("web-2", "web-2", 9)];
    let start = started(&node, &records);
    let (all, _) = tokio::time::timeout(Duration::from_secs(20), start).await.expect("all are asked at once");
    *node.together.lock().unwrap() = None;
    let known = || {
        let ends = all.view().into_iter().filter_map(|view| view.endpoint).map(|endpoint| endpoint.end);
        ends.map(|end| end.pod_mac).collect::<Vec<_>>()
    };
    assert_eq!(known(), [[6; 6], [0; 6], [6; 6]], "nothing is guessed");
    all.ask_again().await;
    assert_eq!(known()[1], [0; 6]);
    node.silent.lock().unwrap().clear();
    *node.failing.lock().unwrap() = Some("attach");
    all.ask_again().await;
    assert_eq!(known()[1], [0; 6], "its filters do not know it yet");
    all.ask_again().await;
    assert_eq!(known(), [[6; 6]; 3]);
    node.log.lock().unwrap().clear();
    all.ask_again().await;
    assert_eq!(node.log.lock().unwrap().as_slice(), <[String; 0]>::default(), "nobody is left to ask");
}
