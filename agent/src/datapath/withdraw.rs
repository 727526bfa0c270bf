//! Leaving a node.

use std::collections::BTreeSet;
use std::path::Path;

use netlink::link;
use netlink::tc::{self, Hook};
use netlink::{Batch, Socket};

use super::attach::{HANDLE, PRIORITY, is_ours};
use super::tcx::{is_link, linked};
use super::{AttachError, bpffs};

/// Takes our filters off every link of the calling thread's namespace, then removes what we pin below `root`, and
/// nothing of others there; tcx links end with their pins. Returns how many links had filters. Nothing is loaded for
/// it. From then on every packet passes: pods run on without policy.
///
/// # Errors
/// Where `root` is there and not on bpffs, with nothing done. At the first thing that the kernel refuses; it may be
/// called again.
pub fn withdraw(root: &Path) -> Result<usize, AttachError> {
    let wrap = |ifindex| move |source| AttachError::Netlink { ifindex, source };
    let mut socket = Socket::open().map_err(wrap(0))?;
    let pin = |error: std::io::Error| AttachError::Pin { ifindex: 0, source: error.into() };
    let mut links = BTreeSet::<u32>::new();
    for folder in bpffs::pin_directories(root).map_err(pin)? {
        links.extend(linked(&folder)?);
    }
    for link in link::list(&mut socket).map_err(wrap(0))? {
        let mut batch = Batch::new();
        for hook in [Hook::Ingress, Hook::Egress] {
            let filters = tc::filters(&mut socket, link.index, hook).map_err(wrap(link.index))?;
            if filters.iter().any(is_ours) {
                tc::delete_filter(&mut batch, link.index, hook, PRIORITY, HANDLE);
            }
        }
        if !batch.is_empty() {
            links.insert(link.index);
        }
        socket.run(batch).map_err(wrap(link.index))?;
    }
    bpffs::unpin_all(root, is_link).map_err(pin)?;
    Ok(links.len())
}
