//! Which operations the scenario must contain. What the pool can call is read
//! from its source, so that a new operation fails here until it is judged.

use anyhow::{Context, Result, ensure};
use system_tests::house::{code, rust_files};

/// EC2's name; whether the scenario must contain it, and if not, why.
const JUDGED: [(&str, Result<(), &str>); 12] = [
    ("CreateNetworkInterface", Ok(())),
    ("AttachNetworkInterface", Ok(())),
    ("ModifyNetworkInterfaceAttribute", Ok(())),
    ("AssignPrivateIpAddresses", Ok(())),
    ("UnassignPrivateIpAddresses", Ok(())),
    ("DetachNetworkInterface", Ok(())),
    ("DeleteNetworkInterface", Ok(())),
    ("DescribeNetworkInterfaces", Ok(())),
    ("DescribeSubnets", Ok(())),
    ("DescribeInstances", Err("the metadata service tells the pool; only the cluster's sweeper asks")),
    ("CreateTags", Err("tags come with the create")),
    ("DescribeInstanceTypes", Err("the table has the type")),
];

/// Operations that must occur.
pub(crate) fn expected() -> impl Iterator<Item = &'static str> {
    JUDGED.iter().filter(|(_, judged)| judged.is_ok()).map(|(name, _)| *name)
}

/// Whether a call changes anything at EC2.
pub(crate) fn is_mutating(operation: &str) -> bool {
    !operation.starts_with("Describe")
}

pub(crate) fn all_are_judged() -> Result<()> {
    let mut known = of_the_pool()?;
    let mut judged: Vec<String> = JUDGED.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.sort();
    judged.sort();
    ensure!(known == judged, "the pool's operations: {known:#?}\nthose judged here: {judged:#?}");
    Ok(())
}

/// EC2's names of all that the pool can call: `ipam_core::Operation::as_str`.
fn of_the_pool() -> Result<Vec<String>> {
    for file in rust_files("ipam-core/src")? {
        let text = code(&file)?;
        let Some((_, rest)) = text.split_once("impl Operation {") else { continue };
        let (_, rest) = rest.split_once("fn as_str(self)").context("Operation has no as_str")?;
        let body = rest.split("\n    }").next().unwrap_or_default();
        let names = body.lines().filter_map(|line| line.split('"').nth(1));
        return Ok(names.map(str::to_owned).collect());
    }
    anyhow::bail!("no file of ipam-core has `impl Operation`")
}
