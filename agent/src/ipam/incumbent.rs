//! The checkpoint of aws-node, so that a node can be taken over with its pods running, and given back.
//!
//! One JSON document, `vpc-cni-ipam/1`: a list of allocations, keyed as ours are by network, container and
//! interface. It is a hint as our own checkpoint is: what it says of a pod counts only where the pod's link stands
//! and EC2 has the address on an ENI of ours.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ipam_core::{PodRef, SandboxKey};
use serde::{Deserialize, Serialize};

/// The only version that aws-node ever wrote.
const VERSION: &str = "vpc-cni-ipam/1";
/// What tells a file of ours from one of aws-node's, which knows no such field and writes none.
const WRITER: &str = "tidepool-agent";

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IncumbentError {
    /// Another version than we know: what it says may mean something else.
    #[error(
        "{path} has version {found:?}, this agent reads {VERSION:?}: start the aws-node that wrote it again, or \
         drain the node and remove the file"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It is there and cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// An address that aws-node gave to a sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it was written down.
    pub pod: Option<PodRef>,
    /// What was given.
    pub address: IpAddr,
}

/// What the file said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incumbent {
    /// There is no file.
    Missing,
    /// A file that cannot be understood, torn or empty: as if there were none.
    Torn(String),
    /// Its allocations.
    Read {
        /// IPv4 allocations.
        allocations: Vec<Allocation>,
        /// Entries that no lease can be made of (IPv6, or without an address), in words.
        unusable: Vec<String>,
        /// Whether we wrote it.
        is_ours: bool,
    },
}

#[derive(Deserialize)]
struct Head {
    version: Option<String>,
    writer: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    // Go writes an empty list as null.
    allocations: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    network_name: String,
    #[serde(rename = "containerID")]
    container_id: String,
    if_name: String,
    #[serde(default)]
    ipv4: String,
    #[serde(default)]
    ipv6: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    k8s_pod_namespace: String,
    k8s_pod_name: String,
}

impl Incumbent {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// Where it is of another version, or is there and cannot be read.
    pub fn read(path: &Path) -> Result<Self, IncumbentError> {
        match std::fs::read(path) {
            Ok(text) => Self::parse(&text, path),
            // A directory on the way that is a file, or is not there, says the same.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Self::Missing)
            }
            Err(source) => Err(IncumbentError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, IncumbentError> {
        let Head { version, writer } = match serde_json::from_slice(text) {
            Ok(head) => head,
            Err(error) => return Ok(Self::Torn(error.to_string())),
        };
        let found = version.unwrap_or_default();
        if found != VERSION {
            return Err(IncumbentError::Version { path: path.to_owned(), found });
        }
        let body: Body = match serde_json::from_slice(text) {
            Ok(body) => body,
            Err(error) => return Ok(Self::Torn(error.to_string())),
        };
        let (mut allocations, mut unusable) = (Vec::new(), Vec::new());
        for entry in body.allocations.unwrap_or_default() {
            match entry.ipv4.parse::<std::net::Ipv4Addr>() {
                Ok(address) => allocations.push(entry.allocation(address.into())),
                Err(_) if entry.ipv4.is_empty() && !entry.ipv6.is_empty() => {
                    unusable.push(format!("{} of {} is IPv6", entry.ipv6, entry.container_id));
                }
                Err(_) => unusable.push(format!("{:?} of {} is no address", entry.ipv4, entry.container_id)),
            }
        }
        Ok(Self::Read { allocations, unusable, is_ours: writer.as_deref() == Some(WRITER) })
    }
}

impl Entry {
    fn allocation(self, address: IpAddr) -> Allocation {
        let Metadata { k8s_pod_namespace: namespace, k8s_pod_name: name } = self.metadata;
        let named = !namespace.is_empty() && !name.is_empty();
        Allocation {
            key: SandboxKey {
                network: self.network_name,
                container_id: self.container_id,
                ifname: self.if_name,
            },
            pod: named.then_some(PodRef { namespace, name, uid: None }),
            address,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenEntry<'a> {
    network_name: &'a str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    if_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<IpAddr>,
    /// Nanoseconds since 1970.
    allocation_timestamp: u64,
    metadata: WrittenMetadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    k8s_pod_namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    k8s_pod_name: &'a str,
    interfaces_count: u32,
}

/// The file's content with these allocations and the time of each, as aws-node writes it. It refuses a file that has
/// an address twice: of two the first stays.
pub fn document(given: &[(Allocation, SystemTime)]) -> String {
    let mut seen = BTreeSet::new();
    let given = given.iter().filter(|(allocation, _)| seen.insert(allocation.address));
    let allocations: Vec<WrittenEntry<'_>> = given
        .map(|(Allocation { key, pod, address }, at)| WrittenEntry {
            network_name: &key.network,
            container_id: &key.container_id,
            if_name: &key.ifname,
            ipv4: address.is_ipv4().then_some(*address),
            ipv6: address.is_ipv6().then_some(*address),
            allocation_timestamp: at
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            metadata: WrittenMetadata {
                k8s_pod_namespace: pod.as_ref().map_or("", |pod| &pod.namespace),
                k8s_pod_name: pod.as_ref().map_or("", |pod| &pod.name),
                interfaces_count: 1,
            },
        })
        .collect();
    let document = serde_json::json!({ "version": VERSION, "allocations": allocations, "writer": WRITER });
    format!("{document}\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Incumbent, IncumbentError> {
        Incumbent::parse(text.as_bytes(), Path::new("/var/run/aws-node/ipam.json"))
    }

    #[test]
    fn allocations_as_aws_node_writes_them() {
        let text = r#"{"version":"vpc-cni-ipam/1","allocations":[
            {"networkName":"aws-cni","containerID":"c1","ifName":"eth0","ipv4":"10.0.0.7",
             "allocationTimestamp":1700000000000000000,
             "metadata":{"k8sPodNamespace":"shop","k8sPodName":"web-0","interfacesCount":1}},
            {"networkName":"aws-cni","containerID":"c2","ifName":"eth0","ipv4":"10.0.0.8","metadata":{}},
            {"networkName":"aws-cni","containerID":"c3","ifName":"eth0","ipv6":"2001:db8::1"},
            {"networkName":"aws-cni","containerID":"c4","ifName":"eth0"}]}"#;
        let Ok(Incumbent::Read { allocations, unusable, is_ours: false }) = parse(text) else {
            panic!("readable")
        };
        assert_eq!(allocations.len(), 2);
        assert_eq!(allocations[0].address.to_string(), "10.0.0.7");
        assert_eq!(allocations[0].key.container_id, "c1");
        assert_eq!(allocations[0].pod.as_ref().map(|pod| pod.name.as_str()), Some("web-0"));
        assert_eq!(allocations[1].pod, None);
        assert_eq!(unusable.len(), 2, "{unusable:?}");
        assert!(unusable[0].contains("2001:db8::1"), "{unusable:?}");
    }

    #[test]
    fn what_we_write_is_as_aws_node_writes_it() {
        let key = |id: &str| SandboxKey {
            network: "aws-cni".into(),
            container_id: id.into(),
            ifname: "eth0".into(),
        };
        let at = UNIX_EPOCH + Duration::from_secs(1_763_755_200);
        let of = |id: &str, pod: Option<PodRef>, address: [u8; 4]| {
            (Allocation { key: key(id), pod, address: address.into() }, at)
        };
        let pod = PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u".into()) };
        let text = document(&[
            of("c1", Some(pod), [10, 0, 0, 7]),
            of("c2", None, [10, 0, 0, 8]),
            of("c3", None, [10, 0, 0, 7]),
        ]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["version"], "vpc-cni-ipam/1");
        assert_eq!(
            value["allocations"][0],
            serde_json::json!({
                "networkName": "aws-cni", "containerID": "c1", "ifName": "eth0", "ipv4": "10.0.0.7",
                "allocationTimestamp": 1_763_755_200_000_000_000_u64,
                "metadata": {"k8sPodNamespace": "shop", "k8sPodName": "web-0", "interfacesCount": 1},
            })
        );
        assert_eq!(value["allocations"][1]["metadata"], serde_json::json!({"interfacesCount": 1}));
        let Ok(Incumbent::Read { allocations, unusable, is_ours }) = parse(&text) else { panic!("readable") };
        assert_eq!(
            (allocations.len(), unusable.len(), is_ours),
            (2, 0, true),
            "an address twice is fatal to it"
        );
        assert!(document(&[]).contains("\"allocations\":[]") && document(&[]).ends_with('\n'));
    }

    #[test]
    fn none_are_none() {
        for text in [
            r#"{"version":"vpc-cni-ipam/1","allocations":null}"#,
            r#"{"version":"vpc-cni-ipam/1","allocations":[]}"#,
        ] {
            assert_eq!(
                parse(text).expect("readable"),
                Incumbent::Read { allocations: Vec::new(), unusable: Vec::new(), is_ours: false }
            );
        }
    }

    #[test]
    fn torn_files_are_as_missing_and_other_versions_refused() {
        for torn in ["", "{", "[]", "\0\0", r#"{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"#] {
            assert!(matches!(parse(torn), Ok(Incumbent::Torn(_))), "{torn:?}");
        }
        for other in [r#"{"version":"vpc-cni-ipam/2","allocations":[]}"#, r#"{"allocations":[]}"#] {
            let error = parse(other).expect_err("another version");
            assert!(error.to_string().contains("/var/run/aws-node/ipam.json has version"), "{error}");
            assert!(error.to_string().contains("drain the node"), "{error}");
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let missing = Incumbent::read(&dir.path().join("no/ipam.json")).expect("no file");
        assert_eq!(missing, Incumbent::Missing);
        assert!(matches!(Incumbent::read(dir.path()), Err(IncumbentError::Read { .. })), "a directory");
    }
}
