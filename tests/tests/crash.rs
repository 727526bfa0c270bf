//! The real agent is killed at every single EC2 call that it makes while a node
//! starts, grows and shrinks, and is started again: no address may be leased
//! twice, nothing may be left over at EC2, and running pods may notice nothing.
//!
//! Which calls there are is found by running; nobody lists them.

use kernel_test::{Need, trial};

#[path = "crash/checks.rs"]
mod checks;
#[path = "crash/node.rs"]
mod node;
#[path = "crash/operations.rs"]
mod operations;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/scenario.rs"]
mod scenario;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

fn main() {
    kernel_test::run(vec![
        trial("every_operation_of_the_pool_is_known_here", &[], operations::all_are_judged),
        trial("a_kill_at_any_ec2_call_leaks_nothing_and_disturbs_nobody", NEEDS, scenario::every_point),
    ]);
}
