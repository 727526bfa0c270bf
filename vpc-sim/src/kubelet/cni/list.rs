//! Network lists as they lie in a node's configuration directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CniError;

/// Where a node's network lists are.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// The versions of the specification that are spoken here, the best last.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network list, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    /// The best version that the list offers and we speak.
    pub(crate) version: &'static str,
    pub(crate) plugins: Vec<Plugin>,
    /// The file as it was read.
    pub(crate) raw: Vec<u8>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// The executable's name.
    pub(crate) kind: String,
    /// The plugin's object of the list, as it stands there.
    pub(crate) object: Map<String, Value>,
}

impl Plugin {
    /// Whether the plugin takes this kind of runtime configuration.
    pub(crate) fn declares(&self, capability: &str) -> bool {
        self.object
            .get("capabilities")
            .and_then(|declared| declared.get(capability))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }
}

impl NetworkList {
    /// Whether the list speaks of STATUS.
    pub(crate) fn has_status(&self) -> bool {
        self.version == "1.1.0"
    }

    fn parse(path: &Path, raw: Vec<u8>) -> Result<Self, CniError> {
        let wrong = |problem: &str| CniError::List { path: path.to_path_buf(), problem: problem.to_owned() };
        let value: Value = serde_json::from_slice(&raw).map_err(|error| wrong(&error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(wrong("not an object"));
        };
        let is_list = path.extension().is_some_and(|extension| extension == "conflist");
        let plugins = match (is_list, object.get("plugins")) {
            (true, Some(Value::Array(plugins))) if !plugins.is_empty() => plugins.clone(),
            (true, _) => return Err(wrong("no plugins")),
            // A file of one plugin is a list of one.
            (false, _) => vec![Value::Object(object.clone())],
        };
        let plugins = plugins
            .into_iter()
            .map(|plugin| match plugin {
                Value::Object(object) => match object.get("type").and_then(Value::as_str) {
                    Some(kind) if is_file_name(kind) => Ok(Plugin { kind: kind.to_owned(), object }),
                    _ => Err(wrong("a plugin without a type")),
                },
                _ => Err(wrong("a plugin that is no object")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let name = object
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| is_file_name(name))
            .ok_or_else(|| wrong("no name"))?;
        Ok(Self {
            name: name.to_owned(),
            version: version_of(&object).map_err(|problem| wrong(&problem))?,
            plugins,
            raw,
        })
    }
}

/// The best of `cniVersion` and `cniVersions` that we speak.
fn version_of(object: &Map<String, Value>) -> Result<&'static str, String> {
    let single = object.get("cniVersion").into_iter();
    let several = object.get("cniVersions").and_then(Value::as_array);
    let offered: Vec<&str> = single.chain(several.into_iter().flatten()).filter_map(Value::as_str).collect();
    VERSIONS
        .into_iter()
        .rev()
        .find(|version| offered.contains(version))
        .ok_or_else(|| format!("none of the versions {offered:?} is spoken here"))
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// The files that may hold a list, by name.
fn candidates(dir: &Path) -> Result<Vec<PathBuf>, CniError> {
    let unreadable = |source| CniError::File { what: "read", path: dir.to_path_buf(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| {
            path.as_ref().map_or(true, |path| {
                path.extension().is_some_and(|extension| {
                    ["conflist", "conf", "json"].iter().any(|known| extension == *known)
                })
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    files.sort();
    Ok(files)
}

/// The list that a runtime uses: that of the first file by name, faults and all.
pub(crate) fn first_list(dir: &Path) -> Result<Option<NetworkList>, CniError> {
    let Some(path) = candidates(dir)?.into_iter().next() else {
        return Ok(None);
    };
    match fs::read(&path) {
        Ok(raw) => NetworkList::parse(&path, raw).map(Some),
        // Taken away between the two looks.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CniError::File { what: "read", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> Result<NetworkList, CniError> {
        NetworkList::parse(Path::new(name), text.as_bytes().to_vec())
    }

    #[test]
    fn the_first_file_by_name_wins_whatever_else_is_there() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let list =
            |name: &str| format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"a"}}]}}"#);
        assert!(first_list(&dir.path().join("absent"))?.is_none());
        assert!(first_list(dir.path())?.is_none());
        fs::write(dir.path().join("10-b.conflist"), list("b"))?;
        fs::write(dir.path().join("05-a.conflist"), list("a"))?;
        fs::write(dir.path().join("00-readme.txt"), "no list")?;
        assert_eq!(first_list(dir.path())?.map(|list| list.name).as_deref(), Some("a"));
        fs::write(dir.path().join("01-bad.conflist"), "{")?;
        assert!(first_list(dir.path()).is_err());
        Ok(())
    }

    #[test]
    fn the_best_common_version_is_taken() -> anyhow::Result<()> {
        for (text, expected) in [
            (r#""cniVersion":"0.4.0""#, "0.4.0"),
            (r#""cniVersion":"1.0.0","cniVersions":["0.4.0","1.0.0","1.1.0"]"#, "1.1.0"),
            (r#""cniVersion":"1.0.0","cniVersions":["9.9.9"]"#, "1.0.0"),
        ] {
            let list = parse("a.conflist", &format!(r#"{{{text},"name":"n","plugins":[{{"type":"t"}}]}}"#))?;
            assert_eq!(list.version, expected, "{text}");
        }
        assert!(
            parse("a.conflist", r#"{"cniVersion":"9.9.9","name":"n","plugins":[{"type":"t"}]}"#).is_err()
        );
        Ok(())
    }

    #[test]
    fn a_conf_file_is_a_list_of_one() -> anyhow::Result<()> {
        let list = parse(
            "a.conf",
            r#"{"cniVersion":"1.0.0","name":"n","type":"t","capabilities":{"portMappings":true}}"#,
        )?;
        assert_eq!(list.plugins.len(), 1);
        assert!(list.plugins[0].declares("portMappings"));
        assert!(!list.plugins[0].declares("bandwidth"));
        Ok(())
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for text in [
            "[]",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../sh"}]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"t"}]}"#,
        ] {
            assert!(parse("a.conflist", text).is_err(), "{text}");
        }
    }
}
