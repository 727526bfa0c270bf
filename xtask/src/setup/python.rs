//! A Python of the tests' own, with clients that we did not write.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress;
use crate::workspace::Workspace;

/// Package names and versions, as pip reads them.
const REQUIREMENTS: &str = include_str!("../../python-requirements.txt");

/// Returns the interpreter.
pub(super) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.tools();
    let venv = tools.join("venv");
    let python = venv.join("bin/python");
    let stamp = tools.join("venv.stamp");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|is| is == REQUIREMENTS) {
        return Ok(python);
    }

    progress::step("Installing Python clients for tests (boto3, AWS CLI, kubernetes)");
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    let list = tools.join("python-requirements.txt");
    fs::write(&list, REQUIREMENTS).with_context(|| format!("writing {}", list.display()))?;
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    process::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--requirement"])
            .arg(&list),
    )
    .with_context(|| {
        format!(
            "installing Python packages; try: {} -m pip install --requirement {}",
            python.display(),
            list.display()
        )
    })?;
    fs::write(&stamp, REQUIREMENTS).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}
