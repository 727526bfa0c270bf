//! What is known of a subnet's free addresses.
//!
//! As long as EC2 gives what is asked for, nothing is known and nothing is
//! read. After a refusal the number of free addresses is read, at most that
//! many are asked for, and it is read again after a growing pause: a full
//! subnet costs reads, never tries.

use ipnetwork::IpNetwork;

use crate::Now;
use crate::backoff::{Backoff, FailureClass};
use crate::plan::Want;
use crate::sizing::PREFIX_SIZE;

/// A subnet in the eyes of the planner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SubnetState {
    pub(crate) cidr: Option<IpNetwork>,
    /// Free addresses by EC2's word; `None` while no refusal made us ask.
    left: Option<u32>,
    /// Until when that word holds.
    holds: Option<Backoff>,
    /// Until when no /28 is tried.
    fragmented: Option<Backoff>,
    /// Whether it is to be read how many are left.
    ask: bool,
}

impl SubnetState {
    /// EC2 refused `want` for lack of addresses, or of a whole /28.
    pub(crate) fn refused(&mut self, want: Want, prefixes_only: bool, now: Now, dice: f64) {
        if want.prefixes > 0 || prefixes_only {
            self.fragmented = Some(exhausted(self.fragmented.as_ref(), now, dice));
        } else if self.left.is_some() {
            // Refused although no more was asked for than was left: others
            // are quicker.
            self.left = Some(0);
            self.holds = Some(exhausted(self.holds.as_ref(), now, dice));
        } else {
            // A refusal of many says nothing about few.
            self.ask = true;
        }
    }

    /// EC2 gave what was asked for.
    pub(crate) fn gave(&mut self, want: Want) {
        self.left = None;
        self.holds = None;
        self.ask = false;
        if want.prefixes > 0 {
            self.fragmented = None;
        }
    }

    /// EC2 says how many are left. Of no interest where nothing was refused:
    /// it is old by the time that it matters.
    pub(crate) fn told(&mut self, available: u32, now: Now, dice: f64) {
        if self.ask {
            self.ask = false;
            self.left = Some(available);
            self.holds = Some(exhausted(self.holds.as_ref(), now, dice));
        }
    }

    /// It could not be read how many are left: one at a time is tried.
    pub(crate) fn not_told(&mut self, now: Now, dice: f64) {
        self.told(2, now, dice);
    }

    /// Lets time pass: what was read or tried too long ago is read again.
    pub(crate) fn settle(&mut self, now: Now) {
        let over = |backoff: Option<Backoff>| backoff.is_some_and(|backoff| backoff.until <= now);
        if over(self.holds) && self.left.is_some() {
            self.left = None;
            self.ask = true;
        }
        if over(self.fragmented) && self.left.is_none() {
            self.ask = true;
        }
    }

    /// Whether it is to be read how many are left.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.ask
    }

    /// Whether a /28 may be free.
    pub(crate) fn may_have_prefix(&self, now: Now) -> bool {
        self.fragmented.is_none_or(|backoff| backoff.until <= now)
            && self.left.is_none_or(|left| left >= PREFIX_SIZE)
    }

    /// How many addresses can be asked for, of which the call itself takes
    /// `overhead`.
    pub(crate) fn left(&self, overhead: u32) -> u32 {
        match (self.ask, self.left) {
            (true, _) => 0,
            (false, None) => u32::MAX,
            (false, Some(left)) => left.saturating_sub(overhead),
        }
    }

    /// Whether there is no address for a pod.
    pub(crate) fn is_full(&self) -> bool {
        self.left(1) == 0
    }

    /// When time alone could change any of this.
    pub(crate) fn next_change(&self) -> impl Iterator<Item = Now> + use<> {
        [self.holds, self.fragmented].into_iter().flatten().map(|backoff| backoff.until)
    }
}

fn exhausted(previous: Option<&Backoff>, now: Now, dice: f64) -> Backoff {
    Backoff::after(previous, FailureClass::Exhausted, now, dice)
}
