//! ADDs that cannot be served: why, until when and what to do, in the CNI message, in Events on the pod and on its
//! node, in metrics, and on the agent's pages.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::house::{items, text};

use system_tests::world::World;
use system_tests::world::manifests::pod;

/// What keeps a node from serving, and what is said of it.
struct Case {
    node: &'static str,
    /// More than the primary ENI's nine addresses where a further ENI is what fails.
    pods: usize,
    /// Calls that fail, how, and with which message.
    fault: Option<(&'static str, &'static str, &'static str)>,
    reason: &'static str,
    /// The Event on the node.
    event: &'static str,
    says: &'static [&'static str],
}

const MANY: usize = 10;
const FEW: usize = 3;
const ASSIGN: &str = "AssignPrivateIpAddresses";

const CASES: &[Case] = &[
    Case {
        node: "node-1",
        pods: FEW,
        fault: Some((ASSIGN, "throttle", "")),
        reason: "throttled",
        event: "Ec2Throttled",
        says: &[
            "EC2 throttles AssignPrivateIpAddresses",
            "RequestLimitExceeded",
            "; tried again ",
            "; remedy: ",
        ],
    },
    Case {
        node: "node-2",
        pods: FEW,
        fault: Some((ASSIGN, "unauthorized", "")),
        reason: "permission_denied",
        event: "MissingIAMPermissions",
        says: &["do not allow ec2:AssignPrivateIpAddresses", "UnauthorizedOperation", "iam-policy.json"],
    },
    Case {
        node: "node-3",
        pods: FEW,
        fault: Some(("*", "InsufficientFreeAddressesInSubnet", "")),
        reason: "subnet_full",
        event: "SubnetFull",
        says: &["subnet subnet-", "has no free address", " in ", " UTC; remedy: "],
    },
    Case {
        node: "node-4",
        pods: MANY,
        fault: Some((
            "CreateNetworkInterface",
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-9' does not exist",
        )),
        reason: "configuration",
        event: "Ec2Configuration",
        says: &[
            "EC2 refuses CreateNetworkInterface",
            "The subnet ID 'subnet-9' does not exist",
            "correct the subnet",
        ],
    },
    Case {
        node: "node-5",
        pods: MANY,
        fault: None,
        reason: "eni_limit",
        event: "EniLimitReached",
        says: &[
            "2 of the 2 ENIs that MAX_ENI allows",
            "(not the pool's: eni-",
            ", tagged no_manage)",
            "raise MAX_ENI",
        ],
    },
    Case {
        node: "node-6",
        pods: FEW,
        fault: Some((ASSIGN, "server_error", "")),
        reason: "ec2_unreachable",
        event: "Ec2Unreachable",
        says: &["AssignPrivateIpAddresses has no result", "InternalError", "; tried again "],
    },
];

/// Each node has another trouble, all at once: an ADD waits for twenty seconds before it is refused.
pub(crate) fn every_reason() -> Result<()> {
    let environment = [
        ("WARM_IP_TARGET", "1"),
        ("MAX_ENI", "2"),
        ("IP_COOLDOWN_PERIOD", "0"),
        ("ENABLE_SUBNET_DISCOVERY", "false"),
    ];
    let mut world = World::of(CASES.len(), "m5.large", &environment)?;
    strange_eni(&world, "node-5")?;
    serve(&mut world, CASES, None)?;
    for case in CASES {
        refused(&world, case).with_context(|| case.node)?;
    }
    Ok(())
}

/// In prefix mode: no /28 is left, and no single address either.
pub(crate) fn fragmented() -> Result<()> {
    const CASE: &[Case] = &[Case {
        node: "node-1",
        pods: 18,
        fault: Some(("*", "InsufficientFreeAddressesInSubnet", "")),
        reason: "subnet_fragmented",
        event: "SubnetFragmented",
        says: &["has no free /28 and no single free address", " UTC; remedy: reserve space for prefixes"],
    }];
    let environment = [
        ("ENABLE_PREFIX_DELEGATION", "true"),
        ("WARM_IP_TARGET", "1"),
        ("IP_COOLDOWN_PERIOD", "0"),
        ("ENABLE_SUBNET_DISCOVERY", "false"),
    ];
    let mut world = World::of(1, "m5.large", &environment)?;
    // The first call for a /28 shows that there is none; the calls for single addresses after it fail too.
    let first = json!({"operation": ASSIGN, "kind": "InsufficientCidrBlocks", "count": 1});
    serve(&mut world, CASE, Some(&first))?;
    refused(&world, &CASE[0])
}

/// Starts the agents, then the troubles, then more pods than there are addresses.
fn serve(world: &mut World, cases: &[Case], first: Option<&Value>) -> Result<()> {
    for case in cases {
        world.start_agent(case.node)?;
    }
    for case in cases {
        world.wait_until_ready(case.node)?;
        world.settled_pool(case.node)?;
        if let Some(fault) = first {
            world.control("/faults", Some(&fault.to_string()))?;
        }
        if let Some((operation, kind, message)) = case.fault {
            let operations =
                if operation == "*" { vec![ASSIGN, "CreateNetworkInterface"] } else { vec![operation] };
            for operation in operations {
                let mut fault =
                    json!({"operation": operation, "kind": kind, "count": 100_000, "node": case.node});
                if !message.is_empty() {
                    fault["message"] = json!(message);
                }
                world.control("/faults", Some(&fault.to_string()))?;
            }
        }
    }
    let pods: String = cases
        .iter()
        .flat_map(|case| {
            (0..case.pods).map(|number| pod(&format!("{}-{number}", case.node), case.node, "many"))
        })
        .collect();
    world.apply(&pods)
}

fn refused(world: &World, case: &Case) -> Result<()> {
    let refused = world.wait(&format!("a pod of {} is refused", case.node), || {
        let pods = world.pods().ok()?;
        pods.into_iter().find(|pod| pod["node"] == case.node && pod["message"].is_string())
    })?;
    let message = text(&refused["message"]);
    for words in case.says {
        ensure!(message.contains(words), "«{words}» is not in «{message}»");
    }

    // What passes by itself is told on the node only.
    if case.reason != "throttled" {
        let on_pod = if case.reason == "permission_denied" { case.event } else { "NoAddress" };
        let told = event(world, "Pod", text(&refused["name"]), on_pod)?;
        ensure!(case.says.iter().all(|words| text(&told["message"]).contains(words)), "{told:#}");
    }
    let told = event(world, "Node", case.node, case.event)?;
    ensure!(told["type"] == "Warning" && told["involvedObject"]["uid"] == case.node, "{told:#}");
    ensure!(!text(&told["message"]).is_empty(), "{told:#}");
    let events = world.kubernetes("/api/v1/namespaces/default/events")?;
    let of_node = |event: &&Value| {
        event["involvedObject"]["kind"] == "Node"
            && event["involvedObject"]["name"] == case.node
            && event["reason"] == case.event
    };
    ensure!(items(&events["items"]).filter(of_node).count() == 1, "one for all pods: {events:#}");

    let line = format!("tidepool_add_refused_total{{reason=\"{}\"}}", case.reason);
    world.wait(&line, || (world.metric(case.node, &line).ok()?? >= 1.0).then_some(()))?;
    let none = world.metric(case.node, "awscni_no_available_ip_addresses")?;
    ensure!(none >= Some(1.0), "awscni_no_available_ip_addresses is {none:?}");
    let pool = world.debug(case.node, "pool")?;
    ensure!(pool["blocked"]["reason"] == case.reason, "{pool:#}");
    let blocked = format!("tidepool_pool_blocked{{reason=\"{}\"}}", case.reason);
    ensure!(world.metric(case.node, &blocked)? == Some(1.0), "no {blocked}");
    let status = world.inside(case.node, &["tidepool-agent", "status"])?;
    ensure!(status.contains("pool cannot grow: ") && status.contains("; remedy: "), "{status}");
    Ok(())
}

/// Waits for an Event.
fn event(world: &World, kind: &str, name: &str, reason: &str) -> Result<Value> {
    world.wait(&format!("an Event {reason} on {kind} {name}"), || {
        let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
        let found = items(&events["items"]).find(|event| {
            let object = &event["involvedObject"];
            event["reason"] == reason && object["name"] == name && object["kind"] == kind
        });
        found.cloned()
    })
}

/// An ENI at the node that its operator keeps for something else.
fn strange_eni(world: &World, node: &str) -> Result<()> {
    let enis = world.control("/enis", None)?;
    let primary = items(&enis).find(|eni| eni["node"] == node).context("no primary ENI")?;
    let made = world.ec2(
        "CreateNetworkInterface",
        &[
            ("SubnetId", text(&primary["subnet_id"])),
            ("TagSpecification.1.ResourceType", "network-interface"),
            ("TagSpecification.1.Tag.1.Key", "node.k8s.amazonaws.com/no_manage"),
            ("TagSpecification.1.Tag.1.Value", "true"),
        ],
    )?;
    let (_, rest) = made.split_once("<networkInterfaceId>").with_context(|| made.clone())?;
    let id = rest.split('<').next().unwrap_or_default();
    let instance = text(&primary["instance_id"]);
    let place = [
        ("NetworkInterfaceId", id),
        ("InstanceId", instance),
        ("DeviceIndex", "1"),
        ("NetworkCardIndex", "0"),
    ];
    world.ec2("AttachNetworkInterface", &place).map(drop)
}
