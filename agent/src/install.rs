//! What the container runtime finds on the node: the plugin and the conflist.
//!
//! The conflist is written when the agent can serve and removed only by `tidepool-agent uninstall`: a signal
//! is also an upgrade, and a node without a conflist goes NotReady.

mod chained;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

pub use chained::Chained;

/// The plugin's file name in the runtime's directory.
pub const PLUGIN: &str = "tidepool-cni";
/// Sorts before `10-aws.conflist`.
pub const CONFLIST: &str = "05-tidepool.conflist";
/// libcni's cache, portmap's chains and checkpoints are keyed by the network's name, so it is aws-node's.
pub const NETWORK: &str = "aws-cni";

/// A file that could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {doing}")]
pub struct InstallError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: std::io::Error,
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> InstallError {
    move |source| InstallError { path: path.to_owned(), doing, source }
}

/// Writes `content` beside `path` and renames it over, so that a reader sees the old file or the new one.
///
/// # Errors
///
/// The step that failed, with its path.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(failed(directory, "create the directory"))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // The dot keeps runtimes, which read every *.conflist, from seeing it.
    let fresh = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(content)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    written.map_err(|source| {
        // The rename did not happen; what is left is only our own fresh file.
        drop(std::fs::remove_file(&fresh));
        InstallError { path: path.to_owned(), doing: "write the file", source }
    })
}

/// Copies the plugin from `source` into `bin_dir`; does nothing where it is the same already.
///
/// # Errors
///
/// Where the source cannot be read or the directory cannot be written.
pub fn install_plugin(source: &Path, bin_dir: &Path) -> Result<(), InstallError> {
    let content = std::fs::read(source).map_err(failed(source, "read the plugin"))?;
    let target = bin_dir.join(PLUGIN);
    if std::fs::read(&target).is_ok_and(|present| present == content) {
        return Ok(());
    }
    replace_file(&target, &content, 0o755)
}

/// How much longer than for its address the plugin waits: for wiring and policy.
const WIRING: Duration = Duration::from_secs(15);

/// The conflist's text. The plugin outwaits `patience`, after which the agent refuses with a reason.
#[must_use]
pub fn conflist(socket: &Path, patience: Duration, chained: Chained) -> Value {
    let timeout = (patience + WIRING).as_secs();
    let bandwidth = || json!({ "bandwidth": true });
    let mut ours = json!({ "type": PLUGIN, "socket": socket, "timeoutSeconds": timeout });
    if chained.bandwidth {
        // The runtime hands `runtimeConfig` only to plugins that declare the capability, and our filters must leave
        // room for what the bandwidth plugin puts on the link after us.
        ours["capabilities"] = bandwidth();
    }
    let mut plugins = vec![ours];
    if chained.portmap {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
    }
    if chained.bandwidth {
        plugins.push(json!({ "type": "bandwidth", "capabilities": bandwidth() }));
    }
    // containerd 1.6 refuses 1.1.0 alone; newer runtimes choose the highest that they know.
    let versions = ["0.4.0", "1.0.0", "1.1.0"];
    let versions = if chained.outdated { &versions[..2] } else { &versions[..] };
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": versions,
        "name": NETWORK,
        "plugins": plugins,
    })
}

/// Writes the conflist, from which moment the runtime calls the plugin; `has_tcx` tells of the kernel. Blocks as
/// [`Chained::installed`] does.
///
/// # Errors
///
/// Where the directory cannot be written.
pub fn write_conflist(
    conf_dir: &Path,
    bin_dir: &Path,
    socket: &Path,
    patience: Duration,
    has_tcx: bool,
) -> Result<(), InstallError> {
    let text = format!("{:#}\n", conflist(socket, patience, Chained::installed(bin_dir, has_tcx)));
    let path = conf_dir.join(CONFLIST);
    if std::fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    replace_file(&path, text.as_bytes(), 0o644)
}

/// Takes the conflist away; the runtime then falls back to the next one, or goes NotReady.
///
/// # Errors
///
/// Where the file is there and cannot be removed.
pub fn remove_conflist(conf_dir: &Path) -> Result<(), InstallError> {
    let path = conf_dir.join(CONFLIST);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(InstallError { path, doing: "remove the file", source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conflist_is_written_once_and_removed_without_complaint() {
        let dir = tempfile::tempdir().expect("a directory");
        let (conf, bin) = (dir.path().join("net.d"), dir.path().join("bin"));
        write_conflist(&conf, &bin, Path::new("/run/tidepool/agent.sock"), Duration::from_secs(20), true)
            .expect("fresh directory");
        let text = std::fs::read_to_string(conf.join(CONFLIST)).expect("written");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["name"], NETWORK);
        assert_eq!(value["plugins"].as_array().map(Vec::len), Some(1), "portmap is not installed here");
        assert_eq!(std::fs::read_dir(&conf).expect("there").count(), 1, "no fresh file is left");
        remove_conflist(&conf).expect("there");
        remove_conflist(&conf).expect("already gone");
    }

    #[test]
    fn others_are_chained_where_they_are_installed() {
        let bin = tempfile::tempdir().expect("a directory");
        let list =
            || conflist(Path::new("/s"), Duration::from_secs(35), Chained::installed(bin.path(), true));
        let types = |list: &Value| -> Vec<String> {
            list["plugins"].as_array().into_iter().flatten().map(|one| one["type"].to_string()).collect()
        };
        assert_eq!(types(&list()), ["\"tidepool-cni\""]);
        assert_eq!(list()["plugins"][0].get("capabilities"), None);
        assert_eq!(list()["plugins"][0]["timeoutSeconds"], 50);
        assert_eq!(list()["cniVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
        std::fs::write(bin.path().join("portmap"), b"").expect("writable");
        assert_eq!(types(&list()), ["\"tidepool-cni\"", "\"portmap\""]);
        assert_eq!(list()["cniVersions"], json!(["0.4.0", "1.0.0"]), "it cannot be run");
        std::fs::write(bin.path().join("bandwidth"), b"").expect("writable");
        assert_eq!(types(&list()), ["\"tidepool-cni\"", "\"portmap\"", "\"bandwidth\""]);
        for place in [0, 2] {
            assert_eq!(list()["plugins"][place]["capabilities"]["bandwidth"], true);
        }
    }

    #[test]
    fn a_plugin_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let source = dir.path().join("built");
        std::fs::write(&source, b"one").expect("writable");
        let bin = dir.path().join("bin");
        install_plugin(&source, &bin).expect("first");
        std::fs::write(&source, b"two").expect("writable");
        install_plugin(&source, &bin).expect("second");
        assert_eq!(std::fs::read(bin.join(PLUGIN)).expect("installed"), b"two");
        let mode = std::fs::metadata(bin.join(PLUGIN)).expect("installed").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
