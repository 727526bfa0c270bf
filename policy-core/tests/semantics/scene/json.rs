//! Specs as they are written in manifests, to the parser's input.

use policy_core::parse::{
    RawBlock, RawClusterPeer, RawClusterPolicy, RawClusterProtocol, RawClusterRule, RawDestinationPort,
    RawNamespacedPod, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector,
    RawSubject, RawTransport,
};
use serde_json::Value;

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).map(text).collect()
}

fn present(value: &Value) -> Option<&Value> {
    Some(value).filter(|value| !value.is_null())
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().map(|number| i32::try_from(number).expect("a small number"))
}

fn selector(value: &Value) -> RawSelector {
    RawSelector {
        match_labels: value["matchLabels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
        match_expressions: list(&value["matchExpressions"])
            .map(|one| RawRequirement {
                key: text(&one["key"]),
                operator: text(&one["operator"]),
                values: texts(&one["values"]),
            })
            .collect(),
    }
}

pub(super) fn policy(namespace: &str, name: &str, spec: &Value) -> RawPolicy {
    RawPolicy {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pod_selector: selector(&spec["podSelector"]),
        policy_types: texts(&spec["policyTypes"]),
        ingress: rules(&spec["ingress"], "from"),
        egress: rules(&spec["egress"], "to"),
    }
}

fn rules(value: &Value, word: &str) -> Vec<RawRule> {
    let peer = |value: &Value| RawPeer {
        pod_selector: present(&value["podSelector"]).map(selector),
        namespace_selector: present(&value["namespaceSelector"]).map(selector),
        ip_block: present(&value["ipBlock"])
            .map(|block| RawBlock { cidr: text(&block["cidr"]), except: texts(&block["except"]) }),
    };
    let port = |value: &Value| RawPort {
        protocol: value["protocol"].as_str().map(str::to_owned),
        port: present(&value["port"]).map(|port| match number(port) {
            Some(number) => RawPortValue::Number(number),
            None => RawPortValue::Name(text(port)),
        }),
        end_port: number(&value["endPort"]),
    };
    list(value)
        .map(|rule| RawRule {
            peers: list(&rule[word]).map(peer).collect(),
            ports: list(&rule["ports"]).map(port).collect(),
        })
        .collect()
}

pub(super) fn cluster_policy(name: &str, spec: &Value) -> RawClusterPolicy {
    RawClusterPolicy {
        name: name.to_owned(),
        tier: text(&spec["tier"]),
        priority: spec["priority"].as_i64(),
        subject: RawSubject {
            namespaces: present(&spec["subject"]["namespaces"]).map(selector),
            pods: present(&spec["subject"]["pods"]).map(namespaced),
        },
        ingress: cluster_rules(&spec["ingress"], "from"),
        egress: cluster_rules(&spec["egress"], "to"),
    }
}

fn namespaced(value: &Value) -> RawNamespacedPod {
    RawNamespacedPod {
        namespace_selector: selector(&value["namespaceSelector"]),
        pod_selector: present(&value["podSelector"]).map(selector),
    }
}

fn cluster_rules(value: &Value, word: &str) -> Vec<RawClusterRule> {
    let peer = |value: &Value| RawClusterPeer {
        namespaces: present(&value["namespaces"]).map(selector),
        pods: present(&value["pods"]).map(namespaced),
        nodes: present(&value["nodes"]).map(selector),
        networks: texts(&value["networks"]),
        domain_names: texts(&value["domainNames"]),
    };
    let port = |value: &Value| RawDestinationPort {
        number: value["number"].as_i64(),
        range: present(&value["range"])
            .map(|range| (range["start"].as_i64().unwrap_or(0), range["end"].as_i64().unwrap_or(0))),
    };
    let transport = |value: &Value| {
        present(value)
            .map(|value| RawTransport { destination_port: present(&value["destinationPort"]).map(port) })
    };
    let protocol = |value: &Value| RawClusterProtocol {
        tcp: transport(&value["tcp"]),
        udp: transport(&value["udp"]),
        sctp: transport(&value["sctp"]),
        destination_named_port: text(&value["destinationNamedPort"]),
    };
    list(value)
        .map(|rule| RawClusterRule {
            name: text(&rule["name"]),
            action: text(&rule["action"]),
            peers: list(&rule[word]).map(peer).collect(),
            protocols: list(&rule["protocols"]).map(protocol).collect(),
        })
        .collect()
}
