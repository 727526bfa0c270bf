//! The result of an ADD: ours, behind that of the plugins before us.

use ipnetwork::IpNetwork;
use netlink::Mac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{error::Error, version::Version};

/// An interface in a result. What we do not know of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Interface {
    pub(crate) fn new(name: &str, mac: Mac, sandbox: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            mac: Some(mac.to_string()),
            sandbox: sandbox.map(str::to_owned),
            rest: Map::new(),
        }
    }

    pub(crate) fn with_mtu(mut self, mtu: u32, version: Version) -> Self {
        if version >= Version::V1_1_0 {
            self.rest.insert("mtu".into(), mtu.into());
        }
        self
    }

    /// It is on the host: no sandbox.
    pub(crate) fn is_host(&self) -> bool {
        self.sandbox.as_deref().is_none_or(str::is_empty)
    }

    pub(crate) fn mac(&self) -> Option<Mac> {
        self.mac.as_deref()?.parse().ok()
    }
}

/// An address in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ip {
    pub(crate) address: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Ip {
    /// `interface` is its interface's place in the list. Before 1.0.0 the
    /// address says its family beside itself.
    pub(crate) fn new(
        address: IpNetwork,
        gateway: Option<std::net::IpAddr>,
        interface: usize,
        version: Version,
    ) -> Self {
        let mut rest = Map::new();
        if let Some(gateway) = gateway {
            rest.insert("gateway".into(), gateway.to_string().into());
        }
        if version < Version::V1_0_0 {
            rest.insert("version".into(), if address.is_ipv4() { "4" } else { "6" }.into());
        }
        Self { address, interface: Some(interface), rest }
    }
}

/// The result of the plugins before us, or of an earlier ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrevResult {
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl PrevResult {
    pub(crate) fn parse(mut value: Value) -> Result<Self, Error> {
        const FIELD: &str = "prevResult";
        let bad = |problem: String| Error::Field { field: FIELD, problem };
        let object = value.as_object_mut().ok_or_else(|| bad("is not an object".into()))?;
        let version = object.remove("cniVersion").and_then(|version| version.as_str().map(str::to_owned));
        Version::parse(&version.unwrap_or_default(), "prevResult.cniVersion")?;
        // Null is how Go writes an empty list.
        object.retain(|_, value| !value.is_null());
        let result: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let count = result.interfaces.len();
        match result.ips.iter().find_map(|ip| ip.interface.filter(|place| *place >= count)) {
            Some(place) => Err(bad(format!("an address names interface {place} of {count}"))),
            None => Ok(result),
        }
    }

    /// This result with ours behind it, as the document to print.
    pub(crate) fn extend(&self, version: Version, ours: Ours) -> String {
        let mut all = self.clone();
        let shift = all.interfaces.len();
        all.interfaces.extend(ours.interfaces);
        all.ips.extend(
            ours.ips.into_iter().map(|ip| Ip { interface: ip.interface.map(|place| place + shift), ..ip }),
        );
        if version < Version::V1_0_0 {
            for ip in &mut all.ips {
                ip.rest
                    .entry("version")
                    .or_insert_with(|| if ip.address.is_ipv4() { "4" } else { "6" }.into());
            }
        }
        let mut routes = match all.rest.remove("routes") {
            Some(Value::Array(routes)) => routes,
            _ => Vec::new(),
        };
        routes
            .extend(ours.routes.iter().map(|(to, by)| json!({"dst": to.to_string(), "gw": by.to_string()})));
        all.rest.insert("routes".into(), routes.into());
        if let Some(dns) = ours.dns {
            all.rest.entry("dns").or_insert(dns);
        }
        let mut document = Map::new();
        document.insert("cniVersion".into(), version.as_str().into());
        if let Ok(Value::Object(rest)) = serde_json::to_value(&all) {
            document.extend(rest);
        }
        Value::Object(document).to_string()
    }
}

/// What we add to a result.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    /// Destinations and their gateways.
    pub(crate) routes: Vec<(IpNetwork, std::net::IpAddr)>,
    pub(crate) dns: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(version: Version) -> Ours {
        let gateway = "169.254.1.1".parse().expect("valid");
        Ours {
            interfaces: vec![
                Interface::new("eni1", Mac([2, 0, 0, 0, 0, 1]), None).with_mtu(9001, version),
                Interface::new("eth0", Mac([2, 0, 0, 0, 0, 2]), Some("/n")).with_mtu(9001, version),
            ],
            ips: vec![Ip::new("10.0.0.9/32".parse().expect("valid"), Some(gateway), 1, version)],
            routes: vec![("0.0.0.0/0".parse().expect("valid"), gateway)],
            dns: None,
        }
    }

    #[test]
    fn alone_in_every_version() {
        let text = |version| PrevResult::default().extend(version, ours(version));
        assert_eq!(
            text(Version::V0_4_0),
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eni1","mac":"02:00:00:00:00:01"},{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n"}],"ips":[{"address":"10.0.0.9/32","interface":1,"gateway":"169.254.1.1","version":"4"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#
        );
        assert!(!text(Version::V1_0_0).contains("version\":\"4") && !text(Version::V1_0_0).contains("mtu"));
        assert!(text(Version::V1_1_0).contains(r#""mtu":9001"#));
    }

    #[test]
    fn behind_others_keeps_theirs() {
        let before = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "x0", "sandbox": "/n", "socketPath": "/s"}],
            "ips": [{"address": "192.168.0.2/24", "interface": 0}],
            "routes": [{"dst": "192.168.0.0/16"}],
            "dns": {"nameservers": ["192.168.0.1"]},
            "custom": 7
        });
        let prev = PrevResult::parse(before).expect("valid");
        let document =
            prev.extend(Version::V1_0_0, Ours { dns: Some(json!({"domain": "d"})), ..ours(Version::V1_0_0) });
        let document: Value = serde_json::from_str(&document).expect("JSON");
        assert_eq!(document["interfaces"][0]["socketPath"], "/s");
        assert_eq!(document["interfaces"].as_array().map(Vec::len), Some(3));
        assert_eq!(document["ips"][1]["interface"], 2);
        assert_eq!(document["routes"].as_array().map(Vec::len), Some(2));
        assert_eq!(document["dns"]["nameservers"][0], "192.168.0.1");
        assert_eq!(document["custom"], 7);
    }

    /// What aws-cni returned for a pod that we took over, as the runtime hands it to our DEL and CHECK: its container
    /// interface has the number of a routing table for a MAC, and a third interface is none.
    #[test]
    fn the_incumbents_result_is_read() {
        let result = PrevResult::parse(json!({
            "cniVersion": "0.4.0",
            "interfaces": [
                {"name": "eni28731a85a09"}, {"name": "eth0", "mac": "254", "sandbox": "/run/netns/cni-1"},
                {"name": "dummy28731a85a09", "mac": "0", "sandbox": "0"}
            ],
            "ips": [{"version": "4", "interface": 1, "address": "10.20.14.156/32"}],
            "dns": {}
        }));
        let result = result.expect("valid");
        let known: Vec<_> = result.interfaces.iter().map(|one| (one.is_host(), one.mac())).collect();
        assert_eq!(known, [(true, None), (false, None), (false, None)]);
        assert_eq!(result.ips[0].interface, Some(1));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/32", "interface": 0}]}),
            json!({}),
            json!([]),
            json!({"cniVersion": "1.0.0", "interfaces": 3}),
        ] {
            assert!(PrevResult::parse(bad.clone()).is_err(), "{bad}");
        }
        assert!(PrevResult::parse(json!({"cniVersion": "1.0.0", "interfaces": null, "ips": null})).is_ok());
    }
}
