//! bpf-linker, built once into the build directory against the LLVM of the
//! compiler whose output it links.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::EbpfToolchain;
use crate::process;
use crate::progress;
use crate::workspace::Workspace;

const VERSION: &str = "0.13.0";

/// Returns the folder of the linker's binary.
pub(super) fn ensure(workspace: &Workspace, toolchain: &EbpfToolchain) -> Result<PathBuf> {
    let tools = workspace.tools();
    let prefix = tools.join("llvm");
    let bin = tools.join("bin");
    link_llvm(&prefix, &toolchain.llvm_library)?;

    // Another LLVM of the same major version has the same interface; another
    // major version needs another linker.
    let wanted = format!("{VERSION} llvm-{}\n", toolchain.llvm_major);
    let stamp = tools.join("bpf-linker.stamp");
    if bin.join("bpf-linker").exists() && fs::read_to_string(&stamp).is_ok_and(|is| is == wanted) {
        return Ok(bin);
    }

    progress::step(&format!(
        "Building bpf-linker {VERSION} for LLVM {} (once, about a minute)",
        toolchain.llvm_major
    ));
    let scratch = tools.join("build");
    let mut command = workspace.cargo();
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--force", "--quiet", "--no-default-features", "--features"])
        .arg(format!("llvm-{}", toolchain.llvm_major))
        .arg("--root")
        .arg(&tools)
        .env("CARGO_TARGET_DIR", &scratch)
        .env("LLVM_PREFIX", &prefix);
    process::run(&mut command).context("building bpf-linker")?;
    // Half a gigabyte that nobody reads again.
    let _ = fs::remove_dir_all(&scratch);
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(bin)
}

/// `<prefix>/lib/libLLVM.so`, which the linker's build looks for and its binary
/// loads, is the compiler's own library.
fn link_llvm(prefix: &Path, library: &Path) -> Result<()> {
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("creating {}", lib.display()))?;
    let mut names = vec![lib.join("libLLVM.so")];
    // The name that the library calls itself by, for the loader.
    names.extend(library.file_name().map(|name| lib.join(name)));
    for name in names {
        if fs::read_link(&name).is_ok_and(|is| is == library) {
            continue;
        }
        // Absent, or left by another compiler.
        let _ = fs::remove_file(&name);
        symlink(library, &name).with_context(|| format!("linking {}", name.display()))?;
    }
    Ok(())
}
