//! The plugin with other people's: the reference invoker, plugins chained before and after ours, and a runtime that is
//! interrupted, against the real agent on a node of a simulated VPC.

use kernel_test::{Need, trial};

#[path = "cnitool/chain.rs"]
mod chain;
#[path = "cnitool/collect.rs"]
mod collect;
#[path = "cnitool/invoker.rs"]
mod invoker;
#[path = "cnitool/kills.rs"]
mod kills;
#[path = "cnitool/orphans.rs"]
mod orphans;
#[path = "cnitool/tools.rs"]
mod tools;
#[path = "cnitool/verbs.rs"]
mod verbs;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

/// The node of these tests.
const NODE: &str = "node-1";
/// Where the runtime looks for plugins.
const BIN_DIR: &str = "/opt/cni/bin";
/// Where Debian installs those of containernetworking/plugins.
const DEBIAN: &str = "/usr/lib/cni";

type Body = fn() -> anyhow::Result<()>;

fn main() {
    let tests: [(&str, Body); 8] = [
        ("others_are_chained_before_and_after", chain::others),
        ("whoever_is_killed_when_nothing_is_left", kills::every_point),
        ("an_add_that_waits_outlives_the_agent", kills::waiting),
        ("sandboxes_that_the_runtime_forgot_go", collect::forgotten),
        ("a_late_add_leaves_the_newer_sandbox_s_link", collect::late_add),
        ("status_tells_what_a_node_is_good_for", collect::status),
        ("a_sandbox_without_a_pod_is_told", collect::pod_gone),
        ("a_lease_without_a_link_goes_and_nothing_else", orphans::link_gone),
    ];
    let mut trials: Vec<_> = tests.into_iter().map(|(name, body)| trial(name, NEEDS, body)).collect();
    let with_go = [NEEDS, &[Need::Tool("go")]].concat();
    trials.push(trial("cnitool_does_every_verb", &with_go, verbs::every));
    kernel_test::run(trials);
}
