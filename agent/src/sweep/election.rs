//! Who sweeps: one holder of a Lease, decided by every agent for itself. A state machine without clock, chance or I/O.
//!
//! The rules are those of client-go's leader election. Wall clocks never matter: a Lease has run out for a candidate
//! when it has not changed for its whole duration *by the candidate's own clock since the candidate saw it*, and for
//! its holder two thirds of the duration after it *sent* the last renewal that was accepted. A write is accepted only
//! on the version that was read. Between the moment at which a holder sends its last renewal (s) and the moment at
//! which another one's write is accepted, there is at least one whole duration D, since the other saw the renewal's
//! result after s; and the holder stops believing at s + 2/3 D. The third that is left is for clocks of different speed.
//!
//! Nothing depends on it but the number of calls: two sweepers would make the same deletes twice.

use std::time::Duration;

use tokio::time::Instant;

/// The Lease object as this machine sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseRecord {
    /// Who holds it; `None` when it was given up.
    pub holder: Option<String>,
    /// How long it lasts without a renewal; `None` when the object does not say.
    pub duration: Option<Duration>,
    /// How often it passed from one holder to another.
    pub transitions: u32,
    /// The object's version: another one at each write of anybody.
    pub version: String,
}

/// What to ask of the API server next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Read the Lease.
    Read,
    /// Create it, held by us.
    Create,
    /// Write ourselves into it, on condition that it is still this one.
    Write(LeaseRecord),
}

/// What came of a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To a read: the Lease.
    Found(LeaseRecord),
    /// To a read or a write: there is none.
    Absent,
    /// To a create or a write: done, and it is like this now.
    Written(LeaseRecord),
    /// To a create or a write: somebody else was first.
    Conflict,
    /// No answer, or a refusal: the write may have been accepted or not.
    Failed,
}

/// One agent's part in the election.
#[derive(Clone, Debug)]
pub struct Election {
    node: String,
    duration: Duration,
    /// The Lease as it was last seen changed, and when by our clock.
    seen: Option<(LeaseRecord, Instant)>,
    /// Until when we hold it, as far as we know.
    held_until: Option<Instant>,
    next: (Instant, Request),
}

impl Election {
    /// Begins to take part at `begin`. `duration` is that of a Lease that this node holds; a candidate looks at it
    /// about as often.
    #[must_use]
    pub fn new(node: impl Into<String>, duration: Duration, begin: Instant) -> Self {
        Self { node: node.into(), duration, seen: None, held_until: None, next: (begin, Request::Read) }
    }

    /// The next request and when it is due.
    #[must_use]
    pub fn next(&self) -> &(Instant, Request) {
        &self.next
    }

    /// Whether this node may sweep at `now`.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Until when this node may sweep if nothing else happens; `None` when it may not.
    #[must_use]
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Takes the reply to the pending request, which was sent at `sent` and answered at `now`. `draw`, from 0 to 1,
    /// spreads the requests of many candidates.
    pub fn answer(&mut self, reply: Reply, sent: Instant, now: Instant, draw: f64) {
        let request = self.next.1.clone();
        self.next = match reply {
            Reply::Found(record) => self.found(record, now, draw),
            Reply::Absent if request == Request::Read => (now, Request::Create),
            Reply::Absent => {
                // Somebody removed it: whoever is first makes a new one.
                self.held_until = None;
                (now + self.jittered(self.duration / 12, draw), Request::Read)
            }
            Reply::Written(record) => {
                self.held_until = Some(sent + self.belief());
                self.seen = Some((record.clone(), now));
                // From the sending on: a slow server must not stretch the interval.
                ((sent + self.duration / 3).max(now), Request::Write(record))
            }
            // Whoever wrote meanwhile is read about, and believed only then: it may have been an answer of ours
            // that was lost.
            Reply::Conflict => (now + self.jittered(self.duration / 60, draw), Request::Read),
            // The holder has a third of the duration left for this; a candidate has time.
            Reply::Failed if self.holds(now) => {
                (now + self.jittered(self.duration / 12, draw), Request::Read)
            }
            Reply::Failed => (now + self.jittered(self.duration, draw), Request::Read),
        };
    }

    fn found(&mut self, record: LeaseRecord, now: Instant, draw: f64) -> (Instant, Request) {
        let since = match &self.seen {
            Some((seen, since)) if seen.version == record.version => *since,
            _ => now,
        };
        let runs_out = since + record.duration.unwrap_or(self.duration);
        self.seen = Some((record.clone(), since));
        // Ours: by a write whose answer was lost, or of this node's agent before a restart.
        let is_ours = record.holder.as_ref() == Some(&self.node);
        if !is_ours {
            self.held_until = None;
        }
        if is_ours || record.holder.is_none() || runs_out <= now {
            return (now, Request::Write(record));
        }
        // Not sooner than it can run out, and no two candidates at once.
        (runs_out + self.duration.mul_f64(draw.clamp(0.0, 1.0) / 2.0), Request::Read)
    }

    /// How long after it sent a renewal a holder may sweep.
    fn belief(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// From half of `span` to one and a half.
    fn jittered(&self, span: Duration, draw: f64) -> Duration {
        span.mul_f64(0.5 + draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests;
