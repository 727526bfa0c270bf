//! aws-node's network lists in the runtime's directory: set aside under a name that no runtime reads, and put back.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Its plugin, by which a list is known as its own whatever the file is called.
const PLUGIN: &str = "aws-cni";
/// What runtimes read (libcni's `ConfFiles`).
const READ: [&str; 3] = ["conf", "conflist", "json"];
/// Appended to the name of a file that is set aside.
const ASIDE: &str = ".tidepool-set-aside";

/// Lists that a runtime reads and that name its plugin, in order. A directory that cannot be read has none.
pub(super) fn of_incumbent(dir: &Path) -> Vec<PathBuf> {
    let is_read = |path: &PathBuf| {
        path.extension().and_then(|extension| extension.to_str()).is_some_and(|found| READ.contains(&found))
    };
    let mut found: Vec<PathBuf> =
        files(dir).into_iter().filter(is_read).filter(|path| names_plugin(path)).collect();
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
        if name.exists() {
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

fn names_plugin(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let Ok(list) = serde_json::from_slice::<Value>(&text) else { return false };
    // A list has plugins, a single configuration is one.
    let plugins = list["plugins"].as_array().map_or(std::slice::from_ref(&list), Vec::as_slice);
    plugins.iter().any(|plugin| plugin["type"] == PLUGIN)
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
}
