//! The agent's pod, as a kubelet would ask a runtime for it: what daemonset.yaml says, in the runtime's terms.
//!
//! A field that this does not know is an error, so that nothing of the manifest is passed over unseen. Added are
//! only the addresses of what is simulated: EC2, and the Kubernetes API by a kubeconfig instead of a service account.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::message::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, ProfileType, SecurityProfile,
};
use crate::house::{items, root, text};

/// What kubelet hides and makes read-only in containers that are not privileged.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the manifest says of the agent's pod.
#[derive(Debug)]
pub struct AgentManifest {
    pod: Value,
    settings: BTreeMap<String, String>,
}

/// Where the pod is.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    pub node: &'a str,
    pub cgroup_parent: &'a str,
    pub log_directory: String,
}

impl AgentManifest {
    /// Reads daemonset.yaml.
    pub fn read() -> Result<Self> {
        let file = std::fs::read_to_string(root().join("daemonset.yaml"))?;
        let objects: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&file)
            .map(Value::deserialize)
            .collect::<Result<_, _>>()
            .context("daemonset.yaml")?;
        let of_kind =
            |kind: &str| objects.iter().find(|object| object["kind"] == kind).context(kind.to_owned());
        let settings = serde_json::from_value(of_kind("ConfigMap")?["data"].clone())?;
        Ok(Self { pod: of_kind("DaemonSet")?["spec"]["template"]["spec"].clone(), settings })
    }

    /// The image that its containers run.
    pub fn image(&self) -> Result<&str> {
        self.pod["containers"][0]["image"].as_str().context("no image")
    }

    /// The pod.
    pub fn sandbox(&self, place: &Place<'_>) -> Result<PodSandboxConfig> {
        ensure!(self.pod["hostNetwork"] == true, "not in the host's network");
        let name = format!("tidepool-{}", place.node);
        let labels = [
            ("io.kubernetes.pod.name", name.as_str()),
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.kubernetes.pod.uid", "agent"),
        ];
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: "agent".into(),
                namespace: "kube-system".into(),
                attempt: 0,
            }),
            hostname: String::new(),
            log_directory: place.log_directory.clone(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: place.cgroup_parent.to_owned(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(host_network()),
                    // As kubelet does for a pod with a privileged container.
                    privileged: self.containers().any(|one| one["securityContext"]["privileged"] == true),
                }),
            }),
            port_mappings: Vec::new(),
            annotations: HashMap::new(),
        })
    }

    fn containers(&self) -> impl Iterator<Item = &Value> {
        items(&self.pod["initContainers"]).chain(items(&self.pod["containers"]))
    }

    /// One of its containers, by name. `more` is set over what the manifest sets; `files` are mounted read-only where
    /// they are.
    pub fn container(
        &self,
        name: &str,
        attempt: u32,
        place: &Place<'_>,
        more: &[(String, String)],
        files: &[&str],
    ) -> Result<ContainerConfig> {
        let container = self
            .containers()
            .find(|one| one["name"] == name)
            .with_context(|| format!("no container {name}"))?;
        let known = [
            "name",
            "image",
            "command",
            "env",
            "envFrom",
            "securityContext",
            "resources",
            "volumeMounts",
            // Asked by the kubelet, not by the runtime.
            "livenessProbe",
            "readinessProbe",
        ];
        only(container, &known)?;
        let mut environment = self.environment(container, place)?;
        environment.extend(more.iter().cloned());
        let mut mounts: Vec<Mount> =
            items(&container["volumeMounts"]).map(|mount| self.mount(mount)).collect::<Result<_>>()?;
        mounts.extend(files.iter().map(|file| Mount {
            container_path: (*file).to_owned(),
            host_path: (*file).to_owned(),
            readonly: true,
            propagation: MountPropagation::Private.into(),
        }));
        Ok(ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(ImageSpec { image: text(&container["image"]).to_owned() }),
            command: items(&container["command"]).map(|word| text(word).to_owned()).collect(),
            envs: environment.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
            mounts,
            log_path: format!("{name}-{attempt}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(resources(&container["resources"])?),
                security_context: Some(security(&container["securityContext"])?),
            }),
        })
    }

    /// What a container has of the node, and whether it may only read it.
    pub fn mounts_of(&self, name: &str) -> Vec<(String, bool)> {
        let container = self.containers().find(|one| one["name"] == name);
        let mounts = container.into_iter().flat_map(|one| items(&one["volumeMounts"]));
        mounts.map(|mount| (text(&mount["mountPath"]).to_owned(), mount["readOnly"] == true)).collect()
    }

    /// The capabilities that a container is given, without `CAP_`.
    pub fn capabilities_of(&self, name: &str) -> Vec<String> {
        let container = self.containers().find(|one| one["name"] == name);
        let added =
            container.into_iter().flat_map(|one| items(&one["securityContext"]["capabilities"]["add"]));
        added.map(|one| text(one).to_owned()).collect()
    }

    fn environment(&self, container: &Value, place: &Place<'_>) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for source in items(&container["envFrom"]) {
            ensure!(source["configMapRef"]["name"] == "tidepool", "{source}");
            found.extend(self.settings.clone());
        }
        for variable in items(&container["env"]) {
            let value = match text(&variable["valueFrom"]["fieldRef"]["fieldPath"]) {
                "spec.nodeName" => place.node,
                "metadata.namespace" => "kube-system",
                _ => variable["value"].as_str().with_context(|| variable.to_string())?,
            };
            found.insert(text(&variable["name"]).to_owned(), value.to_owned());
        }
        Ok(found)
    }

    fn mount(&self, mount: &Value) -> Result<Mount> {
        only(mount, &["name", "mountPath", "readOnly", "mountPropagation"])?;
        let volume = items(&self.pod["volumes"])
            .find(|volume| volume["name"] == mount["name"])
            .with_context(|| mount.to_string())?;
        // Where the type says so the kubelet makes the directory, and where there is none containerd does.
        let path = volume["hostPath"]["path"].as_str().with_context(|| volume.to_string())?;
        let propagation = match mount["mountPropagation"].as_str() {
            None | Some("None") => MountPropagation::Private,
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            Some(other) => bail!("mountPropagation {other}"),
        };
        Ok(Mount {
            container_path: text(&mount["mountPath"]).to_owned(),
            host_path: path.to_owned(),
            readonly: mount["readOnly"] == true,
            propagation: propagation.into(),
        })
    }
}

/// Refuses keys that are not known.
fn only(object: &Value, known: &[&str]) -> Result<()> {
    let mut keys = object.as_object().into_iter().flat_map(serde_json::Map::keys);
    match keys.find(|key| !known.contains(&key.as_str())) {
        Some(key) => bail!("{key} is not carried over to the runtime"),
        None => Ok(()),
    }
}

fn host_network() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
    }
}

fn security(context: &Value) -> Result<LinuxContainerSecurityContext> {
    let known = [
        "privileged",
        "allowPrivilegeEscalation",
        "readOnlyRootFilesystem",
        "appArmorProfile",
        "capabilities",
    ];
    only(context, &known)?;
    only(&context["capabilities"], &["add", "drop"])?;
    let privileged = context["privileged"] == true;
    let names = |list: &Value| items(list).map(|name| text(name).to_owned()).collect();
    let paths = |list: &[&str]| {
        if privileged { Vec::new() } else { list.iter().map(|path| (*path).into()).collect() }
    };
    let apparmor = match context["appArmorProfile"]["type"].as_str() {
        // A privileged container has no profile.
        None => None,
        Some("Unconfined") => Some(SecurityProfile { profile_type: ProfileType::Unconfined.into() }),
        Some("RuntimeDefault") => Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into() }),
        Some(other) => bail!("appArmorProfile {other}"),
    };
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: names(&context["capabilities"]["add"]),
            drop_capabilities: names(&context["capabilities"]["drop"]),
        }),
        privileged,
        namespace_options: Some(host_network()),
        readonly_rootfs: context["readOnlyRootFilesystem"] == true,
        no_new_privs: context["allowPrivilegeEscalation"] == false,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        // Kubelet's default.
        seccomp: Some(SecurityProfile { profile_type: ProfileType::Unconfined.into() }),
        apparmor,
    })
}

/// Requests and limits as kubelet turns them into cgroup values.
fn resources(resources: &Value) -> Result<LinuxContainerResources> {
    let number = |value: &Value, unit: &str| -> Result<i64> {
        match value.as_str() {
            None => Ok(0),
            Some(amount) => Ok(amount.strip_suffix(unit).with_context(|| amount.to_owned())?.parse()?),
        }
    };
    ensure!(resources["limits"]["cpu"].is_null(), "a limit of processor time is not carried over");
    Ok(LinuxContainerResources {
        // 1024 for each processor, and never below 2.
        cpu_shares: (number(&resources["requests"]["cpu"], "m")? * 1024 / 1000).max(2),
        memory_limit_in_bytes: number(&resources["limits"]["memory"], "Mi")? << 20,
    })
}
