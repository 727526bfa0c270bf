//! The blocking client: one connection, one deadline, no runtime.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use thiserror::Error;

use crate::{
    Envelope, FrameError, HEADER_LEN, Reply, Request, Response, WIRE_VERSION, decode, encode, frame_len,
    version::step_down,
};

/// Pauses between attempts to connect double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listened at the socket before the deadline.
    #[error("the agent cannot be reached at {} before the deadline", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The last attempt's error.
        #[source]
        source: io::Error,
    },
    /// The agent accepted the request and did not answer in time.
    #[error("the agent did not answer {verb} before the deadline")]
    Deadline {
        /// The verb that was asked.
        verb: &'static str,
    },
    /// The agent closed the connection instead of answering: it was restarted.
    #[error("the agent closed the connection before it answered {verb}")]
    Closed {
        /// The verb that was asked.
        verb: &'static str,
    },
    /// The socket failed in another way.
    #[error("the agent's socket failed")]
    Io(#[source] io::Error),
    /// The answer cannot be read.
    #[error("the agent's answer cannot be read")]
    Frame(#[source] FrameError),
}

impl ClientError {
    /// Whether another connection may help: the agent went away in between.
    pub fn is_restart(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether the time given was not enough.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Deadline { .. })
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    version: u16,
}

/// Connects to the agent at `path`. While nobody listens there (the agent is
/// being restarted) it tries again until `deadline`.
pub fn connect(path: &Path, deadline: Instant) -> Result<Connection, ClientError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(path, deadline) {
            Ok(stream) => {
                return Ok(Connection { stream, deadline, version: WIRE_VERSION });
            }
            Err(error) => error,
        };
        // ENOENT: no agent yet. ECONNREFUSED: the file of one that died.
        // EAGAIN: it lives, but its backlog is full.
        let passing = matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
        );
        if !passing {
            return Err(ClientError::Io(error));
        }
        if left(deadline) <= pause {
            return Err(ClientError::Unreachable { path: path.to_owned(), source: error });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One attempt. The send time-out bounds connect(2) too, which otherwise waits
/// for ever when the backlog of a stopped agent is full; std cannot set it
/// before connecting.
fn attempt(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = left(deadline).max(Duration::from_millis(1));
    let millis = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
    let address = UnixAddr::new(path)?;
    connect_socket(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(|errno| match errno {
        Errno::EINPROGRESS => io::Error::from(io::ErrorKind::WouldBlock),
        other => other.into(),
    })?;
    Ok(UnixStream::from(fd))
}

/// Time until `deadline`, zero when it is over.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Connection {
    /// Asks and waits for the answer, until the deadline of the connection. A
    /// refusal is an answer: [`Response::Error`].
    pub fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        let verb = request.verb();
        let mut envelope = Envelope { version: self.version, deadline_ms: 0, request };
        loop {
            envelope.deadline_ms = u64::try_from(left(self.deadline).as_millis()).unwrap_or(u64::MAX);
            self.send(&envelope, verb)?;
            let reply = self.receive(verb)?;
            match step_down(envelope.version, &reply) {
                Some(older) => {
                    self.version = older;
                    envelope.version = older;
                }
                None => return Ok(reply.response),
            }
        }
    }

    fn send(&mut self, envelope: &Envelope, verb: &'static str) -> Result<(), ClientError> {
        let bytes = encode(envelope).map_err(ClientError::Frame)?;
        let bound = self.bound(verb)?;
        self.stream.set_write_timeout(Some(bound)).map_err(ClientError::Io)?;
        self.stream.write_all(&bytes).map_err(|error| failed(error, verb))
    }

    fn receive(&mut self, verb: &'static str) -> Result<Reply, ClientError> {
        let mut header = [0; HEADER_LEN];
        self.read_exact(&mut header, verb)?;
        let mut body = vec![0; frame_len(header).map_err(ClientError::Frame)?];
        self.read_exact(&mut body, verb)?;
        decode(&body).map_err(ClientError::Frame)
    }

    /// Reads until `buffer` is full. The time-out is set before every read, or
    /// an agent that sends a byte now and then could hold us for ever.
    fn read_exact(&mut self, buffer: &mut [u8], verb: &'static str) -> Result<(), ClientError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let bound = self.bound(verb)?;
            self.stream.set_read_timeout(Some(bound)).map_err(ClientError::Io)?;
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(ClientError::Closed { verb }),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error, verb)),
            }
        }
        Ok(())
    }

    /// Time left, as a time-out: never zero, which would mean "for ever".
    fn bound(&self, verb: &'static str) -> Result<Duration, ClientError> {
        let left = left(self.deadline);
        if left.is_zero() { Err(ClientError::Deadline { verb }) } else { Ok(left) }
    }
}

/// Which of our errors an I/O error is.
fn failed(error: io::Error, verb: &'static str) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Deadline { verb },
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            ClientError::Closed { verb }
        }
        _ => ClientError::Io(error),
    }
}

#[cfg(test)]
mod tests;
