//! The simulated Kubernetes API as kube-rs meets it: both ways of watching,
//! and everything that ends a watch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Namespace, ObjectReference, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};
use vpc_sim::kube_api::{Closing, FailRule, Store, fault_router, router};

/// Generous: the machine may be busy.
const BOUND: Duration = Duration::from_secs(30);

struct Simulated {
    store: Arc<Store>,
    client: Client,
    url: String,
}

async fn start() -> Result<Simulated> {
    let store = Arc::new(Store::new());
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = router(Arc::clone(&store));
    tokio::spawn(async move { axum::serve(listener, app).await });
    // The rustls provider of the process; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_from(Config::new(url.parse()?))?;
    Ok(Simulated { store, client, url })
}

fn pod(name: &str, label: &str) -> Pod {
    let value = json!({
        "metadata": {"name": name, "labels": {"app": label}},
        "spec": {"containers": [{"name": "c", "image": "example:1", "ports": [{"containerPort": 80}]}]},
    });
    serde_json::from_value(value).expect("a pod")
}

fn map(name: &str, value: &str) -> ConfigMap {
    let data = BTreeMap::from([("key".to_owned(), value.to_owned())]);
    ConfigMap {
        metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
        data: Some(data),
        ..Default::default()
    }
}

/// Follows a watcher until the names that it knows are the expected ones.
async fn follow(
    events: &mut (impl Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Unpin),
    known: &mut BTreeMap<String, String>,
    expected: &[(&str, &str)],
) -> Result<()> {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mut fresh: Option<BTreeMap<String, String>> = None;
    let entry = |map: ConfigMap| {
        let value = map.data.and_then(|data| data.get("key").cloned()).unwrap_or_default();
        (map.metadata.name.unwrap_or_default(), value)
    };
    let work = async {
        while *known != expected || fresh.is_some() {
            // Errors are what the test provokes; the watcher recovers by itself.
            match events.next().await.context("the watcher never ends")? {
                Ok(watcher::Event::Init) => fresh = Some(BTreeMap::new()),
                Ok(watcher::Event::InitApply(map)) => {
                    fresh.get_or_insert_default().extend([entry(map)]);
                }
                Ok(watcher::Event::InitDone) => *known = fresh.take().unwrap_or_default(),
                Ok(watcher::Event::Apply(map)) => known.extend([entry(map)]),
                Ok(watcher::Event::Delete(map)) => {
                    known.remove(&entry(map).0);
                }
                Err(_) => {}
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BOUND, work).await {
        Ok(result) => result,
        Err(_) => bail!("knows {known:?} and not {expected:?}"),
    }
}

async fn a_watcher_survives(config: watcher::Config) -> Result<()> {
    let sim = start().await?;
    let maps: Api<ConfigMap> = Api::namespaced(sim.client.clone(), "default");
    maps.create(&PostParams::default(), &map("a", "1")).await?;
    let mut events = pin!(watcher(maps.clone(), config));
    let mut known = BTreeMap::new();
    follow(&mut events, &mut known, &[("a", "1")]).await?;

    maps.create(&PostParams::default(), &map("b", "1")).await?;
    let patch = Patch::Merge(json!({"data": {"key": "2"}}));
    maps.patch("a", &PatchParams::default(), &patch).await?;
    follow(&mut events, &mut known, &[("a", "2"), ("b", "1")]).await?;

    // The watch ends cleanly: the next one goes on where it was.
    for how in [Closing::Clean, Closing::Abort] {
        ensure!(sim.store.close_watches("/api/v1/", how) == 1, "one watch is open");
        maps.delete("b", &DeleteParams::default()).await?;
        follow(&mut events, &mut known, &[("a", "2")]).await?;
        maps.create(&PostParams::default(), &map("b", "1")).await?;
        follow(&mut events, &mut known, &[("a", "2"), ("b", "1")]).await?;
    }

    // The history is lost: 429 for a while, then 410, as the version has moved
    // on in a namespace that isn't watched; then all anew.
    let elsewhere: Api<ConfigMap> = Api::namespaced(sim.client.clone(), "kube-public");
    elsewhere.create(&PostParams::default(), &map("unseen", "1")).await?;
    sim.store.expire_history();
    maps.delete("b", &DeleteParams::default()).await?;
    follow(&mut events, &mut known, &[("a", "2")]).await?;

    // Refused lists and watches are tried again.
    for code in [429, 500] {
        let verbs = vec!["list".to_owned(), "watch".to_owned()];
        let path = "/api/v1/namespaces/default/configmaps".to_owned();
        let rule = FailRule { path, verbs, code: Some(code), times: 2, ..FailRule::default() };
        sim.store.fail_next(rule);
        sim.store.expire_history_for(Duration::ZERO);
        maps.create(&PostParams::default(), &map("c", &code.to_string())).await?;
        let code = code.to_string();
        follow(&mut events, &mut known, &[("a", "2"), ("c", &code)]).await?;
        maps.delete("c", &DeleteParams::default()).await?;
        follow(&mut events, &mut known, &[("a", "2")]).await?;
    }

    // A reader that was held back too long has to begin anew.
    sim.store.set_history_limit(3);
    sim.store.stall_watches(true);
    for n in 0..10 {
        maps.create(&PostParams::default(), &map(&format!("n{n}"), "1")).await?;
        maps.delete(&format!("n{n}"), &DeleteParams::default()).await?;
    }
    maps.create(&PostParams::default(), &map("last", "1")).await?;
    sim.store.stall_watches(false);
    follow(&mut events, &mut known, &[("a", "2"), ("last", "1")]).await
}

#[tokio::test]
async fn a_listing_watcher_survives_everything() -> Result<()> {
    a_watcher_survives(watcher::Config::default()).await
}

#[tokio::test]
async fn a_streaming_watcher_survives_everything() -> Result<()> {
    a_watcher_survives(watcher::Config::default().streaming_lists()).await
}

/// The events of a raw watch until it ends, as type, name and version.
async fn raw_watch(sim: &Simulated, path: &str) -> Result<Vec<(String, String, Value)>> {
    let request = http_get(&sim.url, path).await?;
    request
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line)?;
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Ok((kind, name, event["object"].clone()))
        })
        .collect()
}

/// A GET without any library in between; the body, or an error for other codes.
async fn http_get(base: &str, path: &str) -> Result<String> {
    let url = format!("{base}{path}");
    tokio::task::spawn_blocking(move || plain_get(&url)).await?
}

fn plain_get(url: &str) -> Result<String> {
    let mut answer = ureq::get(url).config().http_status_as_error(false).build().call()?;
    let body = answer.body_mut().read_to_string()?;
    ensure!(answer.status().is_success(), "{}\n{body}", answer.status());
    Ok(body)
}

#[tokio::test]
async fn a_watch_of_an_old_version_gets_one_error_event() -> Result<()> {
    let sim = start().await?;
    let maps: Api<ConfigMap> = Api::namespaced(sim.client.clone(), "default");
    let first = maps.create(&PostParams::default(), &map("a", "1")).await?;
    maps.create(&PostParams::default(), &map("b", "1")).await?;
    let version = first.metadata.resource_version.context("a version")?;
    sim.store.expire_history_for(Duration::ZERO);
    let path =
        format!("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={version}");
    let events = raw_watch(&sim, &path).await?;
    let [(kind, _, status)] = events.as_slice() else { bail!("{events:?}") };
    ensure!(kind == "ERROR" && status["code"] == 410 && status["reason"] == "Expired", "{status}");
    let expected = format!("too old resource version: {version} ({})", sim.store.version());
    ensure!(status["message"] == expected.as_str(), "{status}");

    // The same version is a real 410 in a list.
    let list = ListParams::default().at(&version).matching(kube::api::VersionMatch::Exact);
    match maps.list(&list).await {
        Err(kube::Error::Api(status)) => ensure!(status.code == 410, "{status:?}"),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_change_of_labels_moves_an_object_in_and_out_of_a_watch() -> Result<()> {
    let sim = start().await?;
    let pods: Api<Pod> = Api::namespaced(sim.client.clone(), "default");
    let version = sim.store.version();
    pods.create(&PostParams::default(), &pod("p", "web")).await?;
    for label in ["db", "web"] {
        let patch = Patch::Strategic(json!({"metadata": {"labels": {"app": label}}}));
        pods.patch("p", &PatchParams::default(), &patch).await?;
    }
    pods.delete("p", &DeleteParams::default()).await?;
    let path =
        format!("/api/v1/pods?watch=true&timeoutSeconds=1&labelSelector=app%3Dweb&resourceVersion={version}");
    let events = raw_watch(&sim, &path).await?;
    let kinds: Vec<&str> = events.iter().map(|(kind, ..)| kind.as_str()).collect();
    ensure!(kinds == ["ADDED", "DELETED", "ADDED", "DELETED"], "{events:?}");
    // The one that left is as it was last seen, with the version of its leaving.
    let (_, _, left) = &events[1];
    ensure!(left["metadata"]["labels"]["app"] == "web", "{left}");
    ensure!(left["metadata"]["resourceVersion"] == (version + 2).to_string().as_str(), "{left}");
    Ok(())
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() -> Result<()> {
    let sim = start().await?;
    let pods: Api<Pod> = Api::namespaced(sim.client.clone(), "default");
    for name in ["a", "b"] {
        pods.create(&PostParams::default(), &pod(name, "web")).await?;
    }
    let path = "/api/v1/pods?watch=1&timeoutSeconds=1&sendInitialEvents=true\
                &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events = raw_watch(&sim, path).await?;
    let kinds: Vec<&str> = events.iter().map(|(kind, ..)| kind.as_str()).collect();
    ensure!(kinds == ["ADDED", "ADDED", "BOOKMARK"], "{events:?}");
    let (_, _, bookmark) = &events[2];
    ensure!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true", "{bookmark}");
    ensure!(bookmark["spec"] == json!({"containers": null}), "{bookmark}");
    Ok(())
}

#[tokio::test]
async fn chunks_of_a_list_belong_to_one_version() -> Result<()> {
    let sim = start().await?;
    let maps: Api<ConfigMap> = Api::namespaced(sim.client.clone(), "default");
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &map(name, "1")).await?;
    }
    let first = maps.list(&ListParams::default().limit(2)).await?;
    ensure!(first.metadata.remaining_item_count == Some(3), "{:?}", first.metadata);
    maps.delete("d", &DeleteParams::default()).await?;
    maps.create(&PostParams::default(), &map("aa", "1")).await?;
    let token = first.metadata.continue_.clone().context("there is more")?;
    let rest = maps.list(&ListParams::default().continue_token(&token)).await?;
    let names: Vec<String> =
        first.items.iter().chain(&rest.items).filter_map(|map| map.metadata.name.clone()).collect();
    ensure!(names == ["a", "b", "c", "d", "e"], "{names:?}");
    ensure!(first.metadata.resource_version == rest.metadata.resource_version);

    // An expired token says how to go on.
    sim.store.expire_history_for(Duration::ZERO);
    maps.create(&PostParams::default(), &map("f", "1")).await?;
    let path = format!("/api/v1/namespaces/default/configmaps?limit=2&continue={token}");
    let Err(refused) = http_get(&sim.url, &path).await else { bail!("410 expected") };
    ensure!(refused.to_string().contains("410"), "{refused}");
    let body = refused.to_string();
    let status: Value = serde_json::from_str(body.lines().last().unwrap_or_default())?;
    let resume = status["metadata"]["continue"].as_str().context("a token to go on with")?;
    let rest = maps.list(&ListParams::default().continue_token(resume)).await?;
    let names: Vec<String> = rest.items.iter().filter_map(|map| map.metadata.name.clone()).collect();
    ensure!(names == ["c", "e", "f"], "{names:?}");
    Ok(())
}

#[tokio::test]
async fn a_bound_pod_waits_for_its_kubelet_and_its_namespace_waits_for_it() -> Result<()> {
    let sim = start().await?;
    let namespaces: Api<Namespace> = Api::all(sim.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let pods: Api<Pod> = Api::namespaced(sim.client.clone(), "shop");
    pods.create(&PostParams::default(), &pod("p", "web")).await?;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"},
    });
    let params = PostParams::default();
    let bind = || pods.create_subresource::<Value, Value>("binding", "p", &params, &binding);
    bind().await?;
    match bind().await {
        Err(kube::Error::Api(status)) => ensure!(status.code == 409, "{status:?}"),
        other => bail!("{other:?}"),
    }
    // Status goes through its subresource only.
    let status = Patch::Merge(json!({"status": {"phase": "Running", "podIP": "10.0.0.5"}}));
    let unchanged = pods.patch("p", &PatchParams::default(), &status).await?;
    ensure!(unchanged.status.and_then(|status| status.phase).as_deref() == Some("Pending"));
    pods.patch_status("p", &PatchParams::default(), &status).await?;

    namespaces.delete("shop", &DeleteParams::default()).await?;
    let waiting = pods.get("p").await?;
    ensure!(
        waiting.metadata.deletion_timestamp.is_some()
            && waiting.metadata.deletion_grace_period_seconds == Some(30)
    );
    match pods.create(&PostParams::default(), &pod("q", "web")).await {
        Err(kube::Error::Api(status)) => ensure!(status.code == 403, "{status:?}"),
        other => bail!("{other:?}"),
    }
    ensure!(namespaces.get_opt("shop").await?.is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await?;
    ensure!(namespaces.get_opt("shop").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn custom_resources_are_served_at_once() -> Result<()> {
    let sim = start().await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(sim.client.clone());
    let definition = json!({
        "metadata": {"name": "eniconfigs.crd.k8s.amazonaws.com"},
        "spec": {
            "group": "crd.k8s.amazonaws.com", "scope": "Cluster",
            "names": {"plural": "eniconfigs", "singular": "eniconfig", "kind": "ENIConfig"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object", "required": ["subnet"],
                    "properties": {"subnet": {"type": "string"}, "mode": {"type": "string", "default": "on"}},
                }, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
            }],
        },
    });
    definitions.create(&PostParams::default(), &serde_json::from_value(definition)?).await?;
    let kind = GroupVersionKind::gvk("crd.k8s.amazonaws.com", "v1alpha1", "ENIConfig");
    let resource = ApiResource::from_gvk_with_plural(&kind, "eniconfigs");
    let configs: Api<DynamicObject> = Api::all_with(sim.client.clone(), &resource);
    let make = |spec: Value| {
        let mut object = DynamicObject::new("us-west-2a", &resource);
        object.data = json!({"spec": spec});
        object
    };
    match configs.create(&PostParams::default(), &make(json!({}))).await {
        Err(kube::Error::Api(status)) => ensure!(status.message.contains("spec.subnet"), "{status:?}"),
        other => bail!("{other:?}"),
    }
    let made = configs.create(&PostParams::default(), &make(json!({"subnet": "s", "typo": 1}))).await?;
    ensure!(made.data["spec"] == json!({"subnet": "s", "mode": "on"}), "{:?}", made.data);
    ensure!(made.metadata.generation == Some(1));
    let status = configs
        .patch_status("us-west-2a", &PatchParams::default(), &Patch::Merge(json!({"status": {"x": 1}})))
        .await?;
    ensure!(status.data["status"] == json!({"x": 1}) && status.metadata.generation == Some(1));
    // With its definition goes the object, and then the path.
    definitions.delete("eniconfigs.crd.k8s.amazonaws.com", &DeleteParams::default()).await?;
    match configs.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => ensure!(status.code == 404, "{status:?}"),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() -> Result<()> {
    let sim = start().await?;
    let recorder = Recorder::new(sim.client.clone(), Reporter::from("test"));
    let about = ObjectReference {
        kind: Some("Pod".into()),
        name: Some("p".into()),
        namespace: Some("default".into()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "NoAddress".into(),
        note: Some("the pool is empty".into()),
        action: "Lease".into(),
        secondary: None,
    };
    // Twice: the second becomes a series of the first.
    recorder.publish(&event, &about).await?;
    recorder.publish(&event, &about).await?;
    let events: Api<CoreEvent> = Api::namespaced(sim.client.clone(), "default");
    let fields = "involvedObject.name=p,involvedObject.kind=Pod,reason=NoAddress,type=Warning";
    let found = events.list(&ListParams::default().fields(fields)).await?;
    ensure!(found.items.len() == 1, "{found:?}");
    ensure!(found.items[0].message.as_deref() == Some("the pool is empty"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn leases_have_one_winner() -> Result<()> {
    let sim = start().await?;
    let leases: Api<Lease> = Api::namespaced(sim.client.clone(), "kube-system");
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}}))?;
    let made = leases.create(&PostParams::default(), &lease).await?;
    leases.replace("l", &PostParams::default(), &made).await?;
    let mut taken = made.clone();
    taken.spec.get_or_insert_default().holder_identity = Some("b".into());
    leases.replace("l", &PostParams::default(), &taken).await?;
    // Read before b took it.
    match leases.replace("l", &PostParams::default(), &made).await {
        Err(kube::Error::Api(status)) => {
            ensure!(status.code == 409 && status.reason == "Conflict", "{status:?}")
        }
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn requests_are_refused_as_asked_and_watches_closed() -> Result<()> {
    let sim = start().await?;
    let verbs = vec!["list".to_owned()];
    let path = "/api/v1/pods".to_owned();
    let rule = FailRule { path, verbs, code: Some(429), times: 2, ..FailRule::default() };
    sim.store.fail_next(rule);
    for _ in 0..2 {
        let refused = http_get(&sim.url, "/api/v1/pods").await.err().context("429 expected")?.to_string();
        // The in-flight limit of a real server answers in plain text, too.
        ensure!(refused.contains("429") && refused.contains("Too many requests"), "{refused}");
    }
    http_get(&sim.url, "/api/v1/pods").await?;
    sim.store.fail_next(FailRule { code: Some(500), times: 1, ..FailRule::default() });
    sim.store.clear_faults();
    http_get(&sim.url, "/api/v1/pods").await?;

    let url = sim.url.clone();
    let watch = tokio::spawn(async move { http_get(&url, "/api/v1/nodes?watch=1&timeoutSeconds=60").await });
    let deadline = Instant::now() + BOUND;
    while sim.store.open_watches().is_empty() {
        ensure!(Instant::now() < deadline, "the watch does not open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let open = sim.store.open_watches();
    ensure!(open.len() == 1 && open[0].uri.starts_with("/api/v1/nodes?watch=1"), "{open:?}");
    ensure!(sim.store.close_watches("/api/v1/pods", Closing::Clean) == 0);
    ensure!(sim.store.close_watches("/api/v1/nodes", Closing::Clean) == 1);
    ensure!(watch.await??.is_empty());
    sim.store.expire_history_for(Duration::from_secs(60));
    let refused = http_get(&sim.url, "/api/v1/nodes?watch=1").await.err().context("429 expected")?;
    ensure!(refused.to_string().contains("storage is (re)initializing"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn faults_are_set_over_http() -> Result<()> {
    let sim = start().await?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let control = format!("http://{}", listener.local_addr()?);
    let app = fault_router(Arc::clone(&sim.store));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let post = async |path: &str, body: Value| -> Result<(u16, String)> {
        let url = format!("{control}{path}");
        let answer = tokio::task::spawn_blocking(move || -> Result<(u16, String)> {
            let request = ureq::post(&url).config().http_status_as_error(false).build();
            let mut answer = request.send_json(body)?;
            Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        });
        answer.await?
    };
    let rule = json!({"path": "/api/v1/pods", "verbs": ["list"], "code": 503, "retry_after": 3});
    post("/kubernetes/fail", rule).await?;
    let refused = http_get(&sim.url, "/api/v1/pods").await.err().context("503 expected")?;
    ensure!(refused.to_string().contains("ServiceUnavailable"), "{refused}");
    http_get(&sim.url, "/api/v1/pods").await?;
    let object = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": ip},
        })
    };
    let seeded = post("/kubernetes/seed", json!([object("a", "10.0.0.1"), object("b", "10.0.0.2")])).await?;
    ensure!(seeded == (200, "{\"created\":2}".to_owned()), "{seeded:?}");
    let whole: Pod = Api::<Pod>::default_namespaced(sim.client.clone()).get("b").await?;
    ensure!(whole.status.and_then(|status| status.pod_ip).as_deref() == Some("10.0.0.2"));
    let (code, text) = post("/kubernetes/seed", json!([object("a", "10.0.0.1")])).await?;
    ensure!(code == 400 && text.contains("AlreadyExists"), "{code} {text}");
    post("/kubernetes/fail", json!({"code": 500, "times": 9})).await?;
    post("/kubernetes/clear", json!({})).await?;
    http_get(&sim.url, "/api/v1/pods").await?;
    for wrong in [json!({}), json!({"code": 200}), json!({"code": 500, "color": "red"})] {
        let (code, text) = post("/kubernetes/fail", wrong.clone()).await?;
        ensure!(code == 400, "{wrong}: {code} {text}");
    }
    let (_, closed) = post("/kubernetes/watches/close", json!({})).await?;
    ensure!(closed == "{\"closed\":0}", "{closed}");
    post("/kubernetes/expire", json!({"refuse_ms": 60_000})).await?;
    let refused = http_get(&sim.url, "/api/v1/nodes?watch=1").await.err().context("429 expected")?;
    ensure!(refused.to_string().contains("storage is (re)initializing"), "{refused}");
    let version = http_get(&control, "/kubernetes/version").await?;
    let version: Value = serde_json::from_str(&version)?;
    ensure!(version["version"] == sim.store.version(), "{version}");
    Ok(())
}

#[tokio::test]
async fn a_service_gets_an_address_and_ports_that_no_other_has() -> Result<()> {
    let sim = start().await?;
    let services: Api<Service> = Api::default_namespaced(sim.client.clone());
    let create = async |name: &str, kind: &str, wanted: Value, port: Value| {
        let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": port}]);
        let spec = json!({"type": kind, "clusterIP": wanted, "ports": ports});
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        let spec = services.create(&PostParams::default(), &service).await?.spec.unwrap_or_default();
        anyhow::Ok((spec.cluster_ip.unwrap_or_default(), spec.ports.unwrap_or_default()[0].node_port))
    };
    for (kind, wanted, port, given, at) in [
        ("ClusterIP", Value::Null, Value::Null, "10.100.1.1", None),
        ("NodePort", Value::Null, json!(30_000), "10.100.1.2", Some(30_000)),
        ("LoadBalancer", json!("10.1.1.1"), Value::Null, "10.1.1.1", Some(30_001)),
    ] {
        ensure!(create(&kind.to_lowercase(), kind, wanted, port).await? == (given.to_owned(), at), "{kind}");
    }
    for (wanted, port) in [(json!("10.100.1.1"), Value::Null), (Value::Null, json!(30_001))] {
        let refused = create("d", "NodePort", wanted, port).await.err().context("it is taken")?;
        ensure!(refused.to_string().contains("already allocated"), "{refused:#}");
    }
    let labels = json!({"metadata": {"labels": {"app": "b"}}});
    let patched = services.patch("nodeport", &PatchParams::default(), &Patch::Merge(&labels)).await?;
    ensure!(patched.spec.and_then(|spec| spec.cluster_ip).as_deref() == Some("10.100.1.2"));
    Ok(())
}

/// Ten thousand pods, listed and watched; the bounds are far above what is measured.
#[tokio::test]
async fn ten_thousand_pods_are_no_burden() -> Result<()> {
    const COUNT: usize = 10_000;
    let sim = start().await?;
    let pods: Api<Pod> = Api::namespaced(sim.client.clone(), "default");
    let started = Instant::now();
    futures::stream::iter(0..COUNT)
        .map(|n| {
            let pods = pods.clone();
            async move { pods.create(&PostParams::default(), &pod(&format!("p{n}"), "web")).await }
        })
        .buffer_unordered(32)
        .try_collect::<Vec<_>>()
        .await?;
    let created = started.elapsed();

    let started = Instant::now();
    let list = pods.list_metadata(&ListParams::default()).await?;
    ensure!(list.items.len() == COUNT);
    let metadata = started.elapsed();

    let started = Instant::now();
    let list = pods.list(&ListParams::default()).await?;
    ensure!(list.items.len() == COUNT);
    let listed = started.elapsed();

    let started = Instant::now();
    let mut known = 0;
    let partial: Api<PartialObjectMeta<Pod>> = Api::namespaced(sim.client.clone(), "default");
    let mut events = pin!(watcher(partial, watcher::Config::default().streaming_lists()));
    while let Some(event) = events.next().await {
        match event? {
            watcher::Event::InitApply(_) => known += 1,
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    ensure!(known == COUNT, "{known}");
    let streamed = started.elapsed();

    // One more change is seen by an open watch among all these.
    let params = WatchParams::default();
    let version = sim.store.version().to_string();
    let mut watch = pin!(pods.watch(&params, &version).await?);
    let started = Instant::now();
    pods.delete("p5000", &DeleteParams::default()).await?;
    match watch.try_next().await? {
        Some(WatchEvent::Deleted(pod)) => ensure!(pod.metadata.name.as_deref() == Some("p5000")),
        other => bail!("{other:?}"),
    }
    let seen = started.elapsed();
    println!(
        "created {created:?}, metadata list {metadata:?}, list {listed:?}, streamed {streamed:?}, one change {seen:?}"
    );
    ensure!(listed < BOUND && streamed < BOUND && seen < Duration::from_secs(5));
    Ok(())
}
