//! The client against agents of a few lines.

use std::{os::unix::net::UnixListener, thread};

use super::*;
use crate::{Refusal, accept, reason};

fn soon(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; frame_len(header).ok()?];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn socket_path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("agent.sock");
    (dir, path)
}

#[test]
fn an_agent_that_starts_late_is_found() {
    let (_dir, path) = socket_path();
    let late = path.clone();
    let (tried, waits) = std::sync::mpsc::channel();
    let agent = thread::spawn(move || {
        waits.recv().expect("the client runs");
        let listener = UnixListener::bind(late).expect("bind");
        let (mut stream, _) = listener.accept().expect("accept");
        let envelope = accept(&read_frame(&mut stream).expect("a frame")).expect("our version");
        let reply = Reply { version: envelope.version, response: Response::Ready };
        stream.write_all(&encode(&reply).expect("short")).expect("write");
    });
    assert!(matches!(connect(&path, soon(20)), Err(ClientError::Unreachable { .. })));
    tried.send(()).expect("the agent waits");
    let mut connection = connect(&path, soon(10_000)).expect("it comes");
    assert_eq!(connection.call(Request::Status).expect("an answer"), Response::Ready);
    agent.join().expect("no panic");
}

#[test]
fn a_dead_socket_file_is_waited_for() {
    let (_dir, path) = socket_path();
    drop(UnixListener::bind(&path).expect("bind"));
    let error = connect(&path, soon(30)).expect_err("refused");
    assert!(error.is_deadline(), "{error:?}");
}

#[test]
fn a_full_backlog_does_not_hold_the_client() {
    let (_dir, path) = socket_path();
    let listener = UnixListener::bind(&path).expect("bind");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("valid")).expect("listen");
    let mut held = Vec::new();
    let started = Instant::now();
    loop {
        match connect(&path, soon(100)) {
            Ok(connection) => held.push(connection),
            Err(error) => {
                assert!(error.is_deadline(), "{error:?}");
                break;
            }
        }
        assert!(held.len() < 100, "a backlog of 0 takes that many");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn silence_ends_at_the_deadline_and_closing_is_a_restart() {
    let (_dir, path) = socket_path();
    let listener = UnixListener::bind(&path).expect("bind");
    let mut connection = connect(&path, soon(50)).expect("listening");
    let error = connection.call(Request::Status).expect_err("nobody answers");
    assert!(matches!(error, ClientError::Deadline { verb: "status" }), "{error:?}");

    let mut connection = connect(&path, soon(10_000)).expect("listening");
    let agent = thread::spawn(move || {
        let (_first, _) = listener.accept().expect("accept");
        let (mut second, _) = listener.accept().expect("accept");
        read_frame(&mut second);
    });
    let error = connection.call(Request::Status).expect_err("closed");
    assert!(error.is_restart(), "{error:?}");
    agent.join().expect("no panic");
}

#[test]
fn a_refusal_is_an_answer_and_an_unknown_version_without_a_common_one_too() {
    let (_dir, path) = socket_path();
    let listener = UnixListener::bind(&path).expect("bind");
    let refusal = Refusal::new(6, reason::UNKNOWN_VERSION, "only version 9 here");
    let reply = Reply { version: 9, response: Response::Error(refusal.clone()) };
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        read_frame(&mut stream);
        stream.write_all(&encode(&reply).expect("short")).expect("write");
    });
    let mut connection = connect(&path, soon(10_000)).expect("listening");
    assert_eq!(connection.call(Request::Status).expect("an answer"), Response::Error(refusal));
    agent.join().expect("no panic");
}
