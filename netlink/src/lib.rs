//! Links, addresses, routes, rules, neighbours, nftables and tracked connections by netlink.
//!
//! Membership test: what both the agent and the plugin say to the kernel's
//! network stack, in the kernel's own terms; nothing here knows what a pod is.
//! Requests are synchronous and go out in [`Batch`]es, one system call for many;
//! only [`monitor`]'s `Changes` (feature `tokio`) needs a runtime.

#![forbid(unsafe_code)]

pub mod address;
mod batch;
pub mod conntrack;
mod error;
pub mod link;
mod mac;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod route;
pub mod rule;
mod socket;
pub mod tc;
mod wire;

pub use batch::{Batch, EXISTS, MISSING};
pub use error::Error;
pub use mac::{Mac, ParseMacError};
pub use route::{Family, PROTOCOL, PROTOCOL_KERNEL, TABLE_LOCAL, TABLE_MAIN};
pub use socket::{Message, Socket};
