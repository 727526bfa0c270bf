//! Watches outlive what servers do.

use std::time::Duration;

use serde_json::json;

use super::fake::{COLLECTIONS, FakeApi, Kind, Misdeed, NODES, PODS, pod, status};
use super::*;

async fn with_pods(names: &[&str]) -> FakeApi {
    let api = FakeApi::start().await;
    for (place, name) in names.iter().enumerate() {
        api.put(PODS, pod("shop", name, NODE, &format!("10.0.0.{}", place + 1)));
    }
    api
}

/// After any trouble, what comes next is seen.
async fn still_follows(api: &FakeApi, handle: &ClusterHandle) {
    server_shows(|| api.is_done()).await;
    api.put(PODS, pod("shop", "late", NODE, "10.0.0.99"));
    until(handle, "a pod that came after the trouble", |s| pod_names(s).contains(&"shop/late".to_owned()))
        .await;
}

#[tokio::test]
async fn streaming_list_then_changes() {
    let api = with_pods(&["a", "b", "c", "d"]).await;
    let (handle, _driver) = synced(&api, pace()).await;
    assert_eq!(pod_names(&handle.snapshot()), ["shop/a", "shop/b", "shop/c", "shop/d"]);
    assert_eq!(api.count(PODS, Kind::List), 0);
    assert_eq!(api.last(PODS, Kind::Streaming, "resourceVersionMatch").as_deref(), Some("NotOlderThan"));
    api.delete(PODS, "shop", "b");
    until(&handle, "the pod to go", |s| pod_names(s).len() == 3).await;
    still_follows(&api, &handle).await;
    assert!(handle.watches().iter().all(|watch| watch.synced && watch.failures == 0));
}

#[tokio::test]
async fn server_without_streaming_lists_is_listed_by_pages() {
    for refusal in [422, 400] {
        let api = with_pods(&["a", "b", "c", "d", "e", "f", "g"]).await;
        let body = status(refusal, "Invalid", "sendInitialEvents is forbidden").to_string();
        api.misdeed(PODS, Kind::Streaming, Misdeed::Status(refusal, body, None));
        let (handle, _driver) = synced(&api, pace()).await;
        assert_eq!(pod_names(&handle.snapshot()).len(), 7);
        // Three objects a page.
        assert_eq!(api.count(PODS, Kind::List), 3);
        still_follows(&api, &handle).await;
    }
}

#[tokio::test]
async fn server_that_ignores_the_parameters_of_streaming_lists_is_listed_by_pages() {
    let api = with_pods(&["a"]).await;
    api.misdeed(PODS, Kind::Streaming, Misdeed::Silence);
    let pace = WatchPace { initial: Duration::from_millis(50), ..pace() };
    let (handle, _driver) = synced(&api, pace).await;
    assert_eq!(pod_names(&handle.snapshot()), ["shop/a"]);
    still_follows(&api, &handle).await;
}

#[tokio::test]
async fn half_a_streaming_list_is_no_list() {
    let api = with_pods(&["a", "b", "c"]).await;
    api.misdeed(PODS, Kind::Streaming, Misdeed::EndAfter(2));
    api.misdeed(PODS, Kind::Streaming, Misdeed::BreakAfter(1));
    let gone = status(410, "Expired", "too old resource version");
    api.misdeed(PODS, Kind::Streaming, Misdeed::ErrorEvent(gone));
    let (handle, _driver) = synced(&api, pace()).await;
    assert_eq!(pod_names(&handle.snapshot()).len(), 3);
    assert_eq!(api.count(PODS, Kind::Streaming), 4);
    still_follows(&api, &handle).await;
}

#[tokio::test]
async fn clean_end_is_taken_up_where_it_was() {
    let api = with_pods(&["a"]).await;
    let (handle, _driver) = synced(&api, pace()).await;
    for name in ["b", "c", "d"] {
        api.put(PODS, pod("shop", name, NODE, "10.0.0.50"));
        let seen = format!("shop/{name}");
        until(&handle, "the pod", |s| pod_names(s).contains(&seen)).await;
        let before = api.count(PODS, Kind::Watch);
        api.end_watches();
        server_shows(|| api.count(PODS, Kind::Watch) > before).await;
    }
    assert_eq!(api.last(PODS, Kind::Watch, "resourceVersion").as_deref(), Some("14"));
    still_follows(&api, &handle).await;
    assert_eq!(api.count(PODS, Kind::Streaming), 1, "no second list was needed");
}

#[tokio::test]
async fn expired_version_in_both_forms_lists_anew_and_forgets_what_went() {
    let gone = status(410, "Expired", "too old resource version: 46 (49)");
    for misdeed in [
        Misdeed::ErrorEvent(gone.clone()),
        Misdeed::Status(410, gone.to_string(), None),
        Misdeed::ErrorEvent(json!({"kind": "Status", "reason": "Gone", "message": "no code"})),
    ] {
        let api = with_pods(&["a", "b"]).await;
        let (handle, _driver) = synced(&api, pace()).await;
        api.delete_silently(PODS, "shop", "a");
        api.misdeed(PODS, Kind::Watch, misdeed);
        api.end_watches();
        let snapshot = until(&handle, "the pod to be forgotten", |s| pod_names(s).len() == 1).await;
        assert_eq!(pod_names(&snapshot), ["shop/b"]);
        assert_eq!(api.count(PODS, Kind::Streaming), 2);
        still_follows(&api, &handle).await;
    }
}

#[tokio::test]
async fn throttling_in_both_forms_is_waited_out() {
    let api = with_pods(&["a"]).await;
    let polite = status(429, "TooManyRequests", "storage is (re)initializing").to_string();
    api.misdeed(PODS, Kind::Streaming, Misdeed::Status(429, polite, Some(1)));
    let blunt = "Too many requests, please try again later.\n".to_owned();
    api.misdeed(PODS, Kind::Streaming, Misdeed::Status(429, blunt.clone(), None));
    let began = Instant::now();
    let (handle, _driver) = synced(&api, pace()).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not waited out");
    api.misdeed(PODS, Kind::Watch, Misdeed::Status(429, blunt, Some(1)));
    api.end_watches();
    still_follows(&api, &handle).await;
    assert_eq!(api.count(PODS, Kind::List), 0, "throttling is no reason for another kind of list");
}

#[tokio::test]
async fn broken_refused_and_unanswered_watches_are_opened_again() {
    let api = with_pods(&["a"]).await;
    let pace = WatchPace { request: Duration::from_secs(1), ..pace() };
    let (handle, _driver) = synced(&api, pace).await;
    for misdeed in [
        Misdeed::BreakAfter(0),
        Misdeed::Status(500, "internal".to_owned(), None),
        Misdeed::Status(403, status(403, "Forbidden", "no").to_string(), None),
        Misdeed::Hang,
        Misdeed::ErrorEvent(status(500, "InternalError", "etcd is away")),
    ] {
        api.misdeed(PODS, Kind::Watch, misdeed);
    }
    api.end_watches();
    still_follows(&api, &handle).await;
    assert_eq!(api.count(PODS, Kind::Streaming), 1);
    let pods = handle.watches().into_iter().find(|watch| watch.kind == "pods").expect("a watch of pods");
    assert_eq!((pods.failures, pods.failing), (5, None));
}

#[tokio::test]
async fn silent_stream_is_taken_for_dead() {
    let api = with_pods(&["a"]).await;
    let pace = WatchPace { watch: Duration::from_secs(1), margin: Duration::from_millis(100), ..pace() };
    let (handle, _driver) = synced(&api, pace).await;
    api.misdeed(PODS, Kind::Watch, Misdeed::Silence);
    api.end_watches();
    still_follows(&api, &handle).await;
}

#[tokio::test]
async fn version_of_the_future_is_given_up() {
    let api = with_pods(&["a"]).await;
    let pace =
        WatchPace { watch: Duration::from_secs(1), margin: Duration::ZERO, silent_watches: 2, ..pace() };
    let (handle, _driver) = synced(&api, pace).await;
    for _ in 0..2 {
        api.misdeed(PODS, Kind::Watch, Misdeed::Silence);
    }
    api.delete_silently(PODS, "shop", "a");
    api.end_watches();
    until(&handle, "a list to correct what no watch told", |s| pod_names(s).is_empty()).await;
}

#[tokio::test]
async fn nothing_is_shown_before_every_kind_was_listed() {
    for path in COLLECTIONS {
        let api = with_pods(&["a"]).await;
        let refused = status(403, "Forbidden", "it is forbidden").to_string();
        let misdeeds = 1000;
        for _ in 0..misdeeds {
            api.misdeed(path, Kind::Streaming, Misdeed::Status(403, refused.clone(), None));
        }
        let (handle, _driver) = connected(&api, pace()).await;
        let one_fails = || {
            let missing: Vec<_> = handle.watches().into_iter().filter(|watch| !watch.synced).collect();
            matches!(&missing[..], [one] if one.failing.is_some())
        };
        server_shows(one_fails).await;
        assert!(!handle.synced() && !handle.wait_synced(Instant::now()).await, "{path}");
        api.forgive();
        let first = until(&handle, "the first snapshot", |s| s.generation > 0).await;
        assert!(first.synced);
        assert_eq!(pod_names(&first), ["shop/a"]);
    }
}

#[tokio::test]
async fn a_new_address_of_this_node_is_seen_of_whatever_type() {
    let api = with_pods(&["a"]).await;
    let node = |external: &str| {
        json!({"metadata": {"name": NODE}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.1.0.1"}, {"type": "ExternalIP", "address": external},
        ]}})
    };
    api.put(NODES, node("198.51.100.1"));
    let (handle, _driver) = synced(&api, pace()).await;
    api.put(NODES, node("198.51.100.2"));
    let external = std::net::IpAddr::from([198, 51, 100, 2]);
    until(&handle, "the new address", |s| s.cluster.node.addresses.contains(&external)).await;
}
