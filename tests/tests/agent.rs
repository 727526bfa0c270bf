//! The agent as a whole, on the nodes of a simulated VPC: real binaries, a
//! real kernel, and a runtime that calls the real plugin.

use kernel_test::{Need, Trial, trial};

#[path = "agent/audit.rs"]
mod audit;
#[path = "agent/commands.rs"]
mod commands;
#[path = "agent/deletion.rs"]
mod deletion;
#[path = "agent/flows.rs"]
mod flows;
#[path = "agent/networking.rs"]
mod networking;
#[path = "agent/policy.rs"]
mod policy;
#[path = "agent/pool.rs"]
mod pool;
#[path = "agent/refusals.rs"]
mod refusals;
#[path = "agent/repair.rs"]
mod repair;
#[path = "agent/restart.rs"]
mod restart;
#[path = "agent/state.rs"]
mod state;
#[path = "agent/sweep.rs"]
mod sweep;
#[path = "agent/truth.rs"]
mod truth;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

type Body = fn() -> anyhow::Result<()>;

fn main() {
    let tests: [(&str, Body); 24] = [
        ("what_a_scarce_subnet_or_a_throttle_does_is_said_and_ends", pool::scarcity),
        ("a_refused_add_says_why_until_when_and_what_to_do", refusals::every_reason),
        ("a_fragmented_subnet_is_refused_by_name", refusals::fragmented),
        ("what_others_do_to_the_nodes_addresses_is_noticed", truth::behind_its_back),
        ("a_late_metadata_service_makes_no_black_hole", truth::late_metadata),
        ("the_pool_grows_by_as_few_calls_as_can_be", pool::growth),
        ("pods_run_on_while_the_agent_is_killed_and_comes_back", restart::killed),
        ("a_pod_that_comes_while_the_agent_is_away_waits", restart::pod_meanwhile),
        ("nothing_is_left_of_a_deleted_pod", deletion::nothing_left),
        ("no_connection_slips_in_before_the_policy", policy::first_packet),
        ("verdicts_follow_policies_and_labels_and_flows_die", policy::changes),
        ("flows_are_followed_by_the_names_of_those_who_talk", flows::followed),
        ("audit_lets_pass_and_tells_and_its_end_reaches_live_flows", audit::audit),
        ("what_others_remove_is_put_back", repair::put_back),
        ("a_cidr_that_the_vpc_gets_is_translated_no_more", repair::vpc_cidrs),
        ("pages_and_commands_tell_the_truth", commands::pages),
        ("readiness_waits_for_kubernetes", commands::readiness),
        ("a_second_agent_is_refused", commands::second_agent),
        ("an_uninstalled_node_is_not_ready", commands::uninstall),
        ("pods_outlive_the_loss_of_all_state", state::lost),
        ("a_cooldown_outlives_the_agent", state::cooldown),
        ("state_of_a_newer_agent_is_refused_with_the_remedy", state::newer),
        ("pods_are_repaired_and_deleted_without_the_kubernetes_api", state::without_kubernetes),
        ("what_a_terminated_node_left_over_is_swept_by_one_of_the_others", sweep::leaked),
    ];
    let mut trials: Vec<Trial> = tests.into_iter().map(|(name, body)| trial(name, NEEDS, body)).collect();
    let real_api =
        [NEEDS, &[Need::Tool("go"), Need::Tool("kubectl"), Need::Env("TIDEPOOL_APISERVER")]].concat();
    trials.push(trial("the_sweepers_lease_works_on_a_real_kubernetes_api", &real_api, sweep::real_api));
    trials.extend(networking::TESTS.iter().map(|(name, body)| trial(*name, NEEDS, *body)));
    let built = [Need::Env("TIDEPOOL_BIN_DIR")];
    trials.push(trial("every_fault_of_the_environment_is_told_at_once", &built, commands::bad_environment));
    kernel_test::run(trials);
}
