//! What the kernel must be able to do: the list that `REQUIRE_KERNEL=1` uses.

use anyhow::{Result, bail};
use kernel_test::{Feature, REQUIRED};

use crate::progress;

/// Tries every required feature in namespaces of our own.
pub(super) fn check() -> Result<()> {
    if Feature::Root.check().is_err() {
        // Not a fault here: what needs root says so, and how to give it.
        progress::warning("not root: what the kernel can do is not checked");
        return Ok(());
    }
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter_map(|feature| {
            let reason = feature.check().err()?;
            Some(match feature.kernel_config() {
                Some(config) => format!("{reason} ({config}; a container needs --privileged)"),
                None => reason,
            })
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { bail!("this kernel lacks:\n  {}", missing.join("\n  ")) }
}
