//! What is known of the probes under way.

use super::Outcome;
use super::packet::Seen;

/// One call of [`Prober::probe`].
#[derive(Default)]
pub(super) struct Run {
    pub(super) first: u32,
    /// How many there are beside beacons.
    pub(super) asked: usize,
    pub(super) ports: Vec<u16>,
    pub(super) outcomes: Vec<Outcome>,
}

impl Run {
    /// What the probe at a place carries.
    pub(super) fn token(&self, place: usize) -> u32 {
        self.first.wrapping_add(u32::try_from(place).unwrap_or_default())
    }

    /// Notes a packet that came to a site; whether it tells something new.
    pub(super) fn note(&mut self, site: usize, seen: &Seen) -> bool {
        // A segment without data tells its number only; which of the two depends on who asked.
        let found = seen.tokens.iter().find_map(|token| {
            let place = usize::try_from(token.wrapping_sub(self.first)).ok()?;
            self.outcomes.get(place).map(|outcome| (place, *outcome))
        });
        let Some((place, mut outcome)) = found else { return false };
        if seen.answer || seen.to_port == Some(self.ports[place]) {
            outcome.answered = true;
        } else {
            outcome.arrived = Some(site);
        }
        std::mem::replace(&mut self.outcomes[place], outcome) != outcome
    }

    /// Whether all have arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.outcomes.iter().take(self.asked).all(|outcome| outcome.arrived.is_some())
    }
}
