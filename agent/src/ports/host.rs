//! Host networking as the wiring of single pods. Netlink blocks, so each call runs on a blocking thread.

use std::net::IpAddr;
use std::time::Duration;

use netlink::link::{self, Link};
use netlink::{Batch, Mac};
use rpc::{Refusal, code};

use crate::cause::chain;
use crate::endpoint::{Grant, HostEnd, Standing, Wiring};
use crate::hostnet::{HostNet, HostNetError, PodRoute};

/// How long the kernel may take to delete a link.
const UNLINK_PATIENCE: Duration = Duration::from_secs(10);

/// The host's network.
#[derive(Debug, Clone)]
pub struct HostPort(HostNet);

impl HostPort {
    /// Wires pods through `hostnet`.
    #[must_use]
    pub fn new(hostnet: HostNet) -> Self {
        Self(hostnet)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&HostNet) -> Result<T, HostNetError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let hostnet = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&hostnet)).await;
        done.unwrap_or(Err(HostNetError::Cancelled))
            .map_err(|error| Refusal::retryable(code::TRY_AGAIN_LATER, "host-networking", chain(&error)))
    }
}

fn route(grant: &Grant, end: &HostEnd) -> PodRoute {
    PodRoute {
        address: grant.address,
        host_ifname: end.ifname.clone(),
        host_ifindex: end.ifindex,
        host_mac: (end.host_mac != [0; 6]).then_some(Mac(end.host_mac)),
        pod_mac: (end.pod_mac != [0; 6]).then_some(Mac(end.pod_mac)),
        table: grant.table,
    }
}

/// The index alone is not enough: the kernel gives it to another link some day.
fn is_it(link: &Link, end: &HostEnd) -> bool {
    link.mac == Some(Mac(end.host_mac)) || link.name == end.ifname
}

impl Wiring for HostPort {
    async fn add_pod(&self, grant: &Grant, end: &HostEnd) -> Result<(), Refusal> {
        let pod = route(grant, end);
        self.blocking(move |hostnet| hostnet.add_pod(&pod)).await
    }

    async fn adopt_pod(&self, grant: &Grant, end: &HostEnd) -> Option<u32> {
        let pod = route(grant, end);
        // Adopting writes nothing and cannot be refused; the work itself may only be cancelled with its runtime.
        match self.blocking(move |hostnet| Ok(hostnet.adopt_pod(&pod))).await {
            Ok(table) => table,
            Err(refusal) => {
                tracing::warn!(error = %refusal, "a pod was not adopted");
                grant.table
            }
        }
    }

    async fn set_table(&self, address: IpAddr, table: u32) -> Result<(), Refusal> {
        self.blocking(move |hostnet| hostnet.set_table(address, table)).await
    }

    async fn remove_pod(&self, grant: &Grant, end: &HostEnd) -> Result<(), Refusal> {
        let pod = route(grant, end);
        self.blocking(move |hostnet| hostnet.remove_pod(&pod)).await
    }

    async fn lives(&self, end: &HostEnd) -> Result<bool, Refusal> {
        let end = end.clone();
        self.blocking(move |hostnet| Ok(hostnet.link(end.ifindex)?.is_some_and(|link| is_it(&link, &end))))
            .await
    }

    async fn unlink(&self, end: &HostEnd) -> Result<(), Refusal> {
        let end = end.clone();
        self.blocking(move |_| {
            // A deletion takes tens of milliseconds: not by the socket that everybody else waits for.
            let mut socket = netlink::Socket::open()?;
            socket.set_timeout(UNLINK_PATIENCE)?;
            let present = link::by_index(&mut socket, end.ifindex)?;
            if present.is_some_and(|link| is_it(&link, &end) && link.kind.as_deref() == Some("veth")) {
                let mut batch = Batch::new();
                link::delete(&mut batch, end.ifindex);
                socket.run(batch)?;
            }
            Ok(())
        })
        .await
    }

    async fn standing(&self, prefix: &str) -> Result<Vec<Standing>, Refusal> {
        let prefix = prefix.to_owned();
        let found = self.blocking(move |hostnet| hostnet.standing(&prefix)).await?;
        let links = found.into_iter().map(|link| Standing {
            end: HostEnd {
                ifname: link.ifname,
                ifindex: link.ifindex,
                host_mac: link.mac.map_or([0; 6], |mac| mac.0),
                pod_mac: link.pod_mac.map_or([0; 6], |mac| mac.0),
            },
            addresses: link.addresses,
        });
        Ok(links.collect())
    }

    async fn ask_pod_mac(&self, end: &HostEnd, address: IpAddr) -> Option<[u8; 6]> {
        let ifindex = end.ifindex;
        match self.blocking(move |hostnet| hostnet.ask_mac(ifindex, address)).await {
            Ok(told) => told.map(|mac| mac.0),
            Err(refusal) => {
                tracing::warn!(link = end.ifname, error = %refusal, "the pod's Ethernet address cannot be asked for");
                None
            }
        }
    }
}
