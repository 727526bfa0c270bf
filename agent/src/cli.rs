//! What an operator types on the node: the questions that a running agent answers.

mod client;
mod flows;
mod policy;

use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

use client::ask;

pub use flows::FlowsQuestion;
pub use policy::{Policy, PolicyQuestion};

/// The node agent: a warm pool of VPC addresses, pod wiring, and NetworkPolicy in eBPF.
///
/// Without a command it serves its node. Every other command but install and uninstall asks the agent that runs on this
/// node, and changes nothing.
#[derive(Debug, Parser)]
#[command(name = "tidepool-agent", version)]
pub struct Arguments {
    /// What to do; serving is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The agent's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this node. Configured by the environment; see daemonset.yaml.
    Run,
    /// Copy the plugin to the runtime's directory, let the node forward, and end: for an init container.
    Install,
    /// Give the node back to aws-node, or to any other. Its pods run on. The agent must not run.
    Uninstall {
        /// Let translation and policy stay until aws-node answers, for so many seconds at most: no connection is
        /// cut off. Without this they go at once.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// What works and what does not.
    Status(Target),
    /// ENIs, addresses, and why the pool does not grow.
    Pool(Target),
    /// Every sandbox with its address, link and slot.
    Endpoints(Target),
    /// The configuration in force.
    Config(Target),
    /// Policies in force on this node, and what decides about a connection.
    Policy(Policy),
    /// Denied packets, and some of the flows that are allowed, as they come.
    ///
    /// Each line: time (UTC), verdict, direction as seen from the pod of this node, who talks to whom, and why. The
    /// reason is that of tidepool_packets_total; behind it stands the rule that decided, or the policy that isolates the
    /// pod where no rule allows. The kernel programs write nothing while nobody looks.
    Flows(FlowsQuestion),
}

/// Where a running agent answers.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The agent's HTTP address.
    #[arg(long, global = true, env = "TIDEPOOL_METRICS_ADDR", default_value = "127.0.0.1:61680")]
    address: SocketAddr,
}

impl Command {
    /// Asks the running agent and prints its answer.
    ///
    /// # Errors
    ///
    /// Where no agent answers, or it refuses the question.
    pub fn ask(&self) -> anyhow::Result<()> {
        let (target, path) = match self {
            Self::Run | Self::Install | Self::Uninstall { .. } => bail!("this command asks nothing"),
            Self::Policy(policy) => return policy.ask(),
            Self::Flows(flows) => return flows.ask(),
            Self::Status(target) => {
                let (_, body) = ask(target.address, "/readyz")?.whole()?;
                print!("{body}");
                // An agent that is starting has no such page yet.
                if let (200, body) = ask(target.address, "/debug/pool")?.whole()? {
                    let pool = serde_json::from_str(&body).context("the agent's answer is not JSON")?;
                    print!("{}", troubles(&pool));
                }
                if let (200, body) = ask(target.address, "/debug/config")?.whole()? {
                    let config: Value =
                        serde_json::from_str(&body).context("the agent's answer is not JSON")?;
                    if config["policy_audit"] == "true" {
                        println!("policy is audited on this node: it denies nothing; see «flows --denied»");
                    }
                }
                return Ok(());
            }
            Self::Pool(target) => (target, "/debug/pool"),
            Self::Endpoints(target) => (target, "/debug/endpoints"),
            Self::Config(target) => (target, "/debug/config"),
        };
        let value = ask(target.address, path)?.json()?;
        println!("{value:#}");
        Ok(())
    }
}

/// What is wrong with a pool that works: one line for each.
fn troubles(pool: &Value) -> String {
    let mut lines = String::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let blocked = &pool["blocked"];
    if blocked.is_object() {
        let next =
            blocked["tried_again_in_s"].as_f64().map(|seconds| format!(" (tried again in {seconds:.1} s)"));
        lines.push_str(&format!(
            "pool cannot grow: {}{}; remedy: {}\n",
            text(&blocked["cause"]),
            next.unwrap_or_default(),
            text(&blocked["remedy"])
        ));
    }
    for address in pool["contradicted"].as_array().into_iter().flatten() {
        let address = text(address);
        lines.push_str(&format!(
            "address {address} of a running pod is no longer on its ENI; delete the pod\n"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::troubles;

    #[test]
    fn status_tells_what_is_wrong_with_a_pool_that_works() {
        assert_eq!(troubles(&json!({"blocked": null, "contradicted": []})), "");
        let blocked = json!({"cause": "subnet s has no free address", "remedy": "free some", "tried_again_in_s": 12.34});
        assert_eq!(
            troubles(&json!({"blocked": blocked, "contradicted": ["10.0.0.5"]})),
            "pool cannot grow: subnet s has no free address (tried again in 12.3 s); remedy: free some\n\
             address 10.0.0.5 of a running pod is no longer on its ENI; delete the pod\n"
        );
    }
}
