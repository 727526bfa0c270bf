//! BPF programs and maps for tests that stand in for somebody else's datapath: made by the bare system call, and
//! pinned. What is pinned lives as long as its pin or its filter.

use std::ffi::CString;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// `BPF_OBJ_NAME_LEN`, with the zero at its end.
const NAME_LEN: usize = 16;

/// The fields of `union bpf_attr` that a load needs.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LEN],
}

/// The fields of `union bpf_attr` that a map needs.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_LEN],
}

/// The fields of `union bpf_attr` that a pin needs.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Loads a classifier that returns `verdict` (`TC_ACT_OK` is 0) for every packet, and pins it at `path`.
///
/// # Errors
/// The system call's, with the path.
pub fn pin_classifier(path: &Path, name: &str, verdict: i32) -> Result<()> {
    // r0 = verdict; exit
    let instructions: [u64; 2] = [0xb7 | u64::from(u32::from_ne_bytes(verdict.to_ne_bytes())) << 32, 0x95];
    let program = load(&instructions, name)?;
    pin(&program, path)
}

/// Loads a classifier.
pub(crate) fn load(instructions: &[u64], name: &str) -> Result<OwnedFd> {
    let license = c"GPL";
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: u32::try_from(instructions.len())?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: object_name(name),
    };
    object(BPF_PROG_LOAD, &attributes).with_context(|| format!("loading {name}"))
}

/// Makes a hash map of u32 to u64 and pins it at `path`.
///
/// # Errors
/// The system call's, with the path.
pub fn pin_map(path: &Path, name: &str) -> Result<()> {
    let map = map(BPF_MAP_TYPE_HASH, 4, 8, 2, name)?;
    pin(&map, path)
}

/// Makes a map.
pub(crate) fn map(
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    name: &str,
) -> Result<OwnedFd> {
    let attributes = MapCreate {
        map_type,
        key_size,
        value_size,
        max_entries,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: object_name(name),
    };
    object(BPF_MAP_CREATE, &attributes).with_context(|| format!("making the map {name}"))
}

fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjPin {
        pathname: pathname.as_ptr() as u64,
        bpf_fd: u32::try_from(object.as_raw_fd())?,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).with_context(|| format!("pinning {}", path.display())).map(drop)
}

/// As much of the name as the kernel keeps.
fn object_name(name: &str) -> [u8; NAME_LEN] {
    let mut kept = [0; NAME_LEN];
    for (place, octet) in kept[..NAME_LEN - 1].iter_mut().zip(name.bytes()) {
        *place = octet;
    }
    kept
}

/// A call that returns a descriptor.
#[expect(unsafe_code, reason = "takes a raw descriptor from a system call")]
pub(crate) fn object<T>(command: libc::c_long, attributes: &T) -> Result<OwnedFd, Error> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the system call just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `bpf(2)`. Buffers that fields of `attributes` point to must be as large as the command has it.
#[expect(unsafe_code, reason = "the bpf system call has no safe wrapper here")]
pub(crate) fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i32, Error> {
    // SAFETY: the pointer and length describe `attributes`, which outlives the call, as do the buffers that its
    // callers' fields point to; the kernel takes the fields after them as zero. It writes only to buffers for a map's
    // key or value, which have the sizes that the map has.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    i32::try_from(outcome).ok().filter(|outcome| *outcome >= 0).ok_or_else(Error::last_os_error)
}

/// The fields of `union bpf_attr` that an access to an element needs. The fourth is the value, or the next key.
#[repr(C)]
pub(crate) struct Element {
    pub(crate) map_fd: u32,
    pub(crate) unused: u32,
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) flags: u64,
}
