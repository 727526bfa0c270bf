//! `cargo xtask`: what a developer types. It prepares the machine, builds what
//! ships, shows it working and tests it. It depends on no crate of the product.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod demo;
mod ebpf;
mod policy_cases;
mod process;
mod progress;
mod setup;
mod sim;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use build::Profile;
use setup::Purpose;
use workspace::Workspace;

/// Everything around the code of Tidepool.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what this machine lacks, and install it.
    Setup,
    /// Build everything that ships; the last line is the path of the plugin.
    Build {
        /// Optimised, and linked statically.
        #[arg(long)]
        release: bool,
    },
    /// Build the kernel programs only; the last line is the path of the object.
    BuildEbpf,
    /// Two nodes, an application and its policies, in a VPC on this machine.
    Demo(demo::Options),
    /// How long ADD and DEL take, beside other plugins.
    Bench(bench::Options),
    /// A file of policy cases, judged on the host, in the kernel or by packets.
    PolicyCases(policy_cases::Options),
    /// The pool in simulated time, beside the incumbent's on the same work.
    Sim(sim::Options),
    /// Formats, lints and every test, those that need root and the kernel too.
    Test(test::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {error:#}", progress::red("error:"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match cli.command {
        Command::Setup => {
            setup::run(&workspace, Purpose::Everything)?;
            progress::done("everything is there");
        }
        Command::Build { release } => {
            let tools = setup::run(&workspace, Purpose::Build)?;
            let profile = if release { Profile::Release } else { Profile::Dev };
            let built = build::run(&workspace, &tools, profile)?;
            println!("{}", built.plugin.display());
        }
        Command::BuildEbpf => {
            let tools = setup::run(&workspace, Purpose::Build)?;
            println!("{}", ebpf::build(&workspace, &tools.ebpf)?.display());
        }
        Command::Demo(options) => return demo::run(&workspace, &options),
        Command::Bench(options) => return bench::run(&workspace, &options),
        Command::PolicyCases(options) => return policy_cases::run(&workspace, &options),
        Command::Sim(options) => return sim::run(&workspace, &options),
        Command::Test(options) => return test::run(&workspace, &options),
    }
    Ok(ExitCode::SUCCESS)
}
