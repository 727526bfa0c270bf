//! The file system in which maps are pinned.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebpf_common::abi::ABI_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::OpenError;

/// The directory of this layout version below `root`, made if it is not there.
///
/// A path that is not on bpffs is refused: pins on another file system fail one
/// by one, and in a container the mount may be missing.
pub(super) fn pin_directory(root: &Path) -> Result<PathBuf, OpenError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing)
        .map_err(|errno| OpenError::PinRoot { path: existing.to_owned(), source: errno.into() })?
        .filesystem_type();
    if kind != BPF_FS_MAGIC {
        return Err(OpenError::NotBpffs { path: root.to_owned() });
    }
    let directory = root.join(format!("v{ABI_VERSION}"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|source| OpenError::PinRoot { path: directory.clone(), source })?;
    Ok(directory)
}
