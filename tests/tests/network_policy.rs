//! The 48 end-to-end tests that Kubernetes has for NetworkPolicies, each as a trial of the same name: nine pods on two
//! nodes, with real agents, kube-proxy's rules and Services. Where they try one port of all pairs by a Service, here
//! all pairs are tried on all ports, by the Service and by the pod's address.

use kernel_test::{Need, Trial, trial};

#[path = "network_policy/cast.rs"]
mod cast;
#[path = "network_policy/changes.rs"]
mod changes;
#[path = "network_policy/cluster.rs"]
mod cluster;
#[path = "network_policy/egress.rs"]
mod egress;
#[path = "network_policy/peers.rs"]
mod peers;
#[path = "network_policy/ports.rs"]
mod ports;
#[path = "network_policy/scenarios.rs"]
mod scenarios;
#[path = "network_policy/shared.rs"]
mod shared;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

fn main() {
    let shared = shared::Shared::new();
    let numbered = scenarios::ALL.iter().zip(1..);
    let mut trials: Vec<Trial> = numbered
        .map(|((name, scenario), number)| {
            let shared = shared.clone();
            trial(format!("{number:02} {name}"), NEEDS, move || shared.run(*scenario))
        })
        .collect();
    let last = shared.clone();
    trials.push(trial("a_broken_policy_makes_them_fail", NEEDS, move || last.run(scenarios::broken)));
    // One cluster for all, and its two nodes have one machine: side by side they would be no faster.
    kernel_test::run_one_at_a_time_then(trials, move || shared.end());
}
