//! What the programs counted.

use ebpf_common::abi::{Counter, Direction, LOST_EVENTS, Reason, map, stat_index};

use super::{Datapath, MapError};

/// Packets and bytes of one direction and reason since the maps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The direction, as the pod sees it.
    pub direction: Direction,
    /// Why they passed or were dropped.
    pub reason: Reason,
    /// Packets.
    pub packets: u64,
    /// Bytes with link headers.
    pub bytes: u64,
}

/// Packets that a rule decided; packets of flows already decided are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleHit {
    /// The rule's number; 0 stands for none.
    pub rule: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes with link headers.
    pub bytes: u64,
}

impl Datapath {
    /// All counters, zeros included.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn counters(&self) -> Result<Vec<Count>, MapError> {
        let mut counts = Vec::new();
        for direction in [Direction::In, Direction::Out] {
            for &reason in Reason::ALL {
                let total = sum(&self.maps.stats, map::STATS, stat_index(direction, reason))?;
                counts.push(Count { direction, reason, packets: total.packets, bytes: total.bytes });
            }
        }
        Ok(counts)
    }

    /// Events that found no room in the ring since the maps were made.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn lost_events(&self) -> Result<u64, MapError> {
        lost_events(&self.maps.stats)
    }

    /// Hits of the given rules.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn rule_hits(&self, rules: impl IntoIterator<Item = u32>) -> Result<Vec<RuleHit>, MapError> {
        let counted = rules.into_iter().filter(|rule| *rule < self.maps.rulehits.len());
        counted
            .map(|rule| {
                let total = sum(&self.maps.rulehits, map::RULEHITS, rule)?;
                Ok(RuleHit { rule, packets: total.packets, bytes: total.bytes })
            })
            .collect()
    }

    /// How many flows have an entry: seen both ways, and seen one way. Reads all
    /// of them: 10 ms for ten thousand.
    ///
    /// # Errors
    /// Where a map can not be read.
    pub fn flows(&self) -> Result<(usize, usize), MapError> {
        let settled = self.maps.ct.keys().filter(Result::is_ok).count();
        let new = self.maps.ct_new.keys().filter(Result::is_ok).count();
        Ok((settled, new))
    }
}

pub(super) type PerCpu = aya::maps::PerCpuArray<aya::maps::MapData, super::plain::Plain<Counter>>;

pub(super) fn lost_events(stats: &PerCpu) -> Result<u64, MapError> {
    Ok(sum(stats, map::STATS, LOST_EVENTS)?.packets)
}

fn sum(counters: &PerCpu, map: &'static str, index: u32) -> Result<Counter, MapError> {
    let values = counters.get(&index, 0).map_err(MapError::aya(map, "read a counter"))?;
    Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.0.packets,
        bytes: sum.bytes + value.0.bytes,
    }))
}
