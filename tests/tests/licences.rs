//! deny.toml, held where cargo-deny is not installed: bans, licences, sources.

use std::fs;

use anyhow::{Context, Result};
use system_tests::house::{items, metadata, root, text};

fn deny() -> Result<toml::Table> {
    fs::read_to_string(root().join("deny.toml"))?.parse().context("deny.toml")
}

fn list(table: &toml::Table, section: &str, key: &str) -> Vec<toml::Value> {
    table.get(section).and_then(|s| s.get(key)).and_then(toml::Value::as_array).cloned().unwrap_or_default()
}

/// Every package of both workspaces: `name version`, licence, source.
fn packages() -> Result<Vec<(String, String, String)>> {
    let mut all = Vec::new();
    for dir in [".", "ebpf"] {
        for package in items(&metadata(dir)?["packages"]) {
            let name = text(&package["name"]).to_owned();
            all.push((name, text(&package["license"]).to_owned(), text(&package["source"]).to_owned()));
        }
    }
    Ok(all)
}

#[test]
fn licences_are_permissive() -> Result<()> {
    let allowed: Vec<String> =
        list(&deny()?, "licenses", "allow").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    let mut faults = Vec::new();
    for (name, licence, _) in packages()? {
        if !permits(&licence, &allowed) {
            faults.push(format!("{name}: {licence:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn banned_crates_stay_out() -> Result<()> {
    let banned: Vec<String> = list(&deny()?, "bans", "deny")
        .iter()
        .filter_map(|entry| entry.get("crate").and_then(toml::Value::as_str).map(str::to_owned))
        .collect();
    assert!(!banned.is_empty());
    let found: Vec<String> =
        packages()?.into_iter().map(|(name, ..)| name).filter(|name| banned.contains(name)).collect();
    assert!(found.is_empty(), "{found:?} are banned by deny.toml");
    Ok(())
}

#[test]
fn sources_are_the_registry() -> Result<()> {
    for (name, _, source) in packages()? {
        // A package without a source is one of ours.
        let is_ours = source.is_empty();
        let is_registry = source == "registry+https://github.com/rust-lang/crates.io-index";
        assert!(is_ours || is_registry, "{name} comes from {source}");
    }
    Ok(())
}

/// Whether a licence expression can be satisfied with these licences.
fn permits(expression: &str, allowed: &[String]) -> bool {
    // Old manifests write a slash for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let satisfied = either(&mut rest, allowed);
    satisfied && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut satisfied = both(words, allowed);
    while let [first, rest @ ..] = *words
        && *first == "OR"
    {
        *words = rest;
        satisfied |= both(words, allowed);
    }
    satisfied
}

fn both(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut satisfied = one(words, allowed);
    while let [first, rest @ ..] = *words
        && *first == "AND"
    {
        *words = rest;
        satisfied &= one(words, allowed);
    }
    satisfied
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let satisfied = either(words, allowed);
            if let [")", rest @ ..] = *words {
                *words = rest;
                satisfied
            } else {
                false
            }
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed.iter().any(|known| *known == format!("{licence} WITH {exception}"))
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.iter().any(|known| known == licence)
        }
        [] => false,
    }
}

#[test]
fn expressions_are_understood() {
    let allowed: Vec<String> =
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned).to_vec();
    for (expression, expected) in [
        ("MIT", true),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0 OR MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("GPL-2.0 WITH LLVM-exception", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0-or-later", false),
        ("", false),
        ("(MIT", false),
    ] {
        assert_eq!(permits(expression, &allowed), expected, "{expression:?}");
    }
}
