//! Cluster addresses and node ports.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::super::error::FieldFault;
use super::super::kinds::SERVICES;
use super::super::lookup::{as_object, at, each, int, items, object, text};
use super::State;
use super::object::{Stored, key};

/// Addresses are allocated upwards from here, in 10.100.0.0/16; the first 256
/// are left to manifests that name one.
const FIRST: u32 = u32::from_be_bytes([10, 100, 1, 1]);
const LAST: u32 = u32::from_be_bytes([10, 100, 255, 254]);
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

impl State {
    /// Gives a service the addresses and node ports that its type needs.
    ///
    /// An address may be named by the manifest, in any range; it must be free.
    pub(super) fn allocate(&self, old: Option<&Value>, service: &mut Value) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let kind = text(service, &["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            let spec = object(as_object(service), "spec");
            for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.shift_remove(key);
            }
            return faults;
        }
        let own = old.map(|old| key(text(old, &["metadata", "namespace"]), text(old, &["metadata", "name"])));
        let others = self.other_services(own.as_deref());
        let wanted = text(service, &["spec", "clusterIP"]).to_owned();
        let address = match wanted.as_str() {
            "None" => wanted,
            "" => match free_address(&others) {
                Some(address) => address.to_string(),
                None => {
                    let detail = "failed to allocate a serviceIP: range is full";
                    return vec![FieldFault::forbidden("spec.clusterIPs", detail)];
                }
            },
            _ => {
                if others.iter().any(|other| address_of(other) == wanted) {
                    let detail = format!("failed to allocate IP {wanted}: provided IP is already allocated");
                    faults.push(FieldFault::invalid("spec.clusterIPs", &json!([wanted]), &detail));
                }
                wanted
            }
        };
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let spec = object(as_object(service), "spec");
        spec.insert("clusterIP".into(), json!(address));
        if spec.get("clusterIPs").and_then(|list| list.get(0)) != Some(&json!(address)) {
            spec.insert("clusterIPs".into(), json!([address]));
        }
        spec.entry("ipFamilies").or_insert(json!([family]));
        spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
        let wants_ports = kind == "NodePort"
            || kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&json!(false));
        if wants_ports {
            give_node_ports(service, self.node_ports(&others), &mut faults);
        } else if kind == "ClusterIP" {
            each(object(as_object(service), "spec"), "ports").for_each(|port| {
                port.shift_remove("nodePort");
            });
        }
        faults
    }

    fn other_services(&self, own: Option<&str>) -> Vec<&Stored> {
        let kind = self.kind_of(SERVICES);
        let services =
            kind.and_then(|kind| self.collection(&kind)).map(|services| services.range(None, None));
        let all = services.into_iter().flatten().map(|service| &**service);
        all.filter(|service| own.is_none_or(|own| service.key() != own)).collect()
    }

    /// Ports that these have, with their protocols.
    fn node_ports(&self, services: &[&Stored]) -> Vec<(i64, String)> {
        let Some(kind) = self.kind_of(SERVICES) else { return Vec::new() };
        // No other has any, and there are thousands of those.
        let may_have =
            |service: &&&Stored| matches!(service.field("spec.type"), Some("NodePort" | "LoadBalancer"));
        let mut taken = Vec::new();
        for service in services.iter().filter(may_have) {
            for port in items(&service.stored_value(&kind), &["spec", "ports"]) {
                if let Some(number) = int(port, &["nodePort"]) {
                    taken.push((number, text(port, &["protocol"]).to_owned()));
                }
            }
        }
        taken
    }
}

fn address_of(service: &Stored) -> &str {
    service.field("spec.clusterIP").unwrap_or_default()
}

fn free_address(others: &[&Stored]) -> Option<Ipv4Addr> {
    let taken: HashSet<Ipv4Addr> = others.iter().filter_map(|other| address_of(other).parse().ok()).collect();
    (FIRST..=LAST).map(Ipv4Addr::from).find(|address| !taken.contains(address))
}

fn give_node_ports(service: &mut Value, mut taken: Vec<(i64, String)>, faults: &mut Vec<FieldFault>) {
    let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
    for (n, port) in ports.iter_mut().enumerate() {
        let protocol = text(port, &["protocol"]).to_owned();
        let is_taken = |number: i64| taken.iter().any(|(other, with)| *other == number && *with == protocol);
        let number = match at(port, &["nodePort"]).and_then(Value::as_i64).filter(|&number| number != 0) {
            Some(number) => {
                let field = format!("spec.ports[{n}].nodePort");
                if !NODE_PORTS.contains(&number) {
                    let detail =
                        "provided port is not in the valid range. The range of valid ports is 30000-32767";
                    faults.push(FieldFault::invalid(field, &json!(number), detail));
                } else if is_taken(number) {
                    let detail = "provided port is already allocated";
                    faults.push(FieldFault::invalid(field, &json!(number), detail));
                }
                number
            }
            None => match NODE_PORTS.into_iter().find(|&number| !is_taken(number)) {
                Some(number) => {
                    port["nodePort"] = json!(number);
                    number
                }
                None => {
                    faults.push(FieldFault::forbidden("spec.ports", "the range of node ports is full"));
                    return;
                }
            },
        };
        taken.push((number, protocol));
    }
}
