//! The heap of what is to happen.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use ipam_core::Now;

/// `count` milliseconds.
pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// `count` seconds, rounded to the engine's millisecond.
pub fn secs(count: f64) -> Duration {
    Duration::from_millis((count * 1000.0).round().max(0.0) as u64)
}

/// The point `count` seconds after the world began.
pub fn at_secs(count: f64) -> Now {
    Now::default() + secs(count)
}

struct Due<E> {
    at: Now,
    order: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Events by time; those of the same time in the order in which they were put in.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    order: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), order: 0 }
    }

    pub(crate) fn push(&mut self, at: Now, event: E) {
        self.order += 1;
        self.heap.push(Reverse(Due { at, order: self.order, event }));
    }

    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<Now> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The next event, if it is due at `now` or before.
    pub(crate) fn pop_due(&mut self, now: Now) -> Option<E> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.event)
    }
}
