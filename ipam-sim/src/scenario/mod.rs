//! The scenarios: the same work for our agent and for the incumbent's.

mod bursts;
mod churn;
mod config;
mod hardship;
mod restart;
mod rollout;
mod row;

pub use bursts::row as burst;
pub use churn::row as churn;
pub use config::{Config, limits_of};
pub use restart::{quiet as restart, while_cooling as restart_while_cooling};
pub use rollout::row as rolling_update;
pub use row::{Column, Evidence, FleetFigures, NODE, Row, Scene, Side};

use crate::parallel;

/// What a draw of this module is for; the engine's own are below ten.
const FOR_LIFETIMES: u64 = 10;

/// A scenario's name and its rows.
type Scenario = (&'static str, fn(u64) -> Vec<Row>);

/// Every scenario, in the order of the table.
pub const ALL: [Scenario; 9] = [
    ("burst", bursts::rows),
    ("restart", restart::rows),
    ("churn", churn::rows),
    ("rolling update", rollout::rows),
    ("full subnet", hardship::full_subnet),
    ("fragmented subnet", hardship::fragmented_subnet),
    ("hour of throttling", hardship::throttling),
    ("IMDS lags 60 s", hardship::lagging_imds),
    ("fleet", crate::fleet::rows),
];

/// The rows of every scenario; only those whose name contains `only`, if any
/// (a scenario's name, as in [`ALL`], or a row's, as in the table).
pub fn rows(seed: u64, only: Option<&str>) -> Vec<Row> {
    let only = only.unwrap_or_default();
    let about: Vec<Scenario> = ALL.into_iter().filter(|(name, _)| is_about(name, only)).collect();
    let found = parallel::map(&about, |(name, rows)| {
        let is_wanted = |row: &Row| name.contains(only) || row.scenario.contains(only);
        rows(seed).into_iter().filter(is_wanted).collect::<Vec<Row>>()
    });
    found.concat()
}

/// Whether a scenario's rows could have `only` in their names.
fn is_about(name: &str, only: &str) -> bool {
    name.contains(only) || only.starts_with(name)
}
