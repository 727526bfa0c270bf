//! What a pod meets when it starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::cluster_policy::{definition, policy, together};
use system_tests::house::{items, text};
use system_tests::world::manifests::{only, pod};
use system_tests::world::questions::in_netns;
use system_tests::world::{PORT, STILL_POOL, World};

const PATH: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

/// Nobody hears `db`, by a policy of the cluster.
fn closed() -> String {
    let subject = json!({"pods": {
        "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}},
    }});
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    policy("closed", ("Admin", 1), &subject, &[deny], &[])
}

/// An agent that cannot list them refuses pods, with a word for the runtime to try again; then the first packet is
/// denied.
pub(crate) fn unlisted() -> Result<()> {
    let mut world = World::start(STILL_POOL)?;
    world.apply(&together([&definition(), &closed()]))?;
    let refuse = json!({"path": PATH, "code": 503, "times": 1_000_000}).to_string();
    world.control("/kubernetes/fail", Some(&refuse))?;
    world.kill_agent("node-2")?;
    world.start_agent("node-2")?;
    world.apply(&[pod("web", "node-1", "web"), pod("db", "node-2", "db")].concat())?;
    // The plugin asks again and again before it gives up.
    world.wait("an ADD is refused", || {
        let refused = "tidepool_add_refused_total{reason=\"not-synced\"}";
        world.metric("node-2", refused).ok()?.filter(|count| *count >= 2.0)
    })?;
    world.wait("the agent says what is missing", || {
        let (status, body) = world.agent_page("node-2", "/readyz").ok()?;
        (status != 200 && body.contains("clusternetworkpolicies")).then_some(())
    })?;
    ensure!(world.pod("db")?["netns"].is_null(), "it has a network");
    world.end_kubernetes_faults()?;
    // An agent that starts does not wait out the pauses of this one, which have grown.
    world.kill_agent("node-2")?;
    world.start_agent("node-2")?;
    world.wait_for_pods(&["web", "db"])?;
    world.must_not_reach("web", "db")?;
    world.delete(&closed())?;
    world.wait_for_verdict("web", "db", true)
}

/// Domain names are not supported: the policy's other rules hold, and its Events say so.
pub(crate) fn told() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    let subject = json!({"namespaces": {}});
    let egress = [
        json!({"action": "Accept", "to": [{"domainNames": ["example.com"]}]}),
        json!({"action": "Deny", "to": [{"pods": {
            "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}},
        }}]}),
    ];
    let objects = [pod("web", "node-1", "web"), pod("db", "node-2", "db"), pod("api", "node-2", "api")];
    world.apply(&objects.concat())?;
    world.apply(&together([&definition(), &policy("names", ("Admin", 1), &subject, &[], &egress)]))?;
    world.wait_for_pods(&["web", "db", "api"])?;
    world.wait_for_verdict("web", "db", false)?;
    world.must_reach("web", "api")?;
    let event = world.wait("the policy has an Event", || {
        let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
        let about = |event: &&serde_json::Value| event["involvedObject"]["kind"] == "ClusterNetworkPolicy";
        items(&events["items"]).find(about).cloned()
    })?;
    ensure!(event["involvedObject"]["name"] == "names" && event["type"] == "Warning", "{event:#}");
    ensure!(text(&event["message"]).contains("domainNames"), "{event:#}");
    Ok(())
}

/// A kubelet writes the address of a pod seconds after the pod has it. Its first connection to a pod of the other
/// node that lets it in by its labels succeeds within the one second after which a lost SYN is sent again.
pub(crate) fn late_status() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    world.apply(&[pod("db", "node-2", "db"), only("db", "db", "web")].concat())?;
    world.wait_for_pods(&["db"])?;
    let to = std::net::SocketAddr::new(text(&world.pod("db")?["ip"]).parse()?, PORT);
    let annotated = |name: &str, app: &str| {
        let plain = pod(name, "node-1", app);
        plain.replace("  labels:", "  annotations: {vpc-sim/status-delay-ms: \"20000\"}\n  labels:")
    };
    let mut slowest = Duration::ZERO;
    for number in 0..5 {
        let name = format!("web-{number}");
        world.apply(&annotated(&name, "web"))?;
        let netns = world.wait("the pod has a network", || {
            let pod = world.pod(&name).ok()?;
            (pod["ready"] == false).then(|| pod["netns"].as_str().map(std::path::PathBuf::from)).flatten()
        })?;
        let took = in_netns(&netns, move || {
            let began = Instant::now();
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(1500))
                .context("its first connection, with one SYN sent again")?;
            Ok(began.elapsed())
        });
        slowest = slowest.max(took.with_context(|| world.complaints())?);
        let object = world.kubernetes(&format!("/api/v1/namespaces/default/pods/{name}"))?;
        ensure!(object["status"]["podIP"].is_null(), "the status was early: {:#}", object["status"]);
    }
    eprintln!("the slowest first connection took {slowest:?}");
    // One that no label lets in stays out, and one of whom nobody may tell waits for its status.
    let forbid = "/api/v1/namespaces/default/pods/untold/status";
    let forbid = json!({"path": forbid, "verbs": ["patch"], "code": 403, "times": 1000}).to_string();
    world.control("/kubernetes/fail", Some(&forbid))?;
    for (name, app) in [("other", "other"), ("untold", "web")] {
        world.apply(&annotated(name, app))?;
        let netns = world.wait("the pod has a network", || {
            Some(std::path::PathBuf::from(world.pod(name).ok()?["netns"].as_str()?))
        })?;
        let reached = in_netns(&netns, move || {
            Ok(std::net::TcpStream::connect_timeout(&to, Duration::from_millis(1200)).is_ok())
        })?;
        ensure!(!reached, "{name} got through");
    }
    Ok(())
}
