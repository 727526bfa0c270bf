//! Which addresses of a subnet are free: the arithmetic that EC2 does.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rand::RngExt;
use rand::seq::IteratorRandom;

use super::settings::Placement;

/// Addresses in a prefix that is given to an interface.
pub(crate) const BLOCK: u32 = 16;
/// The length of such a prefix.
const BLOCK_BITS: u8 = 28;

/// The IPv4 addresses of one subnet. The first four and the last are EC2's own.
#[derive(Debug, Clone)]
pub(crate) struct AddressSpace {
    cidr: Ipv4Network,
    /// One bit for each address, set when it is not free.
    taken: Vec<u64>,
    free: u32,
}

/// Why an address or a prefix cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Fewer addresses are free than were asked for.
    Full,
    /// Enough addresses are free, but too few aligned blocks of 16.
    Fragmented,
    /// It does not lie in the subnet.
    Outside,
    /// It is one of the five that EC2 keeps.
    Reserved,
    /// An interface has it.
    InUse,
    /// The prefix is no aligned /28.
    NoBlock,
}

impl AddressSpace {
    /// A subnet in which all is free that can be. `None` unless it is a network
    /// between /16 and /28, which is what EC2 takes.
    pub(crate) fn new(cidr: Ipv4Network) -> Option<Self> {
        if !(16..=28).contains(&cidr.prefix()) || cidr.network() != cidr.ip() {
            return None;
        }
        let size = cidr.size();
        let mut space = Self { cidr, taken: vec![0; (size as usize).div_ceil(64)], free: size };
        for offset in [0, 1, 2, 3, size - 1] {
            space.mark(offset);
        }
        Some(space)
    }

    /// The subnet's network.
    pub(crate) fn cidr(&self) -> Ipv4Network {
        self.cidr
    }

    /// How many addresses are free.
    pub(crate) fn available(&self) -> u32 {
        self.free
    }

    /// Takes any `count` free addresses, or none when there are too few.
    pub(crate) fn take_any(
        &mut self,
        count: u32,
        placement: Placement,
        rng: &mut impl RngExt,
    ) -> Result<Vec<Ipv4Addr>, Refused> {
        if count > self.free {
            return Err(Refused::Full);
        }
        let free = (0..self.cidr.size()).filter(|offset| !self.is_taken(*offset));
        let chosen = choose(free, count, placement, rng);
        for offset in &chosen {
            self.mark(*offset);
        }
        Ok(chosen.into_iter().map(|offset| self.address(offset)).collect())
    }

    /// Takes any `count` free blocks of 16, or none when there are too few.
    pub(crate) fn take_any_blocks(
        &mut self,
        count: u32,
        placement: Placement,
        rng: &mut impl RngExt,
    ) -> Result<Vec<Ipv4Network>, Refused> {
        if count.saturating_mul(BLOCK) > self.free {
            return Err(Refused::Full);
        }
        let free = (0..self.cidr.size() / BLOCK).filter(|block| self.is_free_block(*block));
        let chosen = choose(free, count, placement, rng);
        if chosen.len() < count as usize {
            return Err(Refused::Fragmented);
        }
        for block in &chosen {
            self.mark_block(*block);
        }
        let network = |block: u32| block_network(self.address(block * BLOCK));
        Ok(chosen.into_iter().map(network).collect())
    }

    /// Takes this address.
    pub(crate) fn take(&mut self, address: Ipv4Addr) -> Result<(), Refused> {
        let offset = self.offset(address).ok_or(Refused::Outside)?;
        if self.is_reserved(offset) {
            return Err(Refused::Reserved);
        }
        if self.is_taken(offset) {
            return Err(Refused::InUse);
        }
        self.mark(offset);
        Ok(())
    }

    /// Takes this block of 16.
    pub(crate) fn take_block(&mut self, block: Ipv4Network) -> Result<(), Refused> {
        if block.prefix() != BLOCK_BITS || block.network() != block.ip() {
            return Err(Refused::NoBlock);
        }
        let first = self.offset(block.network()).ok_or(Refused::Outside)?;
        if self.is_reserved(first) || self.is_reserved(first + BLOCK - 1) {
            return Err(Refused::Reserved);
        }
        if !self.is_free_block(first / BLOCK) {
            return Err(Refused::InUse);
        }
        self.mark_block(first / BLOCK);
        Ok(())
    }

    /// Frees an address that was taken.
    pub(crate) fn give(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address) {
            self.unmark(offset);
        }
    }

    /// Frees a block that was taken.
    pub(crate) fn give_block(&mut self, block: Ipv4Network) {
        for address in block.iter() {
            self.give(address);
        }
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cidr.network().to_bits() + offset)
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.cidr.contains(address).then(|| address.to_bits() - self.cidr.network().to_bits())
    }

    fn is_reserved(&self, offset: u32) -> bool {
        offset < 4 || offset == self.cidr.size() - 1
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.taken[offset as usize / 64] >> (offset % 64) & 1 == 1
    }

    fn is_free_block(&self, block: u32) -> bool {
        // 16 divides 64: a block never spans two words.
        let first = block * BLOCK;
        (self.taken[first as usize / 64] >> (first % 64)) & 0xffff == 0
    }

    fn mark(&mut self, offset: u32) {
        if !self.is_taken(offset) {
            self.taken[offset as usize / 64] |= 1 << (offset % 64);
            self.free -= 1;
        }
    }

    fn mark_block(&mut self, block: u32) {
        for offset in block * BLOCK..(block + 1) * BLOCK {
            self.mark(offset);
        }
    }

    fn unmark(&mut self, offset: u32) {
        if self.is_taken(offset) && !self.is_reserved(offset) {
            self.taken[offset as usize / 64] &= !(1 << (offset % 64));
            self.free += 1;
        }
    }
}

/// The /28 that begins at `first`.
fn block_network(first: Ipv4Addr) -> Ipv4Network {
    Ipv4Network::new(first, BLOCK_BITS).expect("28 is no more than 32")
}

/// Up to `count` of the candidates, sorted.
fn choose(
    candidates: impl Iterator<Item = u32>,
    count: u32,
    placement: Placement,
    rng: &mut impl RngExt,
) -> Vec<u32> {
    let mut chosen: Vec<u32> = match placement {
        Placement::Lowest => candidates.take(count as usize).collect(),
        Placement::Random => candidates.sample(rng, count as usize),
    };
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    fn space(cidr: &str) -> AddressSpace {
        AddressSpace::new(cidr.parse().expect(cidr)).expect(cidr)
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect(text)
    }

    fn net(text: &str) -> Ipv4Network {
        text.parse().expect(text)
    }

    #[test]
    fn five_addresses_are_reserved() {
        for (cidr, available) in
            [("10.0.0.0/28", 11), ("10.0.0.0/24", 251), ("10.0.0.0/20", 4091), ("10.0.0.0/16", 65_531)]
        {
            assert_eq!(space(cidr).available(), available, "{cidr}");
        }
        for cidr in ["10.0.0.0/29", "10.0.0.0/15", "10.0.0.1/24"] {
            assert!(AddressSpace::new(net(cidr)).is_none(), "{cidr}");
        }
    }

    #[test]
    fn a_named_address_is_had_once() {
        let mut space = space("10.0.1.0/24");
        for (address, expected) in [
            ("10.0.1.10", Ok(())),
            ("10.0.1.10", Err(Refused::InUse)),
            ("10.0.1.0", Err(Refused::Reserved)),
            ("10.0.1.3", Err(Refused::Reserved)),
            ("10.0.1.255", Err(Refused::Reserved)),
            ("10.0.2.10", Err(Refused::Outside)),
        ] {
            assert_eq!(space.take(ip(address)), expected, "{address}");
        }
        space.give(ip("10.0.1.10"));
        space.give(ip("10.0.1.0"));
        assert_eq!(space.available(), 251);
    }

    #[test]
    fn a_full_subnet_gives_nothing() {
        for placement in [Placement::Lowest, Placement::Random] {
            let mut space = space("10.0.0.0/28");
            assert_eq!(space.take_any(12, placement, &mut rng()), Err(Refused::Full));
            assert_eq!(space.available(), 11);
            let all = space.take_any(11, placement, &mut rng()).expect("as many as are free");
            assert_eq!((all[0], all[10]), (ip("10.0.0.4"), ip("10.0.0.14")));
            assert_eq!(space.take_any(1, placement, &mut rng()), Err(Refused::Full));
            assert_eq!(space.take_any_blocks(1, placement, &mut rng()), Err(Refused::Full));
        }
    }

    #[test]
    fn a_prefix_is_an_aligned_block_without_reserved_addresses() {
        let mut space = space("10.0.0.0/26");
        for (block, expected) in [
            ("10.0.0.0/28", Err(Refused::Reserved)),
            ("10.0.0.48/28", Err(Refused::Reserved)),
            ("10.0.0.20/28", Err(Refused::NoBlock)),
            ("10.0.0.16/29", Err(Refused::NoBlock)),
            ("10.0.1.0/28", Err(Refused::Outside)),
            ("10.0.0.16/28", Ok(())),
            ("10.0.0.16/28", Err(Refused::InUse)),
        ] {
            assert_eq!(space.take_block(net(block)), expected, "{block}");
        }
        assert_eq!(space.take(ip("10.0.0.17")), Err(Refused::InUse));
        assert_eq!(space.available(), 59 - 16);
        space.give_block(net("10.0.0.16/28"));
        assert_eq!(space.available(), 59);
    }

    #[test]
    fn one_address_in_each_block_leaves_no_block() {
        let mut space = space("10.0.0.0/26");
        space.take(ip("10.0.0.20")).expect("free");
        space.take(ip("10.0.0.40")).expect("free");
        let refused = space.take_any_blocks(1, Placement::Lowest, &mut rng());
        assert_eq!(refused, Err(Refused::Fragmented));
        assert_eq!(space.available(), 57);
        space.give(ip("10.0.0.40"));
        let blocks = space.take_any_blocks(1, Placement::Random, &mut rng());
        assert_eq!(blocks, Ok(vec![net("10.0.0.32/28")]));
    }

    #[test]
    fn a_seed_repeats_its_choice_and_scatters_it() {
        let choose = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            space("10.0.0.0/20").take_any(8, Placement::Random, &mut rng).expect("free")
        };
        assert_eq!(choose(1), choose(1));
        assert_ne!(choose(1), choose(2));
        let lowest = space("10.0.0.0/20").take_any(2, Placement::Lowest, &mut rng());
        assert_eq!(lowest, Ok(vec![ip("10.0.0.4"), ip("10.0.0.5")]));
    }
}
