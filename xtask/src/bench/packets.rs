//! `cargo xtask bench --only policy-packets`: what a packet costs by how many rules are in force, and what the maps take.
//!
//! The agent's own trial measures and prints; here it is only built and run.

use anyhow::Result;

use crate::build::{self, OBJECT_VARIABLE, Profile};
use crate::process;
use crate::progress;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

/// What `--only` calls it.
pub(super) const NAME: &str = "policy-packets";
/// Where the trial is, and what it is called.
const TARGET: &str = "datapath";
const TRIAL: &str = "nanoseconds_by_rules";

/// Runs it; false when a packet was judged wrong.
pub(super) fn run(workspace: &Workspace) -> Result<bool> {
    let tools = setup::run(workspace, Purpose::Test)?;
    let built = build::run(workspace, &tools, Profile::Dev)?;
    progress::step("Measuring packets");
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--quiet", "--locked", "--test", TARGET, "--", "--nocapture", TRIAL])
        .env(OBJECT_VARIABLE, &built.object)
        .env("REQUIRE_KERNEL", "1");
    Ok(process::status(&mut command)?.success())
}
