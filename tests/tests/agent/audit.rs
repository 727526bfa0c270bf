//! What policy would deny passes and is told: for one pod, and for a node.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use system_tests::world::manifests::{pod, trio};
use system_tests::world::{STILL_POOL, World};

use super::flows::Followed;
use super::restart::echoes;

const AUDITED: &str = "tidepool_packets_total{direction=\"to_pod\",reason=\"audited\"}";

/// `db` with the annotation.
fn audited_db() -> String {
    pod("db", "node-2", "db").replace(
        "  namespace: default\n",
        "  namespace: default\n  annotations: {tidepool.dev/policy-audit: \"true\"}\n",
    )
}

fn list(world: &World) -> Result<Value> {
    Ok(serde_json::from_str(&world.inside("node-2", &["tidepool-agent", "policy", "list", "--json"])?)?)
}

pub(crate) fn audit() -> Result<()> {
    let mut world = World::start(STILL_POOL)?;
    world.apply(&[trio(), audited_db()].concat())?;
    world.wait_for_pods(&["web", "other", "db"])?;
    // Not for the asking.
    world.must_not_reach("other", "db")?;
    ensure!(list(&world)?["pods"][0]["audited"] == false, "its node does not heed it");
    restart(&mut world, &audit_of("annotated"))?;
    // Of a pod.
    let followed = Followed::start(&world, "node-2", &["--denied"])?;
    world.must_reach("other", "db")?;
    world.must_reach("web", "db")?;
    let told = followed.wait_for(&world, &[("/verdict", "audited"), ("/from/name", "default/other")])?;
    ensure!(told["rule"] == "default/db isolates ingress" && told["reason"] == "audited", "{told:#}");
    ensure!(!followed.told().iter().any(|flow| flow["from"]["name"] == "default/web"), "web is allowed");
    ensure!(world.metric("node-2", AUDITED)?.unwrap_or_default() >= 1.0, "it is not counted");
    let listed = list(&world)?;
    ensure!(listed["pods"][0]["audited"] == true && listed["audit"] == false, "{listed:#}");
    let explain =
        ["tidepool-agent", "policy", "explain", "default/other", "default/db", "8080/TCP"].as_slice();
    let said = world.inside("node-2", explain)?;
    ensure!(said.contains("DENIED") && said.contains("ingress is audited: it passes"), "{said}");

    // It ends: what lived by it dies, and what is allowed lives on.
    let mut stranger = world.connect("other", "db")?;
    let mut friend = world.connect("web", "db")?;
    echoes(&mut stranger, Duration::from_secs(5))?;
    echoes(&mut friend, Duration::from_secs(5))?;
    world.apply(&pod("db", "node-2", "db"))?;
    world.wait("an audited flow dies", || echoes(&mut stranger, Duration::from_millis(150)).err())?;
    echoes(&mut friend, Duration::from_secs(5))?;
    world.must_not_reach("other", "db")?;
    drop(followed);

    // Of the node, by the agent's environment.
    restart(&mut world, &audit_of("true"))?;
    world.must_reach("other", "db")?;
    let mut stranger = world.connect("other", "db")?;
    echoes(&mut stranger, Duration::from_secs(5))?;
    ensure!(list(&world)?["audit"] == true, "the list does not say so");
    let said = world.inside("node-2", &["tidepool-agent", "policy", "list"])?;
    ensure!(said.starts_with("Audit: "), "{said}");
    let said = world.inside("node-2", &["tidepool-agent", "status"])?;
    ensure!(said.contains("policy is audited on this node"), "{said}");
    restart(&mut world, STILL_POOL)?;
    world.wait("an audited flow dies", || echoes(&mut stranger, Duration::from_millis(150)).err())?;
    echoes(&mut friend, Duration::from_secs(5))?;
    world.must_not_reach("other", "db")
}

fn audit_of(whom: &'static str) -> Vec<(&'static str, &'static str)> {
    [STILL_POOL, &[("TIDEPOOL_POLICY_AUDIT", whom)]].concat()
}

fn restart(world: &mut World, environment: &[(&str, &str)]) -> Result<()> {
    world.end_agent("node-2")?;
    world.set_environment(environment);
    world.start_agent("node-2")?;
    world.wait_until_ready("node-2")
}
