//! The built-in kinds.

use std::sync::Arc;

use k8s_openapi::api::{apps, coordination, core, discovery, events, networking, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde_json::Value;

use super::typed::{DecodeError, decode};
use super::{Flavour, ResourceType};

pub(in super::super) const PODS: (&str, &str) = ("", "pods");
pub(in super::super) const NAMESPACES: (&str, &str) = ("", "namespaces");
pub(in super::super) const SERVICES: (&str, &str) = ("", "services");
pub(in super::super) const CRDS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// What sets one built-in kind apart from the others.
#[derive(Debug)]
pub(in super::super) struct Builtin {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    pub(super) generation: bool,
    pub(super) create_on_put: bool,
    pub(super) needs_version: bool,
    /// Through the published type and back: what is left are known fields.
    pub(super) decode: fn(&Value) -> Result<Value, DecodeError>,
}

/// A core kind in a namespace; the table changes what differs.
const BASE: Builtin = Builtin {
    group: "",
    version: "v1",
    plural: "",
    kind: "",
    short: &[],
    categories: &[],
    namespaced: true,
    status: false,
    generation: false,
    create_on_put: false,
    needs_version: false,
    decode: decode::<Value>,
};

static BUILTINS: [Builtin; 20] = [
    Builtin {
        plural: "namespaces",
        kind: "Namespace",
        short: &["ns"],
        namespaced: false,
        status: true,
        decode: decode::<core::v1::Namespace>,
        ..BASE
    },
    Builtin {
        plural: "nodes",
        kind: "Node",
        short: &["no"],
        namespaced: false,
        status: true,
        decode: decode::<core::v1::Node>,
        ..BASE
    },
    Builtin {
        plural: "pods",
        kind: "Pod",
        short: &["po"],
        categories: &["all"],
        status: true,
        generation: true,
        decode: decode::<core::v1::Pod>,
        ..BASE
    },
    Builtin {
        plural: "services",
        kind: "Service",
        short: &["svc"],
        categories: &["all"],
        status: true,
        create_on_put: true,
        decode: decode::<core::v1::Service>,
        ..BASE
    },
    Builtin {
        plural: "endpoints",
        kind: "Endpoints",
        short: &["ep"],
        create_on_put: true,
        decode: decode::<core::v1::Endpoints>,
        ..BASE
    },
    Builtin {
        plural: "configmaps",
        kind: "ConfigMap",
        short: &["cm"],
        decode: decode::<core::v1::ConfigMap>,
        ..BASE
    },
    Builtin { plural: "secrets", kind: "Secret", decode: decode::<core::v1::Secret>, ..BASE },
    Builtin {
        plural: "serviceaccounts",
        kind: "ServiceAccount",
        short: &["sa"],
        decode: decode::<core::v1::ServiceAccount>,
        ..BASE
    },
    Builtin {
        plural: "events",
        kind: "Event",
        short: &["ev"],
        create_on_put: true,
        decode: decode::<core::v1::Event>,
        ..BASE
    },
    Builtin {
        group: "events.k8s.io",
        plural: "events",
        kind: "Event",
        short: &["ev"],
        create_on_put: true,
        decode: decode::<events::v1::Event>,
        ..BASE
    },
    Builtin {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        kind: "EndpointSlice",
        generation: true,
        decode: decode::<discovery::v1::EndpointSlice>,
        ..BASE
    },
    Builtin {
        group: "networking.k8s.io",
        plural: "networkpolicies",
        kind: "NetworkPolicy",
        short: &["netpol"],
        generation: true,
        decode: decode::<networking::v1::NetworkPolicy>,
        ..BASE
    },
    Builtin {
        group: "apps",
        plural: "daemonsets",
        kind: "DaemonSet",
        short: &["ds"],
        categories: &["all"],
        status: true,
        generation: true,
        decode: decode::<apps::v1::DaemonSet>,
        ..BASE
    },
    Builtin {
        group: "apps",
        plural: "controllerrevisions",
        kind: "ControllerRevision",
        decode: decode::<apps::v1::ControllerRevision>,
        ..BASE
    },
    Builtin {
        group: "coordination.k8s.io",
        plural: "leases",
        kind: "Lease",
        create_on_put: true,
        needs_version: true,
        decode: decode::<coordination::v1::Lease>,
        ..BASE
    },
    Builtin {
        group: "rbac.authorization.k8s.io",
        plural: "roles",
        kind: "Role",
        create_on_put: true,
        decode: decode::<rbac::v1::Role>,
        ..BASE
    },
    Builtin {
        group: "rbac.authorization.k8s.io",
        plural: "rolebindings",
        kind: "RoleBinding",
        create_on_put: true,
        decode: decode::<rbac::v1::RoleBinding>,
        ..BASE
    },
    Builtin {
        group: "rbac.authorization.k8s.io",
        plural: "clusterroles",
        kind: "ClusterRole",
        namespaced: false,
        create_on_put: true,
        decode: decode::<rbac::v1::ClusterRole>,
        ..BASE
    },
    Builtin {
        group: "rbac.authorization.k8s.io",
        plural: "clusterrolebindings",
        kind: "ClusterRoleBinding",
        namespaced: false,
        create_on_put: true,
        decode: decode::<rbac::v1::ClusterRoleBinding>,
        ..BASE
    },
    Builtin {
        group: "apiextensions.k8s.io",
        plural: "customresourcedefinitions",
        kind: "CustomResourceDefinition",
        short: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        generation: true,
        needs_version: true,
        decode: decode::<apiextensions::v1::CustomResourceDefinition>,
        ..BASE
    },
];

/// The built-in resource types, in the order of discovery.
pub(in super::super) fn builtins() -> Vec<Arc<ResourceType>> {
    let strings = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
    BUILTINS
        .iter()
        .map(|builtin| {
            Arc::new(ResourceType {
                group: builtin.group.into(),
                version: builtin.version.into(),
                plural: builtin.plural.into(),
                singular: builtin.kind.to_lowercase(),
                kind: builtin.kind.into(),
                list_kind: format!("{}List", builtin.kind),
                short_names: strings(builtin.short),
                categories: strings(builtin.categories),
                namespaced: builtin.namespaced,
                has_status: builtin.status,
                flavour: Flavour::Builtin(builtin),
            })
        })
        .collect()
}
