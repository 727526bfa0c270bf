//! Counters: every packet ends in exactly one reason.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which way a packet crosses the pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// To the pod.
    In = 0,
    /// From the pod.
    Out = 1,
}

/// Declares the reasons once: discriminant, metric label and meaning together.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $label:literal, $pass:literal;)*) => {
        /// Why a packet passed or was dropped. The numbers are part of the layout.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $value,)*
        }

        impl Reason {
            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label of metrics and events.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Whether a packet with this reason passes.
            #[inline(always)]
            #[must_use]
            pub const fn passes(self) -> bool {
                match self { $(Self::$name => $pass,)* }
            }
        }

        impl TryFrom<u8> for Reason {
            type Error = u8;

            fn try_from(value: u8) -> Result<Self, u8> {
                match value { $($value => Ok(Self::$name),)* other => Err(other) }
            }
        }
    };
}

reasons! {
    /// A flow that was decided before.
    Established = 0, "established", true;
    /// A new flow that policy allows, or that no policy isolates.
    New = 1, "new", true;
    /// A flow evaluated again after a change, and still allowed.
    Reevaluated = 2, "reevaluated", true;
    /// An ICMP error that belongs to a flow.
    Related = 3, "related", true;
    /// To the pod from its own node.
    LocalNode = 4, "local_node", true;
    /// From the pod to itself by a service.
    Hairpin = 5, "hairpin", true;
    /// ARP, neighbour discovery or multicast listener reports of the pod's link.
    Link = 6, "link", true;
    /// From the pod to an address of its own node that is no service's.
    ToNode = 7, "to_node", true;
    /// Policy denies it, and audit mode let it pass.
    Audited = 8, "audited", true;
    /// Allowed by no policy's isolation, without an entry as the budget is spent.
    Unrecorded = 9, "unrecorded", true;

    /// Policy denies the new flow.
    Policy = 32, "policy", false;
    /// The flow was denied when it was evaluated again.
    Revoked = 33, "revoked", false;
    /// Tagged, or of a type that is neither IPv4, IPv6 nor ARP.
    EtherType = 34, "ethertype", false;
    /// Shorter than its own headers say, or than they need.
    Truncated = 35, "truncated", false;
    /// A header that contradicts itself.
    Malformed = 36, "malformed", false;
    /// More IPv6 extension headers than are followed, or one unknown.
    Extension = 37, "extension", false;
    /// A fragment whose first one was not seen, or which overlaps its headers.
    Fragment = 38, "fragment", false;
    /// The source address or hardware address is not the pod's.
    Spoofed = 39, "spoofed", false;
    /// To an address that is not the pod's.
    NotOurs = 40, "not_ours", false;
    /// ARP or neighbour discovery that speaks for somebody else.
    Neighbor = 41, "neighbor", false;
    /// A router advertisement or redirect.
    Router = 42, "router", false;
    /// No endpoint in the filter's slot, or one of another interface.
    NoEndpoint = 43, "no_endpoint", false;
    /// A value was overwritten at each attempt to read it.
    Torn = 44, "torn", false;
    /// A cluster IP without an entry.
    NoService = 45, "no_service", false;
    /// A set, class or profile without rows: fail closed.
    NoRow = 46, "no_row", false;
    /// An isolated pod's budget of new entries is spent.
    Budget = 47, "budget", false;
}

/// Reasons have numbers below this.
const REASONS: u32 = 64;

/// Entries of `stats`.
pub const STATS_LEN: u32 = 2 * REASONS;

/// The index in `stats` of events that found no room in the ring; a packet's own index is counted beside it.
pub const LOST_EVENTS: u32 = REASONS - 1;

/// The index in `stats` of a direction and reason.
#[inline(always)]
#[must_use]
pub const fn stat_index(dir: Direction, reason: Reason) -> u32 {
    (dir as u32) * REASONS + reason as u32
}

/// Value of `stats` and `rulehits`, one per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Packets. In `rulehits`: packets that this rule decided, not those of
    /// flows already decided.
    pub packets: u64,
    /// Their bytes, link header included.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_labels_and_indexes_are_one_to_one() {
        let mut labels = std::collections::BTreeSet::new();
        let mut indexes = std::collections::BTreeSet::new();
        for &reason in Reason::ALL {
            assert_eq!(Reason::try_from(reason as u8), Ok(reason));
            assert_eq!(reason.passes(), (reason as u32) < 32, "{reason:?}");
            assert!(labels.insert(reason.label()));
            for dir in [Direction::In, Direction::Out] {
                assert!(stat_index(dir, reason) < STATS_LEN);
                assert_ne!(stat_index(dir, reason), LOST_EVENTS);
                assert!(indexes.insert(stat_index(dir, reason)));
            }
        }
        assert_eq!(Reason::try_from(31), Err(31));
    }
}
