//! Reading maps that somebody pinned, by the bare system call: what is in them, not what their owner believes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bpf::{Element, bpf, object};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;

/// Types of maps whose entries mean something one by one (bpf.h): hash, array, LPM trie.
const READABLE: [usize; 3] = [1, 2, 11];

/// The fields of `union bpf_attr` that opening a pin needs.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// How many entries of each map pinned below `root` are not zero, by the pin's path. Caches, which forget by
/// themselves, counters of each processor and ring buffers are left out.
///
/// # Errors
/// The system call's, with the path.
pub fn entries_in_use(root: &Path) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if let Some(count) = count(&path).with_context(|| path.display().to_string())? {
                found.insert(path.strip_prefix(root)?.display().to_string(), count);
            }
        }
    }
    Ok(found)
}

/// The memory that the kernel says a pinned map takes, in bytes.
///
/// # Errors
/// The system call's, or where the pin is of no map.
pub fn memory(path: &Path) -> Result<usize> {
    let (_, info) = open(path).with_context(|| path.display().to_string())?;
    field(&info, "memlock").with_context(|| format!("{} is no map", path.display()))
}

/// What a pin is of, and what the kernel tells of it.
fn open(path: &Path) -> Result<(OwnedFd, String)> {
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let map = object(BPF_OBJ_GET, &ObjGet { pathname: pathname.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    Ok((map, info))
}

fn field(info: &str, name: &str) -> Option<usize> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

fn count(path: &Path) -> Result<Option<usize>> {
    let (map, info) = open(path)?;
    let field = |name| field(&info, name);
    // A pin may be of a program or a link, too.
    let (Some(kind), Some(key_size), Some(value_size)) =
        (field("map_type"), field("key_size"), field("value_size"))
    else {
        return Ok(None);
    };
    if !READABLE.contains(&kind) {
        return Ok(None);
    }
    let map_fd = u32::try_from(map.as_raw_fd())?;
    let mut used = 0;
    let mut last: Option<Vec<u8>> = None;
    loop {
        let (mut key, mut value) = (vec![0_u8; key_size], vec![0_u8; value_size]);
        let before = last.as_ref().map_or(0, |key| key.as_ptr() as u64);
        let next = Element { map_fd, unused: 0, key: before, value: key.as_mut_ptr() as u64, flags: 0 };
        match bpf(BPF_MAP_GET_NEXT_KEY, &next) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Some(used)),
            outcome => drop(outcome?),
        }
        let look = Element {
            map_fd,
            unused: 0,
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // One that went in between is not there.
        let there = bpf(BPF_MAP_LOOKUP_ELEM, &look).is_ok();
        used += usize::from(there && value.iter().any(|octet| *octet != 0));
        last = Some(key);
    }
}
