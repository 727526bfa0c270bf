//! What every run must show, over the scenarios that `ipam-sim` prints.

use ipam_sim::engine::Figures;
use ipam_sim::promise;
use ipam_sim::scenario::{self, Config, FleetFigures, Row};

/// Other worlds must show the same.
const SEEDS: [u64; 3] = [1, 2, 3];

fn check(only: &str) -> Vec<Row> {
    let rows: Vec<Row> = SEEDS.iter().flat_map(|seed| scenario::rows(*seed, Some(only))).collect();
    assert!(!rows.is_empty(), "no scenario is called {only}");
    let broken: Vec<String> = rows.iter().flat_map(promise::broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    rows
}

/// A column of the table.
type Column = (&'static str, fn(&Figures) -> f64);

/// Whoever says better says where: the incumbent is not ahead in any of these.
fn ahead(row: &Row, figures: &[Column]) {
    for (what, figure) in figures {
        let (ours, theirs) = (figure(&row.ours), figure(&row.incumbent.figures));
        assert!(ours <= theirs, "{}, {}: {what} {ours} against {theirs}", row.scenario, row.config);
    }
}

const CALLS: Column = ("ec2_calls", |figures| figures.ec2_calls as f64);
const MUTATING: Column = ("mutating_calls", |figures| figures.mutating_calls as f64);
const P50: Column = ("wait_p50_s", |figures| figures.wait_p50_s);
const P99: Column = ("wait_p99_s", |figures| figures.wait_p99_s);
const IDLE: Column = ("idle_addresses", |figures| figures.idle_addresses as f64);

#[test]
fn bursts_wait_for_one_call_or_one_attach() {
    for row in check("burst") {
        ahead(&row, &[CALLS, MUTATING, P50, P99, IDLE]);
    }
}

#[test]
fn a_restart_changes_nothing_at_ec2() {
    for row in check("restart") {
        if row.scenario == "restart" {
            ahead(&row, &[CALLS, MUTATING, IDLE]);
            assert_eq!(row.ours.mutating_calls, 0);
        }
    }
}

#[test]
fn churn_and_rolling_updates_respect_cooldowns() {
    for row in check("churn").into_iter().chain(check("rolling update")) {
        ahead(&row, &[P99]);
        assert_eq!(row.ours.failed_adds + row.ours.refused_adds, 0, "{row:?}");
        assert_eq!(row.ours.released_while_cooling + row.ours.reused_while_cooling, 0, "{row:?}");
    }
}

/// They are about cooldowns only if cooling addresses are in somebody's way.
#[test]
fn churn_and_rolling_updates_are_tight() {
    for config in Config::ALL {
        let rows = [scenario::churn(config, 1), scenario::rolling_update(config, 1)];
        assert!(
            rows.iter().any(|row| row.ours.wait_p99_s > 5.0),
            "{}: nobody waited for a cooldown: {rows:?}",
            config.name
        );
    }
}

#[test]
fn a_cloud_in_trouble_ends_no_add_without_its_reason() {
    for scenario in ["full subnet", "fragmented subnet", "hour of throttling", "IMDS lags"] {
        for row in check(scenario) {
            assert_eq!(
                row.ours.failed_adds, 0,
                "{}, {}: {:?}",
                row.scenario, row.config, row.evidence.reasons
            );
            assert!(row.ours.time_to_99_s.is_some(), "{row:?}");
        }
    }
}

fn doctored(mut row: Row, change: fn(&mut Row)) -> Vec<String> {
    assert_eq!(promise::broken(&row), Vec::<String>::new());
    change(&mut row);
    promise::broken(&row)
}

/// A row, what is done to it, and what is said of that.
type Case = (Row, fn(&mut Row), &'static str);

/// A promise that could not be broken would be none: each is, once.
#[test]
fn what_is_not_kept_is_named_with_its_figure() {
    let burst = || scenario::burst("m5.large", 20, Config::DEFAULT, 1);
    let churn = || scenario::churn(Config::FIVE_TEN, 1);
    let restart = || scenario::restart(Config::PREFIX, 1);
    let cases: [Case; 11] = [
        (burst(), |row| row.ours.failed_adds = 1, "failed_adds is 1, not 0"),
        (burst(), |row| row.ours.ec2_calls += 2, "ec2_calls is 8.000, above 7.000"),
        (burst(), |row| row.ours.wait_p99_s += 1.0, "wait_p99_s is"),
        (burst(), |row| row.ours.idle_addresses += 1, "idle_addresses is 8.000, above 7.000"),
        (restart(), |row| row.ours.mutating_calls = 1, "mutating_calls is 1, not 0"),
        (churn(), |row| row.ours.released_while_cooling = 3, "released_while_cooling is 3, not 0"),
        (churn(), |row| row.ours.reused_while_cooling = 4, "reused_while_cooling is 4, not 0"),
        (churn(), |row| row.evidence.breaches.push("two pods".to_owned()), "breaches is 1, not 0"),
        (fleet(), |row| row.ours.throttled_calls = 200, "throttled_calls are 20.0 % of all"),
        (fleet(), |row| row.ours.time_to_99_s = Some(1275.0), "time_to_99_s is 1275.000, above 1274.000"),
        (fleet(), |row| row.ours.time_to_99_s = None, "time_to_99_s: never"),
    ];
    for (row, change, expected) in cases {
        let name = format!("{}, {}: {expected}", row.scenario, row.config);
        let broken = doctored(row, change);
        assert!(broken.len() == 1 && broken[0].starts_with(&name), "{broken:?} does not begin with {name}");
    }
}

/// A fleet's row as it should be, made up.
fn fleet() -> Row {
    let mut row = scenario::burst("m5.large", 20, Config::DEFAULT, 1);
    row.scenario = "fleet of 5000".to_owned();
    (row.ours.ec2_calls, row.ours.throttled_calls, row.ours.time_to_99_s) = (1000, 199, Some(1274.0));
    row.fleet = Some(FleetFigures {
        nodes: 5000,
        bound_s: 980.0,
        time_to_50_s: Some(400.0),
        time_to_100_s: Some(1300.0),
    });
    row
}
