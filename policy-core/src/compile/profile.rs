//! Port profiles: disjoint ranges, and the prefixes that the trie holds.

use crate::ids::RuleId;
use crate::model::{PortRange, Protocol};

/// The content of a profile that neither denies nor allows everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    /// What is allowed and by which rule: sorted, disjoint.
    pub(super) allowed: Box<[(PortRange, RuleId)]>,
    /// Whom a denied packet is laid to.
    pub(super) isolation: RuleId,
}

impl Profile {
    /// The rule that allows a port, if one does.
    pub(super) fn allows(&self, protocol: Protocol, port: u16) -> Option<RuleId> {
        self.allowed.iter().find(|(range, _)| range.contains(protocol, port)).map(|(_, rule)| *rule)
    }

    /// Whether every packet that `other` allows is allowed by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.allowed.iter().all(|(wanted, _)| {
            let mut next = u32::from(wanted.first);
            for (have, _) in self.allowed.iter().filter(|(r, _)| r.protocol == wanted.protocol) {
                if u32::from(have.first) <= next && u32::from(have.last) >= next {
                    next = u32::from(have.last) + 1;
                }
            }
            next > u32::from(wanted.last)
        })
    }
}

/// Makes disjoint ranges of overlapping ones; where several allow a port, the first
/// in the list is named.
pub(super) fn disjoint(ranges: &[(PortRange, RuleId)]) -> Box<[(PortRange, RuleId)]> {
    let mut result: Vec<(PortRange, RuleId)> = Vec::new();
    for protocol in Protocol::ALL {
        let mine: Vec<_> = ranges.iter().filter(|(range, _)| range.protocol == protocol).collect();
        let mut starts: Vec<u32> =
            mine.iter().flat_map(|(range, _)| [u32::from(range.first), u32::from(range.last) + 1]).collect();
        starts.sort_unstable();
        starts.dedup();
        for pair in starts.windows(2) {
            let (Ok(first), Ok(last)) = (u16::try_from(pair[0]), u16::try_from(pair[1] - 1)) else {
                continue;
            };
            let owner = mine.iter().find(|(range, _)| range.contains(protocol, first));
            let Some((_, rule)) = owner else { continue };
            match result.last_mut() {
                Some((before, same))
                    if before.protocol == protocol
                        && same == rule
                        && u32::from(before.last) + 1 == u32::from(first) =>
                {
                    before.last = last;
                }
                _ => result.push((PortRange { protocol, first, last }, *rule)),
            }
        }
    }
    result.into_boxed_slice()
}

/// The prefixes (port, significant bits) that together are a range, at most 30.
pub(super) fn prefixes(range: PortRange) -> Vec<(u16, u8)> {
    let mut list = Vec::new();
    let mut next = u32::from(range.first);
    let end = u32::from(range.last) + 1;
    while next < end {
        // The largest block that starts here, is aligned and does not pass the end.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fitting = (end - next).ilog2();
        let size = aligned.min(fitting);
        let port = u16::try_from(next).expect("below the end, which is at most 65536");
        let bits = u8::try_from(16 - size).expect("at most 16");
        list.push((port, bits));
        next += 1 << size;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { protocol: Protocol::Tcp, first, last }
    }

    #[test]
    fn prefixes_of_known_ranges() {
        assert_eq!(prefixes(range(0, u16::MAX)), [(0, 0)]);
        assert_eq!(prefixes(range(80, 80)), [(80, 16)]);
        assert_eq!(prefixes(range(80, 83)), [(80, 14)]);
        assert_eq!(prefixes(range(1, 65534)).len(), 30);
        assert_eq!(prefixes(range(65535, 65535)), [(65535, 16)]);
    }

    proptest! {
        #[test]
        fn prefixes_are_exactly_the_range(a: u16, b: u16, probe: u16) {
            let range = range(a.min(b), a.max(b));
            let list = prefixes(range);
            prop_assert!(list.len() <= 30);
            let hits = |port: u16| list.iter().filter(|(base, bits)| {
                let mask = (0xffff_0000_u32 >> bits) as u16;
                port & mask == *base
            }).count();
            for port in [a, b, probe, a.wrapping_sub(1), b.wrapping_add(1)] {
                prop_assert_eq!(hits(port), usize::from(range.contains(Protocol::Tcp, port)));
            }
        }

        #[test]
        fn first_rule_in_the_list_owns_a_port(
            list in prop::collection::vec((any::<u16>(), any::<u16>(), 0_usize..3), 0..6),
            probe: u16,
        ) {
            let ranges: Vec<_> = list.iter().enumerate().map(|(i, (a, b, p))| {
                let rule = RuleId(u32::try_from(i).expect("few") + 1);
                (PortRange { protocol: Protocol::ALL[*p], first: *a.min(b), last: *a.max(b) }, rule)
            }).collect();
            let profile = Profile { allowed: disjoint(&ranges), isolation: RuleId(9) };
            for pair in profile.allowed.windows(2) {
                let ordered = pair[0].0.protocol != pair[1].0.protocol || pair[0].0.last < pair[1].0.first;
                prop_assert!(ordered);
            }
            let edges = ranges.iter().flat_map(|(r, _)| [r.first, r.last]).chain([probe]);
            for port in edges {
                for protocol in Protocol::ALL {
                    let direct = ranges.iter().find(|(r, _)| r.contains(protocol, port)).map(|(_, r)| *r);
                    prop_assert_eq!(profile.allows(protocol, port), direct);
                }
            }
            for (one, rule) in &ranges {
                let single = Profile { allowed: Box::new([(*one, *rule)]), isolation: RuleId(9) };
                prop_assert!(profile.covers(&single));
            }
        }
    }
}
