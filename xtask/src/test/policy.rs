//! deny.toml, by cargo-deny where that is installed.
//!
//! Where it is not, the test `dependencies` of the system tests reads the same
//! file and holds the bans, licences and sources of it; nothing is let through
//! for want of a tool. Advisories need the database, and so the tool.

use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::progress;
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<()> {
    if process::output(Command::new("cargo-deny").arg("--version")).is_err() {
        progress::detail("cargo-deny is not installed: a test holds deny.toml instead");
        return Ok(());
    }
    let mut held = workspace.cargo();
    process::run(held.args(["deny", "--locked", "check", "bans", "licenses", "sources"]))?;

    let mut fetch = workspace.cargo();
    if process::status(fetch.args(["deny", "fetch", "db"]))?.success() {
        let mut advisories = workspace.cargo();
        process::run(advisories.args(["deny", "--locked", "check", "--disable-fetch", "advisories"]))
    } else {
        progress::warning("the advisory database can't be reached: advisories are not checked");
        Ok(())
    }
}
