//! Servers that answer what they are sent, by TCP and by UDP.
//!
//! A message that begins with `who? ` is answered by the server's name, a blank
//! and the message's rest: so a client learns not only that somebody answered
//! but who, which an echo alone would hide behind a wrong route or a Service.
//! One that begins with `whence? ` is answered by the address and port that the
//! server sees it come from, after whatever translated it on its way.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// What asks a server for its name.
pub(crate) const WHO: &[u8] = b"who? ";
/// What asks a server for its client's address.
const WHENCE: &[u8] = b"whence? ";

/// An error that lasts must not keep a processor busy.
const AFTER_AN_ERROR: Duration = Duration::from_millis(10);

/// The longest message that is answered with a name.
const LONGEST: usize = 64 * 1024;

/// Sockets opened in some namespace, not served yet.
#[derive(Debug, Default)]
pub(crate) struct EchoSockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl EchoSockets {
    /// Listens in the calling thread's namespace.
    pub(crate) fn add_tcp(&mut self, at: SocketAddr) -> io::Result<()> {
        let socket = TcpListener::bind(at)?;
        socket.set_nonblocking(true)?;
        self.tcp.push(socket);
        Ok(())
    }

    /// Receives in the calling thread's namespace.
    pub(crate) fn add_udp(&mut self, at: SocketAddr) -> io::Result<()> {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        self.udp.push(socket);
        Ok(())
    }

    /// Serves them in the current tokio runtime under `name`.
    pub(crate) fn serve(self, name: &str) -> io::Result<EchoServers> {
        let name: Arc<str> = name.into();
        let mut tasks = JoinSet::new();
        for socket in self.tcp {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            tasks.spawn(accept(socket, name.clone()));
        }
        for socket in self.udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tasks.spawn(answer_datagrams(socket, name.clone()));
        }
        Ok(EchoServers { _tasks: tasks })
    }
}

/// Servers that run; dropping this ends them and their connections.
#[derive(Debug)]
pub(crate) struct EchoServers {
    _tasks: JoinSet<()>,
}

async fn accept(listener: tokio::net::TcpListener, name: Arc<str>) {
    // Connections end with the listener: they must not outlive their pod.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    connections.spawn(answer_stream(stream, from, name.clone()));
                }
                // Aborted handshakes are the peer's business; a shortage of
                // descriptors passes when connections end.
                Err(error) => {
                    tracing::debug!(%error, server = %name, "accept");
                    tokio::time::sleep(AFTER_AN_ERROR).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer_stream(mut stream: tokio::net::TcpStream, from: SocketAddr, name: Arc<str>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let Ok(length @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        if stream.write_all(&answer(&buffer[..length], &name, from)).await.is_err() {
            return;
        }
    }
}

async fn answer_datagrams(socket: tokio::net::UdpSocket, name: Arc<str>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Err(error) = socket.send_to(&answer(&buffer[..length], &name, from), from).await {
                    tracing::debug!(%error, %from, server = %name, "answer a datagram");
                }
            }
            // An ICMP error for an earlier answer surfaces here.
            Err(error) => {
                tracing::debug!(%error, server = %name, "receive a datagram");
                tokio::time::sleep(AFTER_AN_ERROR).await;
            }
        }
    }
}

fn answer(message: &[u8], name: &str, from: SocketAddr) -> Vec<u8> {
    if let Some(rest) = message.strip_prefix(WHO) {
        return [name.as_bytes(), b" ", rest].concat();
    }
    match message.strip_prefix(WHENCE) {
        Some(rest) => [from.to_string().as_bytes(), b" ", rest].concat(),
        None => message.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::answer;

    const FROM: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 20, 0, 4), 40_000);

    fn check(message: &[u8], expected: &[u8]) {
        assert_eq!(answer(message, "shop/web", SocketAddr::from(FROM)), expected);
    }

    #[test]
    fn a_message_comes_back_as_it_is() {
        check(b"hello", b"hello");
        check(b"who?", b"who?");
    }

    #[test]
    fn who_is_answered_with_the_name() {
        check(b"who? 17", b"shop/web 17");
    }

    #[test]
    fn whence_is_answered_with_the_clients_address() {
        check(b"whence? 17", b"10.20.0.4:40000 17");
    }
}
