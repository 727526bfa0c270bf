//! What is left when no DEL comes.

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

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
async fn a_restart_finds_a_link_that_was_renamed_or_has_another_mac() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let all = endpoints(&node);
    let lease = added(&all, "a", 7).await;
    stands(&node, &rpc::Leased { host_ifname: "renamed".into(), ..lease.clone() }, 7);
    for _ in 0..2 {
        let after = endpoints(&node);
        after.restore().await.expect("nothing fails");
        assert_eq!(leased_to(&node), ["a"]);
        assert_eq!(after.view()[0].endpoint.as_ref().map(|one| one.end.ifindex), Some(7));
        after.check(&key("a")).await.expect("as before");
    }
    // By name and route; the route alone tells it from a successor's.
    node.links.lock().unwrap().clear();
    stands(&node, &rpc::Leased { host_mac: [2, 9, 9, 9, 9, 9], ..lease.clone() }, 7);
    node.routed.lock().unwrap().insert(lease.host_ifname.clone(), lease.addresses);
    endpoints(&node).restore().await.expect("nothing fails");
    assert_eq!(leased_to(&node), ["a"]);
    node.routed.lock().unwrap().clear();
    endpoints(&node).restore().await.expect("nothing fails");
    assert!(leased_to(&node).is_empty());
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
    stands(&node, &added(&all, "a", 7).await, 7);
    added(&all, "b", 8).await;
    let valid = [("b".to_owned(), "eth0".to_owned())];
    let began = rpc::monotonic_ns();
    node.give(7);
    added(&all, "newer", 9).await;
    let released = all.collect("aws-cni", &valid, began).await.expect("nothing fails");
    assert_eq!(released, 1, "one that came after the list was made is not missing from it");
    assert!(node.links.lock().unwrap().is_empty(), "its namespace may still be there");
    assert_eq!(all.collect("another", &[], 0).await.expect("nothing fails"), 0);
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
    assert_eq!(all.collect("aws-cni", &[], rpc::monotonic_ns()).await.expect("nothing fails"), 0);
    node.give(5);
    waiting.await.expect("no panic").expect("its address came");
}

#[tokio::test]
async fn a_collection_whose_list_is_older_than_the_agent_collects_nothing() {
    let node = Arc::new(Node::default());
    node.give(5);
    node.give(6);
    let all = endpoints(&node);
    let began = rpc::monotonic_ns();
    stands(&node, &added(&all, "a", 7).await, 7);
    let after = endpoints(&node);
    after.restore().await.expect("nothing fails");
    let untold = Asked { begun_ns: 0, pod: None, ..asked() };
    after.lease(&key("b"), untold, &CancellationToken::new()).await.expect("leased");
    assert_eq!(after.collect("aws-cni", &[], began).await.expect("nothing fails"), 0);
    assert_eq!(after.collect("aws-cni", &[], rpc::monotonic_ns()).await.expect("the next one does"), 2);
}

#[tokio::test]
async fn a_collection_that_fails_for_one_goes_on_and_can_be_repeated() {
    let node = Arc::new(Node::default());
    let all = endpoints(&node);
    for (number, id) in [(5, "a"), (6, "b")] {
        node.give(number);
        stands(&node, &added(&all, id, number.into()).await, number.into());
    }
    for step in ["unlink", "release"] {
        *node.failing.lock().unwrap() = Some(step);
        let _ = all.collect("aws-cni", &[], rpc::monotonic_ns()).await;
    }
    all.collect("aws-cni", &[], rpc::monotonic_ns()).await.expect("nothing fails");
    assert!(node.is_empty() && node.links.lock().unwrap().is_empty());
    assert_eq!(all.registry_len(), 0);
}

#[tokio::test]
async fn a_collection_waits_for_whoever_looks_at_a_sandbox() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    let entry = all.registry.entry(&key("a"));
    let looking = entry.turn.lock().await;
    let collecting = tokio::spawn({
        let all = Arc::clone(&all);
        async move { all.collect("aws-cni", &[], rpc::monotonic_ns()).await }
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(looking);
    assert_eq!(collecting.await.expect("no panic").expect("nothing fails"), 1);
}

#[tokio::test]
async fn a_pod_that_the_api_lost_is_told_and_left_alone() {
    let node = Arc::new(Node::default());
    node.give(5);
    let all = endpoints(&node);
    added(&all, "a", 7).await;
    let start = Instant::now();
    let minutes = |count: u64| start + Duration::from_secs(60 * count);
    let strangers = |known: bool, now: Instant| all.strangers(|_| known, now, Duration::from_secs(300)).len();
    assert_eq!([strangers(true, minutes(0)), strangers(false, minutes(1))], [0, 0]);
    assert_eq!([strangers(false, minutes(5)), strangers(false, minutes(6))], [0, 1]);
    assert_eq!([strangers(true, minutes(7)), strangers(false, minutes(8))], [0, 0], "it came back");
    assert_eq!(strangers(false, minutes(13)), 1);
    let named = [("a".to_owned(), "eth0".to_owned())];
    all.collect("aws-cni", &named, rpc::monotonic_ns()).await.expect("nothing fails");
    assert_eq!(strangers(false, minutes(14)), 0, "the runtime says that it lives");
    assert_eq!(leased_to(&node), ["a"]);
}
