//! Log files of a demo, in a folder that goes with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const PREFIX: &str = "tidepool-demo-";

/// A folder of this process; removed when dropped. One that a killed demo
/// left is removed by the next one.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only log files: what stays is swept by the next demo.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !is_a_demo(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether this process id is a demo that runs, and not a later process that
/// was given the same number.
fn is_a_demo(pid: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(pid).join("comm")).is_ok_and(|comm| comm.trim() == "xtask")
}
