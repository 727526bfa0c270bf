//! When flows must be judged again.

use ebpf_common::abi::{PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, RowValue};

/// Whether the second row allows less than the first. `covers` says whether one profile
/// allows all that another allows.
pub(super) fn narrows(before: RowValue, after: RowValue, covers: &dyn Fn(u32, u32) -> bool) -> bool {
    match (before.profile, after.profile) {
        (before, after) if before == after => false,
        (PROFILE_DENY_ALL, _) | (_, PROFILE_ALLOW_ALL) => false,
        (PROFILE_ALLOW_ALL, _) | (_, PROFILE_DENY_ALL) => true,
        (before, after) => !covers(after, before),
    }
}
