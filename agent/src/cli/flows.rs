//! `tidepool-agent flows`.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::Target;
use super::client::{ask, encoded};
use crate::flows::Flow;

/// What to show of flows, and for how long.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  tidepool-agent flows --follow --denied           what policy denies, until Ctrl-C
  tidepool-agent flows --pod shop/db --sample 1    everything that concerns one pod, for five seconds
  tidepool-agent flows --follow --json | jq .      for a machine")]
pub struct FlowsQuestion {
    #[command(flatten)]
    target: Target,
    /// Go on until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Without --follow: how long to look.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, conflicts_with = "follow")]
    seconds: u64,
    /// Only flows of this pod at either end, namespace/name; or of a whole namespace, namespace/
    #[arg(long, value_name = "NAMESPACE/POD")]
    pod: Option<String>,
    /// Only what is denied, or would be without audit.
    #[arg(long)]
    denied: bool,
    /// Show one in so many allowed flows; 1 shows all, 0 none.
    #[arg(long, value_name = "N", default_value_t = 10)]
    sample: u32,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl FlowsQuestion {
    /// Prints flows as they come.
    pub(super) fn ask(&self) -> anyhow::Result<()> {
        let mut path = format!("/debug/flows?denied={}&sample={}", self.denied, self.sample);
        if let Some(pod) = &self.pod {
            path.push_str(&format!("&pod={}", encoded(pod)));
        }
        let answer = ask(self.target.address, &path)?;
        let until = (!self.follow).then(|| Instant::now() + Duration::from_secs(self.seconds));
        let mut out = std::io::stdout().lock();
        answer.lines(until, |line| {
            let text = if self.json { line.to_owned() } else { words(line)? };
            match writeln!(out, "{text}").and_then(|()| out.flush()) {
                Ok(()) => Ok(true),
                // Whoever reads has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
    }
}

fn words(line: &str) -> anyhow::Result<String> {
    let value: Value = serde_json::from_str(line).context("the agent's answer is not JSON")?;
    if let Some(lost) = value["lost"].as_u64() {
        return Ok(format!("             {lost} more came faster than they could be told"));
    }
    let flow: Flow = serde_json::from_value(value).context("the agent is of another version")?;
    Ok(flow.to_string())
}
