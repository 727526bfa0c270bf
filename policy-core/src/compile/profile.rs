//! Port profiles: tiers flattened to disjoint ranges, and the prefixes that the map holds.

use std::collections::BTreeMap;

use ebpf_common::abi::{PortAction, PortKey, PortValue};

use crate::ids::RuleId;
use crate::model::{Action, PortRange, Protocol};

/// What happens to a packet, and by which rule; rule 0: because nothing denies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Verdict {
    pub(super) allow: bool,
    pub(super) rule: RuleId,
}

/// The content of a profile that neither denies nor allows everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    /// The ports of which something else holds than of the rest: sorted, disjoint.
    pub(super) ranges: Box<[(PortRange, Verdict)]>,
    /// What holds for every other packet, those of protocols without ports too.
    pub(super) rest: Verdict,
}

/// A rule that reaches the class in question.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) rule: RuleId,
    pub(super) action: Action,
    /// None: any packet.
    pub(super) ports: Option<Vec<PortRange>>,
}

/// All rules that reach a class, by tier.
#[derive(Clone, Debug)]
pub(super) struct Tiers {
    pub(super) admin: Vec<Layer>,
    /// What NetworkPolicies accept, and what they say of all else; None: none isolates.
    pub(super) middle: Option<(Vec<Layer>, Verdict)>,
    pub(super) baseline: Vec<Layer>,
}

impl Verdict {
    pub(super) const fn allow(rule: RuleId) -> Self {
        Self { allow: true, rule }
    }

    pub(super) const fn deny(rule: RuleId) -> Self {
        Self { allow: false, rule }
    }

    fn value(self) -> PortValue {
        let action = if self.allow { PortAction::Allow } else { PortAction::Deny };
        PortValue::new(action, self.rule.0)
    }
}

/// The rules that speak of the ports at hand, by tier: how many of a rule's ranges do.
type Speaking = [BTreeMap<usize, u32>; 3];

impl Tiers {
    fn layers(&self, tier: usize) -> &[Layer] {
        match (tier, &self.middle) {
            (0, _) => &self.admin,
            (1, Some((accepted, _))) => accepted,
            (1, None) => &[],
            _ => &self.baseline,
        }
    }

    /// The rules that speak of every packet.
    fn always(&self) -> Speaking {
        std::array::from_fn(|tier| {
            let layers = self.layers(tier).iter().enumerate();
            layers.filter(|(_, layer)| layer.ports.is_none()).map(|(index, _)| (index, 1)).collect()
        })
    }

    /// The verdict where these rules speak.
    fn decide(&self, speaking: &Speaking) -> Verdict {
        let first = |tier: usize| {
            let layer =
                speaking[tier].first_key_value().and_then(|(index, _)| self.layers(tier).get(*index))?;
            match layer.action {
                Action::Accept => Some(Verdict::allow(layer.rule)),
                Action::Deny => Some(Verdict::deny(layer.rule)),
                Action::Pass => None,
            }
        };
        first(0)
            .or_else(|| self.middle.as_ref().map(|(_, rest)| first(1).unwrap_or(*rest)))
            .or_else(|| first(2))
            .unwrap_or(Verdict::allow(RuleId(0)))
    }

    /// Where ranges of a protocol start (true) and where they have ended, in order.
    fn edges(&self, protocol: Protocol) -> Vec<(u32, bool, usize, usize)> {
        let mut edges = Vec::new();
        for tier in 0..3 {
            for (index, layer) in self.layers(tier).iter().enumerate() {
                let ranges = layer.ports.iter().flatten().filter(|range| range.protocol == protocol);
                for range in ranges {
                    edges.push((u32::from(range.first), true, tier, index));
                    edges.push((u32::from(range.last) + 1, false, tier, index));
                }
            }
        }
        edges.sort_unstable();
        edges
    }

    /// One verdict for each port.
    pub(super) fn flatten(&self) -> Profile {
        let always = self.always();
        let rest = self.decide(&always);
        let mut ranges: Vec<(PortRange, Verdict)> = Vec::new();
        for protocol in Protocol::ALL {
            let (edges, mut speaking) = (self.edges(protocol), always.clone());
            for pair in edges.iter().zip(edges.iter().skip(1)) {
                let ((at, starts, tier, index), (next, ..)) = pair;
                let count = speaking[*tier].entry(*index).or_insert(0);
                *count = if *starts { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    speaking[*tier].remove(index);
                }
                let last = next.checked_sub(1).filter(|last| last >= at);
                let Some(last) = last.and_then(|last| u16::try_from(last).ok()) else { continue };
                let Ok(first) = u16::try_from(*at) else { continue };
                let verdict = self.decide(&speaking);
                if verdict == rest {
                    continue;
                }
                match ranges.last_mut() {
                    Some((before, same))
                        if before.protocol == protocol
                            && *same == verdict
                            && u32::from(before.last) + 1 == u32::from(first) =>
                    {
                        before.last = last;
                    }
                    _ => ranges.push((PortRange { protocol, first, last }, verdict)),
                }
            }
        }
        Profile { ranges: ranges.into_boxed_slice(), rest }
    }
}

/// The pieces (first, last) into which the ranges of a protocol cut each other.
fn cuts<'a>(protocol: Protocol, ranges: impl Iterator<Item = &'a PortRange>) -> Vec<(u16, u16)> {
    let mut starts: Vec<u32> = ranges
        .filter(|range| range.protocol == protocol)
        .flat_map(|range| [u32::from(range.first), u32::from(range.last) + 1])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let piece = |pair: &[u32]| Some((u16::try_from(pair[0]).ok()?, u16::try_from(pair[1] - 1).ok()?));
    starts.windows(2).filter_map(piece).collect()
}

impl Profile {
    /// The verdict for a port; of a protocol without ports, that for the rest.
    pub(super) fn decide(&self, protocol: Option<Protocol>, port: u16) -> Verdict {
        let found = protocol.and_then(|protocol| {
            let after =
                self.ranges.partition_point(|(range, _)| (range.protocol, range.last) < (protocol, port));
            self.ranges.get(after).filter(|(range, _)| range.contains(protocol, port))
        });
        found.map_or(self.rest, |(_, verdict)| *verdict)
    }

    /// Whether every packet that `other` allows is allowed by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        if other.rest.allow && !self.rest.allow {
            return false;
        }
        let both = || self.ranges.iter().chain(&other.ranges).map(|(range, _)| range);
        // Outside of both profiles' ranges the rests were compared.
        Protocol::ALL.into_iter().all(|protocol| {
            cuts(protocol, both()).into_iter().all(|(first, _)| {
                self.decide(Some(protocol), first).allow || !other.decide(Some(protocol), first).allow
            })
        })
    }

    /// The rules that the profile names.
    pub(super) fn rules(&self) -> impl Iterator<Item = RuleId> {
        self.ranges.iter().map(|(_, verdict)| verdict.rule).chain([self.rest.rule])
    }

    /// The entries of the map for this profile under a number.
    pub(super) fn entries(&self, id: u32) -> impl Iterator<Item = (PortKey, PortValue)> {
        let ranges = self.ranges.iter().flat_map(move |(range, verdict)| {
            let key = move |(port, bits)| PortKey::new(id, range.protocol.number(), port, bits);
            prefixes(*range).into_iter().map(move |prefix| (key(prefix), verdict.value()))
        });
        let mut entries: Vec<(PortKey, PortValue)> = ranges.collect();
        let rest = self.rest.value().with_lengths(entries.iter().map(|(key, _)| key));
        entries.push((PortKey::any(id), rest));
        entries.into_iter()
    }
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

    /// Whether a rule speaks of a packet; None: one without ports.
    fn matches(layer: &Layer, port: Option<(Protocol, u16)>) -> bool {
        match (&layer.ports, port) {
            (None, _) => true,
            (Some(ranges), Some((protocol, port))) => {
                ranges.iter().any(|range| range.contains(protocol, port))
            }
            (Some(_), None) => false,
        }
    }

    /// The verdict for a port, asked of every rule; None: for packets without.
    fn asked(tiers: &Tiers, port: Option<(Protocol, u16)>) -> Verdict {
        let first = |tier: &[Layer]| {
            let layer = tier.iter().find(|layer| matches(layer, port))?;
            match layer.action {
                Action::Accept => Some(Verdict::allow(layer.rule)),
                Action::Deny => Some(Verdict::deny(layer.rule)),
                Action::Pass => None,
            }
        };
        first(&tiers.admin)
            .or_else(|| tiers.middle.as_ref().map(|(accepted, rest)| first(accepted).unwrap_or(*rest)))
            .or_else(|| first(&tiers.baseline))
            .unwrap_or(Verdict::allow(RuleId(0)))
    }

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
        fn every_port_has_the_verdict_of_the_first_tier_that_decides(
            tiers in tiers(),
            probe: u16,
        ) {
            let profile = tiers.flatten();
            for pair in profile.ranges.windows(2) {
                let ordered = pair[0].0.protocol != pair[1].0.protocol || pair[0].0.last < pair[1].0.first;
                prop_assert!(ordered);
            }
            let all = tiers.admin.iter().chain(tiers.middle.iter().flat_map(|m| &m.0)).chain(&tiers.baseline);
            let edges: Vec<u16> = all.flat_map(|layer| layer.ports.iter().flatten())
                .flat_map(|range| [range.first, range.last, range.first.wrapping_sub(1), range.last.wrapping_add(1)])
                .chain([probe]).collect();
            for port in edges {
                for protocol in Protocol::ALL {
                    prop_assert_eq!(profile.decide(Some(protocol), port), asked(&tiers, Some((protocol, port))));
                }
            }
            prop_assert_eq!(profile.decide(None, 0), asked(&tiers, None));
        }

        #[test]
        fn a_profile_covers_what_allows_no_more(one in tiers(), other in tiers()) {
            let (one, other) = (one.flatten(), other.flatten());
            prop_assert!(one.covers(&one));
            let edges: Vec<u16> = one.ranges.iter().chain(&other.ranges)
                .flat_map(|(range, _)| [range.first, range.last, range.last.wrapping_add(1)]).collect();
            let direct = edges.iter().all(|port| Protocol::ALL.into_iter().all(|protocol| {
                one.decide(Some(protocol), *port).allow || !other.decide(Some(protocol), *port).allow
            })) && (one.rest.allow || !other.rest.allow);
            prop_assert_eq!(one.covers(&other), direct);
        }

        #[test]
        fn the_map_says_what_the_profile_says(tiers in tiers(), probe: u16) {
            let profile = tiers.flatten();
            let map: BTreeMap<_, _> = profile.entries(7).collect();
            let edges = profile.ranges.iter().flat_map(|(range, _)| [range.first, range.last]).chain([probe]);
            for port in edges {
                for protocol in Protocol::ALL {
                    let get = |key: &PortKey| map.get(key).copied();
                    let found = PortValue::find(7, protocol.number(), port, get);
                    let wanted = profile.decide(Some(protocol), port).value();
                    prop_assert_eq!(
                        found.map(|value| (value.allows(), value.rule)),
                        Some((wanted.allows(), wanted.rule))
                    );
                }
            }
        }
    }

    fn layer() -> impl Strategy<Value = Layer> {
        let ranges = prop::collection::vec((0_u16..40, 0_u16..40, 0_usize..3), 0..3);
        let action = prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
        (1_u32..6, action, prop::option::weighted(0.7, ranges)).prop_map(|(rule, action, ranges)| Layer {
            rule: RuleId(rule),
            action,
            ports: ranges.map(|list| {
                let range = |(a, b, p): (u16, u16, usize)| PortRange {
                    protocol: Protocol::ALL[p],
                    first: a.min(b),
                    last: a.max(b),
                };
                list.into_iter().map(range).collect()
            }),
        })
    }

    fn tiers() -> impl Strategy<Value = Tiers> {
        let list = || prop::collection::vec(layer(), 0..4);
        (list(), prop::option::of(list()), list()).prop_map(|(admin, middle, baseline)| Tiers {
            admin,
            middle: middle.map(|mut accepted| {
                accepted.iter_mut().for_each(|layer| layer.action = Action::Accept);
                (accepted, Verdict::deny(RuleId(9)))
            }),
            baseline,
        })
    }
}
