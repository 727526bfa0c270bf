//! The address space, cut so that the longest matching prefix alone tells all blocks
//! that an address is in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::ids::TermId;
use crate::model::IpBlock;
use crate::tables::prefix_of;

/// Prefix → blocks that all addresses are in for which it is the longest match.
#[derive(Clone, Debug, Default)]
pub(super) struct Elementary {
    members: BTreeMap<IpNetwork, Box<[TermId]>>,
    /// The lengths that occur, longest first, IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

impl Elementary {
    /// Cuts the space at the edges of `blocks` and at those of `marks`.
    pub(super) fn new(blocks: &[(TermId, &IpBlock)], marks: &[IpNetwork]) -> Self {
        let edges: BTreeSet<IpNetwork> = blocks
            .iter()
            .flat_map(|(_, block)| block.except.iter().chain([&block.cidr]))
            .chain(marks)
            .copied()
            .collect();
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        let mut members = BTreeMap::new();
        for edge in edges {
            let mut terms: Vec<TermId> = blocks
                .iter()
                .filter(|(_, block)| {
                    encloses(block.cidr, edge) && !block.except.iter().any(|e| encloses(*e, edge))
                })
                .map(|(id, _)| *id)
                .collect();
            terms.sort_unstable();
            terms.dedup();
            lengths[usize::from(edge.is_ipv6())].insert(edge.prefix());
            members.insert(edge, terms.into_boxed_slice());
        }
        Self { members, lengths: lengths.map(|set| set.into_iter().rev().collect()) }
    }

    /// The blocks that an address is in.
    pub(super) fn of(&self, address: IpAddr) -> &[TermId] {
        self.lengths[usize::from(address.is_ipv6())]
            .iter()
            .find_map(|bits| self.members.get(&prefix_of(address, *bits)))
            .map_or(&[], |terms| terms.as_ref())
    }

    /// All prefixes with their blocks.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNetwork, &[TermId])> {
        self.members.iter().map(|(prefix, terms)| (*prefix, terms.as_ref()))
    }
}

/// Whether all of `inner` is in `outer`.
pub(super) fn encloses(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(seed: u8, bits: u8) -> IpNetwork {
        // Few distinct bits, so that prefixes nest and meet often.
        prefix_of(IpAddr::from([10, seed, seed ^ 0x5a, 0]), 6 + bits % 20)
    }

    proptest! {
        #[test]
        fn longest_match_is_membership(
            raw in prop::collection::vec((any::<u8>(), any::<u8>(), prop::collection::vec((any::<u8>(), any::<u8>()), 0..3)), 0..8),
            mark: (u8, u8),
            probes: [(u8, u8); 8],
        ) {
            let blocks: Vec<IpBlock> = raw.iter().map(|(seed, bits, except)| IpBlock {
                cidr: network(*seed, *bits),
                except: except.iter().map(|(s, b)| network(*s, *b)).collect(),
            }).collect();
            let with_ids: Vec<_> = blocks.iter().enumerate()
                .map(|(i, block)| (TermId(u32::try_from(i).expect("few")), block)).collect();
            let elementary = Elementary::new(&with_ids, &[network(mark.0, mark.1)]);
            let edges = blocks.iter().flat_map(|b| [b.cidr.network(), b.cidr.broadcast()]);
            for address in probes.iter().map(|(s, b)| network(*s, *b).network()).chain(edges) {
                let direct: Vec<TermId> = with_ids.iter()
                    .filter(|(_, block)| block.contains(address)).map(|(id, _)| *id).collect();
                prop_assert_eq!(elementary.of(address), &direct[..]);
            }
        }
    }
}
