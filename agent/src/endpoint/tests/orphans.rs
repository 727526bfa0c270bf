//! What is left when no DEL comes.

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// The link that an ADD made.
fn stands(node: &Node, leased: &rpc::Leased, ifindex: u32) {
    let ifname = leased.host_ifname.clone();
    let end = HostEnd { ifname: ifname.clone(), ifindex, host_mac: leased.host_mac, pod_mac: leased.pod_mac };
    node.links.lock().unwrap().insert(ifname, end);
}

fn leased_to(node: &Node) -> Vec<String> {
    node.leases.lock().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_lease_goes_some_time_after_its_link() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let lease = added(&all, "a", 7).await;
    let suspects = BTreeSet::from([lease.addresses[0]]);
    stands(&node, &lease, 7);
    let start = Instant::now();
    assert_eq!(all.give_back_orphans(&suspects, start).await, 0);
    node.links.lock().unwrap().clear();
    for (seconds, released) in [(1, 0), (10, 0), (11, 1), (12, 0)] {
        let now = start + Duration::from_secs(seconds);
        assert_eq!(all.give_back_orphans(&suspects, now).await, released, "after {seconds} s");
    }
    assert!(node.is_empty());
    assert_eq!(all.registry_len(), 0);
    // Its DEL may come yet, and so may another ADD.
    all.release(&key("a")).await.expect("nothing is left to delete");
    node.give(6);
    added(&all, "a", 8).await;
}

#[tokio::test]
async fn a_renamed_link_and_one_that_cannot_be_read_are_there() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let lease = added(&all, "a", 7).await;
    let renamed = rpc::Leased { host_ifname: "renamed".into(), ..lease.clone() };
    stands(&node, &renamed, 7);
    let (suspects, start) = (BTreeSet::from([lease.addresses[0]]), Instant::now());
    all.give_back_orphans(&suspects, start).await;
    assert_eq!(all.give_back_orphans(&suspects, start + 2 * PATIENCE).await, 0);
    node.links.lock().unwrap().clear();
    all.give_back_orphans(&suspects, start + 2 * PATIENCE).await;
    *node.failing.lock().unwrap() = Some("lives");
    assert_eq!(all.give_back_orphans(&suspects, start + 4 * PATIENCE).await, 0, "nobody knows");
    assert_eq!(leased_to(&node), ["a"]);
}

#[tokio::test]
async fn an_add_that_is_repeated_meanwhile_keeps_its_lease_or_begins_again() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    let lease = added(&all, "a", 7).await;
    let (suspects, start) = (BTreeSet::from([lease.addresses[0]]), Instant::now());
    all.give_back_orphans(&suspects, start).await;
    // The plugin has made the pair anew: the older link's absence is nobody's business.
    added(&all, "a", 8).await;
    stands(&node, &lease, 8);
    assert_eq!(all.give_back_orphans(&suspects, start + 2 * PATIENCE).await, 0);
    // Leased, but not yet attached when patience ends.
    node.links.lock().unwrap().clear();
    all.give_back_orphans(&suspects, start + 3 * PATIENCE).await;
    let (again, _) = leased(&all, "a").await;
    assert_eq!(all.give_back_orphans(&suspects, start + 5 * PATIENCE).await, 1);
    let refusal = all.attach(&key("a"), &again.host_ifname, 9).await.expect_err("the lease is gone");
    assert_eq!((refusal.reason.as_str(), refusal.retryable), (rpc::reason::UNKNOWN_LEASE, true));
    node.give(6);
    added(&all, "a", 9).await;
}

#[tokio::test]
async fn collection_releases_what_is_not_named() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let all = endpoints(&node);
    let stale = added(&all, "a", 7).await;
    added(&all, "b", 8).await;
    let valid = [("b".to_owned(), "eth0".to_owned())];
    let began = rpc::monotonic_ns();
    node.give(7);
    added(&all, "newer", 9).await;
    let (released, ends) = all.collect("aws-cni", &valid, began).await.expect("nothing fails");
    assert_eq!(released, 1, "one that came after the list was made is not missing from it");
    assert_eq!(ends.iter().map(|end| (end.ifindex, end.host_mac)).collect::<Vec<_>>(), [(7, stale.host_mac)]);
    assert_eq!(all.collect("another", &[], 0).await.expect("nothing fails").0, 0);
    assert_eq!(leased_to(&node), ["b", "newer"]);
    // The late ADD of what was collected is refused as after a DEL.
    let late = Asked { begun_ns: began, ..asked() };
    let refusal = all.lease(&key("a"), late, &CancellationToken::new()).await.expect_err("collected");
    assert_eq!(refusal.reason, rpc::reason::SANDBOX_DELETED);
}

#[tokio::test]
async fn a_collection_does_not_wait_for_an_add_that_does() {
    let node = Arc::new(Node::default());
    let all = endpoints(&node);
    let waiting = tokio::spawn({
        let all = Arc::clone(&all);
        async move { all.lease(&key("a"), asked(), &CancellationToken::new()).await }
    });
    while node.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(all.collect("aws-cni", &[], rpc::monotonic_ns()).await.expect("nothing fails").0, 0);
    node.give(5);
    waiting.await.expect("no panic").expect("its address came");
}

#[tokio::test]
async fn a_pod_that_the_api_lost_is_told_and_left_alone() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    let start = Instant::now();
    let minutes = |count: u64| start + Duration::from_secs(60 * count);
    let strangers = |known: bool, now: Instant| all.strangers(|_| known, now).len();
    assert_eq!([strangers(true, minutes(0)), strangers(false, minutes(1))], [0, 0]);
    assert_eq!([strangers(false, minutes(5)), strangers(false, minutes(6))], [0, 1]);
    assert_eq!([strangers(true, minutes(7)), strangers(false, minutes(8))], [0, 0], "it came back");
    assert_eq!(strangers(false, minutes(13)), 1);
    let named = [("a".to_owned(), "eth0".to_owned())];
    all.collect("aws-cni", &named, rpc::monotonic_ns()).await.expect("nothing fails");
    assert_eq!(strangers(false, minutes(14)), 0, "the runtime says that it lives");
    assert_eq!(leased_to(&node), ["a"]);
}
