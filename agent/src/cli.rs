//! What an operator types on the node: the questions that a running agent answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// The node agent: a warm pool of VPC addresses, pod wiring, and NetworkPolicy in eBPF.
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
    /// Policies in force on this node.
    Policy {
        /// Where the agent answers.
        #[command(flatten)]
        target: Target,
        /// What to ask about policy.
        #[command(subcommand)]
        question: PolicyQuestion,
    },
}

/// Questions about policy.
#[derive(Debug, Subcommand)]
pub enum PolicyQuestion {
    /// Each local pod with its sets.
    List,
    /// Which rule of which policy allows or denies a connection.
    Explain {
        /// `namespace/pod`.
        from: String,
        /// `namespace/pod` or an address.
        to: String,
        /// `port/protocol`, such as 8080/TCP.
        port: String,
    },
}

/// Where a running agent answers.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The agent's HTTP address.
    #[arg(long, env = "TIDEPOOL_METRICS_ADDR", default_value = "127.0.0.1:61680")]
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
            Self::Status(target) => {
                let (_, body) = get(target.address, "/readyz")?;
                print!("{body}");
                // An agent that is starting has no such page yet.
                if let (200, body) = get(target.address, "/debug/pool")? {
                    let pool = serde_json::from_str(&body).context("the agent's answer is not JSON")?;
                    print!("{}", troubles(&pool));
                }
                return Ok(());
            }
            Self::Pool(target) => (target, "/debug/pool".to_owned()),
            Self::Endpoints(target) => (target, "/debug/endpoints".to_owned()),
            Self::Config(target) => (target, "/debug/config".to_owned()),
            Self::Policy { target, question: PolicyQuestion::List } => (target, "/debug/policy".to_owned()),
            Self::Policy { target, question: PolicyQuestion::Explain { from, to, port } } => {
                let (port, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
                (target, format!("/debug/explain?from={from}&to={to}&port={port}&protocol={protocol}"))
            }
        };
        let (status, body) = get(target.address, &path)?;
        if status != 200 {
            bail!("{}", body.trim());
        }
        let value: Value = serde_json::from_str(&body).context("the agent's answer is not JSON")?;
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

/// One GET; the connection is closed by the server (HTTP/1.0).
fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no agent answers on {address}; is it running on this node?"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the agent did not answer in time")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    Ok((status, body.to_owned()))
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
