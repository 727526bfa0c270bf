//! The network between nodes, the nodes, and `vpc-sim up` on a real kernel.
//!
//! `network` and `node` use the library; `up` and `pods` run the command.

mod network;
mod node;
mod pods;
mod sim;
mod up;

fn main() {
    let mut trials = network::trials();
    trials.extend(node::trials());
    trials.extend(up::trials());
    trials.extend(pods::trials());
    kernel_test::run(trials)
}
