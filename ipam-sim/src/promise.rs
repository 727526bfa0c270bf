//! What every run must show.

use crate::engine::Figures;
use crate::scenario::Row;

/// What a single wait may be longer than the EC2 call behind it: the moment in
/// which a burst gathers, and the loop's own work.
pub const SLACK_S: f64 = 0.1;
/// The fleet for which the time is promised.
pub const FLEET_NODES: u64 = 5000;
/// How much longer than the token buckets' own bound it may take.
pub const FLEET_TIME: f64 = 1.3;
/// Refused calls as a share of all, at most.
pub const FLEET_REFUSALS: f64 = 0.2;

/// Every promise about `row` that is not kept, with its figure.
pub fn broken(row: &Row) -> Vec<String> {
    let mut broken = Broken { row, found: Vec::new() };
    broken.never(row.evidence.breaches.len() as u64, "breaches");
    let ours = &row.ours;
    match row.scenario.split(' ').next().unwrap_or_default() {
        "burst" => broken.burst(ours),
        "restart" if row.scenario == "restart" => {
            broken.never(ours.mutating_calls, "mutating_calls");
            broken.never(ours.failed_adds, "failed_adds");
        }
        "restart" | "churn" | "rolling" => broken.no_cooling_address_moves(ours),
        "fleet" => broken.fleet(ours),
        _ => {}
    }
    broken.found
}

struct Broken<'a> {
    row: &'a Row,
    found: Vec<String>,
}

impl Broken<'_> {
    fn never(&mut self, count: u64, what: &str) {
        if count > 0 {
            self.say(format!("{what} is {count}, not 0"));
        }
    }

    fn at_most(&mut self, figure: f64, bound: f64, what: &str) {
        if figure > bound {
            self.say(format!("{what} is {figure:.3}, above {bound:.3}"));
        }
    }

    fn say(&mut self, what: String) {
        self.found.push(format!("{}, {}: {what}", self.row.scenario, self.row.config));
    }

    fn burst(&mut self, ours: &Figures) {
        let evidence = &self.row.evidence;
        let (allowed, way) = (evidence.calls_allowed, evidence.longest_way_s);
        self.never(ours.failed_adds + ours.refused_adds, "failed_adds");
        self.at_most(ours.ec2_calls as f64, allowed as f64, "ec2_calls");
        self.at_most(ours.wait_p99_s, way + SLACK_S, "wait_p99_s");
        let theirs = self.row.incumbent.figures.idle_addresses;
        self.at_most(ours.idle_addresses as f64, theirs as f64, "idle_addresses");
    }

    fn no_cooling_address_moves(&mut self, ours: &Figures) {
        self.never(ours.failed_adds + ours.refused_adds, "failed_adds");
        self.never(ours.released_while_cooling, "released_while_cooling");
        self.never(ours.reused_while_cooling, "reused_while_cooling");
    }

    fn fleet(&mut self, ours: &Figures) {
        let Some(fleet) = self.row.fleet else {
            return self.say("has no figures of a fleet".to_owned());
        };
        self.never(ours.failed_adds, "failed_adds");
        let share = ours.throttled_calls as f64 / ours.ec2_calls.max(1) as f64;
        if share >= FLEET_REFUSALS {
            self.say(format!("throttled_calls are {:.1} % of all, not under 20 %", 100.0 * share));
        }
        match ours.time_to_99_s {
            None => self.say("time_to_99_s: never".to_owned()),
            Some(time) if fleet.nodes >= FLEET_NODES => {
                self.at_most(time, FLEET_TIME * fleet.bound_s, "time_to_99_s");
            }
            Some(_) => {}
        }
    }
}
