//! Taking a node over from aws-node and giving it back, with its pods running.
//!
//! | step | what | where |
//! |---|---|---|
//! | before anything is touched | wait until aws-node is not alive on the node | [`Presence`], [`wait_until_gone`] |
//! | always | lists of others that take pods away are told of | [`watch_lists`] |
//! | start | pods that it wired are adopted, by its checkpoint and what stands | `app::recover` |
//! | when ours stands | its conflist is set aside, its translation rules and twins of our rules go | [`displace`] |
//! | while we run | its checkpoint is kept as it would keep it; should it come back, no pod is added | [`keep_record`], [`watch_for_return`] |
//! | `uninstall` | checkpoint, conflist, then our table, filters and pins | [`give_back`] |
//!
//! Filters of the node agent are replaced by the datapath when it attaches ours.

mod conflist;
mod displace;
mod gate;
mod give_back;
mod lists;
mod presence;
mod record;
mod translation;

pub use displace::displace;
pub use gate::{wait_until_gone, watch_for_return};
pub use give_back::give_back;
pub use lists::watch_lists;
pub use presence::Presence;
pub use record::{is_current, keep_record, set_superseded_aside};
