//! Which IPv6 addresses of a subnet are taken: of 2^64, so only those are kept.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use rand::RngExt;

use super::address_space::Refused;

/// The length of a prefix that is given to an interface.
const BLOCK_BITS: u8 = 80;

/// The IPv6 addresses of one subnet, a /64.
#[derive(Debug, Clone)]
pub(crate) struct AddressSpace6 {
    cidr: Ipv6Network,
    addresses: BTreeSet<Ipv6Addr>,
    blocks: BTreeSet<Ipv6Network>,
}

impl AddressSpace6 {
    /// A subnet in which all is free. `None` unless it is a /64.
    pub(crate) fn new(cidr: Ipv6Network) -> Option<Self> {
        (cidr.prefix() == 64 && cidr.network() == cidr.ip()).then(|| Self {
            cidr,
            addresses: BTreeSet::new(),
            blocks: BTreeSet::new(),
        })
    }

    /// The subnet's network.
    pub(crate) fn cidr(&self) -> Ipv6Network {
        self.cidr
    }

    /// Takes any free address.
    pub(crate) fn take_any(&mut self, rng: &mut impl RngExt) -> Ipv6Addr {
        loop {
            let address =
                Ipv6Addr::from_bits(self.cidr.network().to_bits() | u128::from(rng.random::<u64>()));
            if self.take(address).is_ok() {
                return address;
            }
        }
    }

    /// Takes any free prefix.
    pub(crate) fn take_any_block(&mut self, rng: &mut impl RngExt) -> Result<Ipv6Network, Refused> {
        // All but the first of 65,536 prefixes can be given. Few are taken, so that
        // a look at each is worth its time only where none may be left.
        let may_be_full = self.blocks.len() + self.addresses.len() >= usize::from(u16::MAX);
        if may_be_full && !(1..=u16::MAX).any(|n| self.is_free_block(self.block(n))) {
            return Err(Refused::Full);
        }
        loop {
            let block = self.block(rng.random::<u16>());
            if self.take_block(block).is_ok() {
                return Ok(block);
            }
        }
    }

    /// Takes this address.
    pub(crate) fn take(&mut self, address: Ipv6Addr) -> Result<(), Refused> {
        if !self.cidr.contains(address) {
            return Err(Refused::Outside);
        }
        let offset = address.to_bits() - self.cidr.network().to_bits();
        if offset < 4 || offset == u128::from(u64::MAX) {
            return Err(Refused::Reserved);
        }
        if self.blocks.iter().any(|block| block.contains(address)) || !self.addresses.insert(address) {
            return Err(Refused::InUse);
        }
        Ok(())
    }

    /// Takes this prefix.
    pub(crate) fn take_block(&mut self, block: Ipv6Network) -> Result<(), Refused> {
        if block.prefix() != BLOCK_BITS || block.network() != block.ip() {
            return Err(Refused::NoBlock);
        }
        if !self.cidr.contains(block.network()) {
            return Err(Refused::Outside);
        }
        if block.network() == self.cidr.network() {
            return Err(Refused::Reserved);
        }
        if !self.is_free_block(block) {
            return Err(Refused::InUse);
        }
        self.blocks.insert(block);
        Ok(())
    }

    /// Frees an address.
    pub(crate) fn give(&mut self, address: Ipv6Addr) {
        self.addresses.remove(&address);
    }

    /// Frees a prefix.
    pub(crate) fn give_block(&mut self, block: Ipv6Network) {
        self.blocks.remove(&block);
    }

    fn block(&self, number: u16) -> Ipv6Network {
        let bits = self.cidr.network().to_bits() | u128::from(number) << 48;
        Ipv6Network::new(Ipv6Addr::from_bits(bits), BLOCK_BITS).expect("80 is no more than 128")
    }

    fn is_free_block(&self, block: Ipv6Network) -> bool {
        !self.blocks.contains(&block)
            && self.addresses.range(block.network()..=block.broadcast()).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn space() -> AddressSpace6 {
        AddressSpace6::new("fd00:0:0:1::/64".parse().expect("a network")).expect("a /64")
    }

    #[test]
    fn addresses_are_had_once() {
        let mut space = space();
        for (address, expected) in [
            ("fd00:0:0:1::10", Ok(())),
            ("fd00:0:0:1::10", Err(Refused::InUse)),
            ("fd00:0:0:1::1", Err(Refused::Reserved)),
            ("fd00:0:0:2::10", Err(Refused::Outside)),
        ] {
            assert_eq!(space.take(address.parse().expect(address)), expected, "{address}");
        }
    }

    #[test]
    fn prefixes_are_had_once_and_exclude_addresses() {
        let mut space = space();
        space.take("fd00:0:0:1:9::1".parse().expect("an address")).expect("free");
        for (block, expected) in [
            ("fd00:0:0:1:8::/80", Ok(())),
            ("fd00:0:0:1:8::/80", Err(Refused::InUse)),
            ("fd00:0:0:1:9::/80", Err(Refused::InUse)),
            ("fd00:0:0:1::/80", Err(Refused::Reserved)),
            ("fd00:0:0:1:8::/96", Err(Refused::NoBlock)),
            ("fd00:0:0:2:8::/80", Err(Refused::Outside)),
        ] {
            assert_eq!(space.take_block(block.parse().expect(block)), expected, "{block}");
        }
        let inside = "fd00:0:0:1:8::5".parse().expect("an address");
        assert_eq!(space.take(inside), Err(Refused::InUse));
    }

    #[test]
    fn any_are_inside_and_distinct() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut space = space();
        let addresses: BTreeSet<_> = (0..100).map(|_| space.take_any(&mut rng)).collect();
        assert_eq!(addresses.len(), 100);
        let blocks: BTreeSet<_> = (0..100).map(|_| space.take_any_block(&mut rng).expect("free")).collect();
        assert_eq!(blocks.len(), 100);
        assert!(addresses.iter().all(|address| space.cidr().contains(*address)));
    }
}
