//! Links: reading them, veth pairs, and changes.

mod change;
mod read;
mod veth;

pub use change::{Ipv4Conf, LinkChange, change, delete, rename};
pub use read::{Link, by_index, by_mac, by_name, list};
pub use veth::{Veth, VethIndices, create_veth};

pub(crate) use read::parse;
