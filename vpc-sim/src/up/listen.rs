//! Servers on the host's loopback and on the loopback of nodes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use axum::Router;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::UpError;
use crate::fabric::FabricError;
use crate::fabric::ns::NodeNs;

/// Any free port of the loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Listens on the loopback of `node`, or of the host.
pub(super) async fn listen(node: Option<&NodeNs>) -> Result<(TcpListener, SocketAddr), UpError> {
    let bound = match node.cloned() {
        None => bind(),
        Some(node) => tokio::task::spawn_blocking(move || node.run(bind))
            .await
            .map_err(|_| UpError::Lost)?
            .map_err(FabricError::from)?,
    };
    bound.map_err(|source| UpError::Listen { address: LOOPBACK, source })
}

fn bind() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(LOOPBACK)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves `router` as long as `tasks` lives. Handlers may ask for the peer's
/// address.
pub(super) fn serve(tasks: &mut JoinSet<()>, listener: TcpListener, router: Router) -> Result<(), UpError> {
    let listener = into_tokio(listener)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "a server ended");
        }
    });
    Ok(())
}

/// Passes every connection on to `to`, which is reached from the host's network,
/// as long as `tasks` lives.
pub(super) fn proxy(tasks: &mut JoinSet<()>, listener: TcpListener, to: HostPort) -> Result<(), UpError> {
    let listener = into_tokio(listener)?;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(pass_on(stream, to.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept a connection to the Kubernetes API");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(())
}

/// A server's name or address, and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

async fn pass_on(mut near: TcpStream, to: HostPort) {
    let mut far = match TcpStream::connect((to.host.as_str(), to.port)).await {
        Ok(far) => far,
        Err(error) => {
            tracing::warn!(%error, ?to, "connect to the Kubernetes API");
            return;
        }
    };
    // Watches are many small messages.
    for stream in [&near, &far] {
        let _ = stream.set_nodelay(true);
    }
    if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
        tracing::debug!(%error, "a connection to the Kubernetes API ended");
    }
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, UpError> {
    tokio::net::TcpListener::from_std(listener)
        .map_err(|source| UpError::Listen { address: LOOPBACK, source })
}
