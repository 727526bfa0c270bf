//! Go programs that these tests run, built once beside the other binaries.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use system_tests::demo::bin_dir;

/// Builds a program of a Go module; its path. None, with a word, where the module cannot be had here.
pub(crate) fn build(package: &str, version: &str) -> Result<Option<PathBuf>> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let dir = bin_dir()?.join("go").join(format!("{name}-{version}"));
    let program = dir.join(name);
    if program.exists() {
        return Ok(Some(program));
    }
    std::fs::create_dir_all(&dir)?;
    // Into a folder of its own first: another test target may build the same.
    let own = tempfile::tempdir_in(&dir)?;
    let output = Command::new("go")
        .args(["install", &format!("{package}@{version}")])
        .env("GOBIN", own.path())
        .env("CGO_ENABLED", "0")
        .output()?;
    if !output.status.success() {
        println!("skipped: {package}@{version}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return Ok(None);
    }
    std::fs::rename(own.path().join(name), &program)?;
    ensure!(program.exists());
    Ok(Some(program))
}
