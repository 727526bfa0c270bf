//! ENIs that nodes left over, and who sweeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use system_tests::apiserver::ApiServer;
use system_tests::house::{items, text};

use system_tests::world::World;

/// The name that every agent here has for its cluster.
const CLUSTER: &str = "system-test";
const NODES: [&str; 2] = ["node-1", "node-2"];
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tidepool-leak-sweeper";

/// Two T are six seconds, and a Lease lasts three.
const QUICK: &[(&str, &str)] = &[
    ("TIDEPOOL_SWEEP_PERIOD", "1.5"),
    ("TIDEPOOL_GIVE_UP_AFTER", "3"),
    ("MINIMUM_IP_TARGET", "9"),
    ("WARM_IP_TARGET", "1"),
];
const TWO_T: Duration = Duration::from_secs(6);

/// A call to EC2 by nobody's agent; the answer as it is.
fn ec2(world: &World, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let all = [("Action", action), ("Version", "2016-11-15")].into_iter().chain(parameters.iter().copied());
    let mut response = world.http.post(text(&world.up["ec2"])).send_form(all)?;
    let answer = response.body_mut().read_to_string()?;
    ensure!(response.status().is_success(), "{action}: {answer}");
    Ok(answer)
}

fn created_at(moment: &str) -> (&str, &str) {
    ("node.k8s.amazonaws.com/createdAt", moment)
}

/// Creates an ENI as an agent would, with these tags beside the cluster's.
fn create(world: &World, tags: &[(&str, &str)]) -> Result<String> {
    let mut all = BTreeMap::from([("cluster.k8s.amazonaws.com/name", CLUSTER)]);
    all.extend(tags.iter().copied());
    let subnet = text(&world.up["subnets"][0]["id"]);
    let names: Vec<[String; 2]> = (1..=all.len())
        .map(|n| [format!("TagSpecification.1.Tag.{n}.Key"), format!("TagSpecification.1.Tag.{n}.Value")])
        .collect();
    let mut parameters = vec![("SubnetId", subnet), ("TagSpecification.1.ResourceType", "network-interface")];
    for ([key, value], tag) in names.iter().zip(&all) {
        parameters.extend([(key.as_str(), *tag.0), (value.as_str(), *tag.1)]);
    }
    let answer = ec2(world, "CreateNetworkInterface", &parameters)?;
    let (_, rest) = answer.split_once("<networkInterfaceId>").with_context(|| answer.clone())?;
    Ok(rest.split('<').next().unwrap_or_default().to_owned())
}

/// All ENIs by id.
fn enis(world: &World) -> Result<BTreeMap<String, Value>> {
    let listed = world.control("/enis", None)?;
    Ok(items(&listed).map(|eni| (text(&eni["id"]).to_owned(), eni.clone())).collect())
}

/// RFC 3339 of now, later or earlier by some seconds.
fn moment(seconds: i64) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let at = now.checked_add_signed(seconds).context("before 1970")?;
    let words =
        Command::new("date").args(["--utc", "--date", &format!("@{at}"), "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    Ok(String::from_utf8(words.stdout)?.trim().to_owned())
}

/// The node that holds the Lease and says so, once it is one only.
fn holder(world: &World, among: &[&'static str], lease: fn(&World) -> Result<Value>) -> Result<&'static str> {
    world.wait(&format!("one of {among:?} holds the Lease"), || {
        let lease = lease(world).ok()?;
        let held = |node: &&&str| world.metric(node, "tidepool_leak_sweeper").ok() == Some(Some(1.0));
        let holders: Vec<&&'static str> = among.iter().filter(held).collect();
        match holders.as_slice() {
            [one] if lease["spec"]["holderIdentity"] == ***one => Some(**one),
            _ => None,
        }
    })
}

fn lease(world: &World) -> Result<Value> {
    let lease = world.kubernetes(LEASE)?;
    ensure!(lease["kind"] == "Lease", "{lease}");
    Ok(lease)
}

/// The same where only a real client is let in.
fn lease_by_kubectl(world: &World) -> Result<Value> {
    let words = ["--namespace", "kube-system", "get", "lease", "tidepool-leak-sweeper", "--output", "json"];
    let kubeconfig = text(&world.up["kubeconfig"]);
    let output = Command::new("kubectl").args(["--kubeconfig", kubeconfig]).args(words).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Who asked EC2 for the leaked ENIs of the cluster, and who deleted which ENI, by the node.
fn sweepers(world: &World) -> Result<(BTreeSet<String>, BTreeMap<String, String>)> {
    let log = world.control("/calls/log", None)?;
    let (mut looked, mut deleted) = (BTreeSet::new(), BTreeMap::new());
    for call in items(&log) {
        let (node, form) = (text(&call["node"]).to_owned(), text(&call["parameters"]));
        match text(&call["operation"]) {
            "DescribeNetworkInterfaces" if form.contains("cluster.k8s.amazonaws.com") => {
                looked.insert(node);
            }
            "DeleteNetworkInterface" if call["code"].is_null() => {
                let eni = form.split('&').find_map(|field| field.strip_prefix("NetworkInterfaceId="));
                deleted.insert(eni.context("a delete of nothing")?.to_owned(), node);
            }
            _ => {}
        }
    }
    Ok((looked, deleted))
}

/// What a terminated node left over goes once it is old enough, everything else stays; and another node takes over.
pub(crate) fn leaked() -> Result<()> {
    let mut world = World::of(3, "m5.large", QUICK)?;
    for node in NODES {
        world.start_agent(node)?;
    }
    for node in NODES {
        world.wait_until_ready(node)?;
    }
    let first = holder(&world, &NODES, lease)?;
    let of_nodes = |eni: &Value| NODES.iter().any(|node| eni["node"] == *node);
    let attached: Vec<String> =
        enis(&world)?.into_iter().filter(|(_, eni)| of_nodes(eni)).map(|(id, _)| id).collect();

    // An agent of a third node dies between an attach and the change of DeleteOnTermination, and its instance with it.
    let doomed = text(&world.node("node-3")?["instance_id"]).to_owned();
    let (old, fresh, future) = (moment(-3600)?, moment(0)?, moment(3600)?);
    let of_doomed = ("node.k8s.amazonaws.com/instance_id", doomed.as_str());
    let of_terminated = create(&world, &[of_doomed, created_at(&fresh)])?;
    let attach =
        [("NetworkInterfaceId", of_terminated.as_str()), ("InstanceId", &doomed), ("DeviceIndex", "1")];
    ec2(&world, "AttachNetworkInterface", &attach)?;
    let born = SystemTime::now();
    world.control("/instances/terminate", Some(r#"{"node": "node-3"}"#))?;
    world.wait("the ENI outlives its instance", || {
        (enis(&world).ok()?.get(&of_terminated)?["status"] == "available").then_some(())
    })?;
    let long_gone = create(&world, &[of_doomed, created_at(&old)])?;
    let undated = create(&world, &[of_doomed])?;
    let stay = [
        (
            "of another cluster",
            create(&world, &[of_doomed, created_at(&old), ("cluster.k8s.amazonaws.com/name", "other")])?,
        ),
        (
            "no_manage",
            create(&world, &[of_doomed, created_at(&old), ("node.k8s.amazonaws.com/no_manage", "true")])?,
        ),
        ("of no agent", create(&world, &[created_at(&old)])?),
        ("made in the future", create(&world, &[of_doomed, created_at(&future)])?),
    ];

    world.wait("what is old goes", || (!enis(&world).ok()?.contains_key(&long_gone)).then_some(()))?;
    world.wait("what has no date gets one", || {
        let tags = enis(&world).ok()?.get(&undated)?["tags"].to_string();
        tags.contains("node.k8s.amazonaws.com/createdAt").then_some(())
    })?;
    world.wait("what the instance left over goes", || {
        (!enis(&world).ok()?.contains_key(&of_terminated)).then_some(())
    })?;
    // The tag tells whole seconds.
    let age = born.elapsed()? + Duration::from_secs(1);
    ensure!(age > TWO_T, "an ENI was deleted that was {age:?} old");
    world.wait("what had no date goes", || (!enis(&world).ok()?.contains_key(&undated)).then_some(()))?;

    let (looked, deleted) = sweepers(&world)?;
    ensure!(looked == BTreeSet::from([first.to_owned()]), "{looked:?} looked, {first} holds the Lease");
    let expected: BTreeMap<String, String> =
        [&of_terminated, &long_gone, &undated].map(|eni| (eni.clone(), first.to_owned())).into();
    ensure!(deleted == expected, "{deleted:?}, {first} holds the Lease");
    for (what, eni) in &stay {
        ensure!(enis(&world)?.contains_key(eni), "the one {what} is gone");
    }
    let count = world.metric(first, "tidepool_leaked_enis_deleted_total")?;
    ensure!(count == Some(3.0), "{count:?}");
    world.wait("an Event tells", || {
        let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
        let told = items(&events["items"]).any(|event| {
            event["reason"] == "LeakedInterfacesDeleted"
                && event["involvedObject"]["name"] == first
                && text(&event["message"]).contains(&long_gone)
        });
        told.then_some(())
    })?;

    let second = if first == NODES[0] { NODES[1] } else { NODES[0] };
    world.kill_agent(first)?;
    ensure!(holder(&world, &[second], lease)? == second);
    ensure!(lease(&world)?["spec"]["leaseTransitions"] == 1, "{}", lease(&world)?);
    let again = create(&world, &[of_doomed, created_at(&old)])?;
    world.wait("the other one sweeps", || (!enis(&world).ok()?.contains_key(&again)).then_some(()))?;
    ensure!(sweepers(&world)?.1.get(&again).map(String::as_str) == Some(second));

    // Whoever comes back is a candidate like any other.
    world.start_agent(first)?;
    world.wait_until_ready(first)?;
    ensure!(holder(&world, &NODES, lease)? == second);
    let left = enis(&world)?;
    for (what, eni) in &stay {
        ensure!(left.contains_key(eni), "the one {what} is gone");
    }
    ensure!(attached.iter().all(|eni| left.contains_key(eni)), "{attached:?} were attached");
    Ok(())
}

/// The Lease on a real API server: taken, renewed, and taken over.
pub(crate) fn real_api() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = ApiServer::start(dir.path().join("kubeconfig"))?;
    let mut world = World::on_api(&server.kubeconfig, QUICK)?;
    for node in NODES {
        world.start_agent(node)?;
    }
    let first = holder(&world, &NODES, lease_by_kubectl)?;
    let renewed = |version: &Value| {
        world.wait("the Lease is renewed", || {
            let now = lease_by_kubectl(&world).ok()?;
            (now["metadata"]["resourceVersion"] != *version).then_some(now)
        })
    };
    let before = lease_by_kubectl(&world)?;
    let after = renewed(&before["metadata"]["resourceVersion"])?;
    ensure!(after["spec"]["acquireTime"] == before["spec"]["acquireTime"], "{after}");
    ensure!(after["spec"]["renewTime"] != before["spec"]["renewTime"], "{after}");
    ensure!(after["spec"]["leaseTransitions"] == 0 && after["spec"]["leaseDurationSeconds"] == 3, "{after}");
    let second = if first == NODES[0] { NODES[1] } else { NODES[0] };
    world.kill_agent(first)?;
    ensure!(holder(&world, &[second], lease_by_kubectl)? == second);
    let taken = lease_by_kubectl(&world)?;
    if taken["spec"]["leaseTransitions"] != 1 || taken["spec"]["acquireTime"] == after["spec"]["acquireTime"]
    {
        bail!("{taken}");
    }
    Ok(())
}
