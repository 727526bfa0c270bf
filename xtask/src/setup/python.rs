//! A Python of the tests' own, with clients that we did not write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress;
use crate::workspace::Workspace;

/// Package names and versions, as pip reads them.
const REQUIREMENTS: &str = include_str!("../../python-requirements.txt");

/// Likewise packages of which only their data is read: they come without what their code needs.
const DATA: &str = include_str!("../../python-data.txt");

/// Returns the interpreter.
pub(super) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.tools();
    let venv = tools.join("venv");
    let python = venv.join("bin/python");
    let stamp = tools.join("venv.stamp");
    let data_stamp = tools.join("venv-data.stamp");
    if !python.exists() || !fs::read_to_string(&stamp).is_ok_and(|is| is == REQUIREMENTS) {
        install(&tools, &venv, &python)?;
        fs::write(&stamp, REQUIREMENTS).with_context(|| format!("writing {}", stamp.display()))?;
        // A new environment has none.
        let _ = fs::remove_file(&data_stamp);
    }
    if !fs::read_to_string(&data_stamp).is_ok_and(|is| is == DATA) {
        progress::step("Installing public data that tests read (instance types)");
        let list = tools.join("python-data.txt");
        pip(&python, &["--no-deps"], &list, DATA)?;
        fs::write(&data_stamp, DATA).with_context(|| format!("writing {}", data_stamp.display()))?;
    }
    Ok(python)
}

fn install(tools: &Path, venv: &Path, python: &Path) -> Result<()> {
    progress::step("Installing Python clients for tests (boto3, AWS CLI, kubernetes)");
    fs::create_dir_all(tools).with_context(|| format!("creating {}", tools.display()))?;
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
    pip(python, &[], &tools.join("python-requirements.txt"), REQUIREMENTS)
}

/// Writes `packages` to `list` and installs them.
fn pip(python: &Path, options: &[&str], list: &Path, packages: &str) -> Result<()> {
    fs::write(list, packages).with_context(|| format!("writing {}", list.display()))?;
    process::run(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(options)
            .arg("--requirement")
            .arg(list),
    )
    .with_context(|| {
        format!(
            "installing Python packages; try: {} -m pip install {} --requirement {}",
            python.display(),
            options.join(" "),
            list.display()
        )
    })
}
