//! What a fleet's scale-out must show, on fleets small enough for every test
//! run; `cargo xtask sim` shows the same of 5,000 nodes.

use ipam_sim::fleet::{Fleet, Knowledge};

/// Throttled calls as a part of all, and the time to 99 % as a multiple of what
/// the buckets alone allow.
fn run(fleet: Fleet) -> (f64, f64) {
    let (world, figures, times) = fleet.run(7, true);
    assert!(world.breaches().is_empty(), "{}: {:?}", fleet.name, world.breaches());
    assert_eq!(figures.failed_adds, 0, "{}: {:?}", fleet.name, world.reasons().collect::<Vec<_>>());
    let time = figures.time_to_99_s.unwrap_or(f64::INFINITY);
    (figures.throttled_calls as f64 / figures.ec2_calls as f64, time / times.bound_s)
}

const SMALL: Fleet = Fleet { name: "500", nodes: 500, ..Fleet::BASE };

#[test]
fn five_hundred_nodes_converge_almost_without_refusals() {
    let cases = [
        SMALL,
        Fleet { name: "500, new ENIs", pods: 20, ..SMALL },
        Fleet { name: "500 over two minutes", over_s: 120.0, ..SMALL },
        Fleet { name: "500, API 10 s late", lag_s: 10.0, ..SMALL },
        Fleet { name: "500, half told of", share: 0.5, told: 0.5, ..SMALL },
        Fleet { name: "2000, raised fourfold", nodes: 2000, share: 4.0, told: 4.0, ..SMALL },
    ];
    for fleet in cases {
        let (throttled, time) = run(fleet);
        assert!(throttled < 0.05, "{}: {throttled:.3} of all calls are throttled", fleet.name);
        // Two minutes of arrival are longer than the bound.
        let slowest = if fleet.over_s > 0.0 { 1.6 } else { 1.3 };
        assert!(time <= slowest, "{}: {time:.2} of the bound", fleet.name);
    }
}

#[test]
fn blind_nodes_are_refused_more_often_than_not() {
    let (throttled, _) = run(Fleet { name: "500 blind", knowledge: Knowledge::Nothing, ..SMALL });
    assert!(throttled > 0.5, "the comparison is worth nothing: {throttled:.3}");
}

#[test]
fn half_the_tokens_taken_by_others_slow_the_fleet_and_do_not_break_it() {
    let (throttled, time) = run(Fleet { name: "500, half untold", share: 0.5, ..SMALL });
    assert!(time <= 1.3, "{time:.2} of the bound");
    assert!(throttled < 0.7, "{throttled:.3} of all calls are throttled");
}

#[test]
fn a_few_nodes_do_not_wait_for_each_other() {
    for nodes in [1, 10, 40] {
        let fleet = Fleet { name: "few", nodes, ..SMALL };
        let (_, figures, times) = fleet.run(7, true);
        assert_eq!(figures.throttled_calls, 0);
        // One assign, and the half second that nodes and pods come apart.
        assert!(times.time_to_100_s.is_some_and(|time| time < 4.0), "{nodes}: {times:?}");
    }
}

/// What docs/adr/0004-fleet-pacing.md says of variants and alternatives.
#[test]
#[ignore = "minutes of arithmetic: `cargo test --release -p ipam-sim --test fleet -- --ignored --nocapture`"]
fn five_thousand_nodes_in_every_variant() {
    let variants = [
        Fleet { name: "over two minutes", over_s: 120.0, ..Fleet::BASE },
        Fleet { name: "API 10 s late", lag_s: 10.0, ..Fleet::BASE },
        Fleet { name: "half told of", share: 0.5, told: 0.5, ..Fleet::BASE },
        Fleet { name: "half untold", share: 0.5, ..Fleet::BASE },
        Fleet { name: "rank once", knowledge: Knowledge::Once, ..Fleet::BASE },
        Fleet { name: "rank once, API 10 s late", lag_s: 10.0, knowledge: Knowledge::Once, ..Fleet::BASE },
        Fleet { name: "blind", knowledge: Knowledge::Nothing, ..Fleet::BASE },
    ];
    for fleet in variants {
        let (throttled, time) = run(fleet);
        let seconds = time * fleet.bound_s();
        println!("{}: {seconds:.0} s, {:.1} % of all calls are throttled", fleet.name, throttled * 100.0);
        let unseen = fleet.knowledge == Knowledge::Nothing || fleet.share < fleet.told;
        assert!(unseen || throttled < 0.2 && time <= 1.3, "{}", fleet.name);
    }
}
