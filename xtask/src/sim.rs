//! `cargo xtask sim`: the pool in simulated time, beside the incumbent's. The
//! simulation is a program of its own: nothing here links the product.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process;
use crate::progress;
use crate::workspace::Workspace;

/// What can be asked of `sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The rows as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only scenarios whose name contains this.
    #[arg(long, value_name = "SCENARIO")]
    only: Option<String>,
    /// Every draw follows from it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Builds and runs it. Standard output holds its rows and nothing else; the
/// exit code is its own.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    progress::step("Building the simulation");
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--package", "ipam-sim", "--bin", "ipam-sim"]);
    process::run(&mut build)?;

    progress::step("Running it");
    let mut sim = workspace.cargo();
    sim.args(["run", "--locked", "--quiet", "--package", "ipam-sim", "--bin", "ipam-sim", "--"]);
    if options.json {
        sim.arg("--json");
    }
    if let Some(only) = &options.only {
        sim.arg("--only").arg(only);
    }
    if let Some(seed) = options.seed {
        sim.arg("--seed").arg(seed.to_string());
    }
    let begun = Instant::now();
    let status = sim.status().with_context(|| format!("starting {}", process::line(&sim)))?;
    progress::detail(&format!("{:.1} s", begun.elapsed().as_secs_f64()));
    if !status.success() {
        progress::warning("a promise of the pool is not kept; the lines above say which");
        return Ok(ExitCode::FAILURE);
    }
    progress::done("every promise of the pool is kept");
    Ok(ExitCode::SUCCESS)
}
