//! `cargo xtask test`: everything that must hold before a change goes in.

mod policy;
mod tally;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use kernel_test::find_in_path;

use crate::build::{self, Built, OBJECT_VARIABLE, Profile};
use crate::process;
use crate::progress;
use crate::setup::{self, Purpose, Tools};
use crate::workspace::Workspace;
use tally::Tally;

/// What can be asked of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run the tests only: no formats, lints or licences.
    #[arg(long)]
    tests_only: bool,
    /// Handed to `cargo test`: a filter, or `--package NAME`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs all of it, past failures, so that one run tells everything.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let tools = setup::run(workspace, Purpose::Test)?;
    let mut tally = Tally::default();

    if !options.tests_only {
        progress::step("Formats");
        tally.step("formats", formats(workspace));
        progress::step("Licences, bans and sources");
        tally.step("cargo deny", policy::check(workspace));
    }
    // Before the lints: what the compiler refuses, it says once.
    match build::run(workspace, &tools, Profile::Dev) {
        Ok(built) => {
            if !options.tests_only {
                progress::step("Lints");
                tally.step("clippy", lints(workspace, &built));
            }
            progress::step("Tests");
            let outcome = tests(workspace, &tools, &built, &options.arguments, &mut tally);
            tally.step("cargo test", outcome);
        }
        Err(error) => tally.step("build", Err(error)),
    }

    for line in tally.details() {
        println!("{line}");
    }
    println!("{}", tally.summary());
    Ok(if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn formats(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    // A workspace of its own: another target.
    process::run(
        workspace.cargo().current_dir(workspace.root().join("ebpf")).args(["fmt", "--all", "--check"]),
    )
}

/// All targets of the selection that everything else builds.
fn lints(workspace: &Workspace, built: &Built) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["clippy", "--workspace", "--all-targets", "--locked"])
        .args(["--", "-D", "warnings"])
        .env(OBJECT_VARIABLE, &built.object);
    process::run(&mut command)
}

/// Runs the tests and counts what they say, while they say it.
fn tests(
    workspace: &Workspace,
    tools: &Tools,
    built: &Built,
    arguments: &[OsString],
    tally: &mut Tally,
) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--locked"])
        .args(arguments)
        .env(OBJECT_VARIABLE, &built.object)
        .env("TIDEPOOL_BIN_DIR", &built.bin_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(python) = &tools.python {
        command.env("TIDEPOOL_PYTHON", python);
    }
    through_sudo(&mut command);

    let mut child = command.spawn().with_context(|| format!("starting {}", process::line(&command)))?;
    if let Some(pipe) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        // By bytes: a test may print what is no text.
        while reader.read_until(b'\n', &mut line)? > 0 {
            out.write_all(&line)?;
            tally.read(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed() == 0 {
        anyhow::bail!("cargo test: {status}, and no test says why");
    }
    Ok(())
}

/// An ordinary user who may use sudo runs the tests through it, not the build.
fn through_sudo(command: &mut Command) {
    let may = !nix::unistd::geteuid().is_root()
        && find_in_path("sudo").is_some()
        && process::output(Command::new("sudo").args(["--non-interactive", "true"])).is_ok();
    if may {
        let runner =
            format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
        command.env(runner, "sudo --non-interactive --preserve-env");
    }
}
