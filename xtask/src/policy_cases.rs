//! `cargo xtask policy-cases`: a file of policy cases, judged one of three ways. The
//! judge is a program of its own: nothing here links the product.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::process;
use crate::progress;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

/// What can be asked of `policy-cases`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A JSON list of cases; policy-cases/src/format.rs tells the fields.
    file: PathBuf,
    /// Who judges: the programs' code on the host, the programs in the kernel by test runs,
    /// or packets between namespaces. The last two need root.
    #[arg(long, value_parser = ["host", "kernel", "packets"], default_value = "host")]
    via: String,
    /// Only the case of this number, or those whose description contains this.
    #[arg(long, value_name = "CASE")]
    only: Option<String>,
}

/// Builds and runs it. Its lines are the probes that differ, with the rules that decided;
/// the exit code is its own.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let tools = setup::run(workspace, Purpose::Build)?;
    let built = build::run(workspace, &tools, Profile::Dev)?;
    let program = built.bin_dir.join("policy-cases");
    let mut command = match options.via.as_str() {
        "host" => Command::new(program),
        _ if nix::unistd::geteuid().is_root() => Command::new(program),
        _ => {
            let mut command = Command::new("sudo");
            command.arg("--non-interactive").arg(program);
            command
        }
    };
    command.arg(&options.file).args(["--via", &options.via]);
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    progress::step("Judging");
    let status = command.status().with_context(|| format!("starting {}", process::line(&command)))?;
    ensure!(status.code().is_some(), "it ended by {status}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
