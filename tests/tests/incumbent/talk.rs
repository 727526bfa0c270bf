//! Questions to the echo servers of pods and of the internet, from any network namespace.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use system_tests::kube_proxy::Transport;
use system_tests::world::questions::in_netns;

/// How long an answer may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited for an answer that must not come.
pub(crate) const BRIEFLY: Duration = Duration::from_millis(700);

/// Who is asked, what, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The namespace of whoever asks.
    pub(crate) from: PathBuf,
    pub(crate) transport: Transport,
    pub(crate) to: SocketAddrV4,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its name.
    pub(crate) who: String,
    /// Where it sees the question come from.
    pub(crate) seen: SocketAddrV4,
    /// Where the question was sent from.
    pub(crate) sent_from: SocketAddrV4,
}

impl Question {
    pub(crate) fn new(from: &Path, transport: Transport, to: Ipv4Addr, port: u16) -> Self {
        Self { from: from.to_owned(), transport, to: SocketAddrV4::new(to, port) }
    }

    /// Asks who is there and whence it sees us, on one connection.
    pub(crate) fn ask(&self, patience: Duration) -> Result<Answer> {
        let Self { transport, to, .. } = *self;
        let asked = in_netns(&self.from, move || match transport {
            Transport::Tcp => by_tcp(to, patience),
            Transport::Udp => by_udp(to, patience),
            Transport::Sctp => bail!("nothing here speaks SCTP"),
        });
        asked.with_context(|| format!("{} to {to} from {}", transport.name(), self.from.display()))
    }

    /// What must not be answered.
    pub(crate) fn must_fail(&self) -> Result<()> {
        match self.ask(BRIEFLY) {
            Ok(answer) => bail!("{self:?} was answered: {answer:?}"),
            Err(_) => Ok(()),
        }
    }
}

/// Asks all at once; every one must be answered.
pub(crate) fn ask_all(questions: &[Question]) -> Result<Vec<Answer>> {
    let asked: Vec<JoinHandle<Result<Answer>>> = questions
        .iter()
        .cloned()
        .map(|question| std::thread::spawn(move || question.ask(PATIENCE)))
        .collect();
    let answers: Vec<Result<Answer>> = asked
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
        .collect();
    let failed: Vec<String> =
        answers.iter().filter_map(|answer| Some(format!("{:#}", answer.as_ref().err()?))).collect();
    ensure!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), questions.len(), failed.join("\n"));
    answers.into_iter().collect()
}

/// All at once; none may be answered.
pub(crate) fn all_must_fail(questions: &[Question]) -> Result<()> {
    let asked: Vec<_> =
        questions.iter().cloned().map(|question| std::thread::spawn(move || question.must_fail())).collect();
    asked.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// Five echo requests that must all be answered.
pub(crate) fn ping(from: &Path, to: Ipv4Addr) -> Result<()> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", from.display()))
        .args(["busybox", "ping", "-q", "-c", "5", "-i", "0.05", "-W", "2", &to.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(" 0% packet loss"), "{to} from {}: {said}", from.display());
    Ok(())
}

/// A datagram of so many octets that must come back whole. Asked thrice: the first one may find out how much a packet
/// may hold on its way.
pub(crate) fn long_datagram(from: &Path, to: Ipv4Addr, port: u16, octets: usize) -> Result<()> {
    let to = SocketAddrV4::new(to, port);
    let (sent, expected) = (vec![b'.'; octets], octets);
    in_netns(from, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE / 3))?;
        let mut buffer = vec![0; octets + 1];
        for _ in 0..3 {
            // Refused here where the kernel has just learned that it is too long in one piece.
            if socket.send(&sent).is_ok()
                && let Ok(length) = socket.recv(&mut buffer)
            {
                ensure!(length == expected, "{length} octets came back");
                return Ok(());
            }
        }
        bail!("none came back")
    })
    .with_context(|| format!("{octets} octets to {to}"))
}

/// A connection that stays.
pub(crate) struct Flow(TcpStream);

impl Flow {
    pub(crate) fn open(from: &Path, to: Ipv4Addr, port: u16) -> Result<Self> {
        let to = SocketAddr::from((to, port));
        let mut flow = Self(in_netns(from, move || Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?);
        flow.lives().context("a new connection")?;
        Ok(flow)
    }

    /// Says a word and hears it.
    pub(crate) fn lives(&mut self) -> Result<()> {
        stream_answer(&mut self.0, b"still here", 10, Instant::now() + PATIENCE).map(drop)
    }
}

/// A server of a host's own, such as the API server is: tells each client its address.
pub(crate) struct HostServer {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl HostServer {
    pub(crate) fn start(netns: &Path, port: u16) -> Result<Self> {
        let listener =
            in_netns(netns, move || Ok(TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?))?;
        let accepting = listener.try_clone()?;
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, from)) = accepting.accept() {
                let mut question = [0; 64];
                while let Ok(1..) = stream.read(&mut question) {
                    let whence = question.starts_with(b"whence");
                    let answer = if whence { format!("{from} tide") } else { "host tide".to_owned() };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for HostServer {
    fn drop(&mut self) {
        // Wakes whoever accepts.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn by_tcp(to: SocketAddrV4, patience: Duration) -> Result<Answer> {
    let until = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&to.into(), patience)?;
    let sent_from = v4(stream.local_addr()?)?;
    let who = stream_answer(&mut stream, b"who? tide", 5, until)?;
    let seen = stream_answer(&mut stream, b"whence? tide", 5, until)?;
    Ok(Answer { who: word(&who)?, seen: word(&seen)?.parse()?, sent_from })
}

/// What is answered to a question, which ends with the question's last five letters.
fn stream_answer(stream: &mut TcpStream, question: &[u8], tail: usize, until: Instant) -> Result<Vec<u8>> {
    let tail = &question[question.len() - tail.min(question.len())..];
    stream.write_all(question)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 256]);
    while !answer.ends_with(tail) {
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "connected, no answer");
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => bail!("closed without an answer"),
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(answer)
}

fn by_udp(to: SocketAddrV4, patience: Duration) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let sent_from = v4(socket.local_addr()?)?;
    let who = datagram_answer(&socket, b"who? tide", patience)?;
    let seen = datagram_answer(&socket, b"whence? tide", patience)?;
    Ok(Answer { who: word(&who)?, seen: word(&seen)?.parse()?, sent_from })
}

/// Asked three times: a datagram may be lost while an address is resolved.
fn datagram_answer(socket: &UdpSocket, question: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let mut buffer = [0; 256];
    socket.set_read_timeout(Some(patience / 3))?;
    let mut last = None;
    for _ in 0..3 {
        socket.send(question)?;
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length].ends_with(b" tide") => return Ok(buffer[..length].to_vec()),
            Ok(length) => bail!("{}", String::from_utf8_lossy(&buffer[..length])),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow!("never asked"), Into::into))
}

fn word(answer: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(answer)?;
    Ok(text.split_whitespace().next().context("an empty answer")?.to_owned())
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}
