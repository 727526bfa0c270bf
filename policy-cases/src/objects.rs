//! API objects as JSON → policies as the parser takes them.

use anyhow::{Context, Result};
use policy_core::parse::{
    RawBlock, RawClusterPeer, RawClusterPolicy, RawClusterProtocol, RawClusterRule, RawDestinationPort,
    RawNamespacedPod, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector,
    RawSubject, RawTransport,
};
use serde_json::Value;

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("{key} in {value}"))?.to_owned())
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(word).collect()
}

fn each<T>(value: &Value, make: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    list(value).iter().map(make).collect()
}

fn optional<T>(value: &Value, make: impl Fn(&Value) -> Result<T>) -> Result<Option<T>> {
    Some(value).filter(|value| !value.is_null()).map(make).transpose()
}

/// A NetworkPolicy.
pub(crate) fn policy(value: &Value) -> Result<RawPolicy> {
    let spec = &value["spec"];
    let rules = |key: &str, word: &str| each(&spec[key], |value| rule(value, word));
    Ok(RawPolicy {
        namespace: text(&value["metadata"], "namespace")?,
        name: text(&value["metadata"], "name")?,
        pod_selector: selector(&spec["podSelector"])?,
        policy_types: strings(&spec["policyTypes"]),
        ingress: rules("ingress", "from")?,
        egress: rules("egress", "to")?,
    })
}

fn rule(value: &Value, word: &str) -> Result<RawRule> {
    Ok(RawRule { peers: each(&value[word], peer)?, ports: each(&value["ports"], port)? })
}

fn peer(value: &Value) -> Result<RawPeer> {
    Ok(RawPeer {
        pod_selector: optional(&value["podSelector"], selector)?,
        namespace_selector: optional(&value["namespaceSelector"], selector)?,
        ip_block: optional(&value["ipBlock"], |block| {
            Ok(RawBlock { cidr: text(block, "cidr")?, except: strings(&block["except"]) })
        })?,
    })
}

fn selector(value: &Value) -> Result<RawSelector> {
    let labels = value["matchLabels"].as_object();
    Ok(RawSelector {
        match_labels: labels.into_iter().flatten().map(|(key, value)| (key.clone(), word(value))).collect(),
        match_expressions: each(&value["matchExpressions"], |one| {
            Ok(RawRequirement {
                key: text(one, "key")?,
                operator: text(one, "operator")?,
                values: strings(&one["values"]),
            })
        })?,
    })
}

fn port(value: &Value) -> Result<RawPort> {
    let number = |value: &Value| value.as_i64().map(i32::try_from).transpose();
    Ok(RawPort {
        protocol: value["protocol"].as_str().map(str::to_owned),
        port: match &value["port"] {
            Value::Null => None,
            Value::String(name) => Some(RawPortValue::Name(name.clone())),
            other => number(other)?.map(RawPortValue::Number),
        },
        end_port: number(&value["endPort"])?,
    })
}

/// A ClusterNetworkPolicy.
pub(crate) fn cluster_policy(value: &Value) -> Result<RawClusterPolicy> {
    let spec = &value["spec"];
    let rules = |key: &str, word: &str| each(&spec[key], |value| cluster_rule(value, word));
    Ok(RawClusterPolicy {
        name: text(&value["metadata"], "name")?,
        tier: word(&spec["tier"]),
        priority: spec["priority"].as_i64(),
        subject: RawSubject {
            namespaces: optional(&spec["subject"]["namespaces"], selector)?,
            pods: optional(&spec["subject"]["pods"], namespaced)?,
        },
        ingress: rules("ingress", "from")?,
        egress: rules("egress", "to")?,
    })
}

fn namespaced(value: &Value) -> Result<RawNamespacedPod> {
    Ok(RawNamespacedPod {
        namespace_selector: selector(&value["namespaceSelector"])?,
        pod_selector: optional(&value["podSelector"], selector)?,
    })
}

fn cluster_rule(value: &Value, peers: &str) -> Result<RawClusterRule> {
    Ok(RawClusterRule {
        name: word(&value["name"]),
        action: word(&value["action"]),
        peers: each(&value[peers], |peer| {
            Ok(RawClusterPeer {
                namespaces: optional(&peer["namespaces"], selector)?,
                pods: optional(&peer["pods"], namespaced)?,
                nodes: optional(&peer["nodes"], selector)?,
                networks: strings(&peer["networks"]),
                domain_names: strings(&peer["domainNames"]),
            })
        })?,
        protocols: each(&value["protocols"], |one| {
            Ok(RawClusterProtocol {
                tcp: optional(&one["tcp"], transport)?,
                udp: optional(&one["udp"], transport)?,
                sctp: optional(&one["sctp"], transport)?,
                destination_named_port: word(&one["destinationNamedPort"]),
            })
        })?,
    })
}

fn transport(value: &Value) -> Result<RawTransport> {
    let destination_port = optional(&value["destinationPort"], |port| {
        let range = &port["range"];
        Ok(RawDestinationPort {
            number: port["number"].as_i64(),
            range: range["start"].as_i64().zip(range["end"].as_i64()),
        })
    })?;
    Ok(RawTransport { destination_port })
}
