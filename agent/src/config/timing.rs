//! The pool's patience, as far as an operator (or a test) may set it.

use std::time::Duration;

use ipam_core::Timing;
use serde::{Serialize, Serializer};

use super::parse::Reader;

/// The longest of these times: a day.
const LONGEST: f64 = 86_400.0;

/// How long the pool waits for what; whole or fractional seconds in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PoolTiming {
    /// `TIDEPOOL_SHRINK_AFTER`: how long addresses must have been surplus before they are given back.
    #[serde(serialize_with = "seconds")]
    pub shrink_after: Duration,
    /// `TIDEPOOL_ENI_MIN_AGE`: the youngest ENI that may be given back.
    #[serde(serialize_with = "seconds")]
    pub eni_min_age: Duration,
    /// `TIDEPOOL_GIVE_UP_AFTER`: when an unattached ENI of ours that nothing wants is deleted; the cluster's
    /// sweeper waits twice as long.
    #[serde(serialize_with = "seconds")]
    pub give_up_after: Duration,
    /// `TIDEPOOL_DELETE_DELAY`: from the detach of an ENI to the first attempt to delete it.
    #[serde(serialize_with = "seconds")]
    pub delete_delay: Duration,
    /// `TIDEPOOL_EC2_LAG`: how long a describe may contradict the reply of a change.
    #[serde(serialize_with = "seconds")]
    pub lag: Duration,
    /// `TIDEPOOL_LINK_PATIENCE`: how long an attached ENI may be without a link before its addresses no longer
    /// count as on their way.
    #[serde(serialize_with = "seconds")]
    pub link_patience: Duration,
    /// `TIDEPOOL_RECONCILE_PERIOD`: between two periodic reads of EC2's truth, jittered by a quarter.
    #[serde(serialize_with = "seconds")]
    pub reconcile_every: Duration,
}

impl PoolTiming {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let default = Timing::default();
        let mut time = |name, least: f64, default| reader.seconds(name, least..=LONGEST, default);
        Self {
            shrink_after: time("TIDEPOOL_SHRINK_AFTER", 0.0, default.shrink_after),
            eni_min_age: time("TIDEPOOL_ENI_MIN_AGE", 0.0, default.eni_min_age),
            give_up_after: time("TIDEPOOL_GIVE_UP_AFTER", 0.0, default.give_up_after),
            delete_delay: time("TIDEPOOL_DELETE_DELAY", 0.0, default.delete_delay),
            lag: time("TIDEPOOL_EC2_LAG", 0.0, default.lag),
            link_patience: time("TIDEPOOL_LINK_PATIENCE", 1.0, default.link_patience),
            // More often than this and a node would spend the account's calls on reading.
            reconcile_every: time("TIDEPOOL_RECONCILE_PERIOD", 0.5, default.reconcile_every),
        }
    }

    /// The planner's timing with these times in it.
    #[must_use]
    pub fn into_timing(self) -> Timing {
        Timing {
            shrink_after: self.shrink_after,
            eni_min_age: self.eni_min_age,
            give_up_after: self.give_up_after,
            delete_delay: self.delete_delay,
            lag: self.lag,
            link_patience: self.link_patience,
            reconcile_every: self.reconcile_every,
            ..Timing::default()
        }
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
