//! Asks the running agent over HTTP/1.0: the server closes the connection at the end.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// How long an answer may take, and how long a stream may be silent: it has a sign of life each few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's answer to one GET.
pub(super) struct Answer {
    status: u16,
    body: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A value of a query, as it may stand there.
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b':' => {
                text.push(byte.into())
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// Sends the request and reads the head of the answer.
pub(super) fn ask(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no agent answers on {address}; is it running on this node?"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut body = BufReader::new(stream);
    let mut line = String::new();
    let mut read = |line: &mut String| {
        line.clear();
        body.read_line(line).context("the agent did not answer in time")
    };
    read(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.context("the answer is not HTTP")?;
    while read(&mut line)? > 2 {}
    Ok(Answer { status, body, address })
}

impl Answer {
    /// Status and whole body.
    pub(super) fn whole(mut self) -> anyhow::Result<(u16, String)> {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.body, &mut text)
            .context("the agent did not answer in time")?;
        Ok((self.status, text))
    }

    /// The body as JSON.
    pub(super) fn json(self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.good()?).context("the agent's answer is not JSON")
    }

    fn good(self) -> anyhow::Result<String> {
        match self.whole()? {
            (200, text) => Ok(text),
            (_, text) => bail!("{}", text.trim()),
        }
    }

    /// Calls `each` with every line as it comes, signs of life left out, until it says to stop, the agent ends, or
    /// `until`.
    pub(super) fn lines(
        mut self,
        until: Option<Instant>,
        mut each: impl FnMut(&str) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        if self.status != 200 {
            return self.good().map(drop);
        }
        let mut line = String::new();
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            self.body.get_ref().set_read_timeout(Some(left.unwrap_or(PATIENCE)))?;
            match self.body.read_line(&mut line) {
                Ok(0) => bail!("the agent on {} ended", self.address),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    // What came of the line stays in it.
                    if until.is_some() {
                        continue;
                    }
                    bail!("the agent on {} fell silent", self.address);
                }
                Err(error) => return Err(error).context("the agent's answer broke off"),
            }
            let whole = line.trim_end();
            if !whole.is_empty() && !each(whole)? {
                return Ok(());
            }
            line.clear();
        }
    }
}
