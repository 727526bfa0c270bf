//! Host networking as desired state: routes, rules, neighbours, sysctls, ENI links, and the nftables table.
//!
//! [`plan`] is a pure function of what is wanted and what the kernel has; [`HostNet`] observes, plans and executes,
//! and [`keep`] does so on every change that somebody else makes. Only what carries our own protocol number is
//! ever removed, with one exception: the route that the kernel makes for a secondary ENI's subnet in the main
//! table, which would send the node's own packets to that subnet out of the wrong ENI.
//!
//! | priority | rule | when |
//! |---|---|---|
//! | 512 | to the pod, look in main | every pod |
//! | 1024 | mark 0x80/0x80, look in main | what leaves by the primary ENI |
//! | 1535 | to an external service CIDR, look in main | where configured |
//! | 1536 | from the pod, look in table T | pods not on the primary ENI |
//! | 32765 | from a secondary ENI's own address, look in T | every secondary ENI |
//!
//! Table T (device index + 1) has the ENI's gateway and a default route by it; main has the route to each pod.
//! Priorities, tables and mark are those of the incumbent, so that a node can be taken over with its pods running.

mod action;
mod desired;
mod execute;
mod handle;
mod incumbent;
mod keep;
mod known;
mod observed;
mod pace;
mod plan;
mod reconcile;
mod snat;
mod standing;
mod sysctl;
mod wanted;

pub use action::{Action, ActionKind};
pub use desired::{Desired, EniLink, NodeNet, PodRoute, PortChoice, SnatMode, table_of};
pub use handle::HostNet;
pub use incumbent::withdraw_translation;
pub use keep::keep;
pub use observed::Observed;
pub use plan::plan;
pub use reconcile::{Refused, Report};
pub use standing::StandingLink;
pub use sysctl::enable_forwarding;
pub use wanted::Finding;

/// Why the host could not be observed or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostNetError {
    /// The kernel or its socket failed.
    #[error("host networking")]
    Netlink(#[from] netlink::Error),
    /// The thread that did the work was lost with its runtime.
    #[error("the work on host networking was cancelled")]
    Cancelled,
}

#[cfg(test)]
mod tests;
