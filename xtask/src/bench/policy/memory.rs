//! What the agent takes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    /// Of the agent's process, now.
    pub(super) resident: u64,
    /// At its highest.
    pub(super) highest: u64,
    /// Of its maps in the kernel.
    pub(super) maps: u64,
}

/// Of the process with this id.
pub(super) fn of(pid: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let kilobytes = |name: &str| field(&status, name).map_or(0, |value| value * 1024);
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Those that were closed meanwhile are no maps.
        let Ok(info) = std::fs::read_to_string(entry?.path()) else { continue };
        if let (Some(id), Some(bytes)) = (field(&info, "map_id:"), field(&info, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(Memory { resident: kilobytes("VmRSS:"), highest: kilobytes("VmHWM:"), maps: maps.values().sum() })
}

/// The number behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let status = "VmHWM:\t   1024 kB\nVmRSS:\t    512 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "VmHWM:")), (Some(512), Some(1024)));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
