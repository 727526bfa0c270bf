//! What an operator asks, and what the node hears.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::demo::bin_dir;
use system_tests::house::{items, text};

use system_tests::world::manifests::trio;
use system_tests::world::{STILL_POOL, World};

const NODE: &str = "node-1";

/// The JSON that a command of the agent prints.
fn answer(world: &World, words: &[&str]) -> Result<Value> {
    let command = [&["tidepool-agent"], words].concat();
    Ok(serde_json::from_str(&world.inside(NODE, &command)?)?)
}

pub(crate) fn pages() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    world.apply(&trio())?;
    world.wait_for_pods(&["web", "other", "db"])?;
    world.wait_for_verdict("other", "db", false)?;
    world.settled_pool(NODE)?;

    let (status, body) = world.agent_page(NODE, "/metrics")?;
    ensure!(status == 200, "{status}");
    is_text_form(&body)?;
    for name in [
        "tidepool_ready 1",
        "awscni_assigned_ip_addresses 2",
        "awscni_eni_allocated 1",
        "tidepool_endpoints 2",
    ] {
        ensure!(body.lines().any(|line| line == name), "no line «{name}» in\n{body}");
    }
    ensure!(world.agent_page(NODE, "/healthz")?.0 == 200, "not healthy");

    let said = world.inside(NODE, &["tidepool-agent", "status"])?;
    for part in ["pool", "kubernetes", "datapath", "host", "socket"] {
        ensure!(said.lines().any(|line| line == format!("{part} ok")), "{part}: {said}");
    }
    let pool = answer(&world, &["pool"])?;
    ensure!(pool["addresses"]["leased"] == 2, "{pool:#}");
    let web = world.pod("web")?;
    let on_eni = items(&pool["enis"])
        .any(|eni| eni["id"] == web["eni"] && items(&eni["addresses"]).any(|address| *address == web["ip"]));
    ensure!(on_eni, "{web} is not in {pool:#}");
    let endpoints = answer(&world, &["endpoints"])?;
    let mine = items(&endpoints).find(|one| one["pod"] == "default/web").context("no endpoint of web")?;
    ensure!(mine["address"] == web["ip"] && mine["phase"] == "attached", "{mine}");
    let config = answer(&world, &["config"])?;
    ensure!(config["pool"]["minimum_ip"] == 9 && config["node_name"] == NODE, "{config:#}");
    let policy = answer(&world, &["policy", "list", "--json"])?;
    ensure!(items(&policy["pods"]).count() == 2 && policy["error"].is_null(), "{policy:#}");
    ensure!(
        items(&policy["pods"]).all(|pod| pod["ingress"].is_null() && pod["epoch"].is_u64()),
        "{policy:#}"
    );
    let list = world.inside("node-2", &["tidepool-agent", "policy", "list"])?;
    let address = text(&world.pod("db")?["ip"]).to_owned();
    let lines: Vec<&str> = list.lines().collect();
    ensure!(lines[0].starts_with(&format!("default/db  {address}  epoch ")), "{list}");
    ensure!(
        lines[1].starts_with("  ingress  set ") && lines[1].ends_with(", isolated by default/db"),
        "{list}"
    );
    ensure!(lines[2].trim() == "default/db ingress[0]" && lines[3] == "  egress   open", "{list}");

    for (from, port, allowed) in [
        ("default/web", "8080/TCP", true),
        ("default/other", "8080/TCP", false),
        ("default/web", "8081/TCP", false),
    ] {
        let told = answer(&world, &["policy", "explain", from, "default/db", port, "--json"])?;
        ensure!(told["allowed"] == allowed && told["policy"] == "default/db", "{told:#}");
    }
    explained(&world, &address)?;
    let refused =
        world.run(NODE, &["tidepool-agent", "policy", "explain", "default/nobody", "default/db", "1/TCP"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("there is no pod default/nobody"), "{said}");
    Ok(())
}

/// Each form of a question, and the words of the answer.
fn explained(world: &World, db: &str) -> Result<()> {
    let web = text(&world.pod("web")?["ip"]).to_owned();
    let denied = "denied, isolated by default/db";
    for (question, answers) in [
        (["default/web", "default/db", "8080"], [": allowed", "default/db"]),
        (["default/other", "default/db", "8080/tcp"], [": DENIED", denied]),
        ([&web, db, "8080/TCP"], ["default/web (", ": allowed"]),
        (["default/web", "default/db", "icmp"], ["ICMP: DENIED", denied]),
        (["198.51.100.10", "default/db", "8080/TCP"], [": DENIED", denied]),
        (["default/web", "198.51.100.10", "443/TCP"], ["198.51.100.10, 443/TCP: allowed", "no policy"]),
    ] {
        let said =
            world.inside("node-2", &[&["tidepool-agent", "policy", "explain"], &question[..]].concat())?;
        ensure!(answers.iter().all(|part| said.contains(part)), "{question:?}: {said}");
        ensure!(!said.contains("in the maps"), "{question:?}: maps and policies differ: {said}");
    }
    for (question, complaint) in [
        (["default/web", "db", "1"], "neither an address, namespace/pod"),
        (["default/web", "service/default/none", "1"], "there is no service default/none"),
        (["default/web", "default/db", "70000/TCP"], "is not a number from 0 to 65535"),
        (["default/web", "default/db", "1/XYZ"], "is neither TCP, UDP, SCTP, ICMP nor a number"),
    ] {
        let words = [&["tidepool-agent", "policy", "explain"], &question[..]].concat();
        let refused = world.run("node-2", &words)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && said.contains(complaint), "{question:?}: {said}");
    }
    Ok(())
}

/// The grammar, as far as a scraper stumbles over it (Prometheus's text form 0.0.4): families in one piece, each after
/// its HELP and TYPE, suffixes by type, and numbers.
fn is_text_form(body: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    let (mut family, mut kind) = ("", "");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (word, name, value) =
                (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
            ensure!(["HELP", "TYPE"].contains(&word), "{line}");
            if name != family {
                ensure!(seen.insert(name), "{name} comes in two pieces");
                (family, kind) = (name, "");
            }
            if word == "TYPE" {
                kind = value;
            }
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap_or("");
        let suffix = name.strip_prefix(family).with_context(|| format!("{line} is not of {family}"))?;
        let right: &[&str] = match kind {
            "counter" | "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            "summary" => &["_count", "_sum"],
            _ => anyhow::bail!("{family} is of type «{kind}»"),
        };
        ensure!(right.contains(&suffix), "{line} of a {kind}");
        let value = line.rsplit(' ').next().unwrap_or("");
        ensure!(value.parse::<f64>().is_ok(), "{line}");
    }
    ensure!(seen.iter().all(|name| name.starts_with("tidepool_") || name.starts_with("awscni_")), "{seen:?}");
    Ok(())
}

pub(crate) fn readiness() -> Result<()> {
    let mut world = World::without_agents(STILL_POOL)?;
    let refuse =
        r#"{"path": "/apis/networking.k8s.io", "verbs": ["list", "watch"], "code": 500, "times": 100000}"#;
    world.control("/kubernetes/fail", Some(refuse))?;
    world.start_agent(NODE)?;
    let report = world.wait("the agent says what it waits for", || {
        let (status, body) = world.agent_page(NODE, "/readyz").ok()?;
        let line = body.lines().find(|line| line.starts_with("kubernetes: "))?;
        (status == 503 && line.contains("networkpolicies")).then(|| line.to_owned())
    })?;
    ensure!(report.contains("injected fault"), "no cause in «{report}»");
    ensure!(world.agent_page(NODE, "/healthz")?.0 == 200, "not healthy");
    ensure!(world.metric(NODE, "tidepool_ready")? == Some(0.0), "ready without policies");
    let listed = world.run(NODE, &["ls", "/etc/cni/net.d/05-tidepool.conflist"])?;
    ensure!(!listed.status.success(), "the conflist is there before the policies are");

    world.control("/kubernetes/clear", Some(""))?;
    world.wait_until_ready(NODE)?;
    ensure!(world.metric(NODE, "tidepool_ready")? == Some(1.0), "ready, but the metric says no");
    Ok(())
}

pub(crate) fn second_agent() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    let second = world.run(NODE, &["tidepool-agent", "run"])?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(second.status.code() == Some(1), "{}: {said}", second.status);
    ensure!(said.contains("another agent holds /run/tidepool/agent.lock"), "{said}");
    ensure!(world.agent_page(NODE, "/readyz")?.0 == 200, "the first one is not ready any more");
    Ok(())
}

pub(crate) fn uninstall() -> Result<()> {
    let mut world = World::start(STILL_POOL)?;
    let ready = |world: &World| -> Option<String> {
        let node = world.kubernetes(&format!("/api/v1/nodes/{NODE}")).ok()?;
        let found = items(&node["status"]["conditions"]).find(|one| one["type"] == "Ready")?;
        Some(text(&found["status"]).to_owned())
    };
    world.wait("the node is Ready", || (ready(&world)? == "True").then_some(()))?;
    // Under an agent that runs it would be pointless.
    let refused = world.run(NODE, &["tidepool-agent", "uninstall"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("an agent runs on this node"), "{said}");
    ensure!(world.agent_page(NODE, "/readyz")?.0 == 200, "the agent minds");
    world.kill_agent(NODE)?;
    world.inside(NODE, &["tidepool-agent", "uninstall"])?;
    let listed = world.inside(NODE, &["ls", "-A", "/etc/cni/net.d"])?;
    ensure!(listed.trim().is_empty(), "{listed}");
    world.wait("the node is not Ready", || (ready(&world)? == "False").then_some(()))?;
    // Again is no error.
    world.inside(NODE, &["tidepool-agent", "uninstall"]).map(drop)
}

pub(crate) fn bad_environment() -> Result<()> {
    let output = std::process::Command::new(bin_dir()?.join("tidepool-agent"))
        .arg("run")
        .env_clear()
        .env("WARM_IP_TARGET", "many")
        .env("AWS_VPC_ENI_MTU", "12")
        .env("TIDEPOOL_SERVICE_CIDRS", "10.0.0.0/33")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(64), "{}: {said}", output.status);
    for name in ["MY_NODE_NAME", "WARM_IP_TARGET", "AWS_VPC_ENI_MTU", "TIDEPOOL_SERVICE_CIDRS"] {
        ensure!(
            said.lines().any(|line| line.trim_start().starts_with(&format!("{name}: "))),
            "{name}: {said}"
        );
    }
    ensure!(said.contains("4 fault"), "{said}");
    Ok(())
}
