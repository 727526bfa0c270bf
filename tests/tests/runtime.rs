//! Pods of a real container runtime: containerd and runc in the nodes of a simulated VPC, and the agent in a container
//! as its manifest says.

use kernel_test::{Need, trial};

#[path = "runtime/again.rs"]
mod again;
#[path = "runtime/confined.rs"]
mod confined;
#[path = "runtime/halfway.rs"]
mod halfway;
#[path = "runtime/hundred.rs"]
mod hundred;
#[path = "runtime/killed_agent.rs"]
mod killed_agent;
#[path = "runtime/list.rs"]
mod list;
#[path = "runtime/shaped.rs"]
mod shaped;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::NetNs,
    Need::Mounts,
    Need::Bpf,
    Need::Tc,
    Need::Nft,
    Need::Env("TIDEPOOL_BIN_DIR"),
    Need::ContainerRuntime,
];

type Body = fn() -> anyhow::Result<()>;

fn main() {
    let tests: [(&str, Body); 5] = [
        ("a_hundred_pods_reach_each_other_and_leave_nothing", hundred::all),
        ("the_runtime_does_not_notice_that_the_agent_is_killed_ten_times", killed_agent::ten_times),
        ("an_add_that_ends_half_way_leaves_nothing", halfway::at_every_step),
        ("what_is_done_twice_or_begins_anew_leaves_nothing", again::all),
        ("rates_and_policy_hold_on_the_same_link", shaped::both_ways),
    ];
    // Each has a machine's work to do: side by side they would only wait for each other.
    kernel_test::run_one_at_a_time(tests.into_iter().map(|(name, body)| trial(name, NEEDS, body)).collect());
}
