//! cni/pod_traffic, cni/pod_traffic_PD_enabled and PD_toggle.

use anyhow::{Context, Result, ensure};
use ipnetwork::Ipv4Network;
use system_tests::house::{items, text};
use system_tests::kube_proxy::Transport;
use system_tests::world::{INTERNET, PORT, World};

use super::cluster::{Fabric, NODES, POOL, Placed, SMALL, placed, pod, populate};
use super::talk::{Question, all_must_fail, ask_all, long_datagram, ping};

/// Octets that are more than one packet of the internet's, and less than one of the VPC's.
const LONG: usize = 4000;
const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Six pairs: same node and other node, by primary and secondary ENI; ICMP, UDP and TCP each, and a closed port.
pub(crate) fn all_placements() -> Result<()> {
    let world = started(SMALL, POOL)?;
    let [here, there] = populate(&world)?;
    let pairs = [
        (&here.primary[0], &here.primary[1]),
        (&here.primary[0], &here.secondary[0]),
        (&here.secondary[0], &here.secondary[1]),
        (&here.primary[0], &there.primary[0]),
        (&here.primary[0], &there.secondary[0]),
        (&here.secondary[0], &there.secondary[0]),
    ];
    for (from, to) in pairs {
        for transport in BOTH {
            let (client, server) = (&from.netns, to.address);
            let answer = Question::new(client, transport, server, PORT).ask(super::talk::PATIENCE)?;
            ensure!(answer.who == to.full_name(), "{} answers for {}", answer.who, to.name);
            // As it was sent: nothing in the VPC is translated.
            ensure!(
                answer.seen.ip() == &from.address && answer.seen.port() == answer.sent_from.port(),
                "{} is seen as {}",
                from.address,
                answer.seen
            );
            Question::new(client, transport, server, PORT + 1).must_fail().context("a closed port")?;
        }
        ping(&from.netns, to.address)?;
    }
    // And the way back, from the other end.
    for (to, from) in pairs {
        ping(&from.netns, to.address)?;
    }
    let internet = INTERNET.0.parse()?;
    for pod in [&here.primary[0], &here.secondary[0]] {
        ping(&pod.netns, internet).context("the internet")?;
        // The VPC carries 9001 octets and the internet 1500: whoever sends more is told so, through the translation.
        long_datagram(&pod.netns, internet, INTERNET.1, LONG).context("the internet")?;
        long_datagram(&pod.netns, there.secondary[0].address, PORT, LONG)?;
    }
    // A tester that finds everything reachable would pass all of this.
    ensure!(ping(&here.primary[0].netns, [10, 20, 15, 250].into()).is_err(), "nobody's address answers");
    Fabric::look(&world)?.must_be_clean()
}

/// Every pod talks to every other one, in prefix mode and while the mode changes under live pods. The incumbent
/// asks for 99 of 100.
pub(crate) fn prefix_delegation_toggled() -> Result<()> {
    const EACH: usize = 2;
    /// None are warm, or newcomers would be served by what the former mode assigned.
    const BARE: &[(&str, &str)] = &[("MINIMUM_IP_TARGET", "2"), ("IP_COOLDOWN_PERIOD", "1")];
    let mut world = started("m5.large", BARE)?;
    let mut pods: Vec<Placed> = Vec::new();
    for (phase, on) in [("before", None), ("on", Some("true")), ("off", Some("false"))] {
        if let Some(on) = on {
            world.set_environment(&[BARE, &[("ENABLE_PREFIX_DELEGATION", on)]].concat());
            for node in NODES {
                world.kill_agent(node)?;
                world.start_agent(node)?;
            }
            for node in NODES {
                world.wait_until_ready(node)?;
            }
        }
        for node in NODES {
            let names: Vec<String> = (0..EACH).map(|number| format!("{node}-{phase}-{number}")).collect();
            world.apply(&names.iter().map(|name| pod(name, node)).collect::<String>())?;
            let newcomers = placed(&world, node, &names)?;
            if on == Some("true") {
                let in_prefix = newcomers.iter().all(|pod| {
                    prefixes(&world, node)
                        .is_ok_and(|all| all.iter().any(|prefix| prefix.contains(pod.address)))
                });
                ensure!(in_prefix, "{newcomers:?} are in none of {:?}", prefixes(&world, node)?);
            }
            pods.extend(newcomers);
        }
        mesh(&pods).with_context(|| format!("prefixes: {phase}"))?;
    }
    Fabric::look(&world)?.must_be_clean()
}

/// All to all, both transports at once, and no closed port answers.
pub(crate) fn mesh(pods: &[Placed]) -> Result<()> {
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            for transport in BOTH {
                open.push((Question::new(&from.netns, transport, to.address, PORT), to));
            }
        }
        let peer = pods.iter().find(|to| to.name != from.name).context("one pod only")?;
        closed.push(Question::new(&from.netns, Transport::Tcp, peer.address, PORT + 1));
    }
    let questions: Vec<Question> = open.iter().map(|(question, _)| question.clone()).collect();
    for (answer, (_, to)) in ask_all(&questions)?.iter().zip(&open) {
        ensure!(answer.who == to.full_name(), "{} answers for {}", answer.who, to.name);
    }
    all_must_fail(&closed)
}

/// The prefixes of a node's interfaces.
fn prefixes(world: &World, node: &str) -> Result<Vec<Ipv4Network>> {
    let enis = world.control("/enis", None)?;
    let of_node = items(&enis).filter(|eni| eni["node"] == node).flat_map(|eni| items(&eni["prefixes"]));
    of_node.map(|prefix| Ok(text(prefix).parse()?)).collect()
}

fn started(instance_type: &str, environment: &[(&str, &str)]) -> Result<World> {
    let mut world = World::of(2, instance_type, environment)?;
    for node in NODES {
        world.start_agent(node)?;
    }
    for node in NODES {
        world.wait_until_ready(node)?;
    }
    Ok(world)
}
