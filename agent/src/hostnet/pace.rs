//! When to look at the host's network: soon after a change, seldom where somebody keeps undoing ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use netlink::monitor::Change;
use tokio::time::Instant;

use super::ActionKind;

/// Without any change that is announced.
const PERIOD: Duration = Duration::from_secs(10);
/// Looks that put back something of one kind, within [`QUIET`], before somebody is taken to fight us over it. A
/// daemon that starts anew and flushes what it does not know does so a few times.
const FREE: u32 = 30;
/// As long must a kind be left alone to be put back at once again.
const QUIET: Duration = Duration::from_secs(60);
/// Pause before the next repair of a kind that is fought over; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// When the next look is due.
#[derive(Debug)]
pub(super) struct Pace {
    /// At the latest, whatever is announced until then.
    period: Instant,
    repairs: BTreeMap<ActionKind, Repairs>,
}

/// Of one kind.
#[derive(Debug)]
struct Repairs {
    since: Instant,
    last: Instant,
    /// Looks with such repairs since then.
    count: u32,
    /// None while nobody is taken to fight us.
    pause: Option<Duration>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { period: now + PERIOD, repairs: BTreeMap::new() }
    }

    /// When to look without any change.
    pub(super) fn period(&self) -> Instant {
        self.period
    }

    /// Looked, and these were put back.
    pub(super) fn looked(&mut self, now: Instant, repaired: impl IntoIterator<Item = ActionKind>) {
        self.period = now + PERIOD;
        self.repairs.retain(|_, one| match one.pause {
            Some(_) => now < one.last + QUIET,
            None => now < one.since + QUIET,
        });
        for kind in repaired {
            let fresh = Repairs { since: now, last: now, count: 0, pause: None };
            let one = self.repairs.entry(kind).or_insert(fresh);
            one.last = now;
            one.count = one.count.saturating_add(1);
            one.pause = match one.pause {
                None => (one.count > FREE).then_some(FIRST_PAUSE),
                Some(pause) => Some((pause * 2).min(LAST_PAUSE)),
            };
        }
    }

    /// Before this a change calls for no look: its kind is fought over.
    pub(super) fn not_before(&self, change: &Change) -> Option<Instant> {
        let repairs = self.repairs.get(&kind_of(change)?)?;
        repairs.pause.map(|pause| repairs.last + pause)
    }

    /// Kinds that somebody else keeps undoing.
    pub(super) fn contested(&self) -> BTreeSet<ActionKind> {
        let contested = self.repairs.iter().filter(|(_, one)| one.pause.is_some());
        contested.map(|(kind, _)| *kind).collect()
    }
}

/// What has to be put back after such a change, where that is of one kind.
fn kind_of(change: &Change) -> Option<ActionKind> {
    match change {
        Change::Link { .. } | Change::LinkGone { .. } | Change::Settings { .. } => Some(ActionKind::Link),
        Change::Address => Some(ActionKind::Address),
        Change::Route { .. } => Some(ActionKind::Route),
        Change::Rule { .. } => Some(ActionKind::Rule),
        Change::Neighbour { .. } => Some(ActionKind::Neighbour),
        Change::Nftables { .. } => Some(ActionKind::Nftables),
        Change::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Change = Change::Rule { gone: true };
    const STEP: Duration = Duration::from_millis(50);

    /// Somebody removes a rule as soon as it is put back, for this long; how many repairs that makes.
    fn fight(pace: &mut Pace, now: &mut Instant, time: Duration) -> u32 {
        let (end, mut repairs) = (*now + time, 0);
        loop {
            *now = (*now + STEP).max(pace.not_before(&RULE).unwrap_or(*now));
            if *now >= end {
                return repairs;
            }
            pace.looked(*now, [ActionKind::Rule]);
            repairs += 1;
        }
    }

    #[test]
    fn whoever_keeps_undoing_us_is_answered_ever_less() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let first = fight(&mut pace, &mut now, Duration::from_secs(60));
        assert!((FREE..FREE + 20).contains(&first), "{first} repairs in a minute");
        assert_eq!(pace.contested(), [ActionKind::Rule].into());
        let route = Change::Route { table: 2, protocol: 4, gone: false };
        assert_eq!(pace.not_before(&route), None, "other kinds are put back at once");
        let later = fight(&mut pace, &mut now, Duration::from_secs(600));
        assert!(later <= 121, "{later} repairs in ten minutes");
    }

    #[test]
    fn when_it_is_quiet_all_is_as_before() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        fight(&mut pace, &mut now, Duration::from_secs(60));
        now += QUIET;
        pace.looked(now, []);
        assert!(pace.contested().is_empty());
        assert_eq!(pace.not_before(&RULE), None);
        // A repair now and then is no fight.
        for _ in 0..1_000 {
            now += QUIET / FREE;
            pace.looked(now, [ActionKind::Rule]);
            assert_eq!(pace.not_before(&RULE), None);
        }
    }

    #[test]
    fn every_look_puts_the_period_off_and_nothing_else_does() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.period(), now + PERIOD);
        pace.looked(now + STEP, []);
        assert_eq!(pace.period(), now + STEP + PERIOD);
    }
}
