//! Pods on simulated nodes: binding, the calls of a CNI plugin, servers,
//! probes, and their end.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, Trial, trial, wait_for};
use serde_json::Value;

use super::sim::{BOUND, Sim, SimNode};
use super::up::{namespaces, namespaces_of};

const NEEDS: &[Need] = &[Need::Root, Need::NetNs, Need::Mounts, Need::Tool("nsenter"), Need::Tool("ip")];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pods_are_spread_attached_served_and_deleted", NEEDS, life_of_pods),
        trial("a_node_is_ready_while_it_has_a_network_list", NEEDS, node_ready),
        trial("a_failed_add_is_undone_and_tried_again", NEEDS, failed_add),
        trial("a_failed_del_is_repeated_and_the_pod_stays_until_then", NEEDS, failed_del),
        trial("deleting_a_pod_ends_its_hanging_add", NEEDS, hanging_add),
        trial("killed_in_an_add_it_leaves_no_plugin", NEEDS, killed_in_add),
        trial("manifests_are_replaced_when_they_are_there", NEEDS, replaced),
        trial("pods_start_after_the_api_has_lost_its_history", NEEDS, after_expiry),
        trial("a_full_node_gets_no_more_pods", NEEDS, full_node),
    ]
}

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"test-ptp"}]}"#;

/// A simulation with the test's plugin, whose nodes have addresses to give.
struct Cluster {
    sim: Sim,
    nodes: Vec<SimNode>,
}

impl Cluster {
    fn new(nodes: usize) -> Result<Self> {
        let cluster = Self::without_list(nodes)?;
        for node in &cluster.nodes {
            node.sh(&format!("echo '{LIST}' > /etc/cni/net.d/10-test.conflist"))?;
        }
        Ok(cluster)
    }

    fn without_list(nodes: usize) -> Result<Self> {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fabric");
        let plugins = plugins.to_str().context("a path in UTF-8")?;
        let sim = Sim::up(&["--calm", "--nodes", &nodes.to_string(), "--kubelet", "--cni-bin", plugins])?;
        let nodes = (0..nodes).map(|index| sim.node(index)).collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            let pool = addresses(&sim, node)?;
            node.sh(&format!("mkdir -p /run/test-ptp/claims; echo '{pool}' > /run/test-ptp/pool"))?;
        }
        Ok(Self { sim, nodes })
    }

    fn apply(&self, yaml: &str) -> Result<Value> {
        self.sim.post_text("/apply", yaml)
    }
}

/// Assigns addresses to the node's primary interface and waits for them.
fn addresses(sim: &Sim, node: &SimNode) -> Result<String> {
    let of_node = || -> Option<Value> {
        let fabric = sim.get("/fabric").ok()?;
        fabric["enis"].as_array()?.iter().find(|eni| eni["node"] == node.name).cloned()
    };
    let eni = of_node().context("the node's interface")?;
    let form = format!(
        "{}/?Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={}&SecondaryPrivateIpAddressCount=6",
        node.ec2,
        eni["eni"].as_str().context("its id")?
    );
    node.http("GET", &form, None)?;
    let primary = eni["primary_ip"].as_str().context("its address")?;
    wait_for("the addresses are routed", BOUND, || {
        let eni = of_node()?;
        let secondary: Vec<&str> = eni["addresses"]
            .as_array()?
            .iter()
            .filter_map(|address| address.as_str()?.strip_suffix("/32"))
            .filter(|address| *address != primary)
            .collect();
        (secondary.len() >= 6).then(|| secondary.join(" "))
    })
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {more}
  containers:
  - name: c
    image: none
    ports: [{{containerPort: 8080}}, {{containerPort: 5353, protocol: UDP}}]
---
"
    )
}

fn ready(pod: &Value) -> bool {
    pod["ready"] == true
}

fn life_of_pods() -> Result<()> {
    let Cluster { sim, nodes } = &Cluster::new(2)?;
    let names = ["a", "b", "c"];
    let manifest: String = names.iter().map(|name| pod(name, "restartPolicy: Always")).collect();
    let host =
        pod("host", "hostNetwork: true\n  nodeName: node-2").replace("8080", "9090").replace("5353", "9053");
    let applied = sim.post_text("/apply", &(manifest.clone() + &host))?;
    ensure!(
        applied[0] == serde_json::json!({"kind": "Pod", "namespace": "default", "name": "a"}),
        "{applied}"
    );
    let pods =
        names.iter().map(|name| sim.wait_for_pod(name, "is ready", ready)).collect::<Result<Vec<_>>>()?;
    let host = sim.wait_for_pod("host", "is ready", ready)?;

    // The first three are spread in turn; the fourth had its node.
    let on: Vec<&str> = pods.iter().filter_map(|pod| pod["node"].as_str()).collect();
    ensure!(on.contains(&"node-1") && on.contains(&"node-2"), "{on:?}");
    ensure!(host["node"] == "node-2");
    for pod in &pods {
        ensure!(pod["eni"].as_str().is_some_and(|eni| eni.starts_with("eni-")), "{pod}");
        ensure!(pod["netns"].as_str().is_some_and(|path| Path::new(path).exists()), "{pod}");
    }

    // Everybody reaches everybody, and the right one answers.
    for from in names {
        for to in names {
            for (protocol, port) in [("TCP", 8080), ("UDP", 5353)] {
                let (allowed, detail) =
                    sim.probe(&format!("default/{from}"), &format!("default/{to}"), protocol, port)?;
                ensure!(
                    allowed && detail == format!("answered by default/{to}"),
                    "{from} {to} {protocol}: {detail}"
                );
            }
        }
        let (allowed, detail) = sim.probe(&format!("default/{from}"), "default/host", "TCP", 9090)?;
        ensure!(allowed, "{from} to the host: {detail}");
        let (allowed, detail) = sim.probe(&format!("default/{from}"), "default/a", "TCP", 81)?;
        ensure!(!allowed && detail == "refused", "{detail}");
        let (allowed, _) = sim.probe(&format!("default/{from}"), "internet", "TCP", 80)?;
        ensure!(!allowed, "a pod's address leaves the VPC");
        let (allowed, _) = sim.probe(&format!("default/{from}"), "169.254.169.254", "TCP", 80)?;
        ensure!(!allowed, "a pod reached the metadata");
    }
    let object: Value = ureq::get(format!("{}/api/v1/namespaces/default/pods/a", sim.api()?))
        .call()?
        .body_mut()
        .read_json()?;
    ensure!(object["status"]["phase"] == "Running", "{object:#}");
    ensure!(
        object["status"]["podIP"] == pods[0]["ip"] && object["status"]["podIPs"][0]["ip"] == pods[0]["ip"]
    );
    ensure!(object["status"]["containerStatuses"][0]["ready"] == true);
    let adds = sim.get("/adds")?;
    ensure!(adds["ms"].as_array().map(Vec::len) == Some(3) && adds["failed"] == 0, "{adds}");

    let deleted = sim.post_text("/delete?wait=true", &manifest)?;
    ensure!(deleted[0]["name"] == "c" && deleted.as_array().map(Vec::len) == Some(3), "{deleted}");
    let gone = ureq::get(format!("{}/api/v1/namespaces/default/pods/a", sim.api()?)).call();
    ensure!(matches!(gone, Err(ureq::Error::StatusCode(404))));
    wait_for("the pods are gone", BOUND, || {
        let pods = sim.get("/pods").ok()?;
        (pods.as_array()?.len() == 1).then_some(())
    })?;
    for node in nodes {
        let left = node.sh("ls /run/netns /var/lib/cni/results /run/test-ptp/claims | grep -v : || true")?;
        ensure!(left.trim().is_empty(), "{left}");
        let calls = node.sh("cat /run/test-ptp/calls")?;
        // Every ADD without, every DEL with the ADD's result.
        for line in calls.lines().filter(|line| !line.starts_with("STATUS")) {
            let expected = if line.starts_with("ADD") { " without " } else { " with " };
            ensure!(line.contains(expected), "{line}");
            ensure!(line.contains("IgnoreUnknown=1") && line.contains("K8S_POD_NAMESPACE=default"), "{line}");
        }
    }
    Ok(())
}

fn condition(sim: &Sim, node: &str) -> Option<Value> {
    let url = format!("{}/api/v1/nodes/{node}", sim.api().ok()?);
    let object: Value = ureq::get(url).call().ok()?.body_mut().read_json().ok()?;
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready").cloned()
}

fn node_ready() -> Result<()> {
    let Cluster { sim, nodes } = &Cluster::without_list(1)?;
    let is = |status: &str| {
        wait_for(&format!("Ready is {status}"), BOUND, || {
            condition(sim, "node-1").filter(|condition| condition["status"] == status)
        })
    };
    ensure!(is("False")?["message"].as_str().is_some_and(|text| text.contains("cni plugin not initialized")));
    sim.post_text("/apply", &pod("early", ""))?;
    sim.wait_for_pod("early", "waits for a network", |pod| {
        pod["message"].as_str().is_some_and(|text| text.contains("cni plugin not initialized"))
    })?;
    nodes[0].sh(&format!("echo '{LIST}' > /etc/cni/net.d/10-test.conflist"))?;
    is("True")?;
    sim.wait_for_pod("early", "is ready", ready)?;
    nodes[0].sh("echo '{' > /etc/cni/net.d/05-broken.conflist")?;
    is("False")?;
    nodes[0].sh("rm /etc/cni/net.d/*")?;
    is("False")?;
    Ok(())
}

fn failed_add() -> Result<()> {
    let Cluster { sim, nodes } = &Cluster::new(1)?;
    nodes[0].sh("touch /run/test-ptp/fail")?;
    sim.post_text("/apply", &pod("a", ""))?;
    sim.wait_for_pod("a", "says what failed", |pod| {
        pod["message"].as_str().is_some_and(|text| text.contains("told to fail"))
    })?;
    let calls = wait_for("a second attempt", BOUND, || {
        let calls = nodes[0].sh("cut -d' ' -f1-3 /run/test-ptp/calls").ok()?;
        (calls.matches("ADD").count() >= 2).then_some(calls)
    })?;
    let lines: Vec<&str> = calls.lines().collect();
    let id = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    ensure!(lines[0].starts_with("ADD") && lines[1].starts_with("DEL"), "{calls}");
    ensure!(id(lines[0]) == id(lines[1]) && lines[1].ends_with("without"), "{calls}");
    ensure!(id(lines[2]) != id(lines[0]), "a sandbox of its own each time: {calls}");
    nodes[0].sh("rm /run/test-ptp/fail")?;
    let pod = sim.wait_for_pod("a", "is ready", ready)?;
    ensure!(pod["message"].is_null(), "{pod}");
    ensure!(sim.get("/adds")?["failed"].as_u64() >= Some(1));
    let events: Value = ureq::get(format!("{}/api/v1/namespaces/default/events", sim.api()?))
        .call()?
        .body_mut()
        .read_json()?;
    let reasons: Vec<&Value> =
        events["items"].as_array().into_iter().flatten().map(|event| &event["reason"]).collect();
    ensure!(reasons.contains(&&Value::from("FailedCreatePodSandBox")), "{reasons:?}");
    Ok(())
}

fn failed_del() -> Result<()> {
    let Cluster { sim, nodes } = &Cluster::new(1)?;
    sim.post_text("/apply", &pod("a", ""))?;
    sim.wait_for_pod("a", "is ready", ready)?;
    nodes[0].sh("touch /run/test-ptp/fail-del")?;
    sim.post_text("/delete", &pod("a", ""))?;
    wait_for("several attempts", BOUND, || {
        let calls = nodes[0].sh("grep -c DEL /run/test-ptp/calls || true").ok()?;
        (calls.trim().parse::<u32>().ok()? >= 2).then_some(())
    })?;
    let object: Value = ureq::get(format!("{}/api/v1/namespaces/default/pods/a", sim.api()?))
        .call()?
        .body_mut()
        .read_json()?;
    ensure!(object["metadata"]["deletionTimestamp"].is_string(), "it is still there, terminating");
    nodes[0].sh("rm /run/test-ptp/fail-del")?;
    wait_for("the pod is gone", BOUND, || sim.get("/pods").ok()?.as_array()?.is_empty().then_some(()))
}

/// Waits until a plugin hangs in its ADD, and returns its process.
fn hanging(node: &SimNode) -> Result<i32> {
    wait_for("a plugin hangs", BOUND, || {
        let entries = std::fs::read_dir("/proc").ok()?;
        let in_node = std::fs::metadata(&node.mntns).ok()?;
        entries.flatten().find_map(|entry| {
            use std::os::unix::fs::MetadataExt;

            let path = entry.path();
            let own = std::fs::metadata(path.join("ns/mnt")).ok()?;
            // It has become a sleep by then.
            let command = std::fs::read(path.join("cmdline")).ok()?;
            let is_it = own.ino() == in_node.ino() && command.starts_with(b"sleep");
            is_it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        })
    })
}

fn hanging_add() -> Result<()> {
    let Cluster { sim, nodes } = &Cluster::new(1)?;
    nodes[0].sh("touch /run/test-ptp/hang")?;
    sim.post_text("/apply", &pod("a", ""))?;
    let plugin = hanging(&nodes[0])?;
    sim.post_text("/delete", &pod("a", ""))?;
    wait_for("the pod is gone", BOUND, || sim.get("/pods").ok()?.as_array()?.is_empty().then_some(()))?;
    ensure!(!Path::new(&format!("/proc/{plugin}")).exists());
    let calls = nodes[0].sh("cut -d' ' -f1 /run/test-ptp/calls")?;
    ensure!(calls == "ADD\nDEL\n", "{calls}");
    Ok(())
}

fn killed_in_add() -> Result<()> {
    let Cluster { mut sim, nodes } = Cluster::new(1)?;
    nodes[0].sh("touch /run/test-ptp/hang")?;
    sim.post_text("/apply", &pod("a", ""))?;
    let plugin = hanging(&nodes[0])?;
    let own = namespaces_of(&sim)?;
    sim.end(nix::sys::signal::Signal::SIGKILL)?;
    wait_for("the plugin is gone", BOUND, || {
        (!Path::new(&format!("/proc/{plugin}")).exists()).then_some(())
    })?;
    wait_for("all namespaces are gone", BOUND, || own.is_disjoint(&namespaces()).then_some(()))
}

fn replaced() -> Result<()> {
    let cluster = Cluster::new(1)?;
    let policy = |port: u16| {
        format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p}}
spec:
  podSelector: {{}}
  ingress: [{{ports: [{{port: {port}}}]}}]
"
        )
    };
    cluster.apply(&policy(80))?;
    cluster.apply(&policy(81))?;
    let url =
        format!("{}/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/p", cluster.sim.api()?);
    let object: Value = ureq::get(&url).call()?.body_mut().read_json()?;
    ensure!(object["spec"]["ingress"][0]["ports"][0]["port"] == 81, "{object:#}");
    // A bound pod too, whose node is not in the manifest.
    cluster.apply(&pod("a", ""))?;
    cluster.sim.wait_for_pod("a", "is ready", ready)?;
    cluster.apply(&pod("a", ""))?;
    let refused = cluster.apply("apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n");
    ensure!(refused.is_err_and(|error| format!("{error:?}").contains("Nonsense")));
    Ok(())
}

fn full_node() -> Result<()> {
    let Cluster { sim, .. } = &Cluster::new(1)?;
    // Pods of the node's own network need no addresses, but count.
    let many: String =
        (0..30).map(|n| pod(&format!("p{n}"), "hostNetwork: true").replace("ports", "# ports")).collect();
    sim.post_text("/apply", &many)?;
    // m5.large takes 29.
    let waiting = wait_for("all but one are ready", BOUND, || {
        let pods = sim.get("/pods").ok()?;
        let pods = pods.as_array()?;
        let (ready, waiting): (Vec<_>, Vec<_>) = pods.iter().cloned().partition(ready);
        (ready.len() == 29 && waiting.len() == 1).then(|| waiting[0].clone())
    })?;
    ensure!(waiting["node"].is_null(), "{waiting}");
    ensure!(waiting["message"].as_str().is_some_and(|text| text.contains("too many pods")), "{waiting}");
    Ok(())
}

fn after_expiry() -> Result<()> {
    let Cluster { sim, .. } = &Cluster::new(1)?;
    sim.post_text("/apply", &pod("before", ""))?;
    sim.wait_for_pod("before", "is ready", ready)?;
    sim.post_text("/kubernetes/expire", "")?;
    // While new watches are refused, one pod comes and one goes.
    sim.post_text("/apply", &pod("after", ""))?;
    sim.post_text("/delete", &pod("before", ""))?;
    sim.wait_for_pod("after", "is ready", ready)?;
    wait_for("the pod is gone", BOUND, || (sim.get("/pods").ok()?.as_array()?.len() == 1).then_some(()))
}
