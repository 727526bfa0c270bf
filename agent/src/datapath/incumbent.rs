//! The filters, programs and maps of aws-network-policy-agent, the node agent that runs beside aws-node.
//!
//! Its filters stand on clsact with priority 1 and handle 1, all protocols, and their verdict ends the chain: what
//! stands behind them never runs. They hold their programs without it, and programs and maps are pinned:
//!
//! | pin | below `globals/aws/` |
//! |---|---|
//! | programs | `programs/<pods>_handle_ingress`, `programs/<pods>_handle_egress`; ingress is towards the pod |
//! | maps of some pods | `maps/<pods>_ingress_map`, `_cp_ingress_map`, `_ingress_pod_state_map`, and so for egress |
//! | maps of the node | `maps/global_aws_conntrack_map`, `maps/global_policy_events` |
//!
//! `<pods>` stands for all pods of one name without its last part, so that a pin goes when the last link lets go of
//! its program. Its folders stay: its agent walks them when it starts. (aws-network-policy-agent v1.3,
//! `pkg/utils/utils.go`, `pkg/ebpf/bpf_client.go`; aws-ebpf-sdk-go, `pkg/tc/tc.go`.)

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aya::programs::ProgramInfo;
use netlink::link;
use netlink::tc::{self, Filter};

use super::attach::HOOKS;
use super::{AttachError, Datapath, bpffs};

const PRIORITY: u16 = 1;
const HANDLE: u32 = 1;
/// Names of its programs, which its filters have too.
const PROGRAMS: [&str; 2] = ["handle_ingress", "handle_egress"];
/// Before the names of pins that belong to the node.
const OF_NODE: &str = "global_";

/// Where it pins what it has.
#[derive(Debug)]
pub(super) struct Incumbent {
    programs: PathBuf,
    maps: PathBuf,
}

impl Incumbent {
    /// On the bpf file system on which `pins`, the folder of our own pins, lies too.
    pub(super) fn beside(pins: &Path) -> Self {
        let root = bpffs::mount_of(pins).join("globals/aws");
        Self { programs: root.join("programs"), maps: root.join("maps") }
    }

    /// Whether a filter is its: the program is pinned where it pins them. Where the pin went before the filter, its
    /// name tells, on a node on which there is such a place at all.
    pub(super) fn has(&self, filter: &Filter) -> bool {
        let place = filter.kind == "bpf" && filter.priority == PRIORITY && filter.handle == HANDLE;
        let named = |name: &String| PROGRAMS.contains(&name.as_str());
        place
            && filter.direct_action
            && (filter.name.as_ref().is_some_and(named) && self.programs.is_dir()
                || filter.program.is_some_and(|id| self.pinned().values().any(|pinned| *pinned == id)))
    }

    /// Its pinned programs: the name of each pin, and the program's id.
    fn pinned(&self) -> BTreeMap<String, u32> {
        let names = names(&self.programs).unwrap_or_default().into_iter();
        names
            .filter_map(|name| {
                let info = ProgramInfo::from_pin(self.programs.join(&name)).ok()?;
                Some((name, info.id()))
            })
            .collect()
    }

    /// Whether anything of it is pinned.
    fn is_there(&self) -> bool {
        [&self.programs, &self.maps]
            .into_iter()
            .any(|folder| names(folder).is_ok_and(|names| !names.is_empty()))
    }

    /// Removes pins of programs that are not `held` by a filter, with the maps that belong to them, and what belongs
    /// to the node after the last.
    fn unpin_all_but(&self, held: &BTreeSet<u32>) -> io::Result<usize> {
        let mut gone = 0;
        let (mut kept, mut unpin) = (BTreeSet::new(), BTreeSet::new());
        for (name, id) in self.pinned() {
            let Some(pods) = pods_of(&name) else { continue };
            if held.contains(&id) {
                kept.insert(pods.to_owned());
            } else {
                unpin.insert(name);
            }
        }
        for name in &unpin {
            remove(&self.programs.join(name))?;
            gone += 1;
        }
        for name in names(&self.maps)? {
            let of_node = name.starts_with(OF_NODE);
            let held =
                if of_node { !kept.is_empty() } else { kept.iter().any(|pods| is_map_of(&name, pods)) };
            if !held && (of_node || is_map(&name)) {
                remove(&self.maps.join(&name))?;
                gone += 1;
            }
        }
        Ok(gone)
    }
}

impl Datapath {
    /// Removes the node agent's pins that no link needs any more; returns how many. Nothing is looked at where
    /// there are none.
    ///
    /// # Errors
    /// Where links cannot be listed or a pin cannot be removed.
    pub fn unpin_incumbent(&mut self) -> Result<usize, AttachError> {
        if !self.incumbent.is_there() {
            return Ok(0);
        }
        let wrap = |source| AttachError::Netlink { ifindex: 0, source };
        let mut held = BTreeSet::new();
        for link in link::list(&mut self.netlink).map_err(wrap)? {
            for (_, hook) in HOOKS {
                let filters = tc::filters(&mut self.netlink, link.index, hook).map_err(wrap)?;
                held.extend(filters.into_iter().filter_map(|filter| filter.program));
            }
        }
        self.incumbent
            .unpin_all_but(&held)
            .map_err(|error| AttachError::Pin { ifindex: 0, source: error.into() })
    }
}

/// The pods in the name of a program's pin.
fn pods_of(name: &str) -> Option<&str> {
    PROGRAMS.iter().find_map(|program| name.strip_suffix(program)?.strip_suffix('_'))
}

fn is_map_of(name: &str, pods: &str) -> bool {
    let rest = name.strip_prefix(pods).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| MAPS.contains(&rest))
}

fn is_map(name: &str) -> bool {
    MAPS.iter().any(|map| name.strip_suffix(map).is_some_and(|rest| rest.ends_with('_')))
}

/// Names of the maps that belong to pods.
const MAPS: [&str; 6] = [
    "ingress_map",
    "cp_ingress_map",
    "ingress_pod_state_map",
    "egress_map",
    "cp_egress_map",
    "egress_pod_state_map",
];

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove(pin: &Path) -> io::Result<()> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_understood() {
        assert_eq!(pods_of("web-5d@shop_handle_ingress"), Some("web-5d@shop"));
        assert_eq!(pods_of("a_b@shop_handle_egress"), Some("a_b@shop"));
        assert_eq!(pods_of("something_else"), None);
        assert!(is_map_of("web@shop_cp_ingress_map", "web@shop"));
        assert!(!is_map_of("web@shop2_ingress_map", "web@shop"));
        assert!(is_map("web@shop_egress_pod_state_map") && !is_map("somebodys_map"));
    }
}
