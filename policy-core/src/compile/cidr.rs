//! The address space, cut so that the longest matching prefix alone tells all blocks
//! that an address is in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::ids::TermId;
use crate::model::IpBlock;
use crate::tables::prefix_of;

/// Prefix → blocks that all addresses are in for which it is the longest match.
#[derive(Clone, Debug, Default)]
pub(super) struct Elementary {
    blocks: BTreeMap<TermId, IpBlock>,
    marks: BTreeSet<IpNetwork>,
    /// By address, the wide before the narrow: each comes after those around it.
    edges: BTreeMap<IpNetwork, Edge>,
    /// The lengths that occur and how often, IPv4 and IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
}

/// A prefix at which the space is cut.
#[derive(Clone, Debug, Default)]
struct Edge {
    /// How many blocks and marks cut here.
    users: usize,
    /// Blocks that begin here.
    begin: BTreeSet<TermId>,
    /// Blocks that have a hole here.
    holes: BTreeSet<TermId>,
    /// None until they are known.
    members: Option<Members>,
}

/// The blocks of one prefix, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// All of them.
    pub(super) all: Arc<[TermId]>,
    /// Those that split the classes of pods.
    pub(super) of_pods: Arc<[TermId]>,
}

/// What a cut changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Recut {
    /// Prefixes that came, went, or are of other blocks now.
    pub(super) prefixes: Vec<IpNetwork>,
    /// Where the blocks of pods may be others now.
    pub(super) ranges: Vec<IpNetwork>,
}

impl Elementary {
    /// Cuts the space at the edges of the blocks in force and at `marks`. `split`: a block
    /// that is a whole family splits no pods' classes.
    pub(super) fn recut(
        &mut self,
        added: Vec<(TermId, IpBlock)>,
        removed: &[TermId],
        marks: impl Iterator<Item = IpNetwork>,
        split: bool,
    ) -> Recut {
        let gone: Vec<(TermId, IpBlock)> =
            removed.iter().filter_map(|id| Some((*id, self.blocks.remove(id)?))).collect();
        let mut cuts: BTreeSet<IpNetwork> = BTreeSet::new();
        let mut ranges: BTreeSet<IpNetwork> = BTreeSet::new();
        for (_, block) in added.iter().chain(&gone) {
            cuts.extend(block.except.iter().chain([&block.cidr]));
            if !(split && block.is_whole_family()) {
                ranges.insert(block.cidr);
            }
        }
        for (id, block) in &gone {
            self.place(*id, block, false);
        }
        for (id, block) in added {
            self.place(id, &block, true);
            self.blocks.insert(id, block);
        }
        let marks: BTreeSet<IpNetwork> = marks.collect();
        for mark in self.marks.symmetric_difference(&marks) {
            self.edges.entry(*mark).or_default().count(marks.contains(mark));
            cuts.insert(*mark);
        }
        self.marks = marks;
        let mut recut = Recut { prefixes: Vec::new(), ranges: outermost(&ranges) };
        for cut in &cuts {
            if self.edges.get(cut).is_some_and(|edge| edge.users == 0)
                && let Some(Edge { members: Some(_), .. }) = self.edges.remove(cut)
            {
                recut.prefixes.push(*cut);
                let lengths = &mut self.lengths[usize::from(cut.is_ipv6())];
                let count = lengths.entry(cut.prefix()).or_insert(0);
                *count = count.saturating_sub(1);
                if *count == 0 {
                    lengths.remove(&cut.prefix());
                }
            }
        }
        for root in outermost(&cuts) {
            self.walk(root, split, &mut recut.prefixes);
        }
        recut
    }

    /// Puts the edges of a block in their places, or takes them away.
    fn place(&mut self, id: TermId, block: &IpBlock, comes: bool) {
        // With a hole around all of it a block is nowhere.
        let nowhere = block.except.iter().any(|hole| encloses(*hole, block.cidr));
        let holes = block.except.iter().map(|hole| (*hole, true));
        for (prefix, hole) in holes.chain([(block.cidr, false)]) {
            let edge = self.edges.entry(prefix).or_default();
            edge.count(comes);
            let list = if hole { &mut edge.holes } else { &mut edge.begin };
            if comes && !nowhere {
                list.insert(id);
            } else {
                list.remove(&id);
            }
        }
    }

    /// Finds out the members of all edges within a prefix; notes those that are of others now.
    fn walk(&mut self, root: IpNetwork, split: bool, changed: &mut Vec<IpNetwork>) {
        let outer = self.around(root);
        let Self { blocks, edges, lengths, .. } = self;
        let of_pods = |id: &TermId| !(split && blocks.get(id).is_some_and(IpBlock::is_whole_family));
        let mut stack: Vec<(IpNetwork, Members)> = Vec::new();
        for (prefix, edge) in edges.range_mut(root..).take_while(|(prefix, _)| encloses(root, **prefix)) {
            while stack.last().is_some_and(|(wide, _)| !encloses(*wide, *prefix)) {
                stack.pop();
            }
            let new = edge.members_within(stack.last().map_or(&outer, |(_, members)| members), of_pods);
            if edge.members.is_none() {
                *lengths[usize::from(prefix.is_ipv6())].entry(prefix.prefix()).or_insert(0) += 1;
            }
            if edge.members.as_ref() != Some(&new) {
                changed.push(*prefix);
                edge.members = Some(new.clone());
            }
            stack.push((*prefix, new));
        }
    }

    /// The members of the longest prefix around another, without that itself.
    fn around(&self, prefix: IpNetwork) -> Members {
        let lengths = self.lengths[usize::from(prefix.is_ipv6())].range(..prefix.prefix()).rev();
        let mut wider = lengths.filter_map(|(bits, _)| self.get(prefix_of(prefix.network(), *bits)));
        wider.next().cloned().unwrap_or_default()
    }

    /// The blocks of a prefix.
    pub(super) fn get(&self, prefix: IpNetwork) -> Option<&Members> {
        self.edges.get(&prefix)?.members.as_ref()
    }

    /// All prefixes.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.edges.keys().copied()
    }

    /// The longest prefix that an address is in.
    pub(super) fn longest(&self, address: IpAddr) -> Option<(IpNetwork, &Members)> {
        self.lengths[usize::from(address.is_ipv6())].keys().rev().find_map(|bits| {
            let prefix = prefix_of(address, *bits);
            Some((prefix, self.get(prefix)?))
        })
    }
}

impl Edge {
    fn count(&mut self, comes: bool) {
        self.users = if comes { self.users + 1 } else { self.users.saturating_sub(1) };
    }

    /// What is here, of what is around.
    fn members_within(&self, around: &Members, of_pods: impl Fn(&TermId) -> bool) -> Members {
        if self.begin.is_empty() && self.holes.is_empty() {
            return around.clone();
        }
        let stay = around.all.iter().filter(|id| !self.holes.contains(id));
        let mut all: Vec<TermId> = stay.chain(&self.begin).copied().collect();
        all.sort_unstable();
        Members { of_pods: all.iter().copied().filter(of_pods).collect(), all: all.into() }
    }
}

/// Those of some prefixes that no other one of them is around.
fn outermost(prefixes: &BTreeSet<IpNetwork>) -> Vec<IpNetwork> {
    let mut list: Vec<IpNetwork> = Vec::new();
    for prefix in prefixes {
        if !list.last().is_some_and(|last| encloses(*last, *prefix)) {
            list.push(*prefix);
        }
    }
    list
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
        fn longest_match_is_membership_whatever_came_and_went(
            raw in prop::collection::vec((any::<u8>(), any::<u8>(), prop::collection::vec((any::<u8>(), any::<u8>()), 0..3)), 0..8),
            mark: (u8, u8),
            masks: [u8; 3],
            probes: [(u8, u8); 8],
        ) {
            let blocks: Vec<(TermId, IpBlock)> = raw.iter().zip(0_u32..).map(|((seed, bits, except), id)| (TermId(id), IpBlock {
                cidr: network(*seed, *bits),
                except: except.iter().map(|(s, b)| network(*s, *b)).collect(),
            })).collect();
            let mut elementary = Elementary::default();
            let mut known: BTreeMap<IpNetwork, Members> = BTreeMap::new();
            let mut before = 0_u8;
            for mask in masks {
                let has = |mask: u8, id: &TermId| mask >> id.0 & 1 == 1;
                let added = blocks.iter().filter(|(id, _)| has(mask & !before, id)).cloned().collect();
                let removed: Vec<TermId> = blocks.iter().map(|(id, _)| *id).filter(|id| has(before & !mask, id)).collect();
                let recut = elementary.recut(added, &removed, [network(mark.0, mark.1)].into_iter(), false);
                before = mask;
                // Who follows the changes knows the whole.
                for prefix in recut.prefixes {
                    match elementary.get(prefix) {
                        Some(members) => drop(known.insert(prefix, members.clone())),
                        None => drop(known.remove(&prefix)),
                    }
                }
                let all: BTreeMap<IpNetwork, Members> = elementary.edges.iter()
                    .filter_map(|(prefix, edge)| Some((*prefix, edge.members.clone()?))).collect();
                prop_assert_eq!(all.len(), elementary.edges.len());
                prop_assert_eq!(&known, &all);
                let live: Vec<_> = blocks.iter().filter(|(id, _)| has(mask, id)).collect();
                let edges = live.iter().flat_map(|(_, b)| [b.cidr.network(), b.cidr.broadcast()]);
                for address in probes.iter().map(|(s, b)| network(*s, *b).network()).chain(edges) {
                    let direct: Vec<TermId> = live.iter()
                        .filter(|(_, block)| block.contains(address)).map(|(id, _)| *id).collect();
                    let found = elementary.longest(address).map_or(&[][..], |(_, members)| &members.all);
                    prop_assert_eq!(found, &direct[..]);
                }
            }
        }
    }
}
