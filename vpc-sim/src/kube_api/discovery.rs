//! What the API serves, as clients discover it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::{NAMESPACES, PODS, ResourceType};

/// Content type of aggregated discovery.
pub(super) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version of Kubernetes whose types are served.
pub(super) const VERSION: &str = "v1.33.0";

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": format!("{VERSION}-vpc-sim"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(super) fn groups(types: &[Arc<ResourceType>]) -> Value {
    let groups: Vec<Value> = group_names(types)
        .into_iter()
        .filter(|name| !name.is_empty())
        .filter_map(|name| group_value(types, name))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(super) fn group(types: &[Arc<ResourceType>], name: &str) -> Option<Value> {
    let mut group = group_value(types, name)?;
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub(super) fn resources(types: &[Arc<ResourceType>], group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in of_version(types, group, version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": ResourceType::VERBS,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for (name, kind_name, verbs) in subresources(kind) {
            list.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": kind_name, "verbs": verbs,
            }));
        }
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list,
    }))
}

/// `/api` and `/apis` in one document with all their resources.
pub(super) fn aggregated(types: &[Arc<ResourceType>], core: bool) -> Value {
    let names = group_names(types).into_iter().filter(|name| name.is_empty() == core);
    let items: Vec<Value> = names
        .map(|group| {
            let versions: Vec<Value> = versions(types, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        of_version(types, group, version).map(|kind| aggregated_resource(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &ResourceType) -> Value {
    let response = |name: &str| json!({"group": kind.group, "version": kind.version, "kind": name});
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response(&kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": ResourceType::VERBS,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, kind, verbs)| json!({"subresource": name, "responseKind": response(kind), "verbs": verbs}))
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}

/// Name, kind and verbs of a resource's subresources.
fn subresources(kind: &ResourceType) -> Vec<(&'static str, &str, &'static [&'static str])> {
    let mut list: Vec<(&str, &str, &[&str])> = Vec::new();
    if kind.is(PODS) {
        list.push(("binding", "Binding", &["create"]));
    }
    if kind.is(NAMESPACES) {
        list.push(("finalize", &kind.kind, &["update"]));
    }
    if kind.has_status {
        list.push(("status", &kind.kind, &["get", "patch", "update"]));
    }
    list
}

fn group_value(types: &[Arc<ResourceType>], name: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(types, name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// Whether anything is served in this group and version.
pub(super) fn serves(types: &[Arc<ResourceType>], group: &str, version: &str) -> bool {
    of_version(types, group, version).next().is_some()
}

/// The groups, in the order of their first resource.
pub(super) fn group_names(types: &[Arc<ResourceType>]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for kind in types {
        if !names.contains(&kind.group.as_str()) {
            names.push(&kind.group);
        }
    }
    names
}

/// The versions of a group, most preferred first.
pub(super) fn versions<'a>(types: &'a [Arc<ResourceType>], group: &str) -> Vec<&'a str> {
    let mut seen: HashMap<&str, (u8, u64, u64)> = HashMap::new();
    for kind in types.iter().filter(|kind| kind.group == group) {
        seen.entry(&kind.version).or_insert_with(|| rank(&kind.version));
    }
    let mut versions: Vec<_> = seen.into_iter().collect();
    versions.sort_by(|(a, rank_a), (b, rank_b)| rank_b.cmp(rank_a).then(a.cmp(b)));
    versions.into_iter().map(|(version, _)| version).collect()
}

/// Releases before betas before alphas before the rest, each by number.
fn rank(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (level, minor) = match &rest[digits..] {
            "" => (3, "0"),
            rest => match rest.strip_prefix("beta") {
                Some(minor) => (2, minor),
                None => (1, rest.strip_prefix("alpha")?),
            },
        };
        Some((level, major, minor.parse().ok()?))
    };
    parse().unwrap_or_default()
}

/// The resources of one group and version.
pub(super) fn of_version<'a>(
    types: &'a [Arc<ResourceType>],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<ResourceType>> {
    types.iter().filter(move |kind| kind.group == group && kind.version == version)
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn versions_rank_as_kubectl_prefers_them() {
        let mut versions = ["v1beta1", "foo", "v2", "v1", "v1alpha2", "v1beta2", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha2", "foo"]);
    }
}
