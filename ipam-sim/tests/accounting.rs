//! The accounts themselves: what an agent does wrong is seen.

use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{Action, EniId, Failure, MacAddr, Reply, Want};
use ipam_sim::engine::{
    Account, Agent, Figures, Host, Latencies, PodId, Request, Ticket, Verdict, World, at_secs, secs,
};
use ipam_sim::scenario::{self, Config, NODE, limits_of};

/// An agent without manners: what it does with an address is `habit`.
struct Careless {
    eni: EniId,
    free: Vec<IpAddr>,
    held: Vec<(PodId, IpAddr)>,
    habit: Habit,
}

#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// Gives an address back as soon as its pod is gone.
    ReturnsAtOnce,
    /// Leases it again as soon as its pod is gone.
    ReusesAtOnce,
    /// Leases the same address to everybody.
    SharesOne,
    /// Leases an address that EC2 has not put there.
    Invents,
    /// Turns every pod away.
    TurnsAway,
}

impl Agent for Careless {
    fn boot(&mut self, host: &mut Host<'_>) {
        let want = Want { singles: 2, prefixes: 0 };
        host.call(Request::Do(Action::Assign { eni: self.eni.clone(), want }), false);
        host.ready();
    }

    fn restart(&mut self, _host: &mut Host<'_>) {}

    fn add(&mut self, pod: PodId, host: &mut Host<'_>) {
        let address = match self.habit {
            Habit::TurnsAway => return host.turned_away(pod, &Verdict::NoAddress),
            Habit::Invents => Some(IpAddr::from([10, 9, 9, 9])),
            Habit::SharesOne => self.free.first().copied(),
            Habit::ReturnsAtOnce | Habit::ReusesAtOnce => self.free.pop(),
        };
        if let Some(address) = address {
            self.held.push((pod, address));
            host.placed(pod, address);
        }
    }

    fn del(&mut self, pod: PodId, host: &mut Host<'_>) {
        for (_, address) in self.held.extract_if(.., |(held, _)| *held == pod) {
            if self.habit == Habit::ReturnsAtOnce {
                let (eni, singles) = (self.eni.clone(), vec![address]);
                host.call(Request::Do(Action::Unassign { eni, singles, prefixes: Vec::new() }), false);
            } else {
                self.free.push(address);
            }
        }
    }

    fn replied(&mut self, _: Ticket, answer: Result<Reply, Failure>, _: &mut Host<'_>) {
        if let Ok(Reply::Assigned { singles, .. }) = answer {
            self.free = singles;
        }
    }

    fn link_up(&mut self, _: MacAddr, _: &mut Host<'_>) {}

    fn wake(&mut self, _: &mut Host<'_>) {}

    fn step(&mut self, _: &mut Host<'_>) {}
}

/// Two pods one after the other, then a third.
fn run(habit: Habit) -> (Figures, Vec<String>) {
    let mut world = World::new(1, Latencies::ec2(), Account::documented(), 256);
    world.add_node(limits_of("m5.large"), Duration::from_secs(30), |_, primary| {
        Box::new(Careless { eni: primary.id.clone(), free: Vec::new(), held: Vec::new(), habit })
    });
    for at in [60.0, 62.0, 75.0] {
        world.shell().add_pod(NODE, at_secs(at), Some(secs(10.0)));
    }
    world.run_until(at_secs(100.0));
    (world.figures(), world.breaches().to_vec())
}

#[test]
fn a_return_during_the_cooldown_is_counted() {
    let (figures, breaches) = run(Habit::ReturnsAtOnce);
    assert_eq!((figures.released_while_cooling, figures.mutating_calls), (2, 2));
    assert!(breaches.is_empty(), "{breaches:?}");
}

#[test]
fn a_lease_during_the_cooldown_is_counted() {
    let (figures, _) = run(Habit::ReusesAtOnce);
    assert_eq!((figures.released_while_cooling, figures.reused_while_cooling), (0, 1));
}

#[test]
fn an_address_given_twice_is_a_breach() {
    let (_, breaches) = run(Habit::SharesOne);
    assert!(breaches.iter().any(|breach| breach.contains("while pod 0 has it")), "{breaches:?}");
}

#[test]
fn an_address_that_ec2_does_not_have_is_a_breach() {
    let (_, breaches) = run(Habit::Invents);
    assert!(breaches.iter().any(|breach| breach.contains("not on its node at EC2")), "{breaches:?}");
}

#[test]
fn every_failed_try_of_the_kubelet_counts_and_the_wait_goes_on() {
    let (figures, _) = run(Habit::TurnsAway);
    // Three pods, each tried every 10 to 15 seconds until the end at 100 s.
    assert!((7..=12).contains(&figures.failed_adds), "{figures:?}");
    assert_eq!((figures.wait_p99_s, figures.time_to_99_s), (40.0, None));
}

#[test]
fn calls_before_the_first_pod_do_not_count() {
    // The assign at boot is the agent's only call.
    assert_eq!(run(Habit::ReusesAtOnce).0.ec2_calls, 0);
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_seed_others() {
    let rows = |seed| {
        let burst = scenario::burst("m5.xlarge", 50, Config::DEFAULT, seed);
        [burst, scenario::churn(Config::FIVE_TEN, seed), scenario::rolling_update(Config::PREFIX, seed)]
    };
    assert_eq!(rows(7), rows(7));
    let (one, other) = (rows(7), rows(8));
    assert!(one.iter().zip(&other).all(|(one, other)| one.ours != other.ours), "{one:?}\n{other:?}");
}

#[test]
fn json_has_the_keys_that_readers_rely_on() {
    let row = scenario::burst("m5.large", 20, Config::PREFIX, 1);
    let text = ipam_sim::report::json(&[row]).expect("figures are numbers");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("an array");
    let keys = [
        "scenario",
        "config",
        "pods",
        "failed_adds",
        "refused_adds",
        "ec2_calls",
        "mutating_calls",
        "throttled_calls",
        "wait_p50_s",
        "wait_p99_s",
        "time_to_99_s",
        "idle_addresses",
        "released_while_cooling",
        "reused_while_cooling",
    ];
    for side in [&rows[0], &rows[0]["incumbent"]] {
        let missing: Vec<&&str> = keys.iter().filter(|key| side[**key].is_null()).collect();
        assert!(missing.is_empty(), "{missing:?} of {side}");
        let more = usize::from(std::ptr::eq(side, &rows[0]));
        assert_eq!(side.as_object().map(|object| object.len()), Some(keys.len() + more), "{side}");
    }
}

#[test]
fn the_table_fits_on_a_terminal() {
    let rows = scenario::rows(1, Some("hour"));
    let table = ipam_sim::report::table(&rows);
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|widest| widest <= 120), "{widest:?}");
}
