//! aws-eks-nodeagent's traces: a filter at each end of the host's veth, and pins of programs and maps that pods of one
//! workload share.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kernel_test::bpf;

/// Where it pins, as the node sees it.
pub const PINS: &str = "/sys/fs/bpf/globals/aws";
/// Of each direction: the veth's hook as `tc` names it, the program, and what the names of maps begin with.
const DIRECTIONS: [(&str, &str, &str); 2] =
    [("egress", "handle_ingress", "ingress"), ("ingress", "handle_egress", "egress")];
const GLOBAL_MAPS: [&str; 2] = ["global_aws_conntrack_map", "global_policy_events"];

/// What pods of one workload share: the pod's name without its last part, and the namespace.
pub fn identifier(namespace: &str, pod: &str) -> String {
    let name = pod.replace('.', "_");
    let workload = name.rsplit_once('-').map_or(name.as_str(), |(workload, _)| workload);
    format!("{workload}@{namespace}")
}

/// Pins programs that let everything pass, and the maps, for the workload of a pod; `root` is the node's file system.
/// Returns the commands that attach the filters to the pod's link.
pub(super) fn police(root: &Path, link: &str, identifier: &str) -> Result<String> {
    let (programs, maps) = (inside(root, "programs"), inside(root, "maps"));
    std::fs::create_dir_all(&programs)?;
    std::fs::create_dir_all(&maps)?;
    for name in GLOBAL_MAPS {
        pin_map(&maps.join(name))?;
    }
    let mut script = format!("tc qdisc replace dev {link} clsact\n");
    for (hook, program, direction) in DIRECTIONS {
        let path = programs.join(format!("{identifier}_{program}"));
        if !path.exists() {
            bpf::pin_classifier(&path, program, 0)?;
        }
        for map in
            [format!("{direction}_map"), format!("cp_{direction}_map"), format!("{direction}_pod_state_map")]
        {
            pin_map(&maps.join(format!("{identifier}_{map}")))?;
        }
        script.push_str(&format!(
            "tc filter add dev {link} {hook} protocol all prio 1 handle 1 bpf direct-action object-pinned {PINS}/programs/{identifier}_{program}\n"
        ));
    }
    Ok(script)
}

fn pin_map(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let plain: String =
        name.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
    bpf::pin_map(path, &plain)
}

fn inside(root: &Path, folder: &str) -> PathBuf {
    root.join(PINS.trim_start_matches('/')).join(folder)
}

#[cfg(test)]
mod tests {
    use super::identifier;

    #[test]
    fn pods_of_a_workload_share_their_pins() {
        assert_eq!(identifier("default", "web-5d9f-abcde"), "web-5d9f@default");
        assert_eq!(identifier("shop", "db-0"), "db@shop");
        assert_eq!(identifier("shop", "v1.2-x"), "v1_2@shop");
        assert_eq!(identifier("shop", "alone"), "alone@shop");
    }
}
