//! One call of gRPC over a unix socket: a connection for each, so that a server that was restarted is nobody's concern.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client;
use http::{HeaderMap, Method, Request};
use prost::Message;
use tokio::net::UnixStream;

/// What the server answered instead of a message (gRPC's status codes).
#[derive(Debug)]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    /// The caller's time was over: `DEADLINE_EXCEEDED`.
    pub const DEADLINE: u32 = 4;
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

/// Calls `method` (`/package.Service/Name`). The server is told the deadline; it has a moment more to answer.
///
/// # Errors
///
/// A [`Status`] where the server refused or the time was over.
pub(super) async fn unary<A: Message + Default>(
    socket: &Path,
    method: &str,
    question: &impl Message,
    patience: Duration,
) -> Result<A> {
    let call = exchange(socket, method, question, patience);
    let answer = tokio::time::timeout(patience + Duration::from_millis(250), call).await;
    match answer {
        Ok(answer) => answer,
        // Dropping the call closed the connection, which cancels it in the server.
        Err(_) => bail!(Status { code: Status::DEADLINE, message: format!("{method} took too long") }),
    }
}

async fn exchange<A: Message + Default>(
    socket: &Path,
    method: &str,
    question: &impl Message,
    patience: Duration,
) -> Result<A> {
    let stream = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
    let (mut sender, connection) = client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", format!("{}m", patience.as_millis()))
            .body(())?;
        sender = sender.ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(framed(question)?, true)?;
        let response = response.await?;
        refusal(response.headers())?;
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.put(chunk);
        }
        if let Some(trailers) = body.trailers().await? {
            refusal(&trailers)?;
        }
        // A byte that says "not compressed", the length, the message.
        let message = bytes.get(5..).context("no message in the answer")?;
        Ok(A::decode(message)?)
    }
    .await;
    connection.abort();
    answer
}

fn framed(question: &impl Message) -> Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(5 + question.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(question.encoded_len())?);
    question.encode(&mut bytes)?;
    Ok(bytes.freeze())
}

fn refusal(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse) {
        None | Some(Ok(0)) => Ok(()),
        Some(code) => {
            bail!(Status { code: code?, message: unescaped(text("grpc-message").unwrap_or_default()) })
        }
    }
}

/// Percent-encoding undone.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
