//! Images built on the spot: one layer, a docker-archive, no registry.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernel_test::find_in_path;
use serde_json::json;

/// Of pods, and of sandboxes.
pub const BUSYBOX: &str = "example.test/busybox:1";

/// Commands that the busybox image has by name.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "grep", "hostname", "httpd", "id", "ip", "ls", "nc", "ping", "sleep", "true", "wget",
];

/// An archive of busybox alone, which sleeps when nothing else is said.
pub(super) fn busybox(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("busybox");
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    copy(&find_in_path("busybox").context("no busybox in PATH")?, &bin.join("busybox"))?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet))?;
    }
    archive(&root, BUSYBOX)
}

/// Where the distribution has the certificates that TLS clients trust; the agent does not start without any.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An archive of the agent, the plugin beside it, the libraries that they ask for, and certificates.
pub(super) fn agent(dir: &Path, bin_dir: &Path, tag: &str) -> Result<PathBuf> {
    let root = dir.join("agent");
    fs::create_dir_all(&root)?;
    for program in ["tidepool-agent", "tidepool-cni"] {
        let built = bin_dir.join(program);
        let target = root.join(program);
        copy(&built, &target)?;
        // Of a debug build most is symbols. Where there is no strip, they go along.
        let _ = Command::new("strip").arg(&target).output();
        for library in libraries(&built)? {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library at the root")?)?;
            copy(&library, &place)?;
        }
    }
    let certificates = root.join(Path::new(CERTIFICATES).strip_prefix("/")?);
    fs::create_dir_all(certificates.parent().context("certificates at the root")?)?;
    copy(Path::new(CERTIFICATES), &certificates)?;
    archive(&root, tag)
}

/// What the loader would open, with itself; nothing for a static program.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let words = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// Packs `root` as an image of one layer.
fn archive(root: &Path, tag: &str) -> Result<PathBuf> {
    for empty in ["etc", "proc", "sys", "dev", "tmp", "run", "var"] {
        fs::create_dir_all(root.join(empty))?;
    }
    let stage = root.with_extension("image");
    fs::create_dir_all(&stage)?;
    pack(root, &[".".into()], &stage.join("layer.tar"))?;
    let digest = sha256(&stage.join("layer.tar"))?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep"], "Cmd": ["2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let nameless = stage.join("config");
    fs::write(&nameless, config.to_string())?;
    let name = format!("{}.json", sha256(&nameless)?);
    fs::rename(nameless, stage.join(&name))?;
    let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    fs::write(stage.join("manifest.json"), manifest.to_string())?;
    let target = root.with_extension("tar");
    pack(&stage, &[name, "layer.tar".into(), "manifest.json".into()], &target)?;
    Ok(target)
}

fn pack(dir: &Path, names: &[String], target: &Path) -> Result<()> {
    let output = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--sort=name", "-cf"])
        .arg(target)
        .arg("-C")
        .arg(dir)
        .args(names)
        .output()
        .context("starting tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// In hexadecimal digits. By the command: unoptimised code takes seconds for a layer.
fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("starting sha256sum")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().next().with_context(|| file.display().to_string())?.to_owned())
}
