//! What the machine must have, found and, where it is missing, installed.
//!
//! Each part looks first and says something only when it does something, so
//! the second run is quiet and takes a fraction of a second.

mod kernel;
mod linker;
mod packages;
mod python;
mod toolchain;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use toolchain::EbpfToolchain;

use crate::workspace::Workspace;

/// What the tools are needed for: a demo does not wait for Python packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Compile everything that ships.
    Build,
    /// Run it in a VPC on this machine.
    Demo,
    /// Run every test, those with clients that we did not write too.
    Test,
    /// All of the above.
    Everything,
}

/// What setup found or installed.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The compiler and linker of the kernel programs.
    pub(crate) ebpf: EbpfTools,
    /// A Python with the packages that tests call, where these were asked for.
    pub(crate) python: Option<PathBuf>,
}

/// All that turns `ebpf/` into an object.
#[derive(Debug)]
pub(crate) struct EbpfTools {
    pub(crate) toolchain: EbpfToolchain,
    /// The folder of `bpf-linker`.
    pub(crate) linker_dir: PathBuf,
}

/// Brings the machine to where `purpose` is possible.
pub(crate) fn run(workspace: &Workspace, purpose: Purpose) -> Result<Tools> {
    packages::ensure(purpose)?;
    let toolchain = toolchain::ensure()?;
    let linker_dir = linker::ensure(workspace, &toolchain)?;
    let python = match purpose {
        Purpose::Build | Purpose::Demo => None,
        Purpose::Test | Purpose::Everything => Some(python::ensure(workspace)?),
    };
    if purpose >= Purpose::Demo {
        kernel::check()?;
    }
    Ok(Tools { ebpf: EbpfTools { toolchain, linker_dir }, python })
}
