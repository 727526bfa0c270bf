//! Mode iptables.

use std::fmt::Write;

use super::{Endpoint, ExternalPolicy, MASQUERADE_MARK, Service};

/// The chains that hooks jump to.
const FILTER: [&str; 5] =
    ["KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"];
const NAT: [&str; 4] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];
/// Where from, and what of it: of the table filter.
const FILTER_JUMPS: [(&str, &str, &str); 9] = [
    ("INPUT", "-m conntrack --ctstate NEW", "KUBE-PROXY-FIREWALL"),
    ("INPUT", "", "KUBE-NODEPORTS"),
    ("INPUT", "-m conntrack --ctstate NEW", "KUBE-EXTERNAL-SERVICES"),
    ("FORWARD", "-m conntrack --ctstate NEW", "KUBE-PROXY-FIREWALL"),
    ("FORWARD", "", "KUBE-FORWARD"),
    ("FORWARD", "-m conntrack --ctstate NEW", "KUBE-SERVICES"),
    ("FORWARD", "-m conntrack --ctstate NEW", "KUBE-EXTERNAL-SERVICES"),
    ("OUTPUT", "-m conntrack --ctstate NEW", "KUBE-PROXY-FIREWALL"),
    ("OUTPUT", "-m conntrack --ctstate NEW", "KUBE-SERVICES"),
];

/// A script that puts the jumps before whatever is in the built-in chains.
pub(super) fn jumps(tools: &str) -> String {
    let mut script = String::new();
    let mut jump = |table: &str, from: &str, what: &str, to: &str| {
        let _ = writeln!(script, "{tools} -w -t {table} -N {to} 2>/dev/null || true");
        let rule = format!("{what} -m comment --comment 'kubernetes' -j {to}");
        let _ = writeln!(
            script,
            "{tools} -w -t {table} -C {from} {rule} 2>/dev/null || {tools} -w -t {table} -I {from} {rule}"
        );
    };
    for (from, what, to) in FILTER_JUMPS.into_iter().rev() {
        jump("filter", from, what, to);
    }
    jump("nat", "PREROUTING", "", "KUBE-SERVICES");
    jump("nat", "OUTPUT", "", "KUBE-SERVICES");
    jump("nat", "POSTROUTING", "", "KUBE-POSTROUTING");
    script
}

/// What iptables-restore is given: it empties every chain that it is told of.
pub(super) fn rules(node: &str, services: &[Service]) -> String {
    let (mut filter, mut nat) = (Rules::of(&FILTER), Rules::of(&NAT));
    let mark = format!("{MASQUERADE_MARK:#x}");
    filter.add("KUBE-FORWARD", "-m conntrack --ctstate INVALID -j DROP");
    filter.add("KUBE-FORWARD", &format!("-m mark --mark {mark}/{mark} -j ACCEPT"));
    filter.add("KUBE-FORWARD", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    nat.add("KUBE-MARK-MASQ", &format!("-j MARK --or-mark {mark}"));
    nat.add("KUBE-POSTROUTING", &format!("-m mark ! --mark {mark}/{mark} -j RETURN"));
    nat.add("KUBE-POSTROUTING", &format!("-j MARK --xor-mark {mark}"));
    nat.add("KUBE-POSTROUTING", "-j MASQUERADE --random-fully");
    for service in services {
        add_service(node, service, &mut filter, &mut nat);
    }
    // Last: an address of the node may be a ClusterIP for all that anybody knows.
    nat.add("KUBE-SERVICES", "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS");
    format!("*filter\n{}COMMIT\n*nat\n{}COMMIT\n", filter.text(), nat.text())
}

fn add_service(node: &str, service: &Service, filter: &mut Rules, nat: &mut Rules) {
    let ((ip, port), transport) = (service.cluster, service.transport.name());
    let to = format!("-d {ip}/32 -p {transport} --dport {port}");
    if service.endpoints.is_empty() {
        filter.add("KUBE-SERVICES", &format!("{to} -j REJECT"));
        if let Some((node_port, _)) = service.node_port {
            filter.add(
                "KUBE-EXTERNAL-SERVICES",
                &format!("-m addrtype --dst-type LOCAL -p {transport} --dport {node_port} -j REJECT"),
            );
        }
        return;
    }
    let all = format!("KUBE-SVC-{}", name(&service.name));
    nat.add("KUBE-SERVICES", &format!("{to} -j {all}"));
    spread(nat, &all, service, &service.endpoints.iter().collect::<Vec<_>>());
    for endpoint in &service.endpoints {
        let (chain, (ip, port)) = (of_endpoint(service, endpoint), endpoint.address);
        nat.add(&chain, &format!("-s {ip}/32 -j KUBE-MARK-MASQ"));
        nat.add(&chain, &format!("-p {transport} -j DNAT --to-destination {ip}:{port}"));
    }
    let Some((node_port, policy)) = service.node_port else { return };
    let external = format!("KUBE-EXT-{}", name(&service.name));
    nat.add("KUBE-NODEPORTS", &format!("-p {transport} --dport {node_port} -j {external}"));
    match policy {
        ExternalPolicy::Cluster => {
            nat.add(&external, "-j KUBE-MARK-MASQ");
            nat.add(&external, &format!("-j {all}"));
        }
        ExternalPolicy::Local => {
            let local = format!("KUBE-SVL-{}", name(&service.name));
            let own: Vec<_> = service.on(node).collect();
            nat.add(&external, "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ");
            nat.add(&external, &format!("-m addrtype --src-type LOCAL -j {all}"));
            if own.is_empty() {
                filter.add(
                    "KUBE-EXTERNAL-SERVICES",
                    &format!("-m addrtype --dst-type LOCAL -p {transport} --dport {node_port} -j DROP"),
                );
            } else {
                nat.add(&external, &format!("-j {local}"));
                spread(nat, &local, service, &own);
            }
        }
    }
}

/// Each endpoint with the same chance.
fn spread(nat: &mut Rules, chain: &str, service: &Service, endpoints: &[&Endpoint]) {
    for (number, endpoint) in endpoints.iter().enumerate() {
        let left = endpoints.len() - number;
        let chance = match left {
            1 => String::new(),
            _ => format!(
                "-m statistic --mode random --probability 0.{:010} ",
                10_000_000_000_u64 / left as u64
            ),
        };
        nat.add(chain, &format!("{chance}-j {}", of_endpoint(service, endpoint)));
    }
}

/// A name as a chain has it, which is at most 28 characters long.
fn name(name: &str) -> String {
    name.to_uppercase().chars().take(19).collect()
}

fn of_endpoint(service: &Service, endpoint: &Endpoint) -> String {
    let host = u32::from(endpoint.address.0) & 0xffff;
    format!("KUBE-SEP-{}-{host:04X}", name(&service.name).chars().take(14).collect::<String>())
}

/// The chains of a table, in the order of their making, and their rules.
struct Rules {
    chains: Vec<String>,
    rules: String,
}

impl Rules {
    fn of(chains: &[&str]) -> Self {
        Self { chains: chains.iter().map(|chain| (*chain).to_owned()).collect(), rules: String::new() }
    }

    fn add(&mut self, chain: &str, rule: &str) {
        if !self.chains.iter().any(|known| known == chain) {
            self.chains.push(chain.to_owned());
        }
        let _ = writeln!(self.rules, "-A {chain} {rule}");
    }

    fn text(&self) -> String {
        let chains: String = self.chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
        chains + &self.rules
    }
}
