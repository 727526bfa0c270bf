//! A client of the API server.

use std::time::Duration;

use kube::{Client, Config};

use super::error::Error;

/// Connects by the file that KUBECONFIG names, or else as a pod does: by the address
/// and port in the environment, never by a name, since DNS may run on this very node's
/// pods. Nothing is sent yet.
///
/// A KUBECONFIG that is set and broken is an error: falling back would reach another
/// cluster than was meant. Must be called inside a tokio runtime; the process needs a
/// default crypto provider of rustls.
pub async fn connect() -> Result<Client, Error> {
    let mut config = if std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty()) {
        Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .map_err(|fault| Error::Config(fault.into()))?
    } else {
        Config::incluster_env().map_err(|fault| Error::Config(fault.into()))?
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    // Watches are silent for minutes; each request has its own deadline instead.
    config.read_timeout = None;
    Client::try_from(config).map_err(|fault| Error::Config(fault.into()))
}
