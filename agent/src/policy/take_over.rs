//! Filters for pods that ran before this agent, with their flows.
//!
//! Links are taken over a few at a time: the kernel's flows are read, filters are attached, and flows are read again,
//! for some began since the first reading. Between its filters and the second reading, a link may drop what belongs to
//! such a flow, so that this is kept as short as the readings allow: as many links are taken at once as take as long
//! as one reading. A link is then exposed for two readings at most, and all of them take no longer than three times
//! as long as attaching alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rpc::Refusal;

use super::Kernel;
use super::worker::{Worker, refused};
use crate::cause::chain;
use crate::endpoint::Slot;

/// Flows are not read again so soon for links that refuse filters over and over.
const INHERIT_AGAIN: Duration = Duration::from_secs(10);

impl<K: Kernel> Worker<K> {
    /// Attaches filters to these links, in place of the node agent's where those stand; adds what failed.
    pub(super) fn take_over(&mut self, slots: &[Slot], failed: &mut BTreeMap<Slot, Refusal>) {
        let stubborn = slots.iter().all(|slot| self.filters.refusing.contains_key(slot));
        let recently = self.filters.inherited.is_some_and(|read| read.elapsed() < INHERIT_AGAIN);
        let (mut rest, mut at_once) = (slots, 1);
        let (mut taken, mut flows) = (0, 0);
        while !rest.is_empty() {
            let (links, later) = rest.split_at(at_once.min(rest.len()));
            let began = Instant::now();
            if !(stubborn && recently) {
                match self.kernel.inherit(&numbers(links)) {
                    Ok(found) => flows += found,
                    Err(error) => {
                        // Filters that do not know their flows would cut them.
                        self.filters.inherited = None;
                        let refusal = refused("read-flows", &error);
                        failed.extend(rest.iter().map(|slot| (*slot, refusal.clone())));
                        break;
                    }
                }
                self.filters.inherited = Some(Instant::now());
            }
            let read = Instant::now();
            let mut attached = Vec::new();
            for slot in links {
                match self.attach(*slot, true) {
                    Ok(()) => attached.push(*slot),
                    Err(refusal) => drop(failed.insert(*slot, refusal)),
                }
            }
            let attaching = read.elapsed();
            if !attached.is_empty() {
                match self.kernel.inherit(&numbers(&attached)) {
                    Ok(found) => flows += found,
                    Err(error) => {
                        tracing::warn!(error = chain(&*error), "flows that began just now may be cut");
                    }
                }
            }
            taken += attached.len();
            at_once = links_at_once(read.duration_since(began), attaching, links.len());
            rest = later;
        }
        if taken != 0 {
            tracing::info!(pods = taken, flows, "flows that run already are known to the filters");
            if self.filters.adopting {
                self.kernel.unpin_incumbent();
            }
        }
    }
}

fn numbers(slots: &[Slot]) -> BTreeSet<u32> {
    slots.iter().map(|slot| u32::from(slot.number())).collect()
}

/// As many as take as long as one reading, by what was just measured.
fn links_at_once(reading: Duration, attaching: Duration, links: usize) -> usize {
    let one = attaching.as_nanos() / u128::try_from(links.max(1)).unwrap_or(1);
    usize::try_from(reading.as_nanos() / one.max(1)).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_worth_as_many_links_as_take_as_long() {
        let at_once = |reading, attaching, links| {
            links_at_once(Duration::from_micros(reading), Duration::from_micros(attaching), links)
        };
        assert_eq!(at_once(2000, 20_000, 1), 1, "tcx waits for a grace period");
        assert_eq!(at_once(300_000, 8000, 16), 600, "a table of a million");
        assert_eq!(at_once(2000, 500, 1), 4);
        assert_eq!((at_once(0, 500, 1), at_once(100, 0, 1)), (1, 100_000));
    }
}
