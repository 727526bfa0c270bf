//! The network configuration: as given, and checked.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{environment::is_name, error::Error, result::PrevResult, version::Version};

/// Time for a verb unless `timeoutSeconds` says otherwise. An ADD may have to
/// wait for an address to cool down: 35 s with the default cooldown.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45);
const LONGEST_TIMEOUT: u64 = 600;

/// As given. Fields that are not named here are other people's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConf {
    cni_version: Option<Value>,
    name: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
    socket: Option<Value>,
    timeout_seconds: Option<Value>,
    ipam: Option<Value>,
    dns: Option<Value>,
    runtime_config: Option<Value>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid_attachments: Option<Value>,
    /// What drafts of the specification called it; libcni gives both.
    #[serde(rename = "cni.dev/attachments", default, deserialize_with = "present")]
    attachments: Option<Value>,
}

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct NetConf {
    pub(crate) version: Version,
    /// Name of the network.
    pub(crate) name: String,
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// Time for the verb, from the start of the program.
    pub(crate) timeout: Duration,
    /// Resolver settings that go into the result as they are.
    pub(crate) dns: Option<Value>,
    /// The bandwidth plugin will shape what the pod sends.
    pub(crate) egress_shaped: bool,
    /// The result of the plugins before us, or of the ADD that a later verb is
    /// about.
    pub(crate) prev_result: Option<PrevResult>,
    /// Container id and interface name of each attachment that lives (GC).
    pub(crate) valid_attachments: Option<Vec<(String, String)>>,
}

impl NetConf {
    /// Reads and checks. `version` is set as soon as it is known.
    pub(crate) fn parse(input: &str, version: &mut Version) -> Result<Self, Error> {
        let raw: RawConf = serde_json::from_str(input).map_err(Error::Json)?;
        *version = Version::parse(&string(raw.cni_version, "cniVersion")?.unwrap_or_default(), "cniVersion")?;
        let name = string(raw.name, "name")?.unwrap_or_default();
        if !is_name(&name) {
            return Err(field("name", format!("{name:?} is not the name of a network")));
        }
        if string(raw.kind, "type")?.is_none_or(|kind| kind.is_empty()) {
            return Err(field("type", "is missing"));
        }
        let socket =
            string(raw.socket, "socket")?.map_or_else(|| PathBuf::from(rpc::DEFAULT_SOCKET), PathBuf::from);
        if !socket.is_absolute() {
            return Err(field("socket", format!("{} is not an absolute path", socket.display())));
        }
        // The address comes from the agent: another plugin's would be ignored.
        if raw.ipam.is_some_and(|ipam| !is_empty(&ipam)) {
            return Err(Error::Unsupported { field: "ipam" });
        }
        let dns = raw.dns.filter(|dns| !is_empty(dns));
        if dns.as_ref().is_some_and(|dns| !dns.is_object()) {
            return Err(field("dns", "is not an object"));
        }
        Ok(Self {
            version: *version,
            name,
            socket,
            timeout: timeout(raw.timeout_seconds)?,
            dns,
            egress_shaped: runtime_config(raw.runtime_config)?,
            prev_result: raw.prev_result.filter(|prev| !prev.is_null()).map(PrevResult::parse).transpose()?,
            valid_attachments: raw.valid_attachments.or(raw.attachments).map(attachments).transpose()?,
        })
    }
}

fn field(field: &'static str, problem: impl Into<String>) -> Error {
    Error::Field { field, problem: problem.into() }
}

/// Any value, null too: Go writes a list of nothing so.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(input).map(Some)
}

/// Null, or a container of nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(array) => array.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn string(value: Option<Value>, name: &'static str) -> Result<Option<String>, Error> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(field(name, "is not a string")),
    }
}

fn timeout(value: Option<Value>) -> Result<Duration, Error> {
    const NAME: &str = "timeoutSeconds";
    let Some(value) = value else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match value.as_u64() {
        Some(seconds) if (1..=LONGEST_TIMEOUT).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(field(NAME, format!("is not a whole number from 1 to {LONGEST_TIMEOUT}"))),
    }
}

/// The keys of an object in lower case: containerd writes `EgressRate` where the
/// conventions say `egressRate`.
fn folded(value: Value, name: &'static str) -> Result<BTreeMap<String, Value>, Error> {
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(object) => {
            Ok(object.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect())
        }
        _ => Err(field(name, "is not an object")),
    }
}

/// Looks into `runtimeConfig` for what concerns us: whether the pod's sending
/// will be shaped. Port mappings and annotations are for plugins after us.
fn runtime_config(value: Option<Value>) -> Result<bool, Error> {
    let mut config = folded(value.unwrap_or_default(), "runtimeConfig")?;
    for (key, name) in
        [("ips", "runtimeConfig.ips"), ("mac", "runtimeConfig.mac"), ("ipranges", "runtimeConfig.ipRanges")]
    {
        if config.get(key).is_some_and(|value| !is_empty(value)) {
            return Err(Error::Unsupported { field: name });
        }
    }
    const RATE: &str = "runtimeConfig.bandwidth.egressRate";
    let bandwidth = config.remove("bandwidth").unwrap_or_default();
    match folded(bandwidth, "runtimeConfig.bandwidth")?.remove("egressrate") {
        None | Some(Value::Null) => Ok(false),
        Some(rate) => rate
            .as_u64()
            .map(|rate| rate > 0)
            .ok_or_else(|| field(RATE, "is not a whole number of bits per second")),
    }
}

fn attachments(value: Value) -> Result<Vec<(String, String)>, Error> {
    const NAME: &str = "cni.dev/valid-attachments";
    #[derive(Deserialize)]
    struct Attachment {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    if value.is_null() {
        return Ok(Vec::new());
    }
    let list: Vec<Attachment> =
        serde_json::from_value(value).map_err(|error| field(NAME, error.to_string()))?;
    Ok(list.into_iter().map(|one| (one.container_id, one.ifname)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(changes: Value) -> Result<NetConf, Error> {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "aws-cni", "type": "tidepool-cni"});
        for (key, value) in changes.as_object().expect("an object") {
            conf[key] = value.clone();
        }
        NetConf::parse(&conf.to_string(), &mut Version::default())
    }

    #[track_caller]
    fn refused(changes: Value, code: u32, named: &str) {
        let error = parse(changes).expect_err("must be refused");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(named), "{error} does not name {named}");
    }

    #[test]
    fn defaults_and_unknown_fields() {
        let conf = parse(json!({"mtu": 1, "later": {"a": []}, "capabilities": {"portMappings": true}, "ipam": {}, "dns": {}})).expect("valid");
        assert_eq!(conf.timeout, DEFAULT_TIMEOUT);
        assert_eq!(conf.socket, PathBuf::from(rpc::DEFAULT_SOCKET));
        assert!(!conf.egress_shaped && conf.prev_result.is_none() && conf.dns.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(json!({"cniVersion": "0.2.0"}), 1, "cniVersion");
        refused(json!({"cniVersion": "2.0.0"}), 1, "cniVersion");
        refused(json!({"cniVersion": 1}), 7, "cniVersion");
        refused(json!({"name": ""}), 7, "name");
        refused(json!({"name": "a/b"}), 7, "name");
        refused(json!({"type": ""}), 7, "type");
        refused(json!({"socket": "agent.sock"}), 7, "socket");
        refused(json!({"socket": 7}), 7, "socket");
        for bad in [json!(0), json!(601), json!(-1), json!("5"), json!(1.5)] {
            refused(json!({"timeoutSeconds": bad}), 7, "timeoutSeconds");
        }
        refused(json!({"ipam": {"type": "host-local"}}), 2, "ipam");
        refused(json!({"dns": "1.1.1.1"}), 7, "dns");
        refused(json!({"runtimeConfig": []}), 7, "runtimeConfig");
        refused(json!({"runtimeConfig": {"IPs": ["10.0.0.1/24"]}}), 2, "runtimeConfig.ips");
        refused(json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}), 2, "runtimeConfig.mac");
        refused(json!({"runtimeConfig": {"bandwidth": {"egressRate": "fast"}}}), 7, "egressRate");
        refused(json!({"cni.dev/valid-attachments": [{"containerID": "x"}]}), 7, "cni.dev/valid-attachments");
        refused(json!({"prevResult": {"cniVersion": "9.0.0"}}), 1, "prevResult.cniVersion");
        refused(json!({"prevResult": "yes"}), 7, "prevResult");
    }

    #[test]
    fn rates_in_any_case() {
        for key in ["egressRate", "EgressRate", "EGRESSRATE"] {
            for (rate, shaped) in [(0, false), (1_000_000, true)] {
                let conf = parse(json!({"runtimeConfig": {"Bandwidth": {key: rate, "IngressRate": 5}, "portMappings": [{"HostPort": 80}]}})).expect("valid");
                assert_eq!(conf.egress_shaped, shaped, "{key}");
            }
        }
    }

    #[test]
    fn attachments_are_read() {
        for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let conf = parse(json!({name: [{"containerID": "x", "ifname": "eth0"}]})).expect("valid");
            assert_eq!(conf.valid_attachments, Some(vec![("x".into(), "eth0".into())]));
            for empty in [json!([]), json!(null)] {
                let conf = parse(json!({name: empty})).expect("valid");
                assert_eq!(conf.valid_attachments, Some(Vec::new()), "a list of nothing");
            }
        }
        assert_eq!(parse(json!({})).expect("valid").valid_attachments, None, "no list is not an empty one");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}") {
            let _ = NetConf::parse(&text, &mut Version::default());
        }
    }
}
