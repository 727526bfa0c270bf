//! What libcni keeps between ADD and DEL: which sandbox got which address.
//!
//! A file for each attachment below `results`, `cniCacheV1` JSON, written by the container runtime after an ADD and
//! removed after its DEL. It is asked only when our own leases were lost, and where the runtime has no such
//! directory, or the agent cannot see it, there is nothing to be had.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rpc::{PodRef, SandboxKey};
use serde::Deserialize;

use super::Record;

/// What libcni calls the only format there is.
const KIND: &str = "cniCacheV1";
/// Larger files are not results; ours have some three kilobytes.
const LONGEST_BYTES: u64 = 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    kind: String,
    container_id: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    cni_args: Option<Vec<[String; 2]>>,
    #[serde(default)]
    result: Option<CniResult>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CniResult {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Interface {
    name: String,
    mac: String,
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

/// Every result below `dir`/results; what cannot be read or understood is passed over.
#[must_use]
pub fn read(dir: &Path) -> Vec<Record> {
    let results = dir.join("results");
    let entries = match fs::read_dir(&results) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %results.display(), %error, "results of ADDs cannot be read");
            return Vec::new();
        }
    };
    let mut records = Vec::new();
    for entry in entries.flatten() {
        let whole = entry.metadata().is_ok_and(|file| file.is_file() && file.len() <= LONGEST_BYTES);
        let text = if whole { fs::read(entry.path()) } else { continue };
        match text.map(|text| parse(&text)) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => tracing::debug!(path = %entry.path().display(), "not a result of an ADD"),
            Err(error) => tracing::debug!(path = %entry.path().display(), %error, "a result cannot be read"),
        }
    }
    // The order of a directory is nobody's.
    records.sort_by(|one, other| one.key.cmp(&other.key));
    records
}

fn parse(text: &[u8]) -> Option<Record> {
    let entry: Entry = serde_json::from_slice(text).ok()?;
    if entry.kind != KIND {
        return None;
    }
    let argument = |name: &str| {
        let mut pairs = entry.cni_args.iter().flatten();
        pairs.find(|[key, _]| key == name).map(|[_, value]| value.clone()).filter(|value| !value.is_empty())
    };
    let pod = argument("K8S_POD_NAMESPACE").zip(argument("K8S_POD_NAME"));
    let uid = argument("K8S_POD_UID");
    let result = entry.result.unwrap_or_default();
    let host_end = result.interfaces.into_iter().flatten().find(|one| one.sandbox.is_empty());
    Some(Record {
        key: SandboxKey {
            network: entry.network_name,
            container_id: entry.container_id,
            ifname: entry.if_name,
        },
        pod: pod.map(|(namespace, name)| PodRef { namespace, name, uid }),
        addresses: result.ips.into_iter().flatten().filter_map(|ip| host(&ip.address)).collect(),
        host_end: host_end.map(|end| (end.name, mac(&end.mac))),
    })
}

/// The address of `10.0.0.1/32`.
fn host(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0",
        "networkName":"aws-cni","netns":"/run/netns/x",
        "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web-0"],["K8S_POD_UID","u1"]],
        "capabilityArgs":{"portMappings":[]},
        "result":{"cniVersion":"1.0.0",
          "interfaces":[{"name":"eni123","mac":"02:00:00:00:00:0a"},{"name":"eth0","mac":"02:00:00:00:00:0b","sandbox":"/run/netns/x"}],
          "ips":[{"address":"10.0.0.7/32","gateway":"169.254.1.1","interface":1}],"dns":{}}}"#;

    #[test]
    fn a_result_names_its_sandbox() {
        let record = parse(RESULT.as_bytes()).expect("a result");
        assert_eq!(record.key.to_string(), "aws-cni/c1/eth0");
        assert_eq!(record.pod.and_then(|pod| pod.uid).as_deref(), Some("u1"));
        assert_eq!(record.addresses, [IpAddr::from([10, 0, 0, 7])]);
        assert_eq!(record.host_end, Some(("eni123".to_owned(), Some([2, 0, 0, 0, 0, 10]))));
    }

    #[test]
    fn a_directory_of_anything() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(read(dir.path()).is_empty(), "no results at all");
        let results = dir.path().join("results");
        fs::create_dir_all(results.join("a-directory")).expect("made");
        for (name, text) in [
            ("aws-cni-c1-eth0", RESULT),
            ("torn", &RESULT[..90]),
            ("empty", ""),
            ("other", r#"{"kind":"cniCacheV9","containerId":"x","ifName":"y","networkName":"z"}"#),
            (
                "bare",
                r#"{"kind":"cniCacheV1","containerId":"c0","ifName":"eth0","networkName":"n","result":null}"#,
            ),
        ] {
            fs::write(results.join(name), text).expect("written");
        }
        let ids: Vec<String> = read(dir.path()).into_iter().map(|record| record.key.container_id).collect();
        assert_eq!(ids, ["c1", "c0"], "by key: network first");
    }
}
