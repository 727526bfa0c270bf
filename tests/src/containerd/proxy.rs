//! Between plugin and agent: a socket that passes everything on, and can hold one message back.
//!
//! Whoever waits for a held message can end the plugin there, as a crash would. A side that closes its connection
//! closes the other one too.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;

/// Which message of the plugin's protocol is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The question of this verb, before the agent has it.
    Question(&'static str),
    /// The answer to it, before the plugin has it.
    Answer(&'static str),
}

#[derive(Debug, Default)]
struct State {
    hold: Option<Hold>,
    held: bool,
}

/// A proxy that listens until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    pub socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Listens at `socket` for the agent at `agent`.
    pub fn start(socket: PathBuf, agent: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for plugin in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                let agent = agent.clone();
                std::thread::spawn(move || {
                    // A connection that fails is closed, which both sides have to bear.
                    let closing = plugin.try_clone();
                    let _ = carry(plugin, &agent, &shared);
                    let _ = closing.map(|plugin| plugin.shutdown(Shutdown::Both));
                });
            }
        });
        Ok(Self { socket, state })
    }

    /// Holds the next message of this kind.
    pub fn hold(&self, hold: Hold) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { hold: Some(hold), held: false };
    }

    /// Waits until a message is held.
    pub fn wait_until_held(&self) -> Result<()> {
        wait_for("a message is held", Duration::from_secs(30), || {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).held.then_some(())
        })
    }

    /// Lets everything pass.
    pub fn release(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Carries questions and answers in turn, as the protocol has them, until a side closes.
fn carry(mut plugin: UnixStream, agent: &Path, state: &Mutex<State>) -> Result<()> {
    let mut agent = UnixStream::connect(agent)?;
    let mut watched = plugin.try_clone()?;
    let other = agent.try_clone()?;
    // While the agent thinks, the plugin may go: the agent must see it then.
    std::thread::spawn(move || {
        while !has_closed(&watched) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = other.shutdown(Shutdown::Both);
        let _ = watched.flush();
    });
    loop {
        let question = frame(&mut plugin)?;
        let verb = verb_of(&question);
        wait_where_held(state, &plugin, |hold| matches!(hold, Hold::Question(held) if held == verb))?;
        agent.write_all(&question)?;
        let Ok(answer) = frame(&mut agent) else {
            plugin.shutdown(Shutdown::Both)?;
            return Ok(());
        };
        wait_where_held(state, &plugin, |hold| matches!(hold, Hold::Answer(held) if held == verb))?;
        plugin.write_all(&answer)?;
    }
}

/// Waits as long as the message is held, and the plugin lives.
fn wait_where_held(state: &Mutex<State>, plugin: &UnixStream, is_it: impl Fn(Hold) -> bool) -> Result<()> {
    loop {
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.hold.is_some_and(&is_it) {
                return Ok(());
            }
            state.held = true;
        }
        ensure!(!has_closed(plugin), "the plugin has gone");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the other side has closed its end. Reads nothing.
fn has_closed(stream: &UnixStream) -> bool {
    let looked = recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    matches!(looked, Ok(0) | Err(nix::Error::EBADF | nix::Error::ECONNRESET))
}

/// A frame with its header: a big-endian length, then JSON.
fn frame(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let mut bytes = header.to_vec();
    bytes.resize(4 + usize::try_from(u32::from_be_bytes(header))?, 0);
    stream.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

/// The one key of the request.
fn verb_of(frame: &[u8]) -> String {
    let envelope: Value = serde_json::from_slice(&frame[4..]).unwrap_or_default();
    match &envelope["request"] {
        Value::Object(request) => request.keys().next().cloned().unwrap_or_default(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}
