//! The workspace as cargo describes it, and its files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The folder of the workspace's Cargo.toml.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Runs cargo in `dir` of the workspace; what it prints is what it was asked.
pub fn cargo(dir: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root().join(dir))
        // Set for this test by the cargo that runs it.
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .context("starting cargo")?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `cargo metadata` of the workspace in `dir`, for the platform that we run on.
pub fn metadata(dir: &str) -> Result<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform];
    Ok(serde_json::from_str(&cargo(dir, &arguments)?)?)
}

/// A member of the workspace.
#[derive(Debug)]
pub struct Member {
    /// Its folder.
    pub dir: PathBuf,
    /// Members that it depends on, other than for its tests.
    pub normal: BTreeSet<String>,
    /// Members that its tests depend on.
    pub dev: BTreeSet<String>,
}

/// Members by name.
pub fn members(metadata: &Value) -> BTreeMap<String, Member> {
    let ids: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
    let packages: Vec<&Value> = items(&metadata["packages"])
        .filter(|package| package["id"].as_str().is_some_and(|id| ids.contains(id)))
        .collect();
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    packages
        .iter()
        .map(|package| {
            let (mut normal, mut dev) = (BTreeSet::new(), BTreeSet::new());
            for dependency in items(&package["dependencies"]) {
                let name = text(&dependency["name"]);
                if names.contains(name) {
                    let is_dev = dependency["kind"].as_str() == Some("dev");
                    if is_dev { &mut dev } else { &mut normal }.insert(name.to_owned());
                }
            }
            let dir = Path::new(text(&package["manifest_path"])).parent().map(Path::to_owned);
            (text(&package["name"]).to_owned(), Member { dir: dir.unwrap_or_default(), normal, dev })
        })
        .collect()
}

/// All that a package links, by name, with the features that it alone asks for.
pub fn closure(package: &str) -> Result<BTreeSet<String>> {
    let arguments = [
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    Ok(cargo(".", &arguments)?
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Rust files below a folder of the workspace, sorted.
pub fn rust_files(dir: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    waiting.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A file's code without its line comments, for looking for a name in it.
pub fn code(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    Ok(lines.join("\n"))
}

/// A path as seen from the root of the workspace.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The items of a JSON array; none where it is something else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The strings of a JSON array.
pub fn strings(value: &Value) -> impl Iterator<Item = &str> {
    items(value).filter_map(Value::as_str)
}

/// A JSON string; empty where it is something else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
