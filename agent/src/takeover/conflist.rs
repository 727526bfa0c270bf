//! aws-node's network lists in the runtime's directory: set aside under a name that no runtime reads, and put back.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::install::{self, CONFLIST};

/// Its plugin, by which a list is known as its own whatever the file is called.
const PLUGIN: &str = "aws-cni";
/// What it puts into its own list, in any version. A list with more is somebody else's work.
const ITS_OWN: [&str; 6] = [PLUGIN, "egress-cni", "egress-v4-cni", "egress-v6-cni", "portmap", "bandwidth"];
/// What runtimes read (libcni's `ConfFiles`).
const READ: [&str; 3] = ["conf", "conflist", "json"];
/// Appended to the name of a file that is set aside.
const ASIDE: &str = ".tidepool-set-aside";

/// Lists that a runtime reads and that are its own alone, in order. A directory that cannot be read has none.
pub(super) fn of_incumbent(dir: &Path) -> Vec<PathBuf> {
    read(dir).into_iter().filter(|path| is_its_own(path)).collect()
}

/// A list of others that is not ours to set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Foreign {
    path: PathBuf,
    /// The runtime takes it instead of ours.
    pub(super) wins: bool,
}

impl Foreign {
    /// What it means and what is to be done.
    pub(super) fn told(&self) -> String {
        let path = self.path.display();
        match self.wins {
            true => format!(
                "{path} sorts before {CONFLIST} and does not name {}: the runtime sends new pods there; remove the \
                 file, or let it delegate to our list (see «Before» in the migration guide)",
                install::PLUGIN
            ),
            false => format!(
                "{path} names {PLUGIN} among plugins of others: it is left alone, and what they did for pods they \
                 do not do for new ones; let them chain behind {CONFLIST} (see «Before» in the migration guide)"
            ),
        }
    }
}

/// Lists that decide about pods beside ours, in order: those that the runtime takes first, unless pods come to our
/// plugin through them, and those with its plugin among others' or delegated to.
pub(super) fn foreign(dir: &Path) -> Vec<Foreign> {
    let judged = read(dir).into_iter().filter(|path| !is_its_own(path)).filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        let text = std::fs::read(&path).unwrap_or_default();
        let list = serde_json::from_slice::<Value>(&text).unwrap_or_default();
        let is_first = name.as_str() < CONFLIST;
        let wins = is_first && !mentions(&list, install::PLUGIN, CONFLIST);
        let chains = name != CONFLIST && mentions(&list, PLUGIN, "10-aws.conflist");
        (wins || chains).then_some(Foreign { path, wins: wins || (is_first && chains) })
    });
    judged.collect()
}

/// Whether a plugin is named anywhere in it, or the file of its list is.
fn mentions(list: &Value, plugin: &str, file: &str) -> bool {
    match list {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == plugin)
                || fields.values().any(|value| mentions(value, plugin, file))
        }
        Value::Array(values) => values.iter().any(|value| mentions(value, plugin, file)),
        Value::String(text) => text.rsplit('/').next() == Some(file),
        _ => false,
    }
}

/// Files that a runtime reads, in its order.
fn read(dir: &Path) -> Vec<PathBuf> {
    let is_read = |path: &PathBuf| {
        path.extension().and_then(|extension| extension.to_str()).is_some_and(|found| READ.contains(&found))
    };
    let mut found: Vec<PathBuf> = files(dir).into_iter().filter(is_read).collect();
    found.sort();
    found
}

/// Those that were set aside.
pub(super) fn aside(dir: &Path) -> Vec<PathBuf> {
    let is_aside = |path: &PathBuf| path.to_string_lossy().ends_with(ASIDE);
    let mut found: Vec<PathBuf> = files(dir).into_iter().filter(is_aside).collect();
    found.sort();
    found
}

/// Sets its lists aside; an older copy gives way. Returns what they were called.
pub(super) fn set_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let found = of_incumbent(dir);
    for path in &found {
        let mut name = path.clone().into_os_string();
        name.push(ASIDE);
        std::fs::rename(path, name)?;
    }
    Ok(found)
}

/// Puts back what was set aside. Where aws-node has written its list anew, that one stays. Returns what stands now.
pub(super) fn restore(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut restored = Vec::new();
    for path in aside(dir) {
        let text = path.to_string_lossy();
        let name = PathBuf::from(text.strip_suffix(ASIDE).unwrap_or(&text));
        if name.is_file() {
            std::fs::remove_file(&path)?;
        } else {
            std::fs::rename(&path, &name)?;
        }
        restored.push(name);
    }
    Ok(restored)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

fn is_its_own(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let Ok(list) = serde_json::from_slice::<Value>(&text) else { return false };
    // A list has plugins, a single configuration is one.
    let plugins = list["plugins"].as_array().map_or(std::slice::from_ref(&list), Vec::as_slice);
    let kinds: Vec<&str> = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default()).collect();
    kinds.contains(&PLUGIN) && kinds.iter().all(|kind| ITS_OWN.contains(kind))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_its_own_lists_are_set_aside_and_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| dir.path().join(name);
        let list =
            r#"{"cniVersion":"0.4.0","name":"aws-cni","plugins":[{"type":"aws-cni"},{"type":"portmap"}]}"#;
        for (name, text) in [
            ("05-tidepool.conflist", r#"{"name":"aws-cni","plugins":[{"type":"tidepool-cni"}]}"#),
            ("10-aws.conflist", list),
            ("20-single.conf", r#"{"name":"x","type":"aws-cni"}"#),
            ("30-other.conflist", r#"{"name":"aws-cni","plugins":[{"type":"bridge"}]}"#),
            ("40-torn.conflist", "{"),
            ("notes.txt", list),
        ] {
            fs::write(file(name), text).expect("written");
        }
        let theirs = [file("10-aws.conflist"), file("20-single.conf")];
        assert_eq!(set_aside(dir.path()).expect("done"), theirs);
        assert!(of_incumbent(dir.path()).is_empty() && aside(dir.path()).len() == 2);
        assert!(set_aside(dir.path()).expect("nothing to do").is_empty());
        // One was written anew meanwhile.
        fs::write(file("20-single.conf"), "new").expect("written");
        assert_eq!(restore(dir.path()).expect("done"), theirs);
        assert_eq!(fs::read_to_string(file("10-aws.conflist")).expect("back"), list);
        assert_eq!(fs::read_to_string(file("20-single.conf")).expect("there"), "new");
        assert!(aside(dir.path()).is_empty() && restore(dir.path()).expect("nothing").is_empty());
        assert!(set_aside(Path::new("/nonexistent")).expect("no directory").is_empty());
    }

    #[test]
    fn lists_that_others_had_a_hand_in_are_named_and_not_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| dir.path().join(name);
        let list = |types: &[&str]| {
            let plugins: Vec<Value> = types.iter().map(|kind| serde_json::json!({ "type": kind })).collect();
            serde_json::json!({ "name": "aws-cni", "plugins": plugins }).to_string()
        };
        let nested =
            |kind: &str| serde_json::json!({"type": "multus", "delegates": [{"plugins": [{"type": kind}]}]});
        for (name, text) in [
            ("00-multus.conf", nested("tidepool-cni").to_string()),
            ("01-multus.conf", nested("aws-cni").to_string()),
            (
                "02-multus.conf",
                r#"{"type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/05-tidepool.conflist"}"#
                    .into(),
            ),
            (
                "03-multus.conf",
                r#"{"type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/10-aws.conflist"}"#.into(),
            ),
            ("04-torn.conf", "{".into()),
            ("05-cilium.conflist", list(&["aws-cni", "cilium-cni"])),
            ("05-tidepool.conflist", list(&["tidepool-cni", "portmap"])),
            ("10-aws.conflist", list(&["aws-cni", "egress-cni", "portmap", "istio-cni"])),
            ("11-aws.conflist", list(&["aws-cni", "egress-cni", "portmap", "bandwidth"])),
            ("20-bridge.conflist", list(&["bridge"])),
        ] {
            fs::write(file(name), text).expect("written");
        }
        let said = |name: &str, wins: bool| Foreign { path: file(name), wins };
        let expected = [
            said("01-multus.conf", true),
            said("03-multus.conf", true),
            said("04-torn.conf", true),
            said("05-cilium.conflist", true),
            said("10-aws.conflist", false),
        ];
        assert_eq!(foreign(dir.path()), expected);
        assert_eq!(set_aside(dir.path()).expect("done"), [file("11-aws.conflist")]);
        assert_eq!(foreign(dir.path()), expected, "and nothing else");
    }
}
