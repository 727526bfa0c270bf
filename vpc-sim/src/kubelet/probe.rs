//! Questions from inside the network: can this one talk to that one?
//!
//! A probe connects (TCP) or sends (UDP) from a source's network namespace, says
//! a word and waits for the answer. All probes of a request run at once. Only
//! opening the sockets needs a thread in a namespace; the rest is asynchronous.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use futures::future::join_all;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::Protocol;
use crate::fabric::echo::WHO;
use crate::fabric::ns::NetNs;

/// How often an unanswered datagram is sent.
const DATAGRAMS: u32 = 3;

/// A question.
#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    /// Who asks: "namespace/name" of a pod, "node:NAME" or "internet".
    pub from: String,
    /// Who is asked: the same, or an address.
    pub to: String,
    pub protocol: ProbeProtocol,
    pub port: u16,
}

/// A transport as Kubernetes writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeProtocol {
    Tcp,
    Udp,
    Sctp,
}

/// The answer to a [`Probe`], whose fields it repeats.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub from: String,
    pub to: String,
    pub protocol: ProbeProtocol,
    pub port: u16,
    /// Whether an answer came.
    pub allowed: bool,
    /// Who answered, or what happened instead.
    pub detail: String,
}

/// A probe whose ends are found, or what is wrong with them.
#[derive(Debug)]
pub struct Resolved {
    pub probe: Probe,
    pub ends: Result<Ends, String>,
}

/// Where a probe starts and where it goes.
#[derive(Debug, Clone)]
pub struct Ends {
    pub source: NetNs,
    pub destination: IpAddr,
}

/// A socket in the source's namespace.
enum Opened {
    Tcp(TcpStream),
    Udp(std::net::UdpSocket),
}

/// Runs all probes at once, each for at most `bound`. The outcomes are in the
/// order of the probes.
pub async fn run(probes: Vec<Resolved>, bound: Duration) -> Vec<Outcome> {
    let sockets = open_all(&probes).await;
    let outcomes = probes.into_iter().zip(sockets).map(|(resolved, socket)| async move {
        let Resolved { probe, ends } = resolved;
        let result = match (ends, socket) {
            (Err(problem), _) => Err(problem),
            (Ok(_), None) => Err(format!("no socket for {:?}", probe.protocol)),
            (Ok(_), Some(Err(error))) => Err(format!("open a socket: {error}")),
            (Ok(ends), Some(Ok(socket))) => {
                let to = SocketAddr::from((ends.destination, probe.port));
                ask(socket, to, bound).await.map_err(|error| explain(&error))
            }
        };
        let Probe { from, to, protocol, port } = probe;
        let allowed = result.is_ok();
        let detail = match result {
            Ok(who) => format!("answered by {who}"),
            Err(problem) => problem,
        };
        Outcome { from, to, protocol, port, allowed, detail }
    });
    join_all(outcomes).await
}

/// Opens one socket per probe that has ends, with one thread per source.
async fn open_all(probes: &[Resolved]) -> Vec<Option<io::Result<Opened>>> {
    /// A source's namespace, and by its place what is to be opened there.
    type Wanted = (NetNs, Vec<(usize, Protocol, IpAddr)>);
    let mut by_source: BTreeMap<&str, Wanted> = BTreeMap::new();
    for (index, resolved) in probes.iter().enumerate() {
        let protocol = match resolved.probe.protocol {
            ProbeProtocol::Tcp => Protocol::Tcp,
            ProbeProtocol::Udp => Protocol::Udp,
            ProbeProtocol::Sctp => continue,
        };
        if let Ok(ends) = &resolved.ends {
            by_source
                .entry(&resolved.probe.from)
                .or_insert_with(|| (ends.source.clone(), Vec::new()))
                .1
                .push((index, protocol, ends.destination));
        }
    }
    let mut opened: Vec<Option<io::Result<Opened>>> = Vec::new();
    opened.resize_with(probes.len(), || None);
    let tasks = by_source.into_values().map(|(source, wanted)| {
        tokio::task::spawn_blocking(move || {
            let indices: Vec<usize> = wanted.iter().map(|(index, ..)| *index).collect();
            let sockets = source.run(|| {
                wanted
                    .iter()
                    .map(|(_, protocol, destination)| open(*protocol, *destination))
                    .collect::<Vec<_>>()
            });
            match sockets {
                Ok(sockets) => indices.into_iter().zip(sockets).collect(),
                Err(error) => indices
                    .into_iter()
                    .map(|index| (index, Err(io::Error::other(error.to_string()))))
                    .collect::<Vec<_>>(),
            }
        })
    });
    for sockets in join_all(tasks).await.into_iter().flatten() {
        for (index, socket) in sockets {
            opened[index] = Some(socket);
        }
    }
    opened
}

fn open(protocol: Protocol, destination: IpAddr) -> io::Result<Opened> {
    match protocol {
        Protocol::Tcp => {
            let family = match destination {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            Ok(Opened::Tcp(socket(family, SockType::Stream, flags, None)?.into()))
        }
        Protocol::Udp => {
            let any: IpAddr = match destination {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            Ok(Opened::Udp(socket))
        }
    }
}

/// Asks and returns who answered.
async fn ask(socket: Opened, to: SocketAddr, bound: Duration) -> io::Result<String> {
    let began = Instant::now();
    let nonce = format!("{:016x}", rand::random::<u64>());
    let question = [WHO, nonce.as_bytes()].concat();
    let answer = match socket {
        Opened::Tcp(stream) => {
            let socket = TcpSocket::from_std_stream(stream);
            within(began + bound, "no connection", ask_tcp(socket, to, &question, &nonce, began + bound))
                .await?
        }
        Opened::Udp(socket) => {
            ask_udp(UdpSocket::from_std(socket)?, to, &question, &nonce, began, bound).await?
        }
    };
    Ok(answer.strip_suffix(&nonce).unwrap_or(&answer).trim().to_owned())
}

async fn ask_tcp(
    socket: TcpSocket,
    to: SocketAddr,
    question: &[u8],
    nonce: &str,
    deadline: Instant,
) -> io::Result<String> {
    let mut stream = socket.connect(to).await?;
    within(deadline, "connected, no answer", async {
        stream.write_all(question).await?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.ends_with(nonce.as_bytes()) {
            match stream.read(&mut buffer).await? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
    .await
}

async fn ask_udp(
    socket: UdpSocket,
    to: SocketAddr,
    question: &[u8],
    nonce: &str,
    began: Instant,
    bound: Duration,
) -> io::Result<String> {
    socket.connect(to).await?;
    let mut buffer = [0; 1024];
    for round in 1..=DATAGRAMS {
        socket.send(question).await?;
        let until = began + bound * round / DATAGRAMS;
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            let answer = &buffer[..received?];
            if answer.ends_with(nonce.as_bytes()) {
                return Ok(String::from_utf8_lossy(answer).into_owned());
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

async fn within<T>(
    deadline: Instant,
    late: &'static str,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout_at(deadline, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, late)),
    }
}

/// What happened, in the fewest words.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut if error.raw_os_error().is_none() => format!("timed out: {error}"),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => format!("unreachable: {error}"),
        _ => error.to_string(),
    }
}
