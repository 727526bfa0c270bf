//! The `vpc-sim` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use vpc_sim::up::{self, UpArgs};

/// A VPC in a box: EC2, instance metadata, Kubernetes and a network of nodes on
/// one machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(UpArgs),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vpc-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    log_to_stderr();
    take_all_descriptors();
    // Of several providers that dependencies may bring in, this one.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is installed");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = match command {
        Command::Up(args) => runtime.block_on(up::run(args)),
    };
    // What still blocks in some node ends with the process.
    runtime.shutdown_background();
    Ok(done?)
}

/// Standard output is for the line that says where everything is.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("VPC_SIM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Namespaces, servers and connections of many pods are many descriptors.
fn take_all_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "raise the limit of open files");
    }
}
