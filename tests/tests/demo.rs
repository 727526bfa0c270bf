//! The whole walk: real agents, the real plugin, the real kernel programs, on
//! two nodes of a simulated VPC.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernel_test::{Need, trial};
use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::apiserver::ApiServer;
use system_tests::demo::{Demo, Traces, abandoned_folders, check_document};
use system_tests::house::{items, root, text};

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

fn main() {
    let with = |more: &[Need]| [NEEDS, more].concat();
    // One at a time: each measures what the others would leave.
    kernel_test::run_one_at_a_time(vec![
        trial("a_demo_shows_policies_at_work_and_leaves_nothing", NEEDS, demo_json),
        trial(
            "a_kept_demo_answers_kubectl_and_the_aws_cli",
            &with(&[Need::Tool("kubectl"), Need::Python("awscli")]),
            kept_demo_answers,
        ),
        trial("a_killed_demo_leaves_nothing_and_the_next_one_works", NEEDS, killed_demo),
        trial("two_demos_run_side_by_side", NEEDS, || {
            let (mut one, mut two) = (Demo::start(&["--json"])?, Demo::start(&["--json", "--seed", "2"])?);
            for demo in [&mut one, &mut two] {
                let (status, output) = demo.end()?;
                ensure!(status.code() == Some(0), "{status}:\n{}", demo.said().join("\n"));
                check_matrix(&check_document(&output)?)?;
            }
            Ok(())
        }),
        trial(
            "a_demo_works_on_a_real_kubernetes_api_whose_watches_break",
            &with(&[Need::Tool("go"), Need::Env("TIDEPOOL_APISERVER")]),
            real_api,
        ),
    ]);
}

fn demo_json() -> Result<()> {
    let before = Traces::now()?;
    let mut demo = Demo::start(&["--json"])?;
    let (status, output) = demo.end()?;
    ensure!(status.code() == Some(0), "{status}:\n{}", demo.said().join("\n"));
    let document = check_document(&output)?;
    check_pods(&document)?;
    check_matrix(&document)?;
    check_figures(&document)?;
    demo.wait_until_gone()?;
    ensure!(abandoned_folders(demo.pid()).is_empty(), "its folder is still there");
    let after = Traces::now()?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    Ok(())
}

/// Addresses are real ones: distinct, of an ENI of the pod's node, in the
/// subnet of that node.
fn check_pods(document: &Value) -> Result<()> {
    let nodes: BTreeMap<&str, &Value> =
        items(&document["nodes"]).map(|node| (text(&node["name"]), node)).collect();
    ensure!(nodes.len() == 2, "{} nodes", nodes.len());
    let subnets: BTreeSet<&str> = nodes.values().map(|node| text(&node["subnet"])).collect();
    ensure!(subnets.len() == 2, "the nodes are in {subnets:?}");
    let pods: Vec<&Value> = items(&document["pods"]).collect();
    ensure!(pods.len() >= 6, "{} pods", pods.len());
    let (mut addresses, mut used, mut namespaces) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for pod in &pods {
        let (ip, node) = (text(&pod["ip"]), text(&pod["node"]));
        ensure!(addresses.insert(ip), "{ip} was given twice");
        let node_view = nodes.get(node).with_context(|| format!("no node {node}"))?;
        ensure!(is_inside(ip, text(&node_view["subnet"]))?, "{ip} is not in the subnet of {node}");
        let eni = items(&node_view["enis"])
            .find(|eni| eni["id"] == pod["eni"])
            .with_context(|| format!("{node} has no ENI of {pod}"))?;
        ensure!(items(&eni["addresses"]).any(|address| text(address) == ip), "{ip} is not on {eni}");
        used.insert(node);
        namespaces.insert(text(&pod["namespace"]));
    }
    ensure!(used.len() == 2, "all pods are on {used:?}");
    ensure!(namespaces.len() >= 2, "all pods are in {namespaces:?}");
    Ok(())
}

fn is_inside(ip: &str, cidr: &str) -> Result<bool> {
    let (network, bits) = cidr.split_once('/').with_context(|| format!("{cidr} is no CIDR"))?;
    let mask = u32::MAX.checked_shl(32 - bits.parse::<u32>()?).unwrap_or(0);
    let number = |text: &str| -> Result<u32> { Ok(text.parse::<Ipv4Addr>()?.to_bits()) };
    Ok(number(ip)? & mask == number(network)? & mask)
}

type Cells = BTreeMap<(String, String, String, u64), bool>;

fn cells(list: &Value) -> Result<Cells> {
    items(list)
        .map(|cell| {
            let word = |key: &str| text(&cell[key]).to_owned();
            let port = cell["port"].as_u64().context("a port is a number")?;
            let allowed = cell["allowed"].as_bool().context("allowed is true or false")?;
            Ok(((word("from"), word("to"), word("protocol"), port), allowed))
        })
        .collect()
}

/// The expected cells are those of the table in examples/, read here a second
/// time and in another way.
fn check_matrix(document: &Value) -> Result<()> {
    let matrix = &document["matrix"];
    let (before, after, expected) =
        (cells(&matrix["before"])?, cells(&matrix["after"])?, cells(&matrix["expected"])?);
    ensure!(before.values().all(|allowed| *allowed), "not all was allowed before");
    ensure!(after == expected, "after {after:#?}\nexpected {expected:#?}");
    ensure!(after.values().any(|allowed| !allowed), "nothing was denied");
    ensure!(after.values().any(|allowed| *allowed), "nothing was allowed");
    ensure!(after.keys().any(|(_, _, protocol, _)| protocol == "UDP"), "no UDP port was probed");

    let table = fs::read_to_string(root().join("examples/expected-matrix.txt"))?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let mut by_hand = Cells::new();
    for row in &rows[2..] {
        for (column, word) in row[1..].iter().enumerate() {
            let (port, protocol) = rows[1][column].split_once('/').context("a port has a protocol")?;
            let key = (row[0].to_owned(), rows[0][column].to_owned(), protocol.to_owned(), port.parse()?);
            match *word {
                "yes" => by_hand.insert(key, true),
                "no" => by_hand.insert(key, false),
                _ => None,
            };
        }
    }
    ensure!(expected == by_hand, "the document's table is not the one of the file");
    Ok(())
}

fn check_figures(document: &Value) -> Result<()> {
    let calls = document["ec2_calls"].as_object().context("ec2_calls is an object")?;
    ensure!(calls.values().all(Value::is_u64), "{calls:?}");
    for operation in ["DescribeNetworkInterfaces", "AssignPrivateIpAddresses"] {
        ensure!(calls.contains_key(operation), "no {operation} among {calls:?}");
    }
    let (p50, p99) = (document["add_ms"]["p50"].as_f64(), document["add_ms"]["p99"].as_f64());
    ensure!(p50.is_some_and(|p50| p50 > 0.0) && p50 <= p99, "{p50:?} {p99:?}");
    Ok(())
}

fn kept_demo_answers() -> Result<()> {
    let mut demo = Demo::start(&["--keep", "--json", "--seed", "7"])?;
    let kubeconfig = demo.wait_for_line("export KUBECONFIG=")?;
    let endpoint = demo.wait_for_line("--endpoint-url ")?;
    // The last thing that it says.
    demo.wait_for_line("a host on the internet:")?;

    let pods = output(Command::new("kubectl").args([
        "--kubeconfig",
        &kubeconfig,
        "get",
        "pods",
        "--all-namespaces",
        "--output",
        "json",
    ]))?;
    let pods: Value = serde_json::from_str(&pods)?;
    let wide = output(Command::new("kubectl").args([
        "--kubeconfig",
        &kubeconfig,
        "get",
        "pods",
        "--all-namespaces",
        "--output",
        "wide",
    ]))?;
    let aws = PathBuf::from(std::env::var("TIDEPOOL_PYTHON")?).with_file_name("aws");
    let interfaces = output(
        Command::new(aws)
            .args(["ec2", "describe-network-interfaces", "--output", "json", "--endpoint-url", &endpoint])
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-west-2"),
    )?;
    let interfaces: Value = serde_json::from_str(&interfaces)?;
    let on_enis: BTreeSet<&str> = items(&interfaces["NetworkInterfaces"])
        .flat_map(|eni| items(&eni["PrivateIpAddresses"]))
        .map(|address| text(&address["PrivateIpAddress"]))
        .collect();
    let running: Vec<&Value> = items(&pods["items"]).collect();
    ensure!(running.len() >= 6, "kubectl sees {} pods", running.len());
    for pod in &running {
        let (name, ip) = (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]));
        ensure!(pod["status"]["phase"] == "Running", "{name} is {}", pod["status"]["phase"]);
        ensure!(on_enis.contains(ip), "{name} has {ip}, which EC2 knows on no ENI");
        ensure!(wide.contains(ip), "kubectl get -o wide shows no {ip}:\n{wide}");
    }

    // The install manifest goes in with kubectl, twice, and out again.
    let manifest = root().join("daemonset.yaml");
    for verb in ["apply", "apply", "delete"] {
        output(
            Command::new("kubectl").args(["--kubeconfig", &kubeconfig, verb, "--filename"]).arg(&manifest),
        )?;
        let found = Command::new("kubectl")
            .args(["--kubeconfig", &kubeconfig, "--namespace", "kube-system", "get", "daemonset", "tidepool"])
            .output()?;
        ensure!(found.status.success() == (verb == "apply"), "after {verb}: {found:?}");
    }

    // The lines about agents and pods hold what they promise.
    let said = demo.said();
    let metrics = said.iter().find(|line| line.contains("/metrics")).context("no line about metrics")?;
    let metrics = output(&mut shell(metrics))?;
    ensure!(metrics.contains("tidepool_"), "{metrics}");
    let in_pod = said.iter().find(|line| line.contains(" bash ")).context("no line about a shell")?;
    let addresses = output(&mut shell(&in_pod.replace(" bash ", " ip -brief address ")))?;
    ensure!(running.iter().any(|pod| addresses.contains(text(&pod["status"]["podIP"]))), "{addresses}");

    demo.signal(Signal::SIGINT)?;
    let (status, document) = demo.end()?;
    ensure!(status.code() == Some(0), "{status} after Ctrl-C");
    check_document(&document)?;
    demo.wait_until_gone()
}

/// A line that the demo printed, as a user would paste it.
fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", line]);
    command
}

fn killed_demo() -> Result<()> {
    let before = Traces::now()?;
    let mut demo = Demo::start(&["--keep"])?;
    demo.wait_for_line("a host on the internet:")?;
    demo.signal(Signal::SIGKILL)?;
    let (status, _) = demo.end()?;
    ensure!(status.code().is_none(), "{status}");
    demo.wait_until_gone()?;
    ensure!(before == Traces::now()?, "before {before:#?}\nafter {:#?}", Traces::now()?);

    let mut next = Demo::start(&["--json"])?;
    let (status, output) = next.end()?;
    ensure!(status.code() == Some(0), "{status}:\n{}", next.said().join("\n"));
    check_document(&output)?;
    ensure!(abandoned_folders(demo.pid()).is_empty(), "the next demo left the folder of the killed one");
    Ok(())
}

fn real_api() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = ApiServer::start(dir.path().join("kubeconfig"))?;
    let kubeconfig = server.kubeconfig.to_str().context("a path that is no text")?.to_owned();
    let mut demo = Demo::start(&["--json", "--kubeconfig", &kubeconfig])?;

    // Watches are closed and expired all the while.
    let over = AtomicBool::new(false);
    let (ended, rounds) = std::thread::scope(|scope| {
        let breaker = scope.spawn(|| break_watches(&server.admin, &over));
        let ended = demo.end();
        over.store(true, Ordering::Relaxed);
        (ended, breaker.join().unwrap_or(0))
    });
    let (status, output) = ended?;
    ensure!(status.code() == Some(0), "{status}:\n{}", demo.said().join("\n"));
    ensure!(rounds > 0, "no watch was broken");
    check_matrix(&check_document(&output)?)?;
    demo.wait_until_gone()?;

    for (kind, what) in [("namespaces", "shop"), ("namespaces", "ops"), ("nodes", "node-")] {
        let left = self::output(Command::new("kubectl").args([
            "--kubeconfig",
            &kubeconfig,
            "get",
            kind,
            "--output",
            "name",
        ]))?;
        ensure!(!left.contains(what), "{kind} are left in the API:\n{left}");
    }
    Ok(())
}

/// Closes all watches and lets their history expire, in turn, until it is over.
fn break_watches(admin: &str, over: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let fault = if rounds % 2 == 0 { "/watches/close" } else { "/expire" };
        if ureq::post(format!("{admin}{fault}")).send_empty().is_ok() {
            rounds += 1;
        }
        // Not a wait for anything: the rhythm of the faults.
        std::thread::sleep(Duration::from_secs(2));
    }
    rounds
}

/// Standard output of a command; its standard error where it failed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
