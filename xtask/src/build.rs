//! Everything that ships, and the simulator, in one build.
//!
//! `demo`, `test` and `build` share one selection of packages and features.
//! Otherwise aws-sdk-ec2, which compiles for minutes, would compile for each.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ebpf;
use crate::process;
use crate::progress;
use crate::setup::Tools;
use crate::workspace::Workspace;

/// How the binaries are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly.
    Dev,
    /// Optimised and linked statically.
    Release,
}

/// Where the results are.
#[derive(Debug)]
pub(crate) struct Built {
    /// The folder with `tidepool-agent`, `tidepool-cni` and `vpc-sim`.
    pub(crate) bin_dir: PathBuf,
    /// The CNI plugin.
    pub(crate) plugin: PathBuf,
    /// The object with the kernel programs, which the agent carries inside.
    pub(crate) object: PathBuf,
}

/// The variable by which the agent's build finds the kernel programs.
pub(crate) const OBJECT_VARIABLE: &str = "TIDEPOOL_EBPF_OBJECT";

/// The C library inside.
const STATIC: &str = "-Ctarget-feature=+crt-static";
/// The CNI plugin's package and binary.
pub(crate) const PLUGIN: &str = "tidepool-cni";

/// Builds the kernel programs first, since the agent carries them inside.
pub(crate) fn run(workspace: &Workspace, tools: &Tools, profile: Profile) -> Result<Built> {
    progress::step("Building the kernel programs");
    let object = ebpf::build(workspace, &tools.ebpf)?;
    match profile {
        Profile::Dev => dev(workspace, object),
        Profile::Release => release(workspace, object),
    }
}

fn dev(workspace: &Workspace, object: PathBuf) -> Result<Built> {
    progress::step("Building the agent, the plugin and the simulator (the first time: minutes)");
    let mut command = workspace.cargo();
    command.args(["build", "--workspace", "--bins", "--locked"]).env(OBJECT_VARIABLE, &object);
    process::run(&mut command).context("building the workspace")?;
    let bin_dir = workspace.target().join("debug");
    Ok(Built { plugin: bin_dir.join(PLUGIN), bin_dir, object })
}

/// Static, so that the plugin runs on any node whatever C library that has.
/// An explicit target keeps the flag away from build scripts and macros.
fn release(workspace: &Workspace, object: PathBuf) -> Result<Built> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    progress::step("Building the agent, the plugin and the simulator (release: many minutes)");
    let mut command = workspace.cargo();
    command
        .args(["build", "--workspace", "--bins", "--locked", "--release"])
        .args(["--exclude", "xtask", "--exclude", "policy-cases", "--target", &host])
        .env("CARGO_ENCODED_RUSTFLAGS", STATIC)
        .env_remove("RUSTFLAGS")
        .env(OBJECT_VARIABLE, &object);
    process::run(&mut command).context("building the workspace")?;
    let bin_dir = workspace.target().join(&host).join("release");

    // musl's start-up is a fifth of glibc's, and a plugin does little else.
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let plugin = if has_target(workspace, &musl) {
        progress::step("Building the plugin for musl");
        let mut command = workspace.cargo();
        command
            .args(["build", "--package", PLUGIN, "--locked", "--release"])
            .args(["--target", &musl])
            .env_remove("RUSTFLAGS");
        process::run(&mut command).context("building the plugin")?;
        workspace.target().join(&musl).join("release").join(PLUGIN)
    } else {
        bin_dir.join(PLUGIN)
    };
    Ok(Built { bin_dir, plugin, object })
}

/// An example of the plugin's package, built as the plugin is where there is no
/// musl; returns its path.
pub(crate) fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = workspace.cargo();
    command
        .args(["build", "--package", PLUGIN, "--example", name, "--locked", "--release", "--target", &host])
        .env("CARGO_ENCODED_RUSTFLAGS", STATIC)
        .env_remove("RUSTFLAGS");
    process::run(&mut command).with_context(|| format!("building {name}"))?;
    Ok(workspace.target().join(&host).join("release/examples").join(name))
}

/// Whether the active tool chain has the standard library of a target.
fn has_target(workspace: &Workspace, target: &str) -> bool {
    let mut command = Command::new("rustc");
    command.current_dir(workspace.root()).env_remove("LD_LIBRARY_PATH").args([
        "--target",
        target,
        "--print",
        "target-libdir",
    ]);
    process::output(&mut command).is_ok_and(|path| Path::new(path.trim()).is_dir())
}
