//! From a path to what it names.

use std::sync::Arc;

use axum::http::Method;

use super::super::kinds::ResourceType;
use super::query::decode;

/// What a request is about.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) kind: Arc<ResourceType>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    /// The verb as the real server names it; empty if there is none.
    pub(super) fn verb(&self, method: &Method, watch: bool) -> &'static str {
        let whole = self.kind.namespaced && self.namespace.is_none();
        match (method.as_str(), self.name.is_some()) {
            ("GET", true) => "get",
            ("GET", false) if watch => "watch",
            ("GET", false) => "list",
            ("POST", false) if !whole => "create",
            ("POST", true) if self.subresource.is_some() => "create",
            ("PUT", true) => "update",
            ("PATCH", true) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) if !whole => "deletecollection",
            _ => "",
        }
    }
}

/// The group and version of a path that names something below them.
pub(super) fn group_version(path: &str) -> Option<(String, String)> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api", version, _, ..] => Some((String::new(), (*version).to_owned())),
        ["apis", group, version, _, ..] => Some(((*group).to_owned(), (*version).to_owned())),
        _ => None,
    }
}

/// Takes apart a path below `/api` or `/apis`; `None` if it names no served resource.
pub(super) fn parse(
    path: &str,
    find: impl Fn(&str, &str, &str) -> Option<Arc<ResourceType>>,
) -> Option<Target> {
    let segments: Vec<String> =
        path.trim_matches('/').split('/').map(|segment| decode(segment, false)).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let target = |kind, namespace: Option<&str>, rest: &[&str]| {
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some((*name).to_owned()), None),
            [name, subresource] => (Some((*name).to_owned()), Some((*subresource).to_owned())),
            _ => return None,
        };
        Some(Target { kind, namespace: namespace.map(str::to_owned), name, subresource })
    };
    match rest {
        // What lies in a namespace, unless it is a subresource of the namespace itself.
        ["namespaces", namespace, plural, rest @ ..]
            if !(group.is_empty() && rest.is_empty() && matches!(*plural, "status" | "finalize")) =>
        {
            let kind = find(group, version, plural)?;
            if !kind.namespaced {
                return None;
            }
            target(kind, Some(namespace), rest)
        }
        [plural, rest @ ..] => {
            let kind = find(group, version, plural)?;
            // Objects in a namespace are only named below it.
            if kind.namespaced && !rest.is_empty() {
                return None;
            }
            target(kind, None, rest)
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds::builtins;
    use super::*;

    #[test]
    fn paths() {
        let types = builtins();
        let find = |group: &str, version: &str, plural: &str| {
            types.iter().find(|kind| kind.is((group, plural)) && kind.version == version).cloned()
        };
        for (path, expected) in [
            ("/api/v1/pods", Some(("Pod", "", "", ""))),
            ("/api/v1/namespaces/n/pods", Some(("Pod", "n", "", ""))),
            ("/api/v1/namespaces/n/pods/p", Some(("Pod", "n", "p", ""))),
            ("/api/v1/namespaces/n/pods/p/status", Some(("Pod", "n", "p", "status"))),
            ("/api/v1/namespaces", Some(("Namespace", "", "", ""))),
            ("/api/v1/namespaces/n", Some(("Namespace", "", "n", ""))),
            ("/api/v1/namespaces/n/finalize", Some(("Namespace", "", "n", "finalize"))),
            ("/api/v1/nodes/ip-10-0-0-1.ec2.internal", Some(("Node", "", "ip-10-0-0-1.ec2.internal", ""))),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node%2Fx",
                Some(("ClusterRole", "", "system:node/x", "")),
            ),
            ("/api/v1/pods/p", None),
            ("/api/v1/namespaces/n/nodes", None),
            ("/api/v1", None),
            ("/apis/apps/v1/namespaces/n/deployments", None),
            ("/version", None),
        ] {
            let found = parse(path, find);
            let found = found.as_ref().map(|target| {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                (
                    target.kind.kind.clone(),
                    text(&target.namespace),
                    text(&target.name),
                    text(&target.subresource),
                )
            });
            let expected =
                expected.map(|(a, b, c, d)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
