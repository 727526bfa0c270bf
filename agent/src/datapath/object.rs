//! The compiled programs inside the agent's own file.

use ebpf_common::abi::{ABI_SECTION, ABI_VERSION};
use object::{File, Object, ObjectSection};

use super::OpenError;

/// The object that `build.rs` was given, or nothing. Aligned as the loader needs it.
pub static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));

/// Programs of other layouts would take what the agent writes for something else.
pub(super) fn check_version(object: &[u8]) -> Result<(), OpenError> {
    match version(object) {
        Some(ABI_VERSION) => Ok(()),
        found => Err(OpenError::Object { found, wanted: ABI_VERSION }),
    }
}

fn version(object: &[u8]) -> Option<u32> {
    let file = File::parse(object).ok()?;
    let bytes = file.section_by_name(ABI_SECTION)?.data().ok()?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
