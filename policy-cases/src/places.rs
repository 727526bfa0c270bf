//! Which links are needed: one set-up serves as many cases as it can.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::scene::{Kind, Party, Scene};

/// What hangs on a link of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) addresses: Vec<IpAddr>,
    /// It is a pod behind filters.
    pub(crate) local: bool,
}

/// Links of one set-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) list: Vec<Place>,
    pub(crate) node: Vec<IpAddr>,
}

/// More are not made at once.
const MOST: usize = 100;

impl Places {
    /// The same with what a row of steps needs; None where the two can not stand together.
    pub(crate) fn with<'a>(&self, scenes: impl Iterator<Item = &'a Scene>) -> Option<Self> {
        let mut all = self.clone();
        for party in scenes.flat_map(|scene| &scene.parties) {
            match party.kind {
                Kind::Local | Kind::Outside => all.add(party)?,
                Kind::Node => all.node.extend(&party.addresses),
                Kind::Service | Kind::Gone => {}
            }
        }
        all.node.sort_unstable();
        all.node.dedup();
        let fits = all.list.len() <= MOST;
        let apart = all.list.iter().flat_map(|place| &place.addresses).all(|a| !all.node.contains(a));
        (fits && apart).then_some(all)
    }

    fn add(&mut self, party: &Party) -> Option<()> {
        let place = Place { addresses: party.addresses.clone(), local: party.kind == Kind::Local };
        if self.list.contains(&place) {
            return Some(());
        }
        let taken = self.list.iter().flat_map(|place| &place.addresses);
        if taken.into_iter().any(|address| place.addresses.contains(address)) {
            return None;
        }
        self.list.push(place);
        Some(())
    }

    /// Where a party is.
    pub(crate) fn of(&self, party: &Party) -> Result<usize> {
        let local = party.kind == Kind::Local;
        self.list
            .iter()
            .position(|place| place.local == local && place.addresses == party.addresses)
            .with_context(|| format!("no link for {}", party.name))
    }

    /// The slot of a local pod: by its place, from 1.
    pub(crate) fn slot(&self, party: &Party) -> Result<u32> {
        Ok(u32::try_from(self.of(party)?)? + 1)
    }
}
