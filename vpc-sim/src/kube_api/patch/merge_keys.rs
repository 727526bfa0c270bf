//! How strategic merge patch treats the lists of the built-in types
//! (`patchStrategy` and `patchMergeKey` of k8s.io/api).

/// How a list in a patch meets the list in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListMerge {
    /// The patch's list takes the place of the object's.
    Replace,
    /// Objects, matched by the value of this field.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

use ListMerge::{ByKey, Replace, Set};

/// How to merge the list at `path` (field names, without indices) of a `kind`.
pub(super) fn list_merge(kind: &str, path: &[&str]) -> ListMerge {
    match (kind, path) {
        (_, ["metadata", field]) => metadata(field),
        ("Pod", ["spec", rest @ ..]) => pod_spec(rest),
        ("DaemonSet", ["spec", "template", "metadata", field]) => metadata(field),
        ("DaemonSet", ["spec", "template", "spec", rest @ ..]) => pod_spec(rest),
        ("Pod", ["status", "podIPs"]) => ByKey("ip"),
        ("Pod", ["status", "resourceClaimStatuses"]) => ByKey("name"),
        ("Node", ["spec", "podCIDRs"]) => Set,
        ("Node", ["status", "addresses"]) => ByKey("type"),
        ("Service", ["spec", "ports"]) => ByKey("port"),
        ("ServiceAccount", ["secrets"]) => ByKey("name"),
        ("Pod" | "Node" | "Namespace" | "Service" | "DaemonSet", ["status", "conditions"]) => ByKey("type"),
        _ => Replace,
    }
}

fn metadata(field: &str) -> ListMerge {
    match field {
        "ownerReferences" => ByKey("uid"),
        "finalizers" => Set,
        _ => Replace,
    }
}

fn pod_spec(path: &[&str]) -> ListMerge {
    match path {
        ["containers" | "initContainers" | "ephemeralContainers", rest @ ..] => match rest {
            [] | ["env"] => ByKey("name"),
            ["ports"] => ByKey("containerPort"),
            ["volumeMounts"] => ByKey("mountPath"),
            ["volumeDevices"] => ByKey("devicePath"),
            _ => Replace,
        },
        ["volumes" | "imagePullSecrets" | "schedulingGates" | "resourceClaims"] => ByKey("name"),
        ["hostAliases"] => ByKey("ip"),
        ["topologySpreadConstraints"] => ByKey("topologyKey"),
        _ => Replace,
    }
}
