//! Puts the eBPF object where the agent embeds it from.
//!
//! The object comes from the environment, so that `cargo check` and `cargo test`
//! need no eBPF tool chain: without it an empty file is embedded, and the agent
//! says so when it starts.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const VARIABLE: &str = "TIDEPOOL_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let target = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("datapath.o");
    let object = match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|error| format!("{VARIABLE}={}: {error}", path.display()))?
        }
        None => Vec::new(),
    };
    fs::write(target, object)?;
    Ok(())
}
