//! System calls without a wrapper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{Immutable, IntoBytes};

/// `BPF_PROG_QUERY` of `enum bpf_cmd`.
const BPF_PROG_QUERY: libc::c_long = 16;
/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// `BPF_MAP_DELETE_ELEM` of `enum bpf_cmd`.
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
/// `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`, since Linux 5.6.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// `BPF_MAP_DELETE_BATCH` of `enum bpf_cmd`, since Linux 5.6.
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// The part of `union bpf_attr` for batches.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for queries.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Programs at one of an interface's tcx hooks, in the order in which they run, by their ids. To look a
/// program up by its id would take `CAP_SYS_ADMIN`, so ids are all there is.
pub(super) fn query_tcx(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// The kernel takes no more on one hook (`BPF_MPROG_MAX`).
    const MOST: usize = 64;
    let mut ids = [0_u32; MOST];
    let mut attr = Query {
        target_ifindex: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: u32::try_from(MOST).unwrap_or(u32::MAX),
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel writes at most `prog_cnt` ids, for which there is room while the call lasts, and the
    // structure is as long as is said.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<Query>()) };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = (attr.prog_cnt as usize).min(MOST);
    Ok(ids[..count].to_vec())
}

/// The part of `union bpf_attr` for one entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes entries in their order, over older ones, and returns how many were
/// written: fewer than given only with an error.
pub(super) fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> (usize, io::Result<()>)
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let count = keys.len().min(values.len());
    batch(BPF_MAP_UPDATE_BATCH, map, keys.as_ptr().addr(), values.as_ptr().addr(), count)
}

/// Removes entries in their order, and returns how many were removed: fewer
/// than given only with an error, such as that the next one is not there.
pub(super) fn delete_batch<K: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    keys: &[K],
) -> (usize, io::Result<()>) {
    batch(BPF_MAP_DELETE_BATCH, map, keys.as_ptr().addr(), 0, keys.len())
}

/// `keys` and `values` are addresses of `count` plain values of the map's sizes.
fn batch(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    keys: usize,
    values: usize,
    count: usize,
) -> (usize, io::Result<()>) {
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys as u64,
        values: values as u64,
        // A call that is refused at once need not say how far it came.
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    let asked = attr.count;
    // SAFETY: keys and values are plain bytes (the callers' bounds), `count` of them are behind both addresses while
    // the call lasts, and the structure is as long as is said. That their sizes are the map's is up to whoever holds
    // the descriptor.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<Batch>()) };
    if ret == 0 {
        return (count, Ok(()));
    }
    let error = io::Error::last_os_error();
    let done = if attr.count == asked { 0 } else { attr.count as usize };
    (done.min(count), Err(error))
}

/// Writes one entry, over an older one.
pub(super) fn update_one<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    element(BPF_MAP_UPDATE_ELEM, map, std::ptr::from_ref(key).addr(), std::ptr::from_ref(value).addr())
}

/// Removes one entry.
pub(super) fn delete_one<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    element(BPF_MAP_DELETE_ELEM, map, std::ptr::from_ref(key).addr(), 0)
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, key: usize, value: usize) -> io::Result<()> {
    let attr = Element {
        map_fd: map.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: key as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: key and value are plain bytes (the callers' bounds) that live while the call lasts, and the structure is
    // as long as is said. That their sizes are the map's is up to whoever holds the descriptor.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Element>()) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `membarrier(MEMBARRIER_CMD_GLOBAL)`: returns after an RCU grace period.
pub(super) fn membarrier_global() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes integers only.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
