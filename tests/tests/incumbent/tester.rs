//! What a pod's wiring on the host must look like while it runs, and what must be gone afterwards.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};
use system_tests::world::World;

/// A pod as the tester is told of it: what it checks follows from this alone, not from what the agent says.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// The host's end that its names lead to.
    pub(crate) link: String,
}

impl Subject {
    /// The host's end is called by the incumbent's rule: prefix, then eleven digits of the SHA-1 of both names.
    pub(crate) fn new(prefix: &str, namespace: &str, name: &str, address: Ipv4Addr) -> Result<Self> {
        let script = format!("printf %s '{namespace}.{name}' | sha1sum");
        let output = std::process::Command::new("sh").args(["-c", &script]).output()?;
        let digits: String = String::from_utf8_lossy(&output.stdout).chars().take(11).collect();
        ensure!(digits.len() == 11, "sha1sum: {output:?}");
        Ok(Self { name: name.to_owned(), address, link: format!("{prefix}{digits}") })
    }
}

/// What a host has.
#[derive(Debug)]
pub(crate) struct Host {
    links: Value,
    rules: Value,
    routes: Value,
    /// EC2's interfaces of the node.
    enis: Vec<Value>,
}

impl Host {
    pub(crate) fn look(world: &World, node: &str) -> Result<Self> {
        let listed = |words: &[&str]| -> Result<Value> {
            Ok(serde_json::from_str(&world.inside(node, &[&["ip", "-json", "-details"], words].concat())?)?)
        };
        let enis = world.control("/enis", None)?;
        Ok(Self {
            links: listed(&["link", "show"])?,
            rules: listed(&["rule", "show"])?,
            routes: listed(&["route", "show", "table", "all"])?,
            enis: items(&enis).filter(|eni| eni["node"] == node).cloned().collect(),
        })
    }

    /// What is wrong with the wiring of a pod that runs; `mtu` where it matters.
    pub(crate) fn set_up(&self, pod: &Subject, mtu: Option<u64>) -> Vec<String> {
        self.try_set_up(pod, mtu).unwrap_or_else(|error| vec![format!("{}: {error:#}", pod.name)])
    }

    fn try_set_up(&self, pod: &Subject, mtu: Option<u64>) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut check = |right: bool, fault: String| {
            if !right {
                faults.push(format!("{}: {fault}", pod.name));
            }
        };
        let link = self.link(&pod.link).with_context(|| format!("no link {}", pod.link))?;
        check(items(&link["flags"]).any(|flag| flag == "UP"), format!("{} is down", pod.link));
        if let Some(mtu) = mtu {
            check(link["mtu"] == mtu, format!("{} has MTU {}, not {mtu}", pod.link, link["mtu"]));
        }
        let (to_main, elsewhere): (Vec<&Value>, Vec<&Value>) =
            self.rules_of(pod.address).partition(|rule| rule["table"] == "main");
        check(
            to_main.len() == 1 && to_main[0]["priority"] == 512 && is(&to_main[0]["dst"], pod.address),
            format!("one rule of priority 512 must lead to main, there are {to_main:?}"),
        );
        let routes: Vec<&Value> = self.routes_to(pod.address).collect();
        check(
            routes.len() == 1 && routes[0]["dev"] == *pod.link && routes[0]["scope"] == "link",
            format!("one route must lead to {}, there are {routes:?}", pod.link),
        );
        let eni = self.eni_of(pod.address).with_context(|| format!("no ENI has {}", pod.address))?;
        if eni["device_index"] == 0 {
            check(elsewhere.is_empty(), format!("it is on the primary ENI, and there are {elsewhere:?}"));
            return Ok(faults);
        }
        check(
            elsewhere.len() == 1 && elsewhere[0]["priority"] == 1536 && is(&elsewhere[0]["src"], pod.address),
            format!("one rule of priority 1536 must lead to its ENI, there are {elsewhere:?}"),
        );
        // The table leads out by the link that has the ENI's Ethernet address.
        let table = elsewhere.first().map(|rule| text(&rule["table"])).unwrap_or_default();
        let device =
            items(&self.links).find(|link| link["address"] == eni["mac"]).context("its ENI has no link")?;
        let within: Vec<&Value> = items(&self.routes).filter(|route| route["table"] == *table).collect();
        let default = within.iter().find(|route| route["dst"] == "default");
        let gateway = default.map(|route| text(&route["gateway"])).unwrap_or_default();
        let to_gateway = |route: &&&Value| {
            route["dst"] == *gateway && route["scope"] == "link" && route["gateway"].is_null()
        };
        check(
            within.len() == 2
                && !gateway.is_empty()
                && within.iter().any(|route| to_gateway(&route))
                && within.iter().all(|route| route["dev"] == device["ifname"]),
            format!("table {table} must lead to a gateway on {}, and has {within:?}", device["ifname"]),
        );
        Ok(faults)
    }

    /// What is left of a pod that is gone. Its address may be another pod's by now: nobody else's link is looked at.
    pub(crate) fn torn_down(&self, pod: &Subject) -> Vec<String> {
        let mut faults = Vec::new();
        if self.link(&pod.link).is_some() {
            faults.push(format!("{}: {} is still there", pod.name, pod.link));
        }
        faults.extend(self.rules_of(pod.address).map(|rule| format!("{}: left {rule}", pod.name)));
        faults.extend(self.routes_to(pod.address).map(|route| format!("{}: left {route}", pod.name)));
        faults
    }

    /// A link by its name.
    pub(crate) fn link(&self, name: &str) -> Option<&Value> {
        items(&self.links).find(|link| link["ifname"] == name)
    }

    fn rules_of(&self, address: Ipv4Addr) -> impl Iterator<Item = &Value> {
        items(&self.rules).filter(move |rule| is(&rule["src"], address) || is(&rule["dst"], address))
    }

    fn routes_to(&self, address: Ipv4Addr) -> impl Iterator<Item = &Value> {
        items(&self.routes).filter(move |route| is(&route["dst"], address))
    }

    fn eni_of(&self, address: Ipv4Addr) -> Option<&Value> {
        let holds = |eni: &&Value| {
            let prefixes = items(&eni["prefixes"]).filter_map(|one| text(one).parse().ok());
            items(&eni["addresses"]).any(|one| is(one, address))
                || prefixes.into_iter().any(|one: ipnetwork::Ipv4Network| one.contains(address))
        };
        self.enis.iter().find(holds)
    }
}

fn is(value: &Value, address: Ipv4Addr) -> bool {
    value.as_str().is_some_and(|text| text.parse() == Ok(address))
}
