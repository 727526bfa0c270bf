//! The host's network against the kernel, on a node with two ENIs in a VPC of a few commands.

mod others;
mod repair;
mod world;

use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, Trial, trial};
use netlink::{Batch, Socket, link};
use tidepool_agent::hostnet::{ActionKind, HostNet, NodeNet, PodRoute, SnatMode};

use world::{
    BOUND, INTERNET, NO_LINK, NODE, POD_ON_PRIMARY, POD_ON_SECONDARY, SECONDARY_MAC, VPC_HOST, World, ask,
    ask_from, ip, node_net, serve_mirror,
};

fn main() {
    let on_net = |name: &str, body: fn() -> Result<()>| -> Trial {
        trial(name, &[Need::Root, Need::NetNs, Need::Nft], body)
    };
    kernel_test::run(vec![
        on_net(
            "pods_reach_the_vpc_as_themselves_and_the_internet_as_the_node",
            pods_reach_the_vpc_and_the_internet,
        ),
        on_net("external_snat_sends_pods_out_as_themselves", external_snat_sends_pods_out_as_themselves),
        on_net("node_port_returns_by_the_primary_eni", node_port_returns_by_the_primary_eni),
        on_net(
            "service_translation_comes_before_the_choice_of_eni",
            service_translation_comes_before_the_choice_of_eni,
        ),
        on_net("foreign_damage_is_repaired_within_a_second_and_counted", repair::foreign_damage_is_repaired),
        on_net(
            "a_flush_of_all_is_repaired_on_a_full_node",
            repair::a_flush_of_all_is_repaired_on_a_full_node,
        ),
        on_net("daily_life_asks_for_no_look", repair::daily_life_asks_for_no_look),
        on_net("links_that_go_meanwhile_are_no_refusal", repair::links_that_go_meanwhile_are_no_refusal),
        on_net("a_port_is_ours_on_its_own_protocol_only", others::a_port_is_ours_on_its_own_protocol_only),
        on_net("pods_that_go_do_not_put_off_the_period", others::pods_that_go_do_not_put_off_the_period),
        on_net(
            "whoever_keeps_undoing_us_is_answered_ever_less",
            others::whoever_keeps_undoing_us_is_answered_ever_less,
        ),
        on_net(
            "no_connection_slips_through_while_the_table_is_replaced",
            others::no_connection_slips_through_while_the_table_is_replaced,
        ),
        on_net("a_rule_before_ours_is_told", others::a_rule_before_ours_is_told),
        on_net(
            "restart_removes_nothing_before_all_pods_are_known",
            restart_removes_nothing_before_all_pods_are_known,
        ),
        on_net("removed_pod_leaves_nothing", removed_pod_leaves_nothing),
        on_net("rules_of_another_plugin_lead_nobody_astray", rules_of_another_plugin_lead_nobody_astray),
        on_net("what_the_kernel_refuses_stops_nothing_else", what_the_kernel_refuses_stops_nothing_else),
        on_net("pods_are_found_by_their_links", pods_are_found_by_their_links),
    ]);
}

fn pods_reach_the_vpc_and_the_internet() -> Result<()> {
    let world = World::new()?;
    world.mirror(VPC_HOST)?;
    world.mirror(INTERNET)?;
    for pod in [POD_ON_SECONDARY, POD_ON_PRIMARY] {
        let seen = ask(world.pod(pod), &format!("{VPC_HOST}:9000"))?;
        ensure!(seen == pod, "in the VPC {pod} is seen as {seen}");
        let seen = ask(world.pod(pod), &format!("{INTERNET}:9000"))?;
        ensure!(seen == NODE, "outside the VPC {pod} is seen as {seen}");
        // The node reaches its pods, and they each other, on the node.
        serve_mirror(world.pod(pod), pod)?;
        ask(&world.node, &format!("{pod}:9000")).context("from the node")?;
    }
    for (from, to) in [(POD_ON_PRIMARY, POD_ON_SECONDARY), (POD_ON_SECONDARY, POD_ON_PRIMARY)] {
        let seen = ask(world.pod(from), &format!("{to}:9000"))?;
        ensure!(seen == from, "{from} is seen as {seen}");
    }
    // The node's own packets are left as they are.
    let seen = ask_from(&world.node, 5_555, &format!("{INTERNET}:9000"))?;
    ensure!(seen == SocketAddr::new(ip(NODE)?, 5_555), "the node is seen as {seen}");
    // And the VPC reaches pods.
    let server = world.pod(POD_ON_SECONDARY).run(|| UdpSocket::bind("0.0.0.0:8080"))?;
    let client = world.vpc.run(|| UdpSocket::bind((VPC_HOST, 0)))?;
    server.set_read_timeout(Some(BOUND))?;
    client.send_to(b"hello", (POD_ON_SECONDARY, 8080))?;
    let mut buffer = [0; 8];
    let (_, peer) = server.recv_from(&mut buffer)?;
    ensure!(peer.ip() == ip(VPC_HOST)?, "{peer}");
    let report = world.hostnet.reconcile()?;
    ensure!(report.actions.is_empty() && report.repairs.is_empty(), "not settled: {report:?}");
    ensure!(report.linked.len() == 1, "the secondary ENI is linked: {report:?}");
    Ok(())
}

fn external_snat_sends_pods_out_as_themselves() -> Result<()> {
    let world = World::with(NodeNet { snat: SnatMode::External, ..node_net()? })?;
    world.mirror(INTERNET)?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == POD_ON_SECONDARY, "{seen}");
    // Some destinations only.
    let excluded = NodeNet { exclude_snat: vec!["198.51.100.0/24".parse()?], ..node_net()? };
    ensure!(world.hostnet.set_node(excluded));
    world.hostnet.reconcile()?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == POD_ON_SECONDARY, "{seen}");
    ensure!(world.hostnet.set_node(node_net()?));
    world.hostnet.reconcile()?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == NODE, "{seen}");
    Ok(())
}

/// Rules shaped as kube-proxy's for a Service with externalTrafficPolicy Local: no masquerading.
fn kube_proxy(world: &World, rule: &str) -> Result<()> {
    let ruleset = format!(
        "table ip kube-proxy {{ chain pre {{ type nat hook prerouting priority dstnat; policy accept; {rule}; }}; \
         chain post {{ type nat hook postrouting priority srcnat; policy accept; }}; }}"
    );
    world.node.output("nft", &[&ruleset]).map(|_| ())
}

fn node_port_returns_by_the_primary_eni() -> Result<()> {
    let world = World::new()?;
    for (pod, port) in [(POD_ON_SECONDARY, 30_080), (POD_ON_PRIMARY, 30_081)] {
        kube_proxy(&world, &format!("ip daddr {NODE} udp dport {port} dnat to {pod}:8080"))?;
        let server = world.pod(pod).run(|| UdpSocket::bind("0.0.0.0:8080"))?;
        server.set_read_timeout(Some(BOUND))?;
        let client = world.vpc.run(|| UdpSocket::bind((INTERNET, 0)))?;
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        client.connect((NODE, port))?;
        for round in 0..3 {
            client.send(b"request")?;
            let mut buffer = [0; 16];
            let (_, peer) = server.recv_from(&mut buffer).with_context(|| format!("{pod} got nothing"))?;
            ensure!(peer.ip() == ip(INTERNET)?, "{peer}");
            server.send_to(b"reply", peer)?;
            client
                .recv(&mut buffer)
                .with_context(|| format!("round {round}: the reply of {pod} was lost"))?;
        }
        world.node.output("nft", &["delete", "table", "ip", "kube-proxy"])?;
    }
    Ok(())
}

fn service_translation_comes_before_the_choice_of_eni() -> Result<()> {
    let world = World::new()?;
    world.mirror(VPC_HOST)?;
    world.mirror(INTERNET)?;
    // A cluster address is outside the VPC until it is translated: to a backend inside, and to one outside.
    for (backend, seen_as) in [(VPC_HOST, POD_ON_SECONDARY), (INTERNET, NODE)] {
        kube_proxy(&world, &format!("ip daddr 172.20.0.1 udp dport 53 dnat to {backend}:9000"))?;
        let seen = ask(world.pod(POD_ON_SECONDARY), "172.20.0.1:53")?;
        ensure!(seen == seen_as, "by {backend} it is seen as {seen}");
        world.node.output("nft", &["delete", "table", "ip", "kube-proxy"])?;
    }
    Ok(())
}

fn restart_removes_nothing_before_all_pods_are_known() -> Result<()> {
    let world = World::new()?;
    // Left by an agent that was killed in the middle, and something of another's.
    world.node.ip("rule add pref 512 to 10.20.16.99 lookup main protocol 116\nroute add 10.20.16.99 dev eni0 proto 116\nrule add pref 77 to 10.9.9.9 lookup main\nroute add 10.9.9.9 dev eni0 proto static")?;
    let before = world.picture()?;
    let restarted = world.node.run(HostNet::open)?;
    restarted.set_node(node_net()?);
    let report = restarted.reconcile()?;
    ensure!(report.actions.is_empty(), "{report:?}");
    ensure!(world.picture()? == before, "a restart changed something");
    for (_, route) in world.pods.values() {
        let standing = restarted.standing(&route.host_ifname)?;
        let found = standing.first().context("the link of a pod that runs")?;
        ensure!(found.ifindex == route.host_ifindex && found.pod_mac == route.pod_mac, "{found:?}");
        restarted.add_pod(route)?;
    }
    restarted.pods_complete();
    let report = restarted.reconcile()?;
    ensure!(report.actions.len() == 2 && report.repairs.is_empty(), "{report:?}");
    let after = world.picture()?.join("\n");
    ensure!(!after.contains("10.20.16.99"), "{after}");
    let foreign = world.node.output("ip", &["route", "show"])? + &after;
    ensure!(foreign.matches("10.9.9.9").count() == 2, "{foreign}");
    ensure!(restarted.standing("eninot")?.is_empty());
    Ok(())
}

fn removed_pod_leaves_nothing() -> Result<()> {
    let world = World::new()?;
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    // The link first, as the plugin does; a removal that comes late or twice is no error.
    let mut socket = Socket::open_in(File::open(world.node.path())?.as_fd())?;
    let mut batch = Batch::new();
    link::delete(&mut batch, route.host_ifindex);
    socket.run(batch)?;
    for _ in 0..2 {
        world.hostnet.remove_pod(route)?;
    }
    let left = world.picture()?.join("\n");
    ensure!(!left.contains(POD_ON_SECONDARY), "{left}");
    let report = world.hostnet.reconcile()?;
    ensure!(report.actions.is_empty() && report.findings.is_empty(), "not settled: {report:?}");
    // A newer pod with the address is not touched by the late removal for the older link.
    let mut world = world;
    world.add_pod(POD_ON_SECONDARY, 2)?;
    let older = PodRoute { host_ifindex: NO_LINK, ..world.pods[POD_ON_SECONDARY].1.clone() };
    world.hostnet.remove_pod(&older)?;
    ensure!(world.picture()?.join("\n").contains(POD_ON_SECONDARY));
    // A pod whose link does not exist is refused, and nothing of it stays.
    let ghost = PodRoute { address: ip("10.20.16.77")?, host_ifname: "enighost".into(), ..older };
    ensure!(world.hostnet.add_pod(&ghost).is_err());
    ensure!(!world.picture()?.join("\n").contains("10.20.16.77"));
    Ok(())
}

fn rules_of_another_plugin_lead_nobody_astray() -> Result<()> {
    let world = World::new()?;
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    let rules = || -> Result<Vec<String>> {
        let shown = world.node.output("ip", &["rule", "show"])?;
        let of_pod = shown.lines().filter(|line| line.contains(POD_ON_SECONDARY));
        Ok(of_pod.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    };
    let led = |table: &str, proto: &str| format!("1536: from {POD_ON_SECONDARY} lookup {table}{proto}");
    let other = format!("700: from {POD_ON_SECONDARY} lookup 77");
    world.node.ip(&format!("rule add pref 700 from {POD_ON_SECONDARY} lookup 77"))?;

    // After a restart, EC2 does not list the pod's ENI yet.
    let restarted = world.node.run(HostNet::open)?;
    restarted.set_node(node_net()?);
    let unknown = PodRoute { table: None, ..route.clone() };
    ensure!(restarted.adopt_pod(&unknown) == Some(2), "the table of the rule that stands");
    restarted.adopt_pod(&world.pods[POD_ON_PRIMARY].1);
    restarted.pods_complete();
    ensure!(restarted.reconcile()?.actions.is_empty());
    // Nor is it cut off where that rule is the incumbent's; then it turns out to be on another ENI.
    let incumbent = ["rule", "add", "pref", "1536", "from", POD_ON_SECONDARY, "lookup", "2"];
    world.node.output("ip", &incumbent)?;
    ensure!(rules()?.contains(&led("2", "")), "{:?}", rules()?);
    restarted.set_table(route.address, 3)?;
    let told = rules()?;
    ensure!(
        told.contains(&led("3", " proto 116")) && !told.iter().any(|rule| rule.contains("lookup 2")),
        "{told:?}"
    );
    ensure!(restarted.reconcile()?.actions.is_empty(), "it is what is wanted");

    // Whatever the incumbent left goes with the pod, and before the next one with the address.
    world.node.output("ip", &incumbent)?;
    restarted.remove_pod(route)?;
    ensure!(rules()? == [other.clone()], "{:?}", rules()?);
    world.node.output("ip", &incumbent)?;
    restarted.add_pod(&PodRoute { table: Some(netlink::TABLE_MAIN), ..route.clone() })?;
    let to = format!("512: from all to {POD_ON_SECONDARY} lookup main proto 116");
    ensure!(rules()? == [to, other], "{:?}", rules()?);
    Ok(())
}

fn what_the_kernel_refuses_stops_nothing_else() -> Result<()> {
    // More than any link carries: the link of the secondary ENI cannot be set up.
    let world = World::with(NodeNet { eni_mtu: 100_000, ..node_net()? })?;
    let report = world.hostnet.reconcile()?;
    let refused = report.refused.context("nothing was refused")?;
    ensure!(refused.of_secondary_only && refused.error.contains("Invalid argument"), "{refused:?}");
    ensure!(
        refused.left.iter().all(|action| [ActionKind::Link, ActionKind::Route].contains(&action.kind())),
        "{refused:?}"
    );
    ensure!(report.linked.is_empty(), "nothing may be leased on it: {:?}", report.linked);
    ensure!(report.actions.is_empty() && report.repairs.is_empty(), "all else was done before");
    let tables = world.node.output("nft", &["list", "tables"])?;
    ensure!(tables.contains("tidepool"), "{tables}");

    // Another's deletion is told from what never was; and with the cause gone all is as it should be.
    world.node.ip(&format!("rule delete pref 512 to {POD_ON_PRIMARY}"))?;
    let report = world.hostnet.reconcile()?;
    ensure!(report.repairs == BTreeMap::from([(ActionKind::Rule, 1)]), "{report:?}");
    world.hostnet.set_node(node_net()?);
    let report = world.hostnet.reconcile()?;
    ensure!(report.refused.is_none() && report.linked.contains(&SECONDARY_MAC), "{report:?}");
    Ok(())
}

fn pods_are_found_by_their_links() -> Result<()> {
    let world = World::new()?;
    // As another plugin leaves it: no neighbour entry, routes of another protocol; and a link that is no pod's.
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    let link = &route.host_ifname;
    world.node.ip(&format!(
        "neigh delete {POD_ON_SECONDARY} dev {link}\nroute replace {POD_ON_SECONDARY} dev {link} proto static\n\
         link add other0 type veth peer name other1\nroute add 10.20.99.0/24 dev {link}"
    ))?;
    let found = world.hostnet.standing("eni")?;
    ensure!(found.len() == 2, "{found:?}");
    for (address, (_, route)) in &world.pods {
        let one = found.iter().find(|one| one.ifname == route.host_ifname).context("no such link")?;
        ensure!(one.ifindex == route.host_ifindex && one.addresses == [ip(address)?], "{one:?}");
        let told = world.hostnet.ask_mac(route.host_ifindex, ip(address)?)?;
        ensure!(told == route.pod_mac, "{address} tells {told:?}");
    }
    Ok(())
}
