//! The file system in which maps are pinned.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebpf_common::abi::{ABI_VERSION, map};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::OpenError;

/// The directory of this layout version below `root`, made if it is not there.
///
/// A path that is not on bpffs is refused: pins on another file system fail one
/// by one, and in a container the mount may be missing.
pub(super) fn pin_directory(root: &Path) -> Result<PathBuf, OpenError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_bpffs =
        is_bpffs(existing).map_err(|source| OpenError::PinRoot { path: existing.to_owned(), source })?;
    if !is_bpffs {
        return Err(OpenError::NotBpffs { path: root.to_owned() });
    }
    let directory = of_version(root, ABI_VERSION);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|source| OpenError::PinRoot { path: directory.clone(), source })?;
    Ok(directory)
}

/// The root of the bpf file system that a path is or will be on; its parent where it is on none.
pub(super) fn mount_of(path: &Path) -> &Path {
    let above = path.ancestors().skip_while(|path| !path.exists());
    let on_bpffs = above.take_while(|path| is_bpffs(path).unwrap_or(false));
    on_bpffs.last().or_else(|| path.parent()).unwrap_or(path)
}

/// Folders of ours below `root`, of this layout version and of those before it.
///
/// # Errors
/// Where `root` is there and not on bpffs: what is in it is not ours.
pub(super) fn pin_directories(root: &Path) -> io::Result<Vec<PathBuf>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    if !is_bpffs(root)? {
        let message = format!("{} is not on a bpf file system: nothing in it is ours", root.display());
        return Err(io::Error::new(ErrorKind::InvalidInput, message));
    }
    Ok((1..=ABI_VERSION).map(|version| of_version(root, version)).filter(|folder| folder.is_dir()).collect())
}

fn of_version(root: &Path, version: u32) -> PathBuf {
    root.join(format!("v{version}"))
}

/// Removes what we pin below `root`, then the folders that are empty by that. What others have there stays.
///
/// # Errors
/// As [`pin_directories`], and where a pin cannot be removed.
pub(super) fn unpin_all(root: &Path, is_link: impl Fn(&str) -> bool) -> io::Result<()> {
    for folder in pin_directories(root)? {
        unpin(&folder, &is_link)?;
    }
    // `root` may be the mount itself, which nobody removes by this.
    if root.parent().is_some_and(|above| is_bpffs(above).unwrap_or(false)) {
        remove_empty(root)
    } else {
        Ok(())
    }
}

/// Removes what agents with older layouts pinned beside `pins`, which is this one's. Returns how many folders.
///
/// # Errors
/// Where a pin cannot be removed.
pub(super) fn unpin_older(pins: &Path, is_link: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut count = 0;
    let root = pins.parent().unwrap_or(pins);
    for folder in (1..ABI_VERSION).map(|version| of_version(root, version)).filter(|folder| folder.is_dir()) {
        unpin(&folder, &is_link)?;
        count += 1;
    }
    Ok(count)
}

fn unpin(folder: &Path, is_link: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| map::ALL.contains(&name) || is_link(name)) {
            unless(ErrorKind::NotFound, fs::remove_file(folder.join(name)))?;
        }
    }
    remove_empty(folder)
}

fn remove_empty(folder: &Path) -> io::Result<()> {
    unless(ErrorKind::NotFound, unless(ErrorKind::DirectoryNotEmpty, fs::remove_dir(folder)))
}

fn unless(fine: ErrorKind, done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == fine { Ok(()) } else { Err(error) })
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}
