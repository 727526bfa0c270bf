//! What a developer types, tried from outside.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use system_tests::demo::bin_dir;

fn main() {
    let built = Need::Env("TIDEPOOL_BIN_DIR");
    kernel_test::run(vec![
        trial(
            "setup_is_quiet_when_all_is_there",
            &[Need::Root, built, Need::Env("TIDEPOOL_PYTHON")],
            setup_is_quiet,
        ),
        trial("the_agent_says_what_its_node_lacks", &[built], agent_without_a_node),
        trial("an_unknown_command_is_refused", &[built], || {
            let output = xtask(&["frobnicate"])?;
            ensure!(output.status.code() == Some(2), "{}", output.status);
            Ok(())
        }),
        trial("a_demo_without_its_binaries_names_what_is_missing", &[Need::Root, Need::NetNs, built], || {
            let empty = tempfile::tempdir()?;
            let dir = empty.path().to_str().context("a path that is no text")?;
            let output = xtask(&["demo", "--bin-dir", dir])?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(1) && said.contains("vpc-sim"), "{}: {said}", output.status);
            Ok(())
        }),
    ]);
}

/// The folder whose `debug` holds the binaries.
fn target_dir() -> Result<PathBuf> {
    bin_dir()?.parent().map(PathBuf::from).context("the binaries are in the root folder")
}

fn xtask(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(bin_dir()?.join("xtask"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target_dir()?)
        .env_remove("LD_LIBRARY_PATH")
        .output()?)
}

/// `cargo xtask test` has just run it, so it has nothing to do.
fn setup_is_quiet() -> Result<()> {
    let output = xtask(&["setup"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    ensure!(output.stdout.is_empty() && said.trim() == "ok: everything is there", "{said}");
    Ok(())
}

fn agent_without_a_node() -> Result<()> {
    let output = Command::new(bin_dir()?.join("tidepool-agent")).arg("run").env_clear().output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(64) && said.contains("MY_NODE_NAME"), "{}: {said}", output.status);
    Ok(())
}
