//! The agent's process as the kernel has it, against what its manifest asks for.

use std::fs;

use anyhow::{Context, Result, ensure};
use system_tests::containerd::manifest::AgentManifest;
use system_tests::containerd::pods::Cluster;

/// Capabilities by their numbers (capability.h).
const NUMBERS: [(&str, u32); 3] = [("NET_ADMIN", 12), ("PERFMON", 38), ("BPF", 39)];

/// The capabilities of the manifest and no more, none to be gained, nothing to be written but in its mounts, and half a
/// gigabyte.
pub(crate) fn check(cluster: &Cluster) -> Result<()> {
    let manifest = AgentManifest::read()?;
    let wanted = manifest.capabilities_of("agent").iter().try_fold(0, |all, name| {
        let found = NUMBERS.iter().find(|(known, _)| known == name).with_context(|| name.clone())?;
        anyhow::Ok(all | 1_u64 << found.1)
    })?;
    for node in &cluster.nodes {
        let process = node.agent.process(&node.runtime)?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| -> Result<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.with_context(|| name.to_owned())?.trim())
        };
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            ensure!(u64::from_str_radix(field(set)?, 16)? == wanted, "{set}: {}", field(set)?);
        }
        ensure!(field("NoNewPrivs")? == "1", "{status}");
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo"))?;
        let is_read_only = |at: &str| -> Result<bool> {
            let fields: Vec<&str> = mounts
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>())
                .find(|fields| fields.get(4) == Some(&at))
                .with_context(|| format!("{at} is no mount of {process}: {mounts}"))?;
            Ok(fields.get(5).is_some_and(|options| options.split(',').any(|one| one == "ro")))
        };
        for (at, read_only) in [("/", true), ("/proc/sys", true)]
            .map(|(at, is)| (at.to_owned(), is))
            .iter()
            .chain(&manifest.mounts_of("agent"))
        {
            ensure!(is_read_only(at)? == *read_only, "{at} can be read only: {}", !read_only);
        }
        let limit = node.runtime.memory_limit_of(&node.agent.ids()[1])?;
        ensure!(limit == 512 << 20, "{limit} bytes");
    }
    Ok(())
}
