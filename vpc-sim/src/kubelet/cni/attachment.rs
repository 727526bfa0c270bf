//! A container's attachment to a network: ADD and DEL of the whole list.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::CniError;
use super::cache::{self, Context, Key};
use super::exec::{Call, find};
use super::list::{NetworkList, Plugin};

/// The interface that every pod's network is attached to.
const IFNAME: &str = "eth0";

/// How long one plugin may take. Of the order of what kubelets give a runtime.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whom an attachment is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// One attachment, from before its ADD until after its DEL.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// The list as it was at the ADD.
    pub(crate) network: NetworkList,
    pub(crate) container_id: String,
    pub(crate) netns: PathBuf,
    pub(crate) pod: PodIdentity,
    /// What the runtime knows, by capability: portMappings, bandwidth, …
    pub(crate) capability_args: Map<String, Value>,
    /// Where the plugins are looked for.
    pub(crate) path: Vec<PathBuf>,
}

impl Attachment {
    /// Whether every plugin of the list is installed. Asked before the ADD: where
    /// one is missing nothing is called, so that nothing is to be undone.
    pub(crate) fn check_plugins(&self) -> Result<(), CniError> {
        self.network.plugins.iter().try_for_each(|plugin| find(&plugin.kind, &self.path).map(drop))
    }

    /// Attaches the container and returns its addresses. When a plugin fails,
    /// nothing is undone: that is for [`Self::del`].
    pub(crate) fn add(&self, cancel: &CancellationToken) -> Result<Vec<IpAddr>, CniError> {
        let mut result = None;
        for plugin in &self.network.plugins {
            let output = self.call("ADD", plugin, result.as_ref(), cancel)?;
            result = Some(parse_result(&plugin.kind, &output)?);
        }
        let result = result.unwrap_or(Value::Null);
        self.keep(&result)?;
        let last = self.network.plugins.last().map_or("", |plugin| plugin.kind.as_str());
        addresses(last, &result)
    }

    /// Detaches it: the plugins in reverse, each with the ADD's result if it is
    /// still there. The first error stops it, and the whole is to be repeated.
    /// `now` is the node's list as it is now: as containerd does it, that one is
    /// used where it is of the same network, else that of the ADD.
    pub(crate) fn del(&self, now: Option<NetworkList>) -> Result<(), CniError> {
        let network = now.filter(|list| list.name == self.network.name);
        let attachment = Self { network: network.unwrap_or_else(|| self.network.clone()), ..self.clone() };
        let result = cache::load(self.key()).map(|result| in_version(result, attachment.network.version));
        let uncancelled = CancellationToken::new();
        for plugin in attachment.network.plugins.iter().rev() {
            attachment.call("DEL", plugin, result.as_ref(), &uncancelled)?;
        }
        cache::remove(self.key())
    }

    fn call(
        &self,
        verb: &'static str,
        plugin: &Plugin,
        previous: Option<&Value>,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, CniError> {
        Call {
            verb,
            plugin: &plugin.kind,
            path: &self.path,
            environment: vec![
                ("CNI_CONTAINERID", self.container_id.clone()),
                ("CNI_NETNS", self.netns.display().to_string()),
                ("CNI_IFNAME", IFNAME.to_owned()),
                ("CNI_ARGS", self.args_text()),
            ],
            stdin: stdin(&self.network, plugin, &self.capability_args, previous),
            deadline: DEADLINE,
            cancel,
        }
        .run()
    }

    /// What containerd says about a pod, in its words.
    fn args(&self) -> Vec<(&'static str, String)> {
        vec![
            ("IgnoreUnknown", "1".to_owned()),
            ("K8S_POD_NAMESPACE", self.pod.namespace.clone()),
            ("K8S_POD_NAME", self.pod.name.clone()),
            ("K8S_POD_INFRA_CONTAINER_ID", self.container_id.clone()),
            ("K8S_POD_UID", self.pod.uid.clone()),
        ]
    }

    fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args().iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(";")
    }

    fn key(&self) -> Key<'_> {
        Key { network: &self.network.name, container_id: &self.container_id, ifname: IFNAME }
    }

    /// Keeps what the DEL will need.
    fn keep(&self, result: &Value) -> Result<(), CniError> {
        let args = self.args();
        let netns = self.netns.display().to_string();
        cache::store(
            self.key(),
            Context {
                config: &self.network.raw,
                netns: &netns,
                args: &args,
                capability_args: &self.capability_args,
            },
            result,
        )
    }
}

impl NetworkList {
    /// Asks every plugin whether it could serve an ADD now.
    pub(crate) fn status(&self, path: &[PathBuf]) -> Result<(), CniError> {
        let uncancelled = CancellationToken::new();
        self.plugins.iter().try_for_each(|plugin| {
            Call {
                verb: "STATUS",
                plugin: &plugin.kind,
                path,
                environment: Vec::new(),
                stdin: stdin(self, plugin, &Map::new(), None),
                deadline: DEADLINE,
                cancel: &uncancelled,
            }
            .run()
            .map(drop)
        })
    }
}

/// A plugin's object with what the runtime adds to it.
fn stdin(
    network: &NetworkList,
    plugin: &Plugin,
    capability_args: &Map<String, Value>,
    previous: Option<&Value>,
) -> Vec<u8> {
    let mut object = plugin.object.clone();
    object.insert("name".to_owned(), network.name.clone().into());
    object.insert("cniVersion".to_owned(), network.version.into());
    let runtime: Map<String, Value> = capability_args
        .iter()
        .filter(|(capability, _)| plugin.declares(capability))
        .map(|(capability, value)| (capability.clone(), value.clone()))
        .collect();
    if !runtime.is_empty() {
        object.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    if let Some(previous) = previous {
        object.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(object).to_string().into_bytes()
}

/// A result as a list of that version passes it on. Addresses say their family
/// before 1.0.0 only.
fn in_version(mut result: Value, version: &str) -> Value {
    result["cniVersion"] = version.into();
    for entry in result.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_v6 = entry["address"].as_str().is_some_and(|address| address.contains(':'));
        if let Some(entry) = entry.as_object_mut() {
            if version.starts_with("0.") {
                entry.insert("version".to_owned(), if is_v6 { "6" } else { "4" }.into());
            } else {
                entry.remove("version");
            }
        }
    }
    result
}

fn parse_result(plugin: &str, output: &[u8]) -> Result<Value, CniError> {
    let wrong = |problem: String| CniError::Result { plugin: plugin.to_owned(), verb: "ADD", problem };
    let result: Value = serde_json::from_slice(output).map_err(|error| wrong(error.to_string()))?;
    if !result.is_object() {
        return Err(wrong("it is no object".to_owned()));
    }
    Ok(result)
}

/// The container's addresses in a result, in their order.
fn addresses(plugin: &str, result: &Value) -> Result<Vec<IpAddr>, CniError> {
    let wrong = |problem: String| CniError::Result { plugin: plugin.to_owned(), verb: "ADD", problem };
    let listed = result.get("ips").and_then(Value::as_array);
    let addresses = listed
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = entry.get("address").and_then(Value::as_str).unwrap_or_default();
            text.parse::<IpNetwork>()
                .map(|network| network.ip())
                .map_err(|error| wrong(format!("address {text:?}: {error}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err(wrong("it has no addresses".to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network() -> NetworkList {
        let object = |value: Value| match value {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        NetworkList {
            name: "net".to_owned(),
            version: "1.0.0",
            plugins: vec![Plugin {
                kind: "main".to_owned(),
                object: object(
                    json!({"type": "main", "capabilities": {"portMappings": true, "bandwidth": false}}),
                ),
            }],
            raw: Vec::new(),
        }
    }

    #[test]
    fn a_plugin_gets_what_it_declares_and_nothing_else() -> anyhow::Result<()> {
        let network = network();
        let Value::Object(args) = json!({"portMappings": [{"HostPort": 1}], "bandwidth": {}, "dns": {}})
        else {
            anyhow::bail!("an object");
        };
        let sent: Value =
            serde_json::from_slice(&stdin(&network, &network.plugins[0], &args, Some(&json!({"ips": []}))))?;
        assert_eq!(
            sent,
            json!({
                "type": "main",
                "capabilities": {"portMappings": true, "bandwidth": false},
                "name": "net",
                "cniVersion": "1.0.0",
                "runtimeConfig": {"portMappings": [{"HostPort": 1}]},
                "prevResult": {"ips": []},
            })
        );
        Ok(())
    }

    #[test]
    fn a_result_is_passed_on_in_the_version_of_the_list() {
        let old = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.2.3/32"}]});
        let new = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/32"}]});
        assert_eq!(in_version(old.clone(), "1.1.0"), new);
        assert_eq!(in_version(new, "0.4.0"), old);
    }

    #[test]
    fn addresses_are_read_from_any_version_of_a_result() -> anyhow::Result<()> {
        let result = json!({"ips": [{"version": "4", "address": "10.1.2.3/32"}, {"address": "fd00::1/128"}]});
        let expected: Vec<IpAddr> = vec!["10.1.2.3".parse()?, "fd00::1".parse()?];
        assert_eq!(addresses("p", &result)?, expected);
        assert!(addresses("p", &json!({"ips": []})).is_err());
        assert!(addresses("p", &json!({"ips": [{"address": "x"}]})).is_err());
        Ok(())
    }
}
