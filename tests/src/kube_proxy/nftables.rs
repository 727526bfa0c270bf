//! Mode nftables.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::{Endpoint, ExternalPolicy, MASQUERADE_MARK, SERVICE_CIDR, Service};

/// Chains of hooks: name, kind, hook, priority, rules.
const BASE: [(&str, &str, &str, i32, &[&str]); 8] = [
    ("filter-prerouting", "filter", "prerouting", -110, &["ct state new jump firewall-check"]),
    (
        "filter-input",
        "filter",
        "input",
        -110,
        &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
    ),
    (
        "filter-forward",
        "filter",
        "forward",
        -110,
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    (
        "filter-output",
        "filter",
        "output",
        -110,
        &["ct state new jump service-endpoints-check", "ct state new jump firewall-check"],
    ),
    ("filter-output-post-dnat", "filter", "output", -90, &["ct state new jump cluster-ips-check"]),
    ("nat-prerouting", "nat", "prerouting", -100, &["jump services"]),
    ("nat-output", "nat", "output", -100, &["jump services"]),
    ("nat-postrouting", "nat", "postrouting", 100, &["jump masquerading"]),
];

/// What nft is given: the whole table, in place of the one that is there.
pub(super) fn rules(node: &str, address: Ipv4Addr, services: &[Service]) -> String {
    let mut dispatch = Dispatch::default();
    let mut chains = String::new();
    for service in services {
        add_service(node, service, &mut dispatch, &mut chains);
    }
    let mark = format!("{MASQUERADE_MARK:#x}");
    let mut text =
        String::from("add table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n");
    let _ = writeln!(text, "set nodeport-ips {{ type ipv4_addr; elements = {{ {address} }}; }}");
    let _ = writeln!(text, "set cluster-ips {{ type ipv4_addr; {} }}", elements(&dispatch.cluster_ips));
    let by_ip = "ipv4_addr . inet_proto . inet_service : verdict";
    let by_port = "inet_proto . inet_service : verdict";
    for (name, kind, of) in [
        ("service-ips", by_ip, &dispatch.service_ips),
        ("service-nodeports", by_port, &dispatch.node_ports),
        ("no-endpoint-services", by_ip, &dispatch.empty_services),
        ("no-endpoint-nodeports", by_port, &dispatch.empty_node_ports),
        ("firewall-ips", by_ip, &Vec::new()),
    ] {
        let _ = writeln!(text, "map {name} {{ type {kind}; {} }}", elements(of));
    }
    chain(&mut text, "reject-chain", &["reject"]);
    chain(&mut text, "mark-for-masquerade", &[&format!("meta mark set meta mark or {mark}")]);
    chain(
        &mut text,
        "masquerading",
        &[
            &format!("meta mark and {mark} == 0 return"),
            &format!("meta mark set meta mark xor {mark}"),
            "masquerade fully-random",
        ],
    );
    chain(
        &mut text,
        "cluster-ips-check",
        &["ip daddr @cluster-ips reject", &format!("ip daddr {{ {SERVICE_CIDR} }} drop")],
    );
    chain(
        &mut text,
        "service-endpoints-check",
        &["ip daddr . meta l4proto . th dport vmap @no-endpoint-services"],
    );
    chain(
        &mut text,
        "nodeport-endpoints-check",
        &["ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"],
    );
    chain(&mut text, "firewall-check", &["ip daddr . meta l4proto . th dport vmap @firewall-ips"]);
    text.push_str(&chains);
    chain(
        &mut text,
        "services",
        &[
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ],
    );
    for (name, kind, hook, priority, rules) in BASE {
        let head = format!("type {kind} hook {hook} priority {priority}; policy accept;");
        chain(&mut text, name, &[&[head.as_str()], rules].concat());
    }
    // A chain must be there before a map can lead to it.
    text.push_str("}\n");
    text
}

/// Where each address and port leads.
#[derive(Default)]
struct Dispatch {
    cluster_ips: Vec<String>,
    service_ips: Vec<String>,
    node_ports: Vec<String>,
    empty_services: Vec<String>,
    empty_node_ports: Vec<String>,
}

fn add_service(node: &str, service: &Service, dispatch: &mut Dispatch, chains: &mut String) {
    let ((ip, port), transport) = (service.cluster, service.transport.name());
    let name = format!("{}/{transport}", service.name);
    dispatch.cluster_ips.push(ip.to_string());
    let node_port = service.node_port.map(|(port, policy)| (format!("{transport} . {port}"), policy));
    let at = format!("{ip} . {transport} . {port}");
    if service.endpoints.is_empty() {
        dispatch.empty_services.push(format!("{at} : goto reject-chain"));
        dispatch.empty_node_ports.extend(node_port.map(|(at, _)| format!("{at} : goto reject-chain")));
        return;
    }
    for endpoint in &service.endpoints {
        let (ip, port) = endpoint.address;
        chain(
            chains,
            &of_endpoint(&name, endpoint),
            &[
                &format!("ip saddr {ip} jump mark-for-masquerade"),
                &format!("meta l4proto {transport} dnat to {ip}:{port}"),
            ],
        );
    }
    let all = format!("service-{name}");
    chain(chains, &all, &[&spread(&name, &service.endpoints.iter().collect::<Vec<_>>())]);
    dispatch.service_ips.push(format!("{at} : goto {all}"));
    let Some((at, policy)) = node_port else { return };
    let external = format!("external-{name}");
    match policy {
        ExternalPolicy::Cluster => {
            chain(chains, &external, &["jump mark-for-masquerade", &format!("goto {all}")]);
        }
        ExternalPolicy::Local => {
            let own: Vec<_> = service.on(node).collect();
            let local = format!("local-{name}");
            let of_node = "fib saddr type local";
            let mut rules =
                vec![format!("{of_node} jump mark-for-masquerade"), format!("{of_node} goto {all}")];
            if own.is_empty() {
                dispatch.empty_node_ports.push(format!("{at} : drop"));
            } else {
                chain(chains, &local, &[&spread(&name, &own)]);
                rules.push(format!("goto {local}"));
            }
            chain(chains, &external, &rules.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    dispatch.node_ports.push(format!("{at} : goto {external}"));
}

fn spread(service: &str, endpoints: &[&Endpoint]) -> String {
    let numbered = endpoints.iter().enumerate();
    let ways = numbered.map(|(number, one)| format!("{number} : goto {}", of_endpoint(service, one)));
    format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), ways.collect::<Vec<_>>().join(", "))
}

fn of_endpoint(service: &str, endpoint: &Endpoint) -> String {
    format!("endpoint-{service}__{}/{}", endpoint.address.0, endpoint.address.1)
}

fn elements(of: &[String]) -> String {
    if of.is_empty() {
        return String::new();
    }
    let mut of = of.to_vec();
    of.sort();
    of.dedup();
    format!("elements = {{ {} }};", of.join(", "))
}

fn chain(text: &mut String, name: &str, rules: &[&str]) {
    let _ = writeln!(text, "chain {name} {{\n  {}\n}}", rules.join("\n  "));
}
