//! The `CNI_*` variables.

use rpc::{PodRef, SandboxKey};

use crate::{error::Error, verb::Verb};

/// What the runtime says by variables. Empty strings count as not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) verb: Verb,
    container_id: Option<String>,
    ifname: Option<String>,
    netns: Option<String>,
    pub(crate) pod: Option<PodRef>,
    /// When this run began ([`rpc::monotonic_ns`]).
    pub(crate) begun_ns: u64,
}

const CONTAINER_ID: &str = "CNI_CONTAINERID";
const IFNAME: &str = "CNI_IFNAME";
const NETNS: &str = "CNI_NETNS";
const ARGS: &str = "CNI_ARGS";
const COMMAND: &str = "CNI_COMMAND";

impl Environment {
    pub(crate) fn read() -> Result<Self, Error> {
        Self::from(|name| std::env::var(name).ok())
    }

    pub(crate) fn from(get: impl Fn(&'static str) -> Option<String>) -> Result<Self, Error> {
        let get = |name| get(name).filter(|value| !value.is_empty());
        let verb = get(COMMAND).ok_or(Error::MissingVariable { name: COMMAND })?;
        let verb = Verb::parse(&verb).ok_or_else(|| Error::Variable {
            name: COMMAND,
            problem: format!("{verb:?} is not ADD, DEL, CHECK, STATUS, GC or VERSION"),
        })?;
        let environment = Self {
            verb,
            container_id: get(CONTAINER_ID),
            ifname: get(IFNAME),
            netns: get(NETNS),
            pod: match get(ARGS) {
                // Only verbs about a sandbox have arguments.
                Some(args) if verb.has_sandbox() => parse_args(&args)?,
                _ => None,
            },
            begun_ns: rpc::monotonic_ns(),
        };
        if let Some(id) = &environment.container_id {
            check_container_id(id)?;
        }
        if let Some(ifname) = &environment.ifname {
            check_ifname(ifname)?;
        }
        Ok(environment)
    }

    /// The attachment in network `network`.
    pub(crate) fn key(&self, network: &str) -> Result<SandboxKey, Error> {
        let required = |value: &Option<String>, name| value.clone().ok_or(Error::MissingVariable { name });
        Ok(SandboxKey {
            network: network.to_owned(),
            container_id: required(&self.container_id, CONTAINER_ID)?,
            ifname: required(&self.ifname, IFNAME)?,
        })
    }

    /// The path of the sandbox's network namespace.
    pub(crate) fn netns(&self) -> Result<&str, Error> {
        self.netns.as_deref().ok_or(Error::MissingVariable { name: NETNS })
    }

    /// The same for DEL, which has to do without.
    pub(crate) fn netns_if_any(&self) -> Option<&str> {
        self.netns.as_deref()
    }
}

/// The specification: an alphanumeric, then alphanumerics, `_`, `.`, `-`.
fn check_container_id(id: &str) -> Result<(), Error> {
    if is_name(id) {
        return Ok(());
    }
    Err(Error::Variable {
        name: CONTAINER_ID,
        problem: format!("{id:?} has characters that an id cannot have"),
    })
}

pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '_' | '.' | '-'))
}

/// What the kernel takes as a name of a link.
fn check_ifname(ifname: &str) -> Result<(), Error> {
    let problem = if ifname.len() > 15 {
        "is longer than 15 bytes"
    } else if ifname == "."
        || ifname == ".."
        || ifname.contains(['/', ':'])
        || ifname.contains(char::is_whitespace)
    {
        "cannot be the name of an interface"
    } else {
        return Ok(());
    };
    Err(Error::Variable { name: IFNAME, problem: format!("{ifname:?} {problem}") })
}

/// `KEY=value;KEY=value`, in any order. Keys that we do not know are an error
/// unless `IgnoreUnknown` says otherwise.
fn parse_args(args: &str) -> Result<Option<PodRef>, Error> {
    let bad = |problem| Error::Variable { name: ARGS, problem };
    let (mut namespace, mut name, mut uid) = (None, None, None);
    let mut ignore_unknown = false;
    let mut unknown = Vec::new();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| bad(format!("{pair:?} is not KEY=value")))?;
        let value = value.to_owned();
        match key {
            "K8S_POD_NAMESPACE" => namespace = Some(value),
            "K8S_POD_NAME" => name = Some(value),
            "K8S_POD_UID" => uid = Some(value).filter(|uid| !uid.is_empty()),
            // The same as the container id.
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            "IgnoreUnknown" => {
                ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "1" | "t" | "true" => true,
                    "0" | "f" | "false" => false,
                    _ => return Err(bad(format!("IgnoreUnknown is {value:?}"))),
                };
            }
            other => unknown.push(other),
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        return Err(bad(format!("unknown: {}", unknown.join(", "))));
    }
    // podman names a pod without a namespace; that is no pod of Kubernetes.
    Ok(namespace
        .zip(name)
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .map(|(namespace, name)| PodRef { namespace, name, uid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, Error> {
        Environment::from(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn message(pairs: &[(&str, &str)]) -> String {
        read(pairs).expect_err("must be refused").to_string()
    }

    #[test]
    fn as_containerd_calls() {
        let args = "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;NEW=1";
        let environment = read(&[
            (COMMAND, "ADD"),
            (CONTAINER_ID, "abc"),
            (IFNAME, "eth0"),
            (NETNS, "/run/netns/x"),
            (ARGS, args),
        ])
        .expect("valid");
        let pod = environment.pod.clone().expect("named");
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()),
            ("shop", "web-0", Some("u-1"))
        );
        assert_eq!(environment.key("n").expect("complete").to_string(), "n/abc/eth0");
        assert_eq!(environment.netns().expect("set"), "/run/netns/x");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(message(&[]), "CNI_COMMAND is missing");
        assert!(message(&[(COMMAND, "PING")]).contains("CNI_COMMAND"));
        assert!(message(&[(COMMAND, "ADD"), (CONTAINER_ID, "../x")]).contains("CNI_CONTAINERID"));
        for bad in ["sixteen-letters-", "a/b", "a b", "..", "a:b"] {
            assert!(message(&[(COMMAND, "ADD"), (IFNAME, bad)]).contains("CNI_IFNAME"), "{bad}");
        }
        for bad in ["A=1", "K8S_POD_NAME", "IgnoreUnknown=maybe"] {
            assert!(message(&[(COMMAND, "ADD"), (ARGS, bad)]).contains("CNI_ARGS"), "{bad}");
        }
        let empty = read(&[(COMMAND, "DEL"), (NETNS, ""), (CONTAINER_ID, "")]).expect("DEL goes without");
        assert!(empty.netns_if_any().is_none());
        assert_eq!(empty.key("n").expect_err("no id").to_string(), "CNI_CONTAINERID is missing");
    }

    #[test]
    fn arguments_of_others() {
        for args in [
            "",
            "IgnoreUnknown=1;K8S_POD_NAME=web",
            "IgnoreUnknown=true;FOO=BAR",
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=",
        ] {
            let environment = read(&[(COMMAND, "ADD"), (ARGS, args)]).expect("valid");
            assert_eq!(environment.pod, None, "{args}");
        }
        assert!(read(&[(COMMAND, "STATUS"), (ARGS, "A=1")]).is_ok());
    }
}
