//! Runs a file of cases.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use policy_cases::{Via, read, run};

/// Judges a file of policy cases, one of three ways.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// A JSON list of cases.
    file: PathBuf,
    /// Who judges.
    #[arg(long, value_enum, default_value_t = Via::Host)]
    via: Via,
    /// Only the case of this number, or those whose description holds this.
    #[arg(long, value_name = "CASE")]
    only: Option<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut cases = read(&options.file)?;
    if let Some(only) = &options.only {
        cases.retain(|case| case.n.to_string() == *only || case.description.contains(only.as_str()));
    }
    let report = run(&cases, options.via, &mut |line| println!("{line}"))?;
    print!("{report}");
    ensure!(report.probes > 0, "nothing was asked: no case fits");
    Ok(if report.differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
