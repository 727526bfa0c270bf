//! A subnet's addresses.

use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};

/// Addresses in a block that can be delegated whole.
const BLOCK: usize = 16;

/// A subnet: who has which address does not matter here, only what is free.
#[derive(Clone, Debug)]
pub struct Subnet {
    first: u32,
    used: Vec<bool>,
    used_in_block: Vec<u8>,
    free: u32,
    /// No address below it is free.
    lowest: usize,
    /// No whole block below it is free.
    lowest_block: usize,
    neighbours: Vec<usize>,
}

impl Subnet {
    /// A subnet of `size` addresses (a power of two, at least 32) from
    /// `first` on. As at AWS, the first four and the last are not for use.
    pub fn new(first: Ipv4Addr, size: u32) -> Self {
        let size = size.next_power_of_two().max(32);
        let mut subnet = Self {
            first: u32::from(first),
            used: vec![false; size as usize],
            used_in_block: vec![0; size as usize / BLOCK],
            free: size,
            lowest: 0,
            lowest_block: 0,
            neighbours: Vec::new(),
        };
        for reserved in [0, 1, 2, 3, size as usize - 1] {
            subnet.mark(reserved);
        }
        subnet
    }

    /// Its block.
    pub fn cidr(&self) -> Option<IpNetwork> {
        let bits = u8::try_from(self.used.len().trailing_zeros()).ok()?;
        Ipv4Network::new(Ipv4Addr::from(self.first), 32 - bits).ok().map(IpNetwork::V4)
    }

    /// Free addresses.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// `count` single addresses, or nothing.
    pub fn take(&mut self, count: u32) -> Option<Vec<Ipv4Addr>> {
        if self.free < count {
            return None;
        }
        let mut taken = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let index = (self.lowest..self.used.len()).find(|index| !self.used[*index])?;
            self.mark(index);
            self.lowest = index + 1;
            taken.push(self.address(index));
        }
        Some(taken)
    }

    /// `count` whole /28s, or nothing.
    pub fn take_blocks(&mut self, count: u32) -> Option<Vec<IpNetwork>> {
        let blocks: Vec<usize> = (self.lowest_block..self.used_in_block.len())
            .filter(|block| self.used_in_block[*block] == 0)
            .take(count as usize)
            .collect();
        if blocks.len() < count as usize {
            return None;
        }
        let mut taken = Vec::with_capacity(blocks.len());
        for block in blocks {
            (block * BLOCK..(block + 1) * BLOCK).for_each(|index| self.mark(index));
            self.lowest_block = block + 1;
            taken.push(IpNetwork::V4(Ipv4Network::new(self.address(block * BLOCK), 28).ok()?));
        }
        Some(taken)
    }

    /// Gives one address back.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        if let Some(index) = u32::from(address).checked_sub(self.first) {
            self.free_up(index as usize);
        }
    }

    /// Neighbours take single addresses until at most `left` are free.
    pub fn crowd(&mut self, left: u32) {
        while self.free > left {
            let Some(index) = (self.lowest..self.used.len()).find(|index| !self.used[*index]) else {
                return;
            };
            self.mark(index);
            self.lowest = index + 1;
            self.neighbours.push(index);
        }
    }

    /// A neighbour in every block that is still whole: no /28 is left.
    pub fn fragment(&mut self) {
        for block in 0..self.used_in_block.len() {
            if self.used_in_block[block] == 0 {
                let index = block * BLOCK + BLOCK / 2;
                self.mark(index);
                self.neighbours.push(index);
            }
        }
    }

    /// Neighbours leave until they have given back `count` addresses.
    pub fn vacate(&mut self, count: u32) {
        for _ in 0..count {
            let Some(index) = self.neighbours.pop() else {
                return;
            };
            self.free_up(index);
        }
    }

    fn address(&self, index: usize) -> Ipv4Addr {
        // Not past the end: an index is always below the subnet's size.
        Ipv4Addr::from(self.first.wrapping_add(index as u32))
    }

    fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.used[index], true) {
            self.used_in_block[index / BLOCK] += 1;
            self.free -= 1;
        }
    }

    fn free_up(&mut self, index: usize) {
        if self.used.get(index).copied().unwrap_or(false) {
            self.used[index] = false;
            self.used_in_block[index / BLOCK] -= 1;
            self.free += 1;
            self.lowest = self.lowest.min(index);
            self.lowest_block = self.lowest_block.min(index / BLOCK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Subnet;
    use std::net::Ipv4Addr;

    fn small() -> Subnet {
        Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 64)
    }

    #[test]
    fn singles_and_blocks_share_the_room() {
        let mut subnet = small();
        assert_eq!(subnet.free(), 59);
        assert_eq!(subnet.take(1), Some(vec![Ipv4Addr::new(10, 0, 0, 4)]));
        // The first and the last block hold reserved addresses.
        let blocks = subnet.take_blocks(2).expect("two whole blocks");
        assert_eq!(
            blocks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.16/28", "10.0.0.32/28"]
        );
        assert_eq!(subnet.take_blocks(1), None);
        assert_eq!(subnet.free(), 26);
        blocks[0].iter().for_each(|address| match address {
            std::net::IpAddr::V4(address) => subnet.give_back(address),
            std::net::IpAddr::V6(_) => unreachable!("a subnet of IPv4"),
        });
        assert!(subnet.take_blocks(1).is_some());
        assert_eq!(subnet.take(27), None);
    }

    #[test]
    fn neighbours_crowd_fragment_and_leave() {
        let mut subnet = small();
        subnet.fragment();
        assert_eq!((subnet.free(), subnet.take_blocks(1)), (57, None));
        subnet.crowd(3);
        assert_eq!(subnet.free(), 3);
        subnet.vacate(100);
        assert_eq!(subnet.free(), 59);
        assert!(subnet.take_blocks(2).is_some());
    }
}
