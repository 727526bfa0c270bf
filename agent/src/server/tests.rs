use std::time::Duration;

use prometheus_client::registry::Registry;
use rpc::SandboxKey;

use super::*;
use crate::endpoint::tests::{Node, endpoints, key, pod};
use crate::readiness::Part;

struct Running {
    node: Arc<Node>,
    readiness: Readiness,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn running(ready: bool) -> Running {
    let node = Arc::new(Node::default());
    let readiness = Readiness::default();
    if ready {
        for part in Part::ALL {
            readiness.reached(part);
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let listener = listen(&dir.path().join("agent.sock")).expect("a fresh path");
    let server = Arc::new(Server {
        endpoints: endpoints(&node),
        readiness: readiness.clone(),
        metrics: Metrics::new(&mut Registry::default()),
        refusals: Refusals::default(),
    });
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(listener, stop.clone()));
    Running { node, readiness, stop, dir }
}

impl Running {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("agent.sock")).await.expect("it listens")
    }
}

async fn send(stream: &mut UnixStream, request: Request) {
    let envelope = Envelope { version: WIRE_VERSION, deadline_ms: 20_000, request };
    stream.write_all(&rpc::encode(&envelope).expect("short")).await.expect("open");
}

async fn answer(stream: &mut UnixStream) -> Response {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.expect("an answer");
    let mut body = vec![0; rpc::frame_len(header).expect("short")];
    stream.read_exact(&mut body).await.expect("a whole answer");
    rpc::decode::<Reply>(&body).expect("a reply").response
}

async fn ask(stream: &mut UnixStream, request: Request) -> Response {
    send(stream, request).await;
    answer(stream).await
}

fn lease(key: SandboxKey) -> Request {
    Request::Lease {
        key,
        netns: "/run/netns/x".into(),
        pod: Some(pod()),
        egress_shaped: false,
        begun_ns: rpc::monotonic_ns(),
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn an_add_is_two_requests_on_one_connection() {
    let running = running(true);
    running.node.give(5);
    let mut stream = running.connect().await;
    let Response::Leased(leased) = ask(&mut stream, lease(key("a"))).await else {
        panic!("an address is free")
    };
    let attach = Request::Attach { key: key("a"), host_ifname: leased.host_ifname, host_ifindex: 7 };
    assert_eq!(ask(&mut stream, attach).await, Response::Attached);
    drop(stream);
    let mut stream = running.connect().await;
    assert!(!running.node.is_empty(), "an attached endpoint outlives its connection");
    assert_eq!(ask(&mut stream, Request::Release { key: key("a") }).await, Response::Released);
    assert!(running.node.is_empty());
}

#[tokio::test]
async fn a_connection_that_ends_before_attach_undoes_the_lease() {
    let running = running(true);
    running.node.give(5);
    let mut stream = running.connect().await;
    let Response::Leased(_) = ask(&mut stream, lease(key("a"))).await else { panic!("an address is free") };
    assert!(!running.node.is_empty());
    drop(stream);
    until("the lease is given back", || running.node.is_empty()).await;
}

#[tokio::test]
async fn a_plugin_killed_in_the_queue_gives_up_its_place() {
    let running = running(true);
    let mut dying = running.connect().await;
    send(&mut dying, lease(key("a"))).await;
    until("the first waits", || running.node.waiting() == 1).await;
    drop(dying);
    until("the first is gone", || running.node.waiting() == 0).await;
    running.node.give(5);
    let mut stream = running.connect().await;
    let Response::Leased(_) = ask(&mut stream, lease(key("b"))).await else { panic!("the address is b's") };
}

#[tokio::test]
async fn an_agent_that_is_not_synced_refuses_and_may_be_asked_again() {
    let running = running(false);
    let mut stream = running.connect().await;
    let Response::Error(refusal) = ask(&mut stream, Request::Status).await else { panic!("it is not ready") };
    assert_eq!((refusal.code, refusal.retryable), (code::NOT_AVAILABLE, true));
    assert!(refusal.message.contains("kubernetes: starting"), "{}", refusal.message);
    for part in Part::ALL {
        running.readiness.reached(part);
    }
    running.readiness.lost(Part::Host, "a route cannot be added");
    assert_eq!(ask(&mut stream, Request::Status).await, Response::Ready, "host repairs go on beside ADDs");
    running.readiness.lost(Part::Kubernetes, "not synced");
    let Response::Error(refusal) = ask(&mut stream, Request::Status).await else { panic!("it is not ready") };
    assert_eq!(refusal.code, code::NOT_AVAILABLE);
}

#[tokio::test]
async fn pods_that_may_be_impaired_are_told_whether_adds_are_served_or_not() {
    let running = running(true);
    let mut stream = running.connect().await;
    running.readiness.lost_since(Part::Host, "no NAT", Instant::now() - Duration::from_secs(60));
    for served in [true, false] {
        if !served {
            running.readiness.lost(Part::Kubernetes, "not synced");
        }
        let Response::Error(refusal) = ask(&mut stream, Request::Status).await else { panic!("impaired") };
        assert_eq!(refusal.code, code::LIMITED_CONNECTIVITY);
        assert!(refusal.message.contains("no NAT"), "{}", refusal.message);
    }
    running.readiness.reached(Part::Kubernetes);
    running.readiness.reached(Part::Host);
    assert_eq!(ask(&mut stream, Request::Status).await, Response::Ready);
}

#[tokio::test]
async fn garbage_is_answered_or_cut_and_hurts_nobody() {
    let running = running(true);
    let mut stream = running.connect().await;
    stream.write_all(&[0, 0, 0, 2, b'{', b'}']).await.expect("open");
    assert!(matches!(answer(&mut stream).await, Response::Error(_)));
    let mut stream = running.connect().await;
    stream.write_all(&[0xff; 8]).await.expect("open");
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "a frame of 4 GiB ends the connection");
    let mut stream = running.connect().await;
    assert_eq!(ask(&mut stream, Request::Status).await, Response::Ready);
}
