//! The kernel programs: from ebpf/ to one object in the build directory.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::setup::EbpfTools;
use crate::workspace::Workspace;

/// The machine that the programs are compiled for.
const TARGET: &str = "bpfel-unknown-none";
/// The name of the binary that ebpf/Cargo.toml declares.
const BINARY: &str = "tidepool-ebpf";

/// Builds the programs and returns the path of their object. The file changes
/// only when its bytes do, so that the agent is not built anew for nothing.
pub(crate) fn build(workspace: &Workspace, tools: &EbpfTools) -> Result<PathBuf> {
    let target_dir = workspace.target().join("ebpf");
    let mut command = workspace.cargo();
    command
        .current_dir(workspace.root().join("ebpf"))
        .args(["build", "--release", "--quiet", "--locked"])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace, tools))
        .env("PATH", path_with(&tools.linker_dir)?)
        .env("RUSTC", &tools.toolchain.rustc)
        // `build-std` on a stable compiler; for this call only, since build
        // scripts of other crates look at it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    process::run(&mut command).context("building the kernel programs")?;

    let built = target_dir.join(TARGET).join("release").join(BINARY);
    let stripped = target_dir.join("tidepool.stripped.o");
    strip(tools, &built, &stripped)?;
    let object = target_dir.join("tidepool.bpf.o");
    let bytes = fs::read(&stripped).with_context(|| format!("reading {}", stripped.display()))?;
    if !fs::read(&object).is_ok_and(|old| old == bytes) {
        fs::write(&object, bytes).with_context(|| format!("writing {}", object.display()))?;
    }
    Ok(object)
}

/// Takes the debug sections away, 1.1 MB to 0.1 MB, and leaves those that the
/// kernel reads. The tool ships with the compiler but for Debian's, where it is
/// a package of its own that need not be there.
fn strip(tools: &EbpfTools, from: &Path, to: &Path) -> Result<()> {
    let sysroot = &tools.toolchain.sysroot;
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let objcopy = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    if !objcopy.exists() {
        fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
        return Ok(());
    }
    let mut command = Command::new(objcopy);
    command.arg("--strip-debug").arg(from).arg(to).env("LD_LIBRARY_PATH", sysroot.join("lib"));
    process::run(&mut command)
}

/// Flags of the compiler, 0x1f between them. The remapped prefixes make the
/// object the same from every checkout.
fn rustflags(workspace: &Workspace, tools: &EbpfTools) -> OsString {
    let mut flags: Vec<OsString> = vec![
        "-Cdebuginfo=2".into(),
        // 32-bit registers and compare-and-exchange; kernels since 5.12.
        "-Ctarget-cpu=v3".into(),
        "-Clink-arg=--btf".into(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH).into(),
    ];
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let prefixes = [
        (Some(workspace.root().to_owned()), "/src"),
        (cargo_home, "/cargo"),
        (Some(tools.toolchain.sysroot.clone()), "/rust"),
    ];
    for (from, to) in prefixes {
        if let Some(from) = from {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flags.push(flag);
        }
    }
    flags.join(&OsString::from("\u{1f}"))
}

fn path_with(first: &Path) -> Result<OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest)))
        .context("a folder in PATH has a colon in its name")
}
