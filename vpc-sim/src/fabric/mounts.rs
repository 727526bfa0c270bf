//! What a node sees as its file system: the machine's, with places of its own.
//!
//! Software for nodes writes to /run, /var, /etc/cni, /opt and bpffs, and
//! expects to find only itself there. Nothing is created in the machine's own
//! file system: what is private lies on tmpfs, mounted where a directory is
//! already, or in the upper layer of an overlay.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

/// A node's file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A mount failed.
    #[error("mount {what} at {}", at.display())]
    Mount {
        what: &'static str,
        at: PathBuf,
        #[source]
        source: nix::Error,
    },
    /// A directory, link or file on the way failed.
    #[error("{what} {}", path.display())]
    Path {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the pieces lie while the node's file system is put together.
const STAGE: &str = "/run/.stage";

/// Directories that a node has to itself, empty but for this.
const PRIVATE_DIRS: [(&str, u32); 13] = [
    ("/run/netns", 0o755),
    ("/run/lock", 0o1777),
    ("/run/user", 0o755),
    ("/var/cache", 0o755),
    ("/var/lib", 0o755),
    ("/var/lib/cni", 0o755),
    ("/var/lib/kubelet", 0o755),
    ("/var/log", 0o755),
    ("/var/log/pods", 0o755),
    ("/var/spool", 0o755),
    ("/var/tmp", 0o1777),
    ("/etc/cni/net.d", 0o755),
    ("/opt/cni/bin", 0o755),
];

/// Makes the calling thread's mount namespace, which must be its own, that of a
/// node. Its network namespace is the one that /sys will show. `visible` are
/// directories that stay visible even below /run and /var.
///
/// A failure leaves the namespace half made; it is to be dropped.
pub(super) fn make_node_file_system(visible: &[PathBuf]) -> Result<(), MountError> {
    mount_at("private propagation", "/", None, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let kept = keep_open(visible)?;

    tmpfs("/run")?;
    create_dir(STAGE, 0o700)?;
    tmpfs(STAGE)?;
    overlay("etc")?;
    overlay("opt")?;
    tmpfs("/var")?;
    link("/run", "/var/run")?;
    link("/run/lock", "/var/lock")?;
    // What the machine itself has there must not show through the overlays.
    for place in ["/etc/cni", "/opt/cni"] {
        create_dir(place, 0o755)?;
        tmpfs(place)?;
    }
    for (path, mode) in PRIVATE_DIRS {
        create_dir(path, mode)?;
    }
    own_sysfs()?;

    // The overlays hold their layers, and lose nothing by this.
    umount2(STAGE, MntFlags::MNT_DETACH).map_err(|source| MountError::Mount {
        what: "(detach)",
        at: STAGE.into(),
        source,
    })?;
    fs::remove_dir(STAGE).map_err(path_error("remove", STAGE))?;
    show_again(&kept)
}

/// A sysfs of the node's network namespace, with what is mounted in the
/// machine's (cgroups above all) and a bpffs of its own.
fn own_sysfs() -> Result<(), MountError> {
    let aside = Path::new(STAGE).join("sys");
    create_dir(&aside, 0o755)?;
    mount_at("the machine's /sys", &aside, Some("/sys"), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    mount_at("sysfs", "/sys", Some("sysfs"), Some("sysfs"), MsFlags::empty(), None)?;
    for below in mounted_directly_below(&aside)? {
        let at = Path::new("/sys").join(&below);
        // Of a filesystem that only the other sysfs had a directory for, nothing is lost.
        if below == Path::new("fs/bpf") || !at.is_dir() {
            continue;
        }
        let from = format!("{STAGE}/sys/{}", below.display());
        mount_at("a part of /sys", &at, Some(&from), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    }
    mount_at("bpffs", "/sys/fs/bpf", Some("bpf"), Some("bpf"), MsFlags::empty(), None)
}

/// The mount points below `root` that lie in no other mount below it, relative
/// to it.
fn mounted_directly_below(root: &Path) -> Result<Vec<PathBuf>, MountError> {
    const OWN: &str = "/proc/thread-self/mountinfo";
    let table = fs::read_to_string(OWN).map_err(path_error("read", OWN))?;
    let mut points: Vec<PathBuf> = table
        .lines()
        // The fifth field is the mount point; names below /sys hold no blanks,
        // which are written as escapes there.
        .filter_map(|line| line.split(' ').nth(4))
        .filter_map(|point| Path::new(point).strip_prefix(root).ok())
        .filter(|point| !point.as_os_str().is_empty())
        .map(Path::to_path_buf)
        .collect();
    points.sort();
    points.dedup();
    let mut direct: Vec<PathBuf> = Vec::new();
    for point in points {
        if !direct.last().is_some_and(|above| point.starts_with(above)) {
            direct.push(point);
        }
    }
    Ok(direct)
}

/// An overlay over /NAME whose upper layer lies on the stage.
fn overlay(name: &str) -> Result<(), MountError> {
    let upper = format!("{STAGE}/{name}-upper");
    let work = format!("{STAGE}/{name}-work");
    create_dir(&upper, 0o755)?;
    create_dir(&work, 0o755)?;
    let options = format!("lowerdir=/{name},upperdir={upper},workdir={work}");
    mount_at(
        "an overlay",
        Path::new("/").join(name),
        Some("overlay"),
        Some("overlay"),
        MsFlags::empty(),
        Some(&options),
    )
}

fn tmpfs(at: &str) -> Result<(), MountError> {
    mount_at("tmpfs", at, Some("tmpfs"), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))
}

/// Opens the directories that are going to be covered.
fn keep_open(visible: &[PathBuf]) -> Result<Vec<(PathBuf, OwnedFd)>, MountError> {
    visible
        .iter()
        .filter(|path| ["/run", "/var"].iter().any(|covered| path.starts_with(covered)))
        .map(|path| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = open(path, flags, Mode::empty()).map_err(|errno| MountError::Path {
                what: "open",
                path: path.clone(),
                source: errno.into(),
            })?;
            Ok((path.clone(), fd))
        })
        .collect()
}

fn show_again(kept: &[(PathBuf, OwnedFd)]) -> Result<(), MountError> {
    kept.iter().try_for_each(|(path, fd)| {
        create_dir(path, 0o755)?;
        let from = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
        mount_at("a covered directory", path, Some(&from), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
    })
}

fn mount_at(
    what: &'static str,
    at: impl AsRef<Path>,
    from: Option<&str>,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), MountError> {
    let at = at.as_ref();
    mount(from, at, kind, flags, options).map_err(|source| MountError::Mount {
        what,
        at: at.to_path_buf(),
        source,
    })
}

fn create_dir(path: impl AsRef<Path>, mode: u32) -> Result<(), MountError> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(path_error("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(path_error("set the mode of", path))
}

fn link(target: &str, path: &str) -> Result<(), MountError> {
    symlink(target, path).map_err(path_error("link", path))
}

fn path_error(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> MountError {
    let path = path.as_ref().to_path_buf();
    move |source| MountError::Path { what, path, source }
}

/// Makes `path` an empty file to mount something on.
pub(crate) fn create_mount_point(path: &Path) -> Result<(), MountError> {
    File::create_new(path).map(drop).map_err(path_error("create", path))
}

/// Mounts the calling thread's network namespace at `path`, a file that is there.
pub(crate) fn mount_own_netns(path: &Path) -> Result<(), MountError> {
    mount_at("a network namespace", path, Some("/proc/thread-self/ns/net"), None, MsFlags::MS_BIND, None)
}

/// Takes a mount away, and the file that it was on. What is gone already is well.
pub(crate) fn unmount_file(path: &Path) -> Result<(), MountError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(source) => {
            return Err(MountError::Mount { what: "(unmount)", at: path.to_path_buf(), source });
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(path_error("remove", path)(error)),
        _ => Ok(()),
    }
}
