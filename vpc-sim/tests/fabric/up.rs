//! `vpc-sim up` from its start to every kind of end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, Trial, trial, wait_for};
use nix::sys::signal::Signal;

use super::sim::{BOUND, Sim, text};

const NEEDS: &[Need] = &[Need::Root, Need::NetNs, Need::Mounts, Need::Tool("nsenter")];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("up_says_where_everything_is", NEEDS, ready_line),
        trial("node_urls_answer_inside_the_node_only", NEEDS, node_urls),
        trial("kill_9_leaves_nothing_and_the_next_start_sweeps", NEEDS, kill_9),
        trial("sigint_and_sigterm_end_it_cleanly", NEEDS, signals),
        trial("simulations_run_side_by_side", NEEDS, side_by_side),
        trial("api_only_needs_no_root_and_no_namespaces", &[Need::Root], api_only),
        trial("another_kubernetes_api_is_used_and_left_clean", NEEDS, other_api),
        trial("wrong_options_are_refused", &[], wrong_options),
        trial("the_root_namespace_is_never_touched", NEEDS, root_untouched),
    ]
}

/// The inodes of all network and mount namespaces that some thread is in, some
/// process holds open, or some process has mounted.
pub(super) fn namespaces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for process in entries(Path::new("/proc")) {
        for task in entries(&process.path().join("task")) {
            for kind in ["net", "mnt"] {
                if let Ok(link) = fs::read_link(task.path().join("ns").join(kind)) {
                    found.insert(link.to_string_lossy().into_owned());
                }
            }
        }
        for descriptor in entries(&process.path().join("fd")) {
            if let Ok(link) = fs::read_link(descriptor.path()) {
                let link = link.to_string_lossy().into_owned();
                if link.starts_with("net:[") || link.starts_with("mnt:[") {
                    found.insert(link);
                }
            }
        }
    }
    found
}

/// The inodes of a simulation's namespaces, as the kernel names them.
pub(super) fn namespaces_of(sim: &Sim) -> Result<BTreeSet<String>> {
    let fds = fs::read_dir(format!("/proc/{}/fd", sim.pid()))?;
    Ok(fds
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| link.starts_with("net:[") || link.starts_with("mnt:["))
        .collect())
}

/// Processes of a process group.
fn processes_of_group(group: i32) -> Vec<String> {
    let stat = |path: &Path| fs::read_to_string(path.join("stat")).ok();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| stat(&entry.path()))
        // "pid (name) state parent group …"; a zombie has ended.
        .filter(|stat| {
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let mut fields = after.split_whitespace();
            fields.next() != Some("Z") && fields.nth(1) == Some(&group.to_string())
        })
        .collect()
}

fn ready_line() -> Result<()> {
    let sim = Sim::up(&["--calm", "--nodes", "3", "--instance-type", "t3.medium", "--seed", "7"])?;
    let ready = &sim.ready;
    let keys: Vec<&String> = ready.as_object().context("an object")?.keys().collect();
    ensure!(
        keys == ["ec2", "control", "kubeconfig", "vpc", "subnets", "security_group", "nodes", "internet"],
        "{keys:?}"
    );
    let internet = Path::new(ready["internet"].as_str().context("a path")?);
    ensure!(internet.exists(), "{} is not there", internet.display());
    ensure!(ready["vpc"]["cidr"] == "10.20.0.0/16");
    let subnets = ready["subnets"].as_array().context("subnets")?;
    ensure!(subnets.len() == 2 && subnets[0]["az"] == "us-west-2a" && subnets[1]["az"] == "us-west-2b");
    let nodes = ready["nodes"].as_array().context("nodes")?;
    ensure!(nodes.len() == 3);
    for (index, node) in nodes.iter().enumerate() {
        let keys: Vec<&String> = node.as_object().context("a node")?.keys().collect();
        ensure!(
            keys == [
                "name",
                "instance_id",
                "instance_type",
                "subnet_id",
                "imds",
                "ec2",
                "kubeconfig",
                "netns",
                "mntns"
            ],
            "{keys:?}"
        );
        ensure!(node["subnet_id"] == subnets[index % 2]["id"], "in turn, the first in the first");
        ensure!(node["instance_type"] == "t3.medium");
        ensure!(Path::new(&text(node, "netns")?).is_absolute());
    }
    let api = sim.api()?;
    let object: serde_json::Value =
        ureq::get(format!("{api}/api/v1/nodes/{}", sim.node(0)?.name)).call()?.body_mut().read_json()?;
    // 3 interfaces of 6 addresses.
    ensure!(object["status"]["capacity"]["pods"] == "17", "{object:#}");
    let id = text(&nodes[0], "instance_id")?;
    ensure!(object["spec"]["providerID"] == format!("aws:///us-west-2a/{id}"), "{object:#}");
    ensure!(object["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "t3.medium");
    let addresses = sim.node(0)?.sh("ip -4 -o addr show dev eth0; ip route show default")?;
    ensure!(addresses.contains("inet 10.20.") && addresses.contains("/20"), "{addresses}");
    ensure!(addresses.contains("default via 10.20.0.1 dev eth0"), "{addresses}");
    ensure!(sim.node(0)?.sh("cat /proc/sys/net/ipv4/ip_forward")?.trim() == "1");
    let problems = &sim.get("/fabric")?["problems"];
    ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
    Ok(())
}

fn node_urls() -> Result<()> {
    let sim = Sim::up(&["--calm"])?;
    for index in 0..2 {
        let node = sim.node(index)?;
        let config = fs::read_to_string(&node.kubeconfig)?;
        ensure!(
            node.sh(&format!("cat {}", node.kubeconfig.display()))? == config,
            "it is visible in the node"
        );
        let config: serde_json::Value = serde_yaml_ng::from_str(&config)?;
        let server = text(&config["clusters"][0]["cluster"], "server")?;
        ensure!(server.starts_with("http://127.0.0.1:"), "{server}");
        let nodes = node.http("GET", &format!("{server}/api/v1/nodes"), None)?;
        ensure!(nodes.contains(&node.name), "{nodes}");
        ensure!(ureq::get(format!("{server}/api")).call().is_err(), "the host has no such server");

        let token = node.http(
            "PUT",
            &format!("{}/latest/api/token", node.imds),
            Some("X-aws-ec2-metadata-token-ttl-seconds: 60"),
        )?;
        let id = node.http(
            "GET",
            &format!("{}/latest/meta-data/instance-id", node.imds),
            Some(&format!("X-aws-ec2-metadata-token: {token}")),
        )?;
        ensure!(id == sim.ready["nodes"][index]["instance_id"], "{id}");
        let described =
            node.http("GET", &format!("{}/?Action=DescribeInstances&Version=2016-11-15", node.ec2), None)?;
        ensure!(described.contains(&id), "{described}");
    }
    Ok(())
}

fn kill_9() -> Result<()> {
    let tmp = tempfile::tempdir()?;
    let left =
        || -> Result<Vec<_>> { Ok(fs::read_dir(tmp.path())?.flatten().map(|entry| entry.path()).collect()) };
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut sim = Sim::up_in(tempfile::tempdir_in(tmp.path())?, &["--calm", "--kubelet"])?;
    let own = namespaces_of(&sim)?;
    // The router, the internet host, and two for each of two nodes.
    ensure!(own.len() == 6, "{own:?}");
    ensure!(own.is_subset(&namespaces()));
    let group = sim.pid().as_raw();
    ensure!(!sim.end(Signal::SIGKILL)?.success());
    wait_for("all namespaces are gone", BOUND, || own.is_disjoint(&namespaces()).then_some(()))?;
    let processes = processes_of_group(group);
    ensure!(processes.is_empty(), "{processes:?}");
    ensure!(fs::read_to_string("/proc/self/mountinfo")? == mounts, "the machine's mounts are as they were");

    // Its directory is left, and swept by the next start in the same place.
    let dirs: Vec<_> = fs::read_dir(sim.tmp.path())?.flatten().map(|entry| entry.path()).collect();
    ensure!(dirs.len() == 1, "{dirs:?}");
    let place = std::mem::replace(&mut sim.tmp, tempfile::tempdir()?);
    let second = Sim::up_in(place, &["--calm"])?;
    ensure!(!dirs[0].exists(), "swept");
    drop(second);
    drop(sim);
    ensure!(left()?.is_empty(), "{:?}", left()?);
    Ok(())
}

fn signals() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut sim = Sim::up(&["--calm", "--kubelet"])?;
        let own = namespaces_of(&sim)?;
        let status = sim.end(signal)?;
        ensure!(status.success(), "{signal}: {status:?}");
        wait_for("all namespaces are gone", BOUND, || own.is_disjoint(&namespaces()).then_some(()))?;
        ensure!(fs::read_dir(sim.tmp.path())?.next().is_none(), "no file is left");
    }
    Ok(())
}

fn side_by_side() -> Result<()> {
    let place = tempfile::tempdir()?;
    let in_place = || tempfile::tempdir_in(place.path());
    let first = Sim::up_in(in_place()?, &["--calm"])?;
    let mut second = Sim::up_in(in_place()?, &["--calm"])?;
    let (a, b) = (namespaces_of(&first)?, namespaces_of(&second)?);
    ensure!(a.is_disjoint(&b));
    // The same seed, so the same addresses, without meeting.
    let address = |sim: &Sim| sim.node(0).and_then(|node| node.sh("ip -4 -o addr show dev eth0"));
    let (one, two) = (address(&first)?, address(&second)?);
    ensure!(one == two, "{one} {two}");
    for sim in [&first, &second] {
        let (reached, detail) = sim.probe("node:node-1", "internet", "TCP", 443)?;
        ensure!(reached, "{detail}");
    }
    second.end(Signal::SIGTERM)?;
    let (reached, detail) = first.probe("node:node-2", "internet", "UDP", 7)?;
    ensure!(reached, "the end of one is nothing to the other: {detail}");
    Ok(())
}

fn api_only() -> Result<()> {
    // Where an ordinary user can read and write.
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777))?;
    let program = place.path().join("vpc-sim");
    // Not by this process: a file that it has open for writing, and every fork of
    // another test's thread meanwhile, could not be executed.
    ensure!(Command::new("cp").arg(env!("CARGO_BIN_EXE_vpc-sim")).arg(&program).status()?.success());
    let tmp = tempfile::tempdir_in(place.path())?;
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o777))?;
    let mut command = Command::new(&program);
    command.args(["up", "--calm", "--api-only"]).env("TMPDIR", tmp.path()).uid(65534).gid(65534);
    let sim = Sim::start(command, tmp)?;
    ensure!(fs::metadata(format!("/proc/{}", sim.pid()))?.uid() == 65534);
    ensure!(namespaces_of(&sim)?.is_empty());
    let node = &sim.ready["nodes"][1];
    ensure!(node["netns"].is_null() && node["mntns"].is_null());
    let imds = text(node, "imds")?;
    let token = ureq::put(format!("{imds}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60")
        .send_empty()?
        .body_mut()
        .read_to_string()?;
    let id = ureq::get(format!("{imds}/latest/meta-data/instance-id"))
        .header("X-aws-ec2-metadata-token", token)
        .call()?
        .body_mut()
        .read_to_string()?;
    ensure!(id == node["instance_id"], "{id}");
    let described = ureq::get(format!("{}/?Action=DescribeInstances&Version=2016-11-15", text(node, "ec2")?))
        .call()?
        .body_mut()
        .read_to_string()?;
    ensure!(described.contains(&id));
    let config: serde_json::Value = serde_yaml_ng::from_str(&fs::read_to_string(text(node, "kubeconfig")?)?)?;
    let server = text(&config["clusters"][0]["cluster"], "server")?;
    let nodes = ureq::get(format!("{server}/api/v1/nodes")).call()?.body_mut().read_to_string()?;
    ensure!(nodes.contains("node-2"));
    ensure!(sim.get("/fabric").is_err() && sim.get("/pods").is_err());
    Ok(())
}

fn other_api() -> Result<()> {
    let other = Sim::up(&["--calm", "--api-only", "--nodes", "0"])?;
    let server = other.api()?;
    let nodes = || -> Result<Vec<String>> {
        let list: serde_json::Value =
            ureq::get(format!("{server}/api/v1/nodes")).call()?.body_mut().read_json()?;
        let items = list["items"].as_array().context("items")?;
        items.iter().map(|node| text(&node["metadata"], "name")).collect()
    };
    let kubeconfig = other.text("kubeconfig")?;
    let mut sim = Sim::up(&["--calm", "--kubelet", "--kubeconfig", &kubeconfig])?;
    ensure!(sim.text("kubeconfig")? == kubeconfig);
    ensure!(nodes()? == ["node-1", "node-2"], "{:?}", nodes()?);
    // From inside a node it is at another address, and the same.
    let node = sim.node(1)?;
    let config: serde_json::Value = serde_yaml_ng::from_str(&fs::read_to_string(&node.kubeconfig)?)?;
    let inside = text(&config["clusters"][0]["cluster"], "server")?;
    ensure!(inside != server);
    ensure!(node.http("GET", &format!("{inside}/api/v1/nodes"), None)?.contains("node-2"));
    // What a killed one left there is taken over.
    sim.end(Signal::SIGKILL)?;
    ensure!(nodes()?.len() == 2);
    let mut again = Sim::up(&["--calm", "--nodes", "1", "--kubelet", "--kubeconfig", &kubeconfig])?;
    ensure!(again.end(Signal::SIGTERM)?.success());
    ensure!(nodes()? == ["node-2"], "{:?}", nodes()?);
    Ok(())
}

fn wrong_options() -> Result<()> {
    for (arguments, said) in [
        (&["--api-only", "--kubelet"][..], "cannot be used with"),
        (&["--cni-bin", "/x"], "--kubelet"),
        (&["--nodes", "x"], "invalid value"),
        (&["--api-only", "--instance-type", "m5.huge"], "m5.huge"),
        (&["--api-only", "--kubeconfig", "/nonexistent/config"], "/nonexistent/config"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vpc-sim")).arg("up").args(arguments).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && stderr.contains(said), "{arguments:?}: {stderr}");
        ensure!(output.stdout.is_empty());
    }
    Ok(())
}

fn root_untouched() -> Result<()> {
    // Everything that is not a counter or an age.
    let state = || -> Result<String> {
        let mut text = String::new();
        for arguments in ["-o addr show", "-o link show", "route show table all", "rule show"] {
            let output = Command::new("ip").args(arguments.split(' ')).output()?;
            // Lifetimes of addresses count down.
            text.extend(
                String::from_utf8(output.stdout)?
                    .lines()
                    .map(|line| format!("{}\n", line.split("valid_lft").next().unwrap_or_default())),
            );
        }
        for setting in
            ["ip_forward", "conf/all/rp_filter", "conf/default/rp_filter", "conf/default/proxy_arp"]
        {
            text += &fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}"))?;
        }
        Ok(text)
    };
    let before = state()?;
    let sim = Sim::up(&["--calm"])?;
    let during = state()?;
    ensure!(before == during, "{before}\n{during}");
    drop(sim);
    ensure!(before == state()?);
    Ok(())
}
