//! A subnet's addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipam_core::{Failure, FailureClass, Want};
use ipnetwork::{IpNetwork, Ipv4Network};

/// The addresses that a call takes: single ones and prefixes.
pub(super) type Taken = (Vec<IpAddr>, Vec<IpNetwork>);

/// A subnet.
#[derive(Clone, Debug)]
pub(super) struct Subnet {
    first: u32,
    size: u32,
    used: BTreeSet<u32>,
    /// What others took, the last first.
    others: Vec<u32>,
    pub(super) tags: BTreeMap<String, String>,
}

impl Subnet {
    pub(super) fn new(base: Ipv4Addr, size: u32) -> Self {
        Self {
            first: u32::from(base),
            size,
            used: BTreeSet::new(),
            others: Vec::new(),
            tags: BTreeMap::new(),
        }
    }

    pub(super) fn block(&self) -> IpNetwork {
        let length = 32 - u8::try_from(self.size.ilog2()).expect("below 32");
        IpNetwork::V4(Ipv4Network::new(Ipv4Addr::from(self.first), length).expect("a prefix length"))
    }

    pub(super) fn take_one(&mut self) -> Option<Ipv4Addr> {
        // The first four and the last address are the provider's.
        let free =
            (self.first + 4..self.first + self.size - 1).find(|address| !self.used.contains(address))?;
        self.used.insert(free);
        Some(Ipv4Addr::from(free))
    }

    fn take_block(&mut self) -> Option<Ipv4Network> {
        let last = self.first + self.size - 16;
        let block = (self.first + 16..last)
            .step_by(16)
            .find(|start| self.used.range(*start..start + 16).next().is_none())?;
        self.used.extend(block..block + 16);
        Some(Ipv4Network::new(Ipv4Addr::from(block), 28).expect("28 is a prefix length"))
    }

    /// All or nothing.
    pub(super) fn take(&mut self, want: Want) -> Result<Taken, Failure> {
        let before = self.clone();
        let singles: Option<Vec<IpAddr>> =
            (0..want.singles).map(|_| self.take_one().map(IpAddr::V4)).collect();
        let prefixes: Option<Vec<IpNetwork>> =
            (0..want.prefixes).map(|_| self.take_block().map(IpNetwork::V4)).collect();
        match (singles, prefixes) {
            (Some(singles), Some(prefixes)) => Ok((singles, prefixes)),
            _ => {
                *self = before;
                let prefixes_only = want.prefixes > 0;
                Err(Failure { prefixes_only, ..Failure::of(FailureClass::Exhausted) })
            }
        }
    }

    pub(super) fn give_back(&mut self, singles: &[IpAddr], prefixes: &[IpNetwork]) {
        let blocks = prefixes.iter().flat_map(IpNetwork::iter);
        for address in singles.iter().copied().chain(blocks) {
            if let IpAddr::V4(address) = address {
                self.used.remove(&u32::from(address));
            }
        }
    }

    pub(super) fn occupy(&mut self, count: u32) {
        for _ in 0..count {
            if let Some(address) = self.take_one() {
                self.others.push(u32::from(address));
            }
        }
    }

    pub(super) fn vacate(&mut self, count: u32) {
        for _ in 0..count {
            if let Some(address) = self.others.pop() {
                self.used.remove(&address);
            }
        }
    }

    pub(super) fn fragment(&mut self) {
        for start in (self.first..self.first + self.size).step_by(16) {
            self.used.insert(start + 7);
        }
    }

    pub(super) fn free(&self) -> u32 {
        self.size - 5 - u32::try_from(self.used.len()).expect("small")
    }
}
