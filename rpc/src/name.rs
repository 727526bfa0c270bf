//! The name of the host's end of a pod's veth pair.

use sha1::{Digest, Sha1};

use crate::{PodRef, SandboxKey};

/// Hexadecimal digits of the hash in a name: 4 of prefix and 11 of these fill
/// the 15 bytes that an interface name can have.
const HASH_DIGITS: usize = 11;

/// First digits of SHA-1 over `text`, in hexadecimal.
fn hash(text: &str) -> String {
    let digest = Sha1::digest(text.as_bytes());
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(HASH_DIGITS)
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// The hash part of the name for a pod: `sha1("namespace.name")`, 11 digits, the
/// same as the incumbent's, so that a node can be taken over and given back
/// with its pods running.
pub fn pod_name_hash(namespace: &str, name: &str) -> String {
    hash(&format!("{namespace}.{name}"))
}

/// Name of the host's end: `prefix` (at most four characters, `eni` by default)
/// and a hash of the pod's names, or of the container id when the runtime names
/// no pod. The second and later interfaces of a sandbox have theirs hashed in.
pub fn host_ifname(prefix: &str, key: &SandboxKey, pod: Option<&PodRef>) -> String {
    let mut owner = match pod {
        Some(pod) => format!("{}.{}", pod.namespace, pod.name),
        None => key.container_id.clone(),
    };
    if key.ifname != "eth0" {
        owner.push('.');
        owner.push_str(&key.ifname);
    }
    format!("{prefix}{}", hash(&owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ifname: &str) -> SandboxKey {
        SandboxKey {
            network: "aws-cni".into(),
            container_id: "0123456789abcdef".into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn known_names() {
        // printf default.web-0 | sha1sum
        let pod = PodRef { namespace: "default".into(), name: "web-0".into(), uid: None };
        let name = host_ifname("eni", &key("eth0"), Some(&pod));
        assert_eq!(name, format!("eni{}", pod_name_hash("default", "web-0")));
        assert_eq!(name, "eni0d7763386da");
        assert_eq!(host_ifname("eni", &key("eth0"), None), "enife5567e8d76");
    }

    #[test]
    fn names_fit_and_differ() {
        let pod = PodRef { namespace: "a".into(), name: "b".into(), uid: None };
        let first = host_ifname("veth", &key("eth0"), Some(&pod));
        let second = host_ifname("veth", &key("eth1"), Some(&pod));
        assert_eq!(first.len(), 15);
        assert_ne!(first, second);
    }
}
