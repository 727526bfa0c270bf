//! Against the kernel, in network namespaces of the tests' own.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use kernel_test::{Need, NetNs, trial};
use netlink::{
    Batch, Family, Mac, PROTOCOL, Socket, TABLE_MAIN,
    address::{self, Address},
    link::{self, Ipv4Conf, LinkChange, Veth, VethIndices},
    monitor::LinkMonitor,
    neighbour::{self, Neighbour},
    route::{self, Route},
    rule::{self, Rule},
};

mod nftables;

const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn main() {
    let net = [Need::Root, Need::NetNs];
    let nft = [Need::Root, Need::NetNs, Need::Nft];
    kernel_test::run(vec![
        trial("veth_is_made_with_both_ends_as_asked", &net, veth_is_made_with_both_ends_as_asked),
        trial("veth_refusal_carries_the_kernels_words", &net, veth_refusal_carries_the_kernels_words),
        trial(
            "both_ends_are_waited_for_without_losing_a_packet",
            &net,
            both_ends_are_waited_for_without_losing_a_packet,
        ),
        trial("waiting_for_a_carrier_ends_at_the_deadline", &net, waiting_for_a_carrier_ends_at_the_deadline),
        trial("routes_come_back_as_they_were_put", &net, routes_come_back_as_they_were_put),
        trial("rules_come_back_and_foreign_ones_stay", &net, rules_come_back_and_foreign_ones_stay),
        trial("rules_are_mirrored_without_listing_them", &net, rules_are_mirrored_without_listing_them),
        trial("rules_that_are_announced_late_are_not_doubled", &net, rules_announced_late_are_not_doubled),
        trial("addresses_and_neighbours_come_back", &net, addresses_and_neighbours_come_back),
        trial("sysctls_are_set_without_proc", &net, sysctls_are_set_without_proc),
        trial(
            "long_batches_and_interrupted_dumps_are_whole",
            &net,
            long_batches_and_interrupted_dumps_are_whole,
        ),
        trial(
            "table_is_replaced_at_once_and_read_by_nft",
            &nft,
            nftables::table_is_replaced_at_once_and_read_by_nft,
        ),
        trial("foreign_changes_of_the_table_are_seen", &nft, nftables::foreign_changes_of_the_table_are_seen),
        trial(
            "rules_of_iptables_are_known_and_removed",
            &nft,
            nftables::rules_of_iptables_are_known_and_removed,
        ),
    ]);
}

/// Two namespaces with a pair between them, and a socket in each.
struct Pair {
    host: NetNs,
    pod: NetNs,
    host_socket: Socket,
    pod_socket: Socket,
    index: u32,
    far: u32,
}

fn network(text: &str) -> Result<IpNetwork> {
    text.parse().with_context(|| text.to_owned())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

fn socket_in(ns: &NetNs) -> Result<Socket> {
    Ok(Socket::open_in(File::open(ns.path())?.as_fd())?)
}

fn make(socket: &mut Socket, pod: &NetNs, name: &str) -> Result<VethIndices, netlink::Error> {
    let netns = netlink::netns::open(pod.path()).expect("the namespace lives");
    let veth = Veth {
        name,
        mac: HOST_MAC,
        peer_netns: netns.as_fd(),
        peer_name: "eth0",
        peer_mac: POD_MAC,
        mtu: 8900,
    };
    link::create_veth(socket, &veth)
}

fn pair() -> Result<Pair> {
    let (host, pod) = (NetNs::new()?, NetNs::new()?);
    // Loopback brings the local table, without which no gateway is valid.
    host.ip("link set lo up")?;
    let (mut host_socket, pod_socket) = (socket_in(&host)?, socket_in(&pod)?);
    // Another link there, so that the indices of the ends differ.
    pod.ip("link add one type veth peer name two")?;
    let VethIndices { near: index, far } = make(&mut host_socket, &pod, "eni0123456789a")?;
    Ok(Pair { host, pod, host_socket, pod_socket, index, far })
}

fn run(socket: &mut Socket, fill: impl FnOnce(&mut Batch)) -> Result<(), netlink::Error> {
    let mut batch = Batch::new();
    fill(&mut batch);
    socket.run(batch).map(|_| ())
}

fn veth_is_made_with_both_ends_as_asked() -> Result<()> {
    let mut pair = pair()?;
    let host = link::by_index(&mut pair.host_socket, pair.index)?.context("the near end")?;
    let pod = link::by_name(&mut pair.pod_socket, "eth0")?.context("the far end")?;
    ensure!((host.mac, host.mtu, host.up, host.lower_up) == (Some(HOST_MAC), 8900, true, false), "{host:?}");
    ensure!((pod.mac, pod.mtu, pod.up, pod.index) == (Some(POD_MAC), 8900, false, pair.far), "{pod:?}");
    ensure!(host.peer_index == Some(pair.far) && pod.peer_index == Some(pair.index), "{host:?} {pod:?}");
    ensure!(host.kind.as_deref() == Some("veth"), "{host:?}");
    let shown = pair.host.output("ip", &["-d", "link", "show", "eni0123456789a"])?;
    ensure!(shown.contains("addrgenmode none"), "{shown}");
    let found = link::by_mac(&mut pair.host_socket, HOST_MAC)?.context("by address")?;
    ensure!(found.index == pair.index);
    run(&mut pair.pod_socket, |batch| link::delete(batch, pair.far))?;
    ensure!(
        link::by_index(&mut pair.host_socket, pair.index)?.is_none(),
        "the near end goes with the far end"
    );
    run(&mut pair.pod_socket, |batch| link::delete(batch, pair.far)).context("again is success")
}

fn veth_refusal_carries_the_kernels_words() -> Result<()> {
    let mut pair = pair()?;
    let taken = make(&mut pair.host_socket, &pair.pod, "eni0123456789a").expect_err("the name is taken");
    ensure!(taken.is_existing(), "{taken}");
    let inner = make(&mut pair.host_socket, &pair.pod, "other").expect_err("the far name is taken");
    ensure!(inner.is_existing(), "{inner}");
    // A route by a link that does not exist: one of those with words of its own.
    let bad = Route::default_via(ip("10.0.0.1")?, pair.index, 100);
    let refused =
        run(&mut pair.host_socket, |batch| route::replace(batch, &bad)).expect_err("no such gateway");
    ensure!(refused.to_string().contains("Nexthop has invalid gateway"), "{refused}");
    Ok(())
}

fn both_ends_are_waited_for_without_losing_a_packet() -> Result<()> {
    for _ in 0..20 {
        let mut pair = pair()?;
        let mut host_links = pair.host.run(LinkMonitor::open)?;
        let mut pod_links = pair.pod.run(LinkMonitor::open)?;
        run(&mut pair.pod_socket, |batch| {
            link::change(batch, &LinkChange { no_link_local: true, ..LinkChange::up(pair.far) });
            address::add(
                batch,
                &Address {
                    link: pair.far,
                    network: network("10.9.9.2/24").expect("valid"),
                    no_prefix_route: false,
                },
            );
        })?;
        run(&mut pair.host_socket, |batch| {
            let network = network("10.9.9.1/24").expect("valid");
            address::add(batch, &Address { link: pair.index, network, no_prefix_route: false });
            let address = ip("10.9.9.2").expect("valid");
            let entry = Neighbour { link: pair.index, address, mac: POD_MAC, protocol: PROTOCOL };
            neighbour::replace(batch, &entry);
        })?;
        let deadline = Instant::now() + Duration::from_secs(10);
        pod_links.wait_running(&mut pair.pod_socket, pair.far, deadline)?;
        host_links.wait_running(&mut pair.host_socket, pair.index, deadline)?;
        // The first packet of all, at once, in the direction that is lost when nobody waits.
        let receiver = pair.pod.run(|| std::net::UdpSocket::bind("10.9.9.2:7000"))?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        pair.host.run(|| std::net::UdpSocket::bind("10.9.9.1:0")?.send_to(b"first", "10.9.9.2:7000"))?;
        let mut buffer = [0; 16];
        let received = receiver.recv(&mut buffer).context("the first packet was lost")?;
        ensure!(&buffer[..received] == b"first");
        let shown = pair.pod.output("ip", &["-6", "addr", "show", "dev", "eth0"])?;
        ensure!(!shown.contains("fe80"), "a link-local address appeared: {shown}");
    }
    Ok(())
}

fn waiting_for_a_carrier_ends_at_the_deadline() -> Result<()> {
    let mut pair = pair()?;
    let mut links = pair.host.run(LinkMonitor::open)?;
    let deadline = Instant::now() + Duration::from_millis(60);
    let error =
        links.wait_running(&mut pair.host_socket, pair.index, deadline).expect_err("the far end is down");
    ensure!(matches!(error, netlink::Error::Deadline { .. }), "{error}");
    ensure!(Instant::now() >= deadline);
    Ok(())
}

fn routes_come_back_as_they_were_put() -> Result<()> {
    let mut pair = pair()?;
    let routes = [
        Route::on_link(network("10.0.0.1/32")?, pair.index, 3),
        Route::default_via(ip("10.0.0.1")?, pair.index, 3),
        Route::on_link(network("10.1.2.3/32")?, pair.index, TABLE_MAIN),
        Route { metric: 50, ..Route::on_link(network("10.7.0.0/16")?, pair.index, 10_203) },
        Route {
            onlink: true,
            ..Route {
                destination: network("172.16.0.0/12")?,
                ..Route::default_via(ip("10.66.0.1")?, pair.index, 77)
            }
        },
    ];
    // Twice: a route that is there is replaced by itself.
    for _ in 0..2 {
        run(&mut pair.host_socket, |batch| routes.iter().for_each(|route| route::replace(batch, route)))?;
    }
    let listed = route::list(&mut pair.host_socket, Family::V4)?;
    for route in &routes {
        ensure!(listed.iter().filter(|one| *one == route).count() == 1, "{route:?} in {listed:?}");
    }
    // Another's route of the same place is not removed in our name.
    pair.host.ip("route add 10.1.2.4/32 dev eni0123456789a scope link proto static")?;
    let ours = Route::on_link(network("10.1.2.4/32")?, pair.index, TABLE_MAIN);
    run(&mut pair.host_socket, |batch| route::delete(batch, &ours))?;
    let shown = pair.host.output("ip", &["route", "show"])?;
    ensure!(shown.contains("10.1.2.4"), "a foreign route was removed: {shown}");
    for _ in 0..2 {
        run(&mut pair.host_socket, |batch| {
            routes.iter().rev().for_each(|route| route::delete(batch, route))
        })?;
    }
    let left = route::list(&mut pair.host_socket, Family::V4)?;
    ensure!(left.iter().all(|route| route.protocol != PROTOCOL), "{left:?}");
    Ok(())
}

fn rules_come_back_and_foreign_ones_stay() -> Result<()> {
    let ns = NetNs::new()?;
    let mut socket = socket_in(&ns)?;
    let rules = [
        Rule { to: Some(network("10.1.2.3/32")?), ..Rule::new(512, TABLE_MAIN) },
        Rule { mark: Some((0x80, 0x80)), ..Rule::new(1024, TABLE_MAIN) },
        Rule { from: Some(network("10.1.2.3/32")?), ..Rule::new(1536, 3) },
        Rule { from: Some(network("10.0.0.0/8")?), ..Rule::new(32_765, 10_203) },
    ];
    // The same rules of somebody else's before ours, and one that only looks alike.
    ns.ip("rule add pref 512 to 10.1.2.3/32 lookup main\nrule add pref 1024 fwmark 0x80/0x80 lookup main\nrule add pref 1536 from 10.1.2.3/32 iif lo lookup 3")?;
    for _ in 0..2 {
        run(&mut socket, |batch| rules.iter().for_each(|rule| rule::add(batch, rule)))?;
    }
    let listed = rule::list(&mut socket, Family::V4)?;
    for rule in &rules {
        ensure!(listed.iter().filter(|one| *one == rule).count() == 1, "{rule:?} in {listed:?}");
    }
    for _ in 0..2 {
        run(&mut socket, |batch| rules.iter().for_each(|rule| rule::delete(batch, rule)))?;
    }
    let left = rule::list(&mut socket, Family::V4)?;
    ensure!(left.iter().all(|rule| rule.protocol != PROTOCOL), "{left:?}");
    let shown = ns.output("ip", &["rule", "show"])?;
    for foreign in ["512:\tfrom all to 10.1.2.3 lookup main", "1024:", "1536:\tfrom 10.1.2.3 iif lo"] {
        ensure!(shown.contains(foreign), "{foreign} was removed: {shown}");
    }
    Ok(())
}

fn rules_announced_late_are_not_doubled() -> Result<()> {
    let (ns, before) = (NetNs::new()?, NetNs::new()?);
    let (mut socket, mut earlier) = (socket_in(&ns)?, socket_in(&before)?);
    let mut mirror = ns.run(|| rule::Mirror::open(Family::V4))?;
    let to_pod = Rule { to: Some(ip("10.0.0.7")?.into()), ..Rule::new(512, TABLE_MAIN) };
    let count = |rules: &[Rule]| rules.iter().filter(|rule| **rule == to_pod).count();
    // Another namespace stands for this one as it was listed a moment before the announcement.
    run(&mut earlier, |batch| rule::add(batch, &to_pod))?;
    ensure!(count(mirror.rules(&mut earlier)?) == 1);
    run(&mut socket, |batch| rule::add(batch, &to_pod))?;
    ensure!(count(mirror.rules(&mut socket)?) == 1, "listed, then announced");
    run(&mut socket, |batch| rule::delete(batch, &to_pod))?;
    ensure!(count(mirror.rules(&mut socket)?) == 0, "a phantom");
    // Without NLM_F_EXCL the kernel takes the same rule twice.
    run(&mut socket, |batch| rule::add(batch, &to_pod))?;
    ns.output(
        "sh",
        &["-c", "saved=$(mktemp) && ip rule save > $saved && ip rule restore < $saved; rm $saved"],
    )?;
    ensure!(count(mirror.rules(&mut socket)?) == 2, "{:?}", mirror.rules(&mut socket)?);
    run(&mut socket, |batch| rule::delete(batch, &to_pod))?;
    ensure!(count(mirror.rules(&mut socket)?) == 1, "one of two went");
    // What was never announced is found by listing.
    ensure!(count(mirror.refresh(&mut earlier)?) == 1);
    run(&mut earlier, |batch| rule::delete(batch, &to_pod))?;
    ensure!(count(mirror.rules(&mut earlier)?) == 1 && count(mirror.refresh(&mut earlier)?) == 0);
    Ok(())
}

fn rules_are_mirrored_without_listing_them() -> Result<()> {
    let ns = NetNs::new()?;
    let mut socket = socket_in(&ns)?;
    // One that cannot list: what it has then is what was announced.
    let mut elsewhere = NetNs::new().and_then(|ns| socket_in(&ns))?;
    let mut mirror = ns.run(|| rule::Mirror::open(Family::V4))?;
    let same = |mirror: &mut rule::Mirror, lister: &mut Socket, socket: &mut Socket| -> Result<()> {
        let sorted = |mut rules: Vec<Rule>| {
            rules.sort();
            rules
        };
        let mirrored = sorted(mirror.rules(lister)?.to_vec());
        let listed = sorted(rule::list(socket, Family::V4)?);
        ensure!(mirrored == listed, "{mirrored:?} is not {listed:?}");
        Ok(())
    };
    same(&mut mirror, &mut socket_in(&ns)?, &mut socket)?;
    let to =
        |last: u8| Rule { to: Some(IpAddr::from([10, 0, 0, last]).into()), ..Rule::new(512, TABLE_MAIN) };
    let mut batch = Batch::new();
    (0..100).for_each(|last| rule::add(&mut batch, &to(last)));
    socket.run(batch)?;
    ns.ip("rule add pref 77 from 10.1.0.0/16 iif lo fwmark 5/7 lookup 99 proto 4\nrule add pref 78 to 10.9.9.9 blackhole")?;
    same(&mut mirror, &mut elsewhere, &mut socket)?;
    ns.ip("rule delete pref 77\nrule delete pref 78")?;
    let mut batch = Batch::new();
    (0..50).for_each(|last| rule::delete(&mut batch, &to(last)));
    socket.run(batch)?;
    same(&mut mirror, &mut elsewhere, &mut socket)?;
    ensure!(mirror.rules(&mut elsewhere)?.len() == 53, "the kernel's own three and fifty");
    // More than the kernel keeps for a listener: it lists again.
    for _ in 0..10 {
        for change in [rule::add as fn(&mut Batch, &Rule), rule::delete] {
            let mut batch = Batch::new();
            (100..200).for_each(|last| change(&mut batch, &to(last)));
            socket.run(batch)?;
        }
    }
    same(&mut mirror, &mut socket_in(&ns)?, &mut socket)
}

fn addresses_and_neighbours_come_back() -> Result<()> {
    let mut pair = pair()?;
    let address = Address { link: pair.index, network: network("10.0.3.7/20")?, no_prefix_route: true };
    let entry = Neighbour { link: pair.index, address: ip("10.1.2.3")?, mac: POD_MAC, protocol: PROTOCOL };
    for _ in 0..2 {
        run(&mut pair.host_socket, |batch| {
            address::add(batch, &address);
            neighbour::replace(batch, &entry);
        })?;
    }
    ensure!(address::list(&mut pair.host_socket)?.contains(&address));
    ensure!(neighbour::list(&mut pair.host_socket, Family::V4)?.contains(&entry));
    for (link, expected) in [(pair.index, 1), (1, 0)] {
        let on_link = neighbour::list_on(&mut pair.host_socket, Family::V4, link)?;
        ensure!(on_link.len() == expected, "{link}: {on_link:?}");
    }
    let table = route::list(&mut pair.host_socket, Family::V4)?;
    ensure!(table.is_empty(), "the address made a route: {table:?}");
    for _ in 0..2 {
        run(&mut pair.host_socket, |batch| {
            address::delete(batch, &address);
            neighbour::delete(batch, entry.link, entry.address);
        })?;
    }
    ensure!(address::list(&mut pair.host_socket)?.iter().all(|one| one.network != address.network));
    ensure!(neighbour::list(&mut pair.host_socket, Family::V4)?.is_empty());
    Ok(())
}

fn sysctls_are_set_without_proc() -> Result<()> {
    let mut pair = pair()?;
    let before = link::by_index(&mut pair.host_socket, pair.index)?.context("the link")?;
    let forwarding = 1 - before.forwarding.context("forwarding is reported")?;
    run(&mut pair.host_socket, |batch| {
        let ipv4 = vec![(Ipv4Conf::RpFilter, 2), (Ipv4Conf::Forwarding, forwarding)];
        link::change(batch, &LinkChange { ipv4, mtu: Some(1500), ..LinkChange::of(pair.index) });
    })?;
    let after = link::by_index(&mut pair.host_socket, pair.index)?.context("the link")?;
    ensure!((after.rp_filter, after.forwarding, after.mtu) == (Some(2), Some(forwarding), 1500), "{after:?}");
    let listed = link::list(&mut pair.host_socket)?;
    ensure!(listed.contains(&after), "{listed:?}");
    let proc = pair.host.output("cat", &["/proc/sys/net/ipv4/conf/eni0123456789a/rp_filter"])?;
    ensure!(proc.trim() == "2", "{proc}");
    Ok(())
}

fn long_batches_and_interrupted_dumps_are_whole() -> Result<()> {
    let ns = NetNs::new()?;
    let mut socket = ns.run(|| Socket::open()?.watch())?;
    let numbered = |number: u32| -> Rule {
        let from = IpNetwork::from(IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)));
        Rule { from: Some(from), ..Rule::new(2000, 3) }
    };
    run(&mut socket, |batch| (0..1000).for_each(|number| rule::add(batch, &numbered(number))))?;
    let mut other = socket_in(&ns)?;
    std::thread::scope(|scope| -> Result<()> {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let fleeting = Rule { priority: 1, ..numbered(5000) };
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let _ = run(&mut other, |batch| rule::add(batch, &fleeting));
                let _ = run(&mut other, |batch| rule::delete(batch, &fleeting));
            }
        });
        for _ in 0..20 {
            match rule::list(&mut socket, Family::V4) {
                Ok(rules) => ensure!(
                    rules.iter().filter(|rule| rule.priority == 2000).count() == 1000,
                    "rules are missing"
                ),
                // Nothing but changes, twenty times: said, and not taken for whole.
                Err(netlink::Error::Interrupted { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drop(stop);
        Ok(())
    })
}
