//! The socket that the plugin calls: one connection is one verb.

mod refusals;
#[cfg(test)]
mod tests;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpc::{Envelope, HEADER_LEN, Refusal, Reply, Request, Response, WIRE_VERSION, code, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::endpoint::{Addresses, Asked, Endpoints, Enforcement, Provisional, Wiring};
use crate::metrics::Metrics;
use crate::readiness::Readiness;

pub use refusals::Refusals;

/// No verb may take longer, whatever the plugin says: kubelet gives up after four minutes.
const LONGEST: Duration = Duration::from_secs(240);

/// What a connection needs.
pub struct Server<A, W, E> {
    /// The endpoints.
    pub endpoints: Arc<Endpoints<A, W, E>>,
    /// Whether ADDs can be served.
    pub readiness: Readiness,
    /// Where verbs are counted.
    pub metrics: Metrics,
    /// Refusals that the log has.
    pub refusals: Refusals,
}

/// Opens the socket, mode 0600. A socket of a former agent is replaced: only one agent runs on a node, and
/// the lock beside it (see `app`) holds that.
///
/// # Errors
///
/// Where the directory cannot be written.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl<A: Addresses, W: Wiring, E: Enforcement> Server<A, W, E> {
    /// Serves until `stop`; what is being served then is cut off, and the plugin asks the next agent.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => {
                    // When this returns none of them changes a lease any more.
                    connections.shutdown().await;
                    return;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move { server.connection(stream).await });
                }
                Err(error) => {
                    // Out of descriptors: let some connections end before the next try.
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(credentials)
                if credentials.uid() == 0 || credentials.uid() == nix::unistd::geteuid().as_raw() => {}
            Ok(credentials) => {
                tracing::warn!(uid = credentials.uid(), "a connection of another user was closed");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials was closed");
                return;
            }
        }
        let (mut reader, mut writer) = stream.into_split();
        let mut provisional = None;
        while let Some(body) = read_frame(&mut reader).await {
            let reply = match rpc::accept(&body) {
                Ok(envelope) => {
                    let version = envelope.version;
                    let response = self.answer(envelope, &mut reader, &mut provisional).await;
                    Reply { version, response }
                }
                Err(reply) => reply,
            };
            if write_frame(&mut writer, &reply).await.is_none() {
                break;
            }
        }
        if let Some(provisional) = provisional {
            self.endpoints.abandon(&provisional).await;
        }
    }

    async fn answer(
        &self,
        envelope: Envelope,
        reader: &mut OwnedReadHalf,
        provisional: &mut Option<Provisional>,
    ) -> Response {
        let verb = envelope.request.verb();
        let asker = match &envelope.request {
            Request::Lease { key, .. } | Request::Attach { key, .. } => Some(key.to_string()),
            _ => None,
        };
        let adds = asker.is_some();
        let started = Instant::now();
        let deadline = started + Duration::from_millis(envelope.deadline_ms).min(LONGEST);
        let result = self.run(envelope.request, deadline, reader, provisional).await;
        let took = started.elapsed();
        match result {
            Ok(response) => {
                self.metrics.verb(verb, "ok", took);
                response
            }
            Err(refusal) => {
                self.metrics.verb(verb, &refusal.reason, took);
                if adds {
                    self.metrics.add_refused(&refusal.reason);
                }
                if self.refusals.admit(asker, &refusal, started) {
                    tracing::info!(verb, reason = refusal.reason, message = refusal.message, "refused");
                }
                Response::Error(refusal)
            }
        }
    }

    async fn run(
        &self,
        request: Request,
        deadline: Instant,
        reader: &mut OwnedReadHalf,
        provisional: &mut Option<Provisional>,
    ) -> Result<Response, Refusal> {
        match request {
            Request::Lease { key, netns, pod, egress_shaped, begun_ns } => {
                self.serving()?;
                let gone = CancellationToken::new();
                let asked = Asked { pod: pod.clone(), egress_shaped, begun_ns, deadline };
                let lease = self.endpoints.lease(&key, asked, &gone);
                tokio::pin!(lease);
                let leased = loop {
                    tokio::select! {
                        leased = &mut lease => break leased,
                        // Nothing is sent while the answer is awaited: readable means closed.
                        _ = reader.readable(), if !gone.is_cancelled() => {
                            if closed(reader) {
                                gone.cancel();
                            }
                        }
                    }
                };
                let (leased, mine) = leased?;
                tracing::info!(sandbox = %key, ?pod, netns, addresses = ?leased.addresses, "leased");
                *provisional = Some(mine);
                Ok(Response::Leased(leased))
            }
            Request::Attach { key, host_ifname, host_ifindex } => {
                self.serving()?;
                self.endpoints.attach(&key, &host_ifname, host_ifindex).await?;
                tracing::info!(sandbox = %key, host_ifname, host_ifindex, "attached");
                *provisional = None;
                Ok(Response::Attached)
            }
            Request::Release { key } => {
                self.endpoints.release(&key).await?;
                tracing::info!(sandbox = %key, "released");
                Ok(Response::Released)
            }
            Request::Check { key } => self.endpoints.check(&key).await.map(|()| Response::Checked),
            Request::Status => self.status().map(|()| Response::Ready),
            Request::Gc { network, valid, begun_ns } => {
                let released = self.endpoints.collect(&network, &valid, begun_ns).await?;
                Ok(Response::Collected { released })
            }
        }
    }

    /// What a runtime makes of it: with 50 the node takes no pods, with 51 those that it has may be in trouble, too,
    /// whether an ADD could be served or not. A pool that is empty is neither.
    fn status(&self) -> Result<(), Refusal> {
        if self.readiness.is_impaired(Instant::now()) {
            let message = format!("pods that run may be impaired: {}", self.missing());
            return Err(Refusal::new(code::LIMITED_CONNECTIVITY, "impaired", message));
        }
        self.serving()
    }

    fn missing(&self) -> String {
        self.readiness.report().trim_end().replace('\n', ", ")
    }

    /// Before everything is read, an ADD is refused rather than served without policy.
    fn serving(&self) -> Result<(), Refusal> {
        if self.readiness.can_serve() {
            return Ok(());
        }
        Err(Refusal::retryable(
            code::NOT_AVAILABLE,
            reason::NOT_SYNCED,
            format!("the agent is not ready: {}", self.missing()),
        ))
    }
}

/// Whether the other side closed; a byte that is there instead is left for the next frame.
fn closed(reader: &OwnedReadHalf) -> bool {
    let stream: &UnixStream = reader.as_ref();
    let mut byte = [0_u8; 1];
    let peeked = nix::sys::socket::recv(
        std::os::fd::AsRawFd::as_raw_fd(stream),
        &mut byte,
        nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
    );
    match peeked {
        Ok(0) => true,
        Ok(_) => false,
        Err(nix::errno::Errno::EAGAIN) => {
            // Tells tokio that the readiness was used up, or `readable` would return for ever.
            let _ = stream.try_read(&mut byte);
            false
        }
        Err(_) => true,
    }
}

async fn read_frame(reader: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    reader.read_exact(&mut header).await.ok()?;
    let length =
        rpc::frame_len(header).inspect_err(|error| tracing::warn!(%error, "a connection was closed")).ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some(body)
}

async fn write_frame(writer: &mut OwnedWriteHalf, reply: &Reply) -> Option<()> {
    let bytes = match rpc::encode(reply) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            let refusal = Refusal::new(code::PLUGIN_SPECIFIC, "answer-too-long", error.to_string());
            rpc::encode(&Reply { version: WIRE_VERSION, response: Response::Error(refusal) }).ok()?
        }
    };
    writer.write_all(&bytes).await.ok()
}
