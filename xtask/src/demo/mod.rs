//! `cargo xtask demo`: two nodes in a VPC in a box, real agents, an application
//! and its policies, and what changes when they are applied.
//!
//! It uses only what any user of the simulator can: the line that `vpc-sim up`
//! prints, its control endpoint, and the agents' own HTTP endpoint.

pub(crate) mod agents;
pub(crate) mod control;
mod document;
pub(crate) mod example;
pub(crate) mod interrupt;
mod matrix;
mod report;
mod scene;
pub(crate) mod scratch;
pub(crate) mod simulation;
mod verdicts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::progress;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use example::Example;
use interrupt::Interrupt;
use scene::Scene;

/// What can be asked of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave it running until Ctrl-C, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Print one JSON document on standard output instead of the report.
    #[arg(long)]
    json: bool,
    /// Use this Kubernetes API instead of the simulated one.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Seed of the simulated cloud's latencies.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Binaries that are already built; nothing is installed or built then.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Exit code of a shell's command that ended by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Runs the demo. The code is 1 when a cell differs from the expected matrix.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let bin_dir = match &options.bin_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => {
            let tools = setup::run(workspace, Purpose::Demo)?;
            build::run(workspace, &tools, Profile::Dev)?.bin_dir
        }
    };
    if !nix::unistd::geteuid().is_root() {
        return run_as_root(options, &bin_dir);
    }
    let interrupt = Interrupt::catch()?;
    let start = Instant::now();
    match play(workspace, options, &bin_dir, &interrupt) {
        Ok(ok) => {
            progress::done(&format!("{:.1} s", start.elapsed().as_secs_f32()));
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(_) if interrupt.came() => {
            progress::detail("stopped; nothing is left behind");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

/// The whole story; `true` when every cell is as expected. What was made in an
/// API that is not the simulator's is deleted however it ends.
fn play(
    workspace: &Workspace,
    options: &Options,
    bin_dir: &std::path::Path,
    interrupt: &Interrupt,
) -> Result<bool> {
    let example = Example::load(&workspace.root().join("examples"))?;
    progress::step("Starting a VPC with two nodes, and an agent on each");
    let capabilities = example::capabilities(&workspace.root().join("daemonset.yaml"))?;
    let mut scene = Scene::start(options, bin_dir, &capabilities, interrupt)?;
    let told = tell(&mut scene, &example, options);
    let cleaned = scene.clean_up(&example);
    told.and_then(|as_expected| cleaned.map(|()| as_expected))
}

fn tell(scene: &mut Scene<'_>, example: &Example, options: &Options) -> Result<bool> {
    progress::step("Starting the application");
    let pods = scene.apply_application(example)?;
    progress::step("Probing without policies");
    let before = scene.probe_without_policies(example)?;
    progress::step("Applying the policies");
    scene.apply_policies(example)?;
    let after = scene.wait_for_policies(example)?;
    let denials = scene.explain_denials(&after, &pods)?;
    let story = scene.finish(example, pods, before, after, denials)?;

    if options.json {
        report::write(&mut std::io::stderr(), &story)?;
        println!("{}", serde_json::to_string(&document::of(&story))?);
    } else {
        report::write(&mut std::io::stdout(), &story)?;
    }
    if options.keep {
        report::look_around(&mut std::io::stderr(), scene)?;
        scene.wait_for_the_end()?;
    }
    Ok(story.as_expected())
}

/// Namespaces need root: the same command again through sudo, with what was
/// built by the user.
fn run_as_root(options: &Options, bin_dir: &std::path::Path) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    anyhow::ensure!(
        kernel_test::find_in_path("sudo").is_some(),
        "the demo makes network namespaces, which needs root, and there is no sudo"
    );
    let mut command = std::process::Command::new("sudo");
    command
        .arg("--preserve-env=CARGO,CARGO_MANIFEST_DIR,CARGO_HOME,CARGO_TARGET_DIR,RUSTUP_HOME,NO_COLOR,HOME")
        .arg(std::env::current_exe()?)
        .args(["demo", "--seed", &options.seed.to_string(), "--bin-dir"])
        .arg(bin_dir);
    if options.keep {
        command.arg("--keep");
    }
    if options.json {
        command.arg("--json");
    }
    if let Some(file) = &options.kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    // Only returns when it failed.
    Err(command.exec().into())
}
