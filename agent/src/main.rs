//! `tidepool-agent`: the table of contents.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidepool_agent::cli::{Arguments, Command};
use tidepool_agent::config::{Config, ProcessEnvironment};
use tidepool_agent::{app, logging, takeover};

/// Bad usage, as sysexits.h has it.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Run) {
        Command::Run => serve(),
        Command::Install => report(app::install_plugin(&ProcessEnvironment)),
        Command::Uninstall { wait } => {
            configured(|config| takeover::give_back(&config, wait.map(Duration::from_secs)))
        }
        question => report(question.ask()),
    }
}

/// Configuration → logs → runtime → the agent, until a signal.
fn serve() -> ExitCode {
    configured(|config| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(app::run(config))
    })
}

fn configured(action: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    let (config, warnings) = match Config::read(&ProcessEnvironment) {
        Ok(read) => read,
        Err(error) => {
            eprint!("{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    logging::start(&config);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    report(action(config))
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain in one line: each cause once.
            eprintln!("tidepool-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
