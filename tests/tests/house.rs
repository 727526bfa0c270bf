//! House rules that every file keeps.

use std::fs;

use anyhow::{Context, Result};
use system_tests::house::{code, members, metadata, relative, root, rust_files};

/// Past this many lines a file has a second responsibility.
const LONGEST: usize = 600;

#[test]
fn every_crate_inherits_the_lints() -> Result<()> {
    for (name, member) in members(&metadata(".")?) {
        let path = member.dir.join("Cargo.toml");
        let manifest: toml::Table = fs::read_to_string(&path)?.parse().context(relative(&path))?;
        let inherits =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{name} has no [lints] workspace = true");
        for key in ["version", "edition", "license", "rust-version", "publish"] {
            let inherited = manifest.get("package").and_then(|p| p.get(key)).and_then(|v| v.get("workspace"));
            assert!(inherited.is_some(), "{name} has its own {key}");
        }
    }
    Ok(())
}

#[test]
fn versions_stand_once() -> Result<()> {
    for (name, member) in members(&metadata(".")?) {
        let path = member.dir.join("Cargo.toml");
        let manifest: toml::Table = fs::read_to_string(&path)?.parse().context(relative(&path))?;
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for (dependency, how) in dependencies {
                let shared = how.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(shared, "{name}: {dependency} does not say workspace = true");
            }
        }
    }
    Ok(())
}

#[test]
fn files_are_short_enough_to_read() -> Result<()> {
    let mut long = Vec::new();
    for file in rust_files("")? {
        let lines = fs::read_to_string(&file)?.lines().count();
        if lines > LONGEST {
            long.push(format!("{} has {lines} lines", relative(&file)));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
    Ok(())
}

#[test]
fn lints_are_expected_and_not_allowed() -> Result<()> {
    // An `expect` ends with its reason; an `allow` outlives it.
    let mut faults = Vec::new();
    for file in rust_files("")? {
        let path = relative(&file);
        let code = code(&file)?;
        if path != "tests/tests/house.rs" && (code.contains("#[allow(") || code.contains("#![allow(")) {
            faults.push(path);
        }
    }
    assert!(faults.is_empty(), "these have an allow: {}", faults.join(", "));
    Ok(())
}

#[test]
fn cores_ban_clocks_and_files() -> Result<()> {
    for core in ["ipam-core", "policy-core", "ebpf-common"] {
        let text = fs::read_to_string(root().join(core).join("clippy.toml"))?;
        let table: toml::Table = text.parse()?;
        let banned: Vec<&str> = table
            .get("disallowed-methods")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.get("path").and_then(toml::Value::as_str))
            .collect();
        for path in
            ["std::time::Instant::now", "std::time::SystemTime::now", "std::env::var", "std::fs::read"]
        {
            assert!(banned.contains(&path), "{core}/clippy.toml does not ban {path}");
        }
    }
    Ok(())
}
