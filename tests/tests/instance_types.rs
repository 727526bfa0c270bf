//! The table of instance types: made by its script, read by agent and simulator alike.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use system_tests::house::{relative, root, rust_files};

fn main() {
    kernel_test::run(vec![
        trial(
            "the_table_is_what_its_script_writes",
            &[Need::Env("TIDEPOOL_PYTHON")],
            the_table_is_what_its_script_writes,
        ),
        trial("what_the_script_makes_of_an_answer", &[Need::Tool("python3")], what_the_script_makes),
        trial("agent_and_simulator_read_the_same_table", &[], both_read_the_same_table),
    ]);
}

/// By the version of the data set that the repository names, which the tests' Python has.
fn the_table_is_what_its_script_writes() -> Result<()> {
    let python = std::env::var("TIDEPOOL_PYTHON")?;
    let check = |script: &Path| -> Result<Output> {
        Ok(Command::new(&python).arg(script).arg("--check").stdin(Stdio::null()).output()?)
    };
    let output = check(&root().join("instance-types/generate.py"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the table differs from what the script makes: {}\n{said}",
        output.status
    );

    // A copy in which one figure was touched is found out.
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("generate.py");
    fs::copy(root().join("instance-types/generate.py"), &script)?;
    let table = fs::read_to_string(root().join("instance-types/instance-types.csv"))?;
    ensure!(table.contains("\nm5.large,3,10,"), "no m5.large in the table");
    fs::write(
        dir.path().join("instance-types.csv"),
        table.replacen("\nm5.large,3,10,", "\nm5.large,4,10,", 1),
    )?;
    ensure!(check(&script)?.status.code() == Some(1), "a changed figure is not noticed");
    Ok(())
}

/// Several network cards, bare metal, no IPv6.
const ANSWER: &str = r#"{
  "x9.large": {
    "BareMetal": false, "Hypervisor": "nitro", "VCpuInfo": {"DefaultVCpus": 2},
    "NetworkInfo": {
      "MaximumNetworkInterfaces": 3, "Ipv4AddressesPerInterface": 10, "Ipv6AddressesPerInterface": 10,
      "Ipv6Supported": true, "DefaultNetworkCardIndex": 0,
      "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 3}]
    }
  },
  "x9.metal": {
    "BareMetal": true, "VCpuInfo": {"DefaultVCpus": 96},
    "NetworkInfo": {
      "MaximumNetworkInterfaces": 22, "Ipv4AddressesPerInterface": 50, "Ipv6AddressesPerInterface": 50,
      "Ipv6Supported": false, "DefaultNetworkCardIndex": 1,
      "NetworkCards": [
        {"NetworkCardIndex": 1, "MaximumNetworkInterfaces": 15},
        {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 7}
      ]
    }
  }
}"#;

fn what_the_script_makes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("generate.py");
    fs::copy(root().join("instance-types/generate.py"), &script)?;
    let data = dir.path().join("answer.json.gz");
    gzip(ANSWER, &data)?;
    let output = Command::new("python3").arg(&script).arg(&data).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = fs::read_to_string(dir.path().join("instance-types.csv"))?;
    let (header, rows) = table.split_once('\n').context("no header")?;
    let ours = fs::read_to_string(root().join("instance-types/instance-types.csv"))?;
    ensure!(ours.lines().next() == Some(header), "{header}");
    ensure!(rows == "x9.large,3,10,10,2,nitro,0,0,3\nx9.metal,22,50,0,96,none,1,1,7/15\n", "{rows}");
    Ok(())
}

fn gzip(text: &str, path: &Path) -> Result<()> {
    let program = "import gzip, sys; gzip.open(sys.argv[1], 'wt').write(sys.stdin.read())";
    let mut child = Command::new("python3").args(["-c", program]).arg(path).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "gzip");
    Ok(())
}

/// One table: a copy would drift.
fn both_read_the_same_table() -> Result<()> {
    let mut readers = BTreeSet::new();
    for file in rust_files("")? {
        let source = fs::read_to_string(&file)?;
        if source.contains("include_str!") && source.contains("/instance-types/instance-types.csv\")") {
            readers.insert(relative(&file));
        }
    }
    let expected = ["ipam-core/src/limits.rs", "vpc-sim/src/ec2/instance_types.rs"];
    ensure!(readers.iter().eq(expected), "{readers:?}");
    Ok(())
}
