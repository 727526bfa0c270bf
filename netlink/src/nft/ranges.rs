//! Address ranges of an interval set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
}

impl Range {
    /// The address after the last; none after the last one of all.
    pub(crate) fn end(&self) -> Option<IpAddr> {
        match self.last {
            IpAddr::V4(last) => last.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
            IpAddr::V6(last) => last.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
        }
    }
}

/// The same addresses as ranges that neither overlap nor touch, in order. The
/// kernel refuses a set with overlapping intervals.
pub fn merge(networks: &[IpNetwork]) -> Vec<Range> {
    let mut sorted: Vec<Range> = networks
        .iter()
        .map(|network| Range { first: network.network(), last: network.broadcast() })
        .collect();
    sorted.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(previous)
                if previous.first.is_ipv4() == range.first.is_ipv4()
                    && previous.end().is_none_or(|end| range.first <= end) =>
            {
                previous.last = previous.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(networks: &[&str], expected: &[(&str, &str)]) {
        let networks: Vec<IpNetwork> = networks.iter().map(|text| text.parse().expect("a network")).collect();
        let expected: Vec<Range> = expected
            .iter()
            .map(|(first, last)| Range {
                first: first.parse().expect("valid"),
                last: last.parse().expect("valid"),
            })
            .collect();
        assert_eq!(merge(&networks), expected);
    }

    #[test]
    fn cases() {
        check(&[], &[]);
        check(&["10.0.0.0/16"], &[("10.0.0.0", "10.0.255.255")]);
        check(&["10.1.0.0/16", "10.0.0.0/16"], &[("10.0.0.0", "10.1.255.255")]);
        check(&["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32"], &[("10.0.0.0", "10.255.255.255")]);
        check(&["0.0.0.0/0", "10.0.0.0/8"], &[("0.0.0.0", "255.255.255.255")]);
        check(&["10.0.0.0/16", "10.2.0.0/16"], &[("10.0.0.0", "10.0.255.255"), ("10.2.0.0", "10.2.255.255")]);
        check(
            &["255.255.255.0/24", "fd00::/64"],
            &[("255.255.255.0", "255.255.255.255"), ("fd00::", "fd00::ffff:ffff:ffff:ffff")],
        );
    }

    proptest! {
        #[test]
        fn same_addresses_and_apart(parts in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12), probe: u32) {
            let networks: Vec<IpNetwork> = parts
                .iter()
                .map(|(bits, prefix)| IpNetwork::new(Ipv4Addr::from_bits(*bits).into(), *prefix).expect("valid"))
                .collect();
            let ranges = merge(&networks);
            let probe = IpAddr::from(Ipv4Addr::from_bits(probe));
            let points = networks.iter().flat_map(|network| [network.network(), network.broadcast()]).chain([probe]);
            for point in points {
                let inside = ranges.iter().any(|range| range.first <= point && point <= range.last);
                prop_assert_eq!(inside, networks.iter().any(|network| network.contains(point)));
            }
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end().is_some_and(|end| end < pair[1].first));
            }
        }
    }
}
