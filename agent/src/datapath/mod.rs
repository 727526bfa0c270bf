//! The kernel programs and their maps.
//!
//! Everything that decides about packets lives in the kernel and outlives the
//! agent: maps are pinned below `<root>/v<ABI_VERSION>/`, one per name, and filters
//! hold their programs. This module loads, writes, attaches, and reads back; it
//! decides nothing and orders nothing: steps come in the right order.
//!
//! All calls block, for milliseconds at most (loading: 0.1 s, a grace period:
//! some 10 ms). Netlink goes to the namespace in which [`Datapath::open`] was called.

#![expect(
    unsafe_code,
    reason = "bpf and membarrier system calls that have no safe wrapper, and aya's marker for map types"
)]

mod apply;
mod attach;
mod bpffs;
mod bulk;
mod counters;
mod endpoint;
mod error;
mod events;
mod grace;
mod incumbent;
mod inherit;
mod maps;
mod object;
mod open;
mod plain;
mod read_back;
mod seed;
mod sizes;
mod syscall;
mod tcx;
mod test_run;
mod withdraw;

pub use attach::{Attached, HANDLE, PRIORITY, Survey, Via};
pub use counters::{Count, RuleHit};
pub use endpoint::EndpointSpec;
pub use error::{ApplyError, AttachError, InheritError, MapError, OpenError, Unfinished};
pub use events::{EventReader, Listener};
pub use grace::wait as wait_grace;
pub use object::EMBEDDED;
pub use open::{Datapath, Options};
pub use sizes::Sizes;
pub use tcx::has_tcx;
pub use test_run::{Ran, TestContext};
pub use withdraw::withdraw;
