//! Dependencies point inward. The rules of ARCHITECTURE.md, read from cargo.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use system_tests::house::{self, cargo, closure, code, members, metadata, relative, rust_files};

/// Who may link whom inside the workspace. A crate that is not here is a crate
/// whose place nobody has thought about.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ebpf-common", &[]),
    ("ipam-core", &[]),
    ("ipam-sim", &["ipam-core"]),
    ("kernel-test", &[]),
    ("netlink", &[]),
    ("policy-cases", &["ebpf-common", "kernel-test", "policy-core", "system-tests", "tidepool-agent"]),
    ("policy-core", &["ebpf-common"]),
    ("rpc", &[]),
    ("system-tests", &["kernel-test"]),
    ("tidepool-agent", &["ebpf-common", "ipam-core", "netlink", "policy-core", "rpc"]),
    ("tidepool-cni", &["netlink", "rpc"]),
    ("vpc-sim", &[]),
    ("xtask", &["kernel-test"]),
];

/// What tests may link beside that: their front, and the simulator.
const FOR_TESTS: &[&str] = &["kernel-test", "vpc-sim"];

#[test]
fn dependencies_point_inward() -> Result<()> {
    let members = members(&metadata(".")?);
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut faults = Vec::new();
    for (name, member) in &members {
        let Some(allowed) = allowed.get(name.as_str()) else {
            faults.push(format!("{name} has no line in ALLOWED"));
            continue;
        };
        for dependency in &member.normal {
            if !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{name} depends on {dependency}"));
            }
        }
        for dependency in &member.dev {
            if !allowed.contains(&dependency.as_str()) && !FOR_TESTS.contains(&dependency.as_str()) {
                faults.push(format!("tests of {name} depend on {dependency}"));
            }
        }
    }
    for name in allowed.keys() {
        if !members.contains_key(*name) {
            faults.push(format!("{name} stands in ALLOWED and is no member"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn cores_are_pure() -> Result<()> {
    // No clock, no I/O, no async; no Kubernetes, no AWS.
    const FORBIDDEN: &[&str] = &[
        "aws-",
        "aya",
        "axum",
        "futures",
        "hyper",
        "k8s-openapi",
        "kube",
        "libc",
        "netlink-",
        "nix",
        "reqwest",
        "rtnetlink",
        "tokio",
    ];
    for core in ["ipam-core", "policy-core", "ebpf-common"] {
        let linked = closure(core)?;
        let wrong: Vec<&String> =
            linked.iter().filter(|name| FORBIDDEN.iter().any(|prefix| name.starts_with(prefix))).collect();
        assert!(wrong.is_empty(), "{core} links {wrong:?}");
    }
    Ok(())
}

#[test]
fn the_plugin_is_small_and_synchronous() -> Result<()> {
    let linked = closure("tidepool-cni")?;
    let wrong: Vec<&String> = linked
        .iter()
        .filter(|name| {
            ["tokio", "kube", "k8s-openapi", "aws-", "hyper", "rustls", "aya"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    assert!(wrong.is_empty(), "the plugin links {wrong:?}");
    Ok(())
}

#[test]
fn xtask_links_no_part_of_the_product() -> Result<()> {
    let linked = closure("xtask")?;
    let product: Vec<&str> = ALLOWED
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !["kernel-test", "xtask"].contains(name) && linked.contains(*name))
        .collect();
    assert!(product.is_empty(), "xtask links {product:?}");
    Ok(())
}

#[test]
fn one_crate_links_the_ec2_client() -> Result<()> {
    let metadata = metadata(".")?;
    let who: BTreeSet<&str> = house::items(&metadata["packages"])
        .filter(|package| package["source"].is_null())
        .filter(|package| {
            house::items(&package["dependencies"]).any(|dependency| dependency["name"] == "aws-sdk-ec2")
        })
        .map(|package| house::text(&package["name"]))
        .collect();
    assert_eq!(who, BTreeSet::from(["tidepool-agent"]), "it compiles for minutes: keep it in one crate");
    Ok(())
}

/// `demo` builds without the dependencies of tests, `test` with them. Where one
/// of these turns on a feature of something below aws-sdk-ec2, that compiles
/// once for each: three minutes and seven gigabytes.
#[test]
fn tests_turn_on_no_feature_below_the_ec2_client() -> Result<()> {
    let below = closure("aws-sdk-ec2")?;
    let features = |edges: &str| -> Result<BTreeSet<String>> {
        let arguments = [
            "tree",
            "--locked",
            "--workspace",
            "--edges",
            edges,
            "--prefix",
            "none",
            "--format",
            "{p} [{f}]",
        ];
        Ok(cargo(".", &arguments)?
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned())
            .filter(|line| line.split_whitespace().next().is_some_and(|name| below.contains(name)))
            .collect())
    };
    let (without, with) = (features("normal,build")?, features("normal,build,dev")?);
    let difference: Vec<&String> = without.symmetric_difference(&with).collect();
    assert!(difference.is_empty(), "these differ: {difference:#?}");
    Ok(())
}

#[test]
fn each_outside_world_is_named_in_one_place() -> Result<()> {
    // Name, where it may stand, and where it is looked for.
    let rules: &[(&str, &[&str], &[&str])] = &[
        ("aws_sdk_ec2", &["agent/src/ec2/client.rs"], &[""]),
        (
            "k8s_openapi",
            &["agent/src/k8s/"],
            &["agent", "cni-plugin", "netlink", "policy-core", "ipam-core", "rpc"],
        ),
        ("kube", &["agent/src/k8s/"], &["agent/src", "policy-core", "ipam-core"]),
        // ebpf-common declares its types as plain data beside their layout.
        (
            "aya",
            &["agent/src/datapath/", "agent/tests/", "ebpf-common/src/"],
            &["agent", "ebpf-common", "netlink"],
        ),
        ("rtnetlink", &["netlink/src/"], &["agent", "cni-plugin", "netlink"]),
        ("prometheus_client", &["agent/src/"], &["agent", "policy-core", "ipam-core", "netlink", "rpc"]),
    ];
    let mut faults = Vec::new();
    for (name, allowed, searched) in rules {
        for file in searched.iter().map(|dir| rust_files(dir)).collect::<Result<Vec<_>>>()?.concat() {
            let path = relative(&file);
            let is_allowed = allowed.iter().any(|prefix| path.starts_with(prefix));
            // This very file names them all.
            if !is_allowed && path != "tests/tests/dependencies.rs" && names_crate(&code(&file)?, name) {
                faults.push(format!("{path} names {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn parts_of_the_agent_keep_to_themselves() -> Result<()> {
    // Folder, and the modules that must not be named in it.
    let rules: &[(&str, &[&str])] = &[
        ("agent/src/ipam", &["hostnet", "datapath", "endpoint", "k8s", "policy", "server"]),
        ("agent/src/hostnet", &["ipam", "datapath", "endpoint", "k8s", "policy", "server", "ec2"]),
        ("agent/src/datapath", &["ipam", "hostnet", "endpoint", "k8s", "policy", "server", "ec2"]),
        ("agent/src/endpoint", &["ec2", "k8s", "server"]),
        ("agent/src/ec2", &["ipam", "hostnet", "datapath", "endpoint", "k8s", "policy", "server"]),
        ("agent/src/k8s", &["ipam", "hostnet", "datapath", "endpoint", "ec2", "server", "sweep"]),
        ("agent/src/sweep", &["ipam", "hostnet", "datapath", "endpoint", "k8s", "policy", "server"]),
    ];
    let mut faults = Vec::new();
    for (dir, forbidden) in rules {
        for file in rust_files(dir)? {
            let code = code(&file)?;
            for module in *forbidden {
                if code.contains(&format!("crate::{module}::")) || code.contains(&format!("crate::{module};"))
                {
                    faults.push(format!("{} names crate::{module}", relative(&file)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Whether code has a path that begins with this crate.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let starts =
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '.' && c != '"');
        starts && after.starts_with("::") && !code[..at].ends_with("crate::")
    })
}

#[test]
fn a_crate_is_found_by_its_path_only() {
    assert!(names_crate("use kube::Api;", "kube"));
    assert!(names_crate("fn f() -> kube::Result<()>", "kube"));
    assert!(!names_crate("use mykube::Api;", "kube"));
    assert!(!names_crate("use crate::kube::Api;", "kube"));
    assert!(!names_crate("let kube = 1;", "kube"));
    assert!(!names_crate("\"kube::x\"", "kube"));
}
