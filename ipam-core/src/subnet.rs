//! What is known of a subnet's free addresses.
//!
//! A reading says how many are free; what is asked for is taken off until the
//! next one. As long as that suffices nothing more is read. Where it does
//! not, or after a refusal, the subnet is read again before anything is asked
//! of it: soon while pods wait, rarely for the warm pool alone. So a full
//! subnet costs reads, not refused calls, and room that comes back is found.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::Now;
use crate::backoff::{Backoff, FailureClass};
use crate::plan::Want;
use crate::record::SubnetRecord;
use crate::sizing::PREFIX_SIZE;

/// While pods wait for a full subnet it is read again after this long, so that
/// one has its address within fifteen seconds of room coming back.
const EAGER: Duration = Duration::from_secs(10);
/// After this long without news the pause grows by a third each time,
const NEWS_PATIENCE: Duration = Duration::from_secs(60);
/// but not beyond this: 5,000 nodes share 20 DescribeSubnets a second.
const EAGER_AT_MOST: Duration = Duration::from_secs(45);
/// A pause is lengthened by up to this part of itself, so that the readings of
/// many nodes spread.
const EAGER_SPREAD: f64 = 0.3;
/// So few free addresses are none: a new ENI takes one for itself.
const SCARCE: u32 = 1;
/// A reading younger than this says what a refusal of prefixes leaves open:
/// whether there are single addresses.
const FRESH: Duration = Duration::from_secs(4);
/// A subnet that a reading did not list is asked for its block after this long.
const UNLISTED_PAUSE: Duration = Duration::from_secs(300);

/// A subnet in the eyes of the planner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SubnetState {
    pub(crate) cidr: Option<IpNetwork>,
    pub(crate) zone: Option<String>,
    pub(crate) vpc: Option<String>,
    /// Its tags, once they have been read.
    pub(crate) tags: Option<BTreeMap<String, String>>,
    /// The discovery that listed it last.
    listed_at: Option<Now>,
    /// When a reading did not list it.
    unlisted_at: Option<Now>,
    reading: Option<Reading>,
    /// A call was refused since the last reading.
    ask: bool,
    /// The next reading for the warm pool's sake.
    lazy: Option<Backoff>,
    /// Refused in spite of a reading that was made for the purpose: others
    /// are quicker, or the addresses are reserved.
    distrust: Option<Distrust>,
    /// Until when no /28 is tried.
    fragmented: Option<Backoff>,
    /// How many /28s a call may ask for after a refusal of several.
    prefix_cap: Option<u32>,
    /// When it was last known to have no address for a pod.
    full_at: Option<Now>,
}

/// How many addresses were free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    at: Now,
    /// As EC2 told.
    told: u32,
    /// What of that has not been taken since.
    left: u32,
    /// It was made because a call had been refused.
    after_refusal: bool,
    /// It could not be made, and little is assumed.
    blind: bool,
    /// When it may be made again for a pod that waits.
    eager_at: Now,
    /// The pause until then, without its spread.
    pause: Duration,
    /// Since when readings bring nothing new.
    no_news_since: Now,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Distrust {
    pause: Backoff,
    /// What had been told; more than that is news.
    told: u32,
}

impl SubnetState {
    /// EC2 refused `want` for lack of addresses, or of a whole /28.
    pub(crate) fn refused(&mut self, want: Want, now: Now, dice: f64) {
        if want.prefixes > 0 {
            self.fragmented = Some(exhausted(self.fragmented.as_ref(), now, dice));
            self.prefix_cap = Some(1);
            // Whether single addresses are left is asked before they are.
            self.ask = self.reading.is_none_or(|reading| now.since(reading.at) >= FRESH);
            return;
        }
        if let Some(reading) = self.reading.filter(|reading| reading.after_refusal && !self.ask) {
            let pause = exhausted(self.distrust.map(|distrust| distrust.pause).as_ref(), now, dice);
            self.distrust = Some(Distrust { pause, told: reading.told });
        }
        self.ask = true;
        self.full_at = Some(now);
    }

    /// EC2 gave what was asked for, and `overhead` addresses beside.
    pub(crate) fn gave(&mut self, want: Want, overhead: u32) {
        self.lazy = None;
        self.distrust = None;
        if want.prefixes > 0 {
            self.fragmented = None;
            self.prefix_cap = self.prefix_cap.and_then(|cap| cap.checked_mul(2));
        }
        match &mut self.reading {
            // It was a guess, and a wrong one.
            Some(reading) if reading.blind => self.reading = None,
            Some(reading) => reading.left = reading.left.saturating_sub(want.addresses() + overhead),
            None => {}
        }
    }

    /// So many went back.
    pub(crate) fn returned(&mut self, addresses: u32) {
        if let Some(reading) = &mut self.reading {
            reading.left = reading.left.saturating_add(addresses);
        }
    }

    /// EC2 says what it is and how many are free.
    pub(crate) fn told(&mut self, record: SubnetRecord, now: Now, dice: f64) {
        self.cidr = record.cidr.or(self.cidr);
        self.zone = record.zone.or(self.zone.take());
        self.vpc = record.vpc.or(self.vpc.take());
        self.tags = Some(record.tags);
        self.unlisted_at = None;
        self.read(record.available, false, now, dice);
    }

    /// A discovery at `at` listed it.
    pub(crate) fn listed(&mut self, at: Now) {
        self.listed_at = Some(at);
    }

    /// Whether the discovery at `at` listed it.
    pub(crate) fn is_listed(&self, at: Option<Now>) -> bool {
        at.is_some() && self.listed_at == at
    }

    /// It was asked for and EC2 did not name it.
    pub(crate) fn unlisted(&mut self, now: Now, dice: f64) {
        self.unlisted_at = Some(now);
        self.not_told(now, dice);
    }

    /// It could not be read how many are free: where one was refused, one at
    /// a time is tried.
    pub(crate) fn not_told(&mut self, now: Now, dice: f64) {
        if self.ask {
            // One, and the primary address of an ENI made for it.
            self.read(2, true, now, dice);
        }
    }

    fn read(&mut self, told: u32, blind: bool, now: Now, dice: f64) {
        if self.distrust.is_some_and(|distrust| told > distrust.told && !blind) {
            self.distrust = None;
        }
        self.lazy = Some(exhausted(self.lazy.as_ref(), now, dice));
        let no_news_since = match self.reading {
            Some(last) if told.max(last.told) <= SCARCE => last.no_news_since,
            _ => now,
        };
        let pause = match self.reading {
            Some(last) if now.since(no_news_since) >= NEWS_PATIENCE => {
                (last.pause + last.pause / 3).min(EAGER_AT_MOST)
            }
            _ => EAGER,
        };
        // Until this look nobody knew of any room.
        if told <= SCARCE || self.reading.is_some_and(|last| last.told <= SCARCE) {
            self.full_at = Some(now);
        }
        self.reading = Some(Reading {
            at: now,
            told,
            left: told,
            after_refusal: self.ask,
            blind,
            eager_at: now + pause.mul_f64(1.0 + EAGER_SPREAD * dice.clamp(0.0, 1.0)),
            pause,
            no_news_since,
        });
        self.ask = false;
    }

    /// Lets time pass: what was tried too long ago is tried again.
    pub(crate) fn settle(&mut self, now: Now) {
        // The pause that ended is kept with the next refusal's memory of it.
        if self.distrust.is_some_and(|distrust| now.since(distrust.pause.until) >= Duration::from_secs(60)) {
            self.distrust = None;
        }
    }

    /// Whether its block is still to be read.
    pub(crate) fn is_nameless(&self, now: Now) -> bool {
        self.cidr.is_none() && self.unlisted_at.is_none_or(|at| now.since(at) >= UNLISTED_PAUSE)
    }

    /// Whether it is to be read before anything more is asked of it.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.ask
    }

    /// Whether it is time to read it again, since more is wanted than the
    /// last reading allows; `eager` where pods wait for it.
    pub(crate) fn is_worth_reading(&self, eager: bool, now: Now) -> bool {
        self.ask
            || self.reading.is_some_and(|reading| {
                let lazy_at = self.lazy.map_or(reading.eager_at, |lazy| lazy.until);
                now >= if eager { reading.eager_at } else { lazy_at.max(reading.eager_at) }
            })
    }

    /// Whether a /28 may be free.
    pub(crate) fn may_have_prefix(&self, now: Now) -> bool {
        self.fragmented.is_none_or(|backoff| backoff.until <= now)
            && self.reading.is_none_or(|reading| reading.left >= PREFIX_SIZE)
    }

    /// Whether no /28 was free the last time that one was asked for: the next
    /// call for one is a try, and others take single addresses meanwhile.
    pub(crate) fn tries_prefixes(&self) -> bool {
        self.fragmented.is_some()
    }

    /// When it was last known to have no address for a pod.
    pub(crate) fn full_at(&self) -> Option<Now> {
        self.full_at
    }

    /// How many /28s a call may ask for.
    pub(crate) fn prefix_cap(&self) -> u32 {
        self.prefix_cap.unwrap_or(u32::MAX)
    }

    /// How many addresses can be asked for.
    pub(crate) fn left(&self, now: Now) -> u32 {
        if self.ask || self.distrust.is_some_and(|distrust| distrust.pause.until > now) {
            return 0;
        }
        self.reading.map_or(u32::MAX, |reading| reading.left)
    }

    /// How many addresses are free, by the last word on it.
    pub(crate) fn free(&self) -> u32 {
        self.reading.map_or(u32::MAX, |reading| reading.left)
    }

    /// Whether, by the last word on it, there is no address for a pod: a call
    /// was refused, or the last reading has been used up.
    pub(crate) fn is_full(&self) -> bool {
        self.ask || self.distrust.is_some() || self.reading.is_some_and(|reading| reading.left == 0)
    }

    /// When time alone could change any of this.
    pub(crate) fn next_change(&self) -> impl Iterator<Item = Now> + use<> {
        let pauses = [self.lazy, self.fragmented, self.distrust.map(|distrust| distrust.pause)];
        let eager = self.reading.map(|reading| reading.eager_at);
        pauses.into_iter().flatten().map(|backoff| backoff.until).chain(eager)
    }
}

fn exhausted(previous: Option<&Backoff>, now: Now, dice: f64) -> Backoff {
    Backoff::after(previous, FailureClass::Exhausted, now, dice)
}
