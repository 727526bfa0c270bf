//! The compiler of the kernel programs: one that carries the source of `core`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::packages;
use crate::process;
use crate::progress;

/// The oldest compiler that aya-ebpf of ebpf/Cargo.lock builds with.
const OLDEST: (u32, u32) = (1, 95);
/// The LLVM versions that bpf-linker can be built for.
const LLVM_MAJORS: [u32; 3] = [21, 22, 23];
/// Debian's packages of a recent compiler and of its library's source.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
/// Where Debian puts that compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build `core` for the kernel's machine.
#[derive(Debug, Clone)]
pub(crate) struct EbpfToolchain {
    /// The compiler itself, not rustup's front for it.
    pub(crate) rustc: PathBuf,
    /// What `rustc --print sysroot` says.
    pub(crate) sysroot: PathBuf,
    /// The library that it generates code with.
    pub(crate) llvm_library: PathBuf,
    /// Its major version; bpf-linker must be built for the same.
    pub(crate) llvm_major: u32,
}

/// Takes whichever is there; installs Debian's where none is.
pub(super) fn ensure() -> Result<EbpfToolchain> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let installed = packages::install(&DEBIAN_PACKAGES);
    match (find(), installed) {
        (Some(found), _) => Ok(found),
        (None, Ok(())) => bail!(
            "no compiler for the kernel programs: {} are installed, but are older than {}.{}; \
             with rustup, this adds what is needed: rustup component add rust-src",
            DEBIAN_PACKAGES.join(" and "),
            OLDEST.0,
            OLDEST.1
        ),
        (None, Err(error)) => Err(error.context(
            "no compiler for the kernel programs: neither a rustup tool chain with rust-src nor \
             Debian's packages are there; with rustup, this adds what is needed: \
             rustup component add rust-src",
        )),
    }
}

fn find() -> Option<EbpfToolchain> {
    candidates().iter().find_map(|rustc| inspect(rustc))
}

/// Compilers to look at: the active one, Debian's, then rustup's others.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(sysroot) = print_sysroot(Path::new("rustc")) {
        found.push(sysroot.join("bin/rustc"));
    }
    found.push(PathBuf::from(DEBIAN_RUSTC));
    if let Some(names) = command_output(Command::new("rustup").args(["toolchain", "list"])) {
        for line in names.lines() {
            let Some(name) = line.split_whitespace().next() else {
                continue;
            };
            let mut which = Command::new("rustup");
            which.args(["which", "--toolchain", name, "rustc"]);
            found.extend(command_output(&mut which).map(|path| PathBuf::from(path.trim())));
        }
    }
    found
}

/// A compiler with all that is needed, or nothing.
fn inspect(rustc: &Path) -> Option<EbpfToolchain> {
    let sysroot = print_sysroot(rustc)?;
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return None;
    }
    let facts = command_output(Command::new(rustc).arg("-vV"))?;
    if release(&facts)? < OLDEST {
        return None;
    }
    let llvm_major = llvm_major(&facts)?;
    if !LLVM_MAJORS.contains(&llvm_major) {
        progress::warning(&format!(
            "{} uses LLVM {llvm_major}, which bpf-linker does not know; it is passed over",
            rustc.display()
        ));
        return None;
    }
    Some(EbpfToolchain {
        llvm_library: llvm_library(rustc, &sysroot)?,
        rustc: rustc.to_owned(),
        sysroot,
        llvm_major,
    })
}

/// The shared library with LLVM: beside the compiler for rustup's, a package
/// of its own for Debian's.
fn llvm_library(rustc: &Path, sysroot: &Path) -> Option<PathBuf> {
    let beside = std::fs::read_dir(sysroot.join("lib"))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("libLLVM.so."))
        });
    beside.or_else(|| {
        let libraries = command_output(Command::new("ldd").arg(rustc))?;
        let line = libraries.lines().find(|line| line.contains("libLLVM"))?;
        let path = line.split_whitespace().nth(2)?;
        Some(PathBuf::from(path))
    })
}

fn print_sysroot(rustc: &Path) -> Option<PathBuf> {
    let sysroot = command_output(Command::new(rustc).args(["--print", "sysroot"]))?;
    Some(PathBuf::from(sysroot.trim()))
}

/// Standard output of a command that may not exist.
fn command_output(command: &mut Command) -> Option<String> {
    process::output(command.env_remove("LD_LIBRARY_PATH")).ok()
}

/// `release: 1.96.0` → (1, 96).
fn release(facts: &str) -> Option<(u32, u32)> {
    let value = facts.lines().find_map(|line| line.strip_prefix("release: "))?;
    let mut numbers = value.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// `LLVM version: 22.1.8` → 22.
fn llvm_major(facts: &str) -> Option<u32> {
    let value = facts.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    value.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_rustc_says() {
        let facts = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\n\
                     release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(release(facts), Some((1, 96)));
        assert_eq!(llvm_major(facts), Some(22));
        assert_eq!(release("release: 1.99.0-nightly"), Some((1, 99)));
        assert_eq!(release("rustc"), None);
        assert_eq!(llvm_major("rustc"), None);
    }

    #[test]
    fn a_compiler_without_the_source_of_core_is_passed_over() {
        assert!(inspect(Path::new("/bin/true")).is_none());
        assert!(inspect(Path::new("/nowhere/rustc")).is_none());
    }
}
