//! ClusterNetworkPolicies on real agents, and what a new pod meets before its status tells of it.

use kernel_test::{Need, trial};

#[path = "cluster_policy/cast.rs"]
mod cast;
#[path = "cluster_policy/conformance.rs"]
mod conformance;
#[path = "cluster_policy/rules.rs"]
mod rules;
#[path = "cluster_policy/start.rs"]
mod start;
#[path = "cluster_policy/tiers.rs"]
mod tiers;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

fn main() {
    kernel_test::run(vec![
        trial("the_24_conformance_scenarios_hold", NEEDS, conformance::all),
        trial("an_add_waits_until_cluster_policies_are_listed", NEEDS, start::unlisted),
        trial("what_a_cluster_policy_cannot_say_is_told_on_it", NEEDS, start::told),
        trial("a_new_pod_is_let_in_before_its_status_tells_of_it", NEEDS, start::late_status),
    ]);
}
