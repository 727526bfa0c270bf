//! Cluster addresses and node ports.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::super::error::FieldFault;
use super::super::kinds::SERVICES;
use super::super::lookup::{as_object, at, each, int, items, object, text};
use super::State;

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
        let own = old.map(|old| text(old, &["metadata", "uid"]).to_owned()).unwrap_or_default();
        let others = self.other_services(&own);
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
                if others.iter().any(|other| text(other, &["spec", "clusterIP"]) == wanted) {
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
            give_node_ports(service, &others, &mut faults);
        } else if kind == "ClusterIP" {
            each(object(as_object(service), "spec"), "ports").for_each(|port| {
                port.shift_remove("nodePort");
            });
        }
        faults
    }

    fn other_services(&self, own_uid: &str) -> Vec<Value> {
        let Some(kind) = self.kind_of(SERVICES) else { return Vec::new() };
        let Some(collection) = self.collection(&kind) else { return Vec::new() };
        collection
            .range(None, None)
            .map(|service| service.stored_value(&kind))
            .filter(|service| text(service, &["metadata", "uid"]) != own_uid)
            .collect()
    }
}

fn free_address(others: &[Value]) -> Option<Ipv4Addr> {
    let taken: std::collections::HashSet<&str> =
        others.iter().map(|other| text(other, &["spec", "clusterIP"])).collect();
    (FIRST..=LAST).map(Ipv4Addr::from).find(|address| !taken.contains(address.to_string().as_str()))
}

fn give_node_ports(service: &mut Value, others: &[Value], faults: &mut Vec<FieldFault>) {
    let mut taken: Vec<(i64, String)> = Vec::new();
    for other in others {
        for port in items(other, &["spec", "ports"]) {
            if let Some(number) = int(port, &["nodePort"]) {
                taken.push((number, text(port, &["protocol"]).to_owned()));
            }
        }
    }
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
