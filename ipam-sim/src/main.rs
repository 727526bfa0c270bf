//! `ipam-sim`: runs the scenarios, prints them, and ends with 1 when a promise
//! is not kept.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ipam_sim::{promise, report, scenario};

/// The pool of a node, and of fleets, in simulated time beside the incumbent's.
#[derive(Debug, Parser)]
#[command(name = "ipam-sim", version)]
struct Options {
    /// The rows as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only scenarios whose name contains this.
    #[arg(long, value_name = "SCENARIO")]
    only: Option<String>,
    /// Every draw follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let rows = scenario::rows(options.seed, options.only.as_deref());
    if rows.is_empty() {
        let names: Vec<&str> = scenario::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("--only: no scenario has this in its name; there are: {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let text = if options.json { report::json(&rows) } else { Ok(report::table(&rows)) };
    let printed = text
        .map_err(std::io::Error::other)
        .and_then(|text| std::io::stdout().lock().write_all(text.as_bytes()));
    if let Err(error) = printed {
        eprintln!("printing the rows: {error}");
        return ExitCode::FAILURE;
    }
    let broken: Vec<String> = rows.iter().flat_map(promise::broken).collect();
    for promise in &broken {
        eprintln!("not kept: {promise}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
