//! What an instance's metadata shows of its interfaces: the truth of EC2, late.

use std::collections::{BTreeMap, VecDeque};

use super::clock::SimTime;
use super::ids::EniId;
use super::model::Eni;

/// The interfaces of one instance as its metadata will show them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    presences: Vec<Presence>,
    /// Keys below `meta-data` that were set from outside, before all others: notices that the instance will end.
    pub(crate) notices: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Presence {
    eni: EniId,
    from: SimTime,
    until: Option<SimTime>,
    /// How it is shown, and from when, oldest first. Never empty.
    states: VecDeque<(SimTime, Eni)>,
}

impl Metadata {
    /// An interface is shown from `from` on.
    pub(crate) fn appears(&mut self, eni: &Eni, from: SimTime) {
        self.presences.push(Presence {
            eni: eni.id.clone(),
            from,
            until: None,
            states: VecDeque::from([(from, eni.clone())]),
        });
    }

    /// What an interface is now is shown from `from` on, but never before what
    /// it was earlier.
    pub(crate) fn changes(&mut self, eni: &Eni, now: SimTime, from: SimTime) {
        let open = self.presences.iter_mut().find(|p| p.eni == eni.id && p.until.is_none());
        let Some(presence) = open else {
            return;
        };
        let last = presence.states.back().map_or(from, |(last, _)| *last);
        presence.states.push_back((last.max(from), eni.clone()));
        while presence.states.len() > 1 && presence.states[1].0 <= now {
            presence.states.pop_front();
        }
    }

    /// An interface is no longer shown from `until` on.
    pub(crate) fn vanishes(&mut self, eni: &EniId, now: SimTime, until: SimTime) {
        self.presences.retain(|presence| presence.until.is_none_or(|until| now < until));
        for presence in &mut self.presences {
            if presence.eni == *eni && presence.until.is_none() {
                presence.until = Some(until);
            }
        }
    }

    /// The interfaces that are shown at a time.
    pub(crate) fn shown(&self, now: SimTime) -> impl Iterator<Item = &Eni> {
        self.presences
            .iter()
            .filter(move |p| p.from <= now && p.until.is_none_or(|until| now < until))
            .filter_map(move |presence| {
                let states = presence.states.iter();
                let current = states.rev().find(|(from, _)| *from <= now);
                current.or_else(|| presence.states.front()).map(|(_, eni)| eni)
            })
    }
}
