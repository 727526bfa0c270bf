//! One EC2 call through its SDK: three attempts, exponential jitter between
//! them, no bucket on the client's side.

use std::time::Duration;

use ipam_core::{Failure, FailureClass};

use crate::engine::{Request, secs};

/// Attempts of the SDK's standard retryer.
const ATTEMPTS: u32 = 3;

/// A call under way and how often it was tried.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) request: Request,
    tried: u32,
}

impl Attempt {
    pub(crate) fn first(request: Request) -> Self {
        Self { request, tried: 1 }
    }

    /// The next attempt and its pause, if the SDK makes one.
    pub(crate) fn again(&self, failure: Failure, dice: f64) -> Option<(Self, Duration)> {
        let retried = failure.class == FailureClass::Throttled || failure.outcome_unknown;
        if !retried || self.tried >= ATTEMPTS {
            return None;
        }
        // Uniform up to 2^attempt seconds, below its cap of 20 s.
        let pause = secs(dice * f64::from(1_u32 << self.tried));
        Some((Self { request: self.request.clone(), tried: self.tried + 1 }, pause))
    }
}

/// Its own loops around calls: pauses that double, with 15 % jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    tried: u32,
    pause_s: f64,
    cap_s: f64,
}

impl Retries {
    const MOST: u32 = 12;

    pub(crate) fn new(first_s: f64, cap_s: f64) -> Self {
        Self { tried: 1, pause_s: first_s, cap_s }
    }

    /// The pause before the next try; nothing after the twelfth.
    pub(crate) fn next(&mut self, dice: f64) -> Option<Duration> {
        if self.tried >= Self::MOST {
            return None;
        }
        self.tried += 1;
        let pause = secs(self.pause_s.min(self.cap_s) * (1.0 + 0.15 * dice));
        self.pause_s = (self.pause_s * 2.0).min(self.cap_s);
        Some(pause)
    }
}
