//! The agent as a whole, on the nodes of a simulated VPC: real binaries, a
//! real kernel, and a runtime that calls the real plugin.

use kernel_test::{Need, Trial, trial};

#[path = "agent/commands.rs"]
mod commands;
#[path = "agent/deletion.rs"]
mod deletion;
#[path = "agent/manifests.rs"]
mod manifests;
#[path = "agent/policy.rs"]
mod policy;
#[path = "agent/pool.rs"]
mod pool;
#[path = "agent/questions.rs"]
mod questions;
#[path = "agent/repair.rs"]
mod repair;
#[path = "agent/restart.rs"]
mod restart;
#[path = "agent/world.rs"]
mod world;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

type Body = fn() -> anyhow::Result<()>;

fn main() {
    let tests: [(&str, Body); 12] = [
        ("what_a_scarce_subnet_or_a_throttle_does_is_said_and_ends", pool::scarcity),
        ("the_pool_grows_by_as_few_calls_as_can_be", pool::growth),
        ("pods_run_on_while_the_agent_is_killed_and_comes_back", restart::killed),
        ("a_pod_that_comes_while_the_agent_is_away_waits", restart::pod_meanwhile),
        ("nothing_is_left_of_a_deleted_pod", deletion::nothing_left),
        ("no_connection_slips_in_before_the_policy", policy::first_packet),
        ("verdicts_follow_policies_and_labels_and_flows_die", policy::changes),
        ("what_others_remove_is_put_back", repair::put_back),
        ("pages_and_commands_tell_the_truth", commands::pages),
        ("readiness_waits_for_kubernetes", commands::readiness),
        ("a_second_agent_is_refused", commands::second_agent),
        ("an_uninstalled_node_is_not_ready", commands::uninstall),
    ];
    let mut trials: Vec<Trial> = tests.into_iter().map(|(name, body)| trial(name, NEEDS, body)).collect();
    let built = [Need::Env("TIDEPOOL_BIN_DIR")];
    trials.push(trial("every_fault_of_the_environment_is_told_at_once", &built, commands::bad_environment));
    kernel_test::run(trials);
}
