//! `vpc-sim up`: a whole VPC and cluster, until a signal ends it.

mod apply;
mod args;
mod cluster;
mod control;
mod kubeconfig;
mod listen;
mod node_object;
mod simulation;
mod state_dir;

pub use self::args::UpArgs;
pub use self::simulation::{Ready, ReadyNode, ReadySubnet, ReadyVpc, Simulation};

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::ec2;
use crate::fabric::FabricError;

/// The simulation could not be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Namespaces need privileges.
    #[error("network and mount namespaces need root; `--api-only` serves the APIs without")]
    NotRoot,
    /// The network.
    #[error("the fabric")]
    Fabric(#[from] FabricError),
    /// The cloud refused its set-up: an unknown instance type, no free address.
    #[error("the cloud")]
    Cloud(#[from] ec2::SetupError),
    /// The thread that moves changes from the cloud to the fabric.
    #[error("start the cloud's clock")]
    Clock(#[source] std::io::Error),
    /// A directory or file of the simulation's own.
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A listening socket.
    #[error("listen at {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The kubeconfig that was given.
    #[error("kubeconfig {}: {problem}", path.display())]
    Kubeconfig { path: PathBuf, problem: String },
    /// The Kubernetes API.
    #[error("{what}")]
    Kubernetes {
        what: String,
        #[source]
        source: kube::Error,
    },
    /// Signals or standard output.
    #[error("{0}")]
    Process(&'static str, #[source] std::io::Error),
    /// A blocking task panicked.
    #[error("a task ended without an answer")]
    Lost,
}

/// Starts a simulation, says on standard output where everything is (one line
/// of JSON), and runs until SIGINT or SIGTERM.
pub async fn run(args: UpArgs) -> Result<(), UpError> {
    // Before anything is made: a signal meanwhile must not be lost.
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| UpError::Process("wait for SIGINT", error))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| UpError::Process("wait for SIGTERM", error))?;
    let simulation = tokio::select! {
        started = Simulation::start(args) => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    print_line(simulation.ready())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    simulation.end().await
}

fn print_line(ready: &Ready) -> Result<(), UpError> {
    use std::io::Write;

    let failed = |error| UpError::Process("write to standard output", error);
    let line = serde_json::to_string(ready).map_err(|error| failed(error.into()))?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(failed)
}
