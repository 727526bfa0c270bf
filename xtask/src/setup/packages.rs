//! Packages of the distribution.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use kernel_test::find_in_path;

use super::Purpose;
use crate::process;
use crate::progress;

/// A package of Debian, and how one sees that what it brings is there.
struct Package {
    name: &'static str,
    found: Found,
    /// The first purpose, in their order, that needs it.
    from: Purpose,
}

enum Found {
    /// A command in PATH.
    Command(&'static str),
    /// A file.
    File(&'static str),
    /// A module that /usr/bin/python3 or another python3 in PATH can import.
    PythonModule(&'static str),
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", found: Found::Command("cc"), from: Purpose::Build },
    Package { name: "libc6-dev", found: Found::File("/usr/include/stdlib.h"), from: Purpose::Build },
    // nsenter and setpriv: agents are started inside their nodes.
    Package { name: "util-linux", found: Found::Command("nsenter"), from: Purpose::Demo },
    // ip and tc: tests read back with them what was programmed by netlink.
    Package { name: "iproute2", found: Found::Command("tc"), from: Purpose::Demo },
    Package { name: "nftables", found: Found::Command("nft"), from: Purpose::Demo },
    // What a kept demo tells one to look around with.
    Package { name: "curl", found: Found::Command("curl"), from: Purpose::Demo },
    // A real container runtime, which the tests run inside the nodes, and the plugins that it chains to ours.
    Package { name: "containerd", found: Found::Command("containerd"), from: Purpose::Test },
    Package { name: "runc", found: Found::Command("runc"), from: Purpose::Test },
    Package {
        name: "containernetworking-plugins",
        found: Found::File("/usr/lib/cni/portmap"),
        from: Purpose::Test,
    },
    // Images of pods are made of it.
    Package { name: "busybox-static", found: Found::Command("busybox"), from: Purpose::Test },
    // Of the agent's image: without any, TLS clients do not start.
    Package {
        name: "ca-certificates",
        found: Found::File("/etc/ssl/certs/ca-certificates.crt"),
        from: Purpose::Test,
    },
    // portmap calls it, and rules of kube-proxy are put in by it.
    Package { name: "iptables", found: Found::Command("iptables-nft"), from: Purpose::Test },
    Package { name: "python3-venv", found: Found::PythonModule("ensurepip"), from: Purpose::Test },
    Package { name: "kubernetes-client", found: Found::Command("kubectl"), from: Purpose::Test },
];

/// Installs what is missing of the list.
pub(super) fn ensure(purpose: Purpose) -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|package| package.from <= purpose && !package.found.is_there())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

impl Found {
    fn is_there(&self) -> bool {
        match self {
            Self::Command(name) => find_in_path(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::PythonModule(module) => {
                let import = format!("import {module}");
                process::output(Command::new("python3").args(["-c", &import])).is_ok()
            }
        }
    }
}

/// Installs packages by apt-get, as root or with sudo.
///
/// # Errors
/// Names the packages and the command that would install them wherever this
/// could not.
pub(super) fn install(names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    if find_in_path("apt-get").is_none() {
        bail!("this machine lacks {list} (Debian's names); install them with its package manager");
    }
    progress::step(&format!("Installing {list}"));
    let arguments = [
        "install",
        "--yes",
        "-qq",
        "--no-install-recommends",
        // Nothing of the user's goes away for us.
        "--no-remove",
    ];
    let install = || -> Result<()> {
        let mut command = as_root("apt-get")?;
        process::run(command.args(arguments).args(names))
    };
    // Package lists may be old or, in a fresh container, not there at all.
    let outcome = install().or_else(|_| {
        let mut update = as_root("apt-get")?;
        process::run(update.args(["update", "-qq"]))?;
        install()
    });
    outcome.map_err(|error| {
        error.context(format!(
            "this machine lacks {list}, and installing failed; try: \
             sudo apt-get update && sudo apt-get install --no-install-recommends {list}"
        ))
    })
}

/// A command that runs as root: directly, or through sudo.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("env");
        command.arg("DEBIAN_FRONTEND=noninteractive").arg(program);
        command
    } else if find_in_path("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        command
    } else {
        bail!("{program} needs root, and there is no sudo");
    };
    command.env_remove("LD_LIBRARY_PATH");
    Ok(command)
}
