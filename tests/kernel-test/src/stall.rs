//! Whether the machine itself stood still while a test measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often the watch looks at the clock.
const BEAT: Duration = Duration::from_millis(10);
/// A sleeper that wakes so late was not on time for want of a processor.
const STALL: Duration = Duration::from_millis(200);
/// So many stalls in a row are no place to measure anything.
const MOST: u32 = 10;

/// A thread that sleeps and wakes all the time, and notes by how much it was late at most.
struct Watch {
    latest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let (latest, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (noted, stopped) = (Arc::clone(&latest), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(BEAT);
                let late = began.elapsed().saturating_sub(BEAT).as_millis();
                noted.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { latest, stop, thread: Some(thread) }
    }

    /// By how much it was late at most.
    fn end(mut self) -> Duration {
        self.join();
        Duration::from_millis(self.latest.load(Ordering::Relaxed))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}

/// Measures a time that has to be below `bound`. Every try counts, except one during which the machine was seen to
/// stall for 200 ms: that is said and repeated.
///
/// # Errors
/// What `measure` returns; a time that is not below `bound`; a machine that does nothing but stall.
pub fn within(
    what: &str,
    bound: Duration,
    mut measure: impl FnMut() -> Result<Duration>,
) -> Result<Duration> {
    judge(what, bound, || {
        let watch = Watch::start();
        Ok((measure()?, watch.end()))
    })
}

/// Of tries that tell their time, and by how much the machine was late meanwhile.
fn judge(
    what: &str,
    bound: Duration,
    mut measure: impl FnMut() -> Result<(Duration, Duration)>,
) -> Result<Duration> {
    for _ in 0..MOST {
        let (took, stalled) = measure()?;
        if took < bound {
            return Ok(took);
        }
        if stalled < STALL {
            bail!("{what}: took {took:?}, not {bound:?}, on a machine that was late by {stalled:?} at most");
        }
        println!("{what}: took {took:?} while the machine stood still for {stalled:?}: repeated");
    }
    bail!("{what}: the machine stood still in {MOST} tries of {MOST}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stall_excuses() {
        let bound = Duration::from_secs(1);
        let tries = |tries: &[(u64, u64)]| {
            let mut tries = tries.iter();
            let milliseconds =
                |(took, late): &(u64, u64)| (Duration::from_millis(*took), Duration::from_millis(*late));
            judge("it", bound, || tries.next().map(milliseconds).ok_or_else(|| anyhow::anyhow!("no more")))
        };
        assert_eq!(tries(&[(999, 500)]).expect("in time"), Duration::from_millis(999));
        assert!(tries(&[(1000, 199), (5, 0)]).is_err(), "it counts");
        assert_eq!(tries(&[(1500, 200), (5, 0)]).expect("it is repeated"), Duration::from_millis(5));
        assert!(tries(&[(1500, 200), (1500, 5), (5, 0)]).is_err(), "so does the repetition");
        assert!(tries(&[(1500, 200); 20]).is_err(), "nothing but stalls");
    }

    #[test]
    fn a_watch_tells_by_how_much_it_was_late() {
        let watch = Watch::start();
        assert!(watch.end() < Duration::from_secs(600));
    }
}
