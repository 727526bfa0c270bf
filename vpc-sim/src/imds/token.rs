//! Session tokens: without one, nothing is told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use rand::RngExt;

use crate::ec2::{InstanceId, SimTime};

/// The longest that a token can be asked for: six hours.
const LONGEST: u64 = 21_600;

/// The tokens that were given, with whom they belong to and when they end.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (InstanceId, SimTime)>>);

impl Tokens {
    /// A new token that lives for as many seconds as `ttl` says; none where that
    /// is no number of seconds from 1 to six hours.
    pub(super) fn issue(&self, instance: &InstanceId, now: SimTime, ttl: &str) -> Option<(String, u64)> {
        let seconds = ttl.parse().ok().filter(|seconds| (1..=LONGEST).contains(seconds))?;
        let token = URL_SAFE.encode(rand::rng().random::<[u8; 42]>());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, (_, until)| now < *until);
        held.insert(token.clone(), (instance.clone(), now + Duration::from_secs(seconds)));
        Some((token, seconds))
    }

    /// Whether an instance may ask with this token.
    pub(super) fn is_good(&self, instance: &InstanceId, now: SimTime, token: &str) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(token).is_some_and(|(owner, until)| owner == instance && now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_instances_own_and_ends() {
        let (tokens, now) = (Tokens::default(), SimTime(Duration::from_secs(100)));
        let (a, b) = (InstanceId::new("i-a"), InstanceId::new("i-b"));
        let (token, ttl) = tokens.issue(&a, now, "60").expect("a good time");
        assert_eq!((token.len(), ttl), (56, 60));
        assert!(tokens.is_good(&a, now, &token));
        assert!(!tokens.is_good(&b, now, &token));
        assert!(!tokens.is_good(&a, now, "nonsense"));
        assert!(!tokens.is_good(&a, now + Duration::from_secs(60), &token));
    }

    #[test]
    fn times_out_of_range_get_none() {
        let a = InstanceId::new("i-a");
        for ttl in ["0", "21601", "-1", "x", ""] {
            assert!(Tokens::default().issue(&a, SimTime::default(), ttl).is_none(), "{ttl}");
        }
    }
}
