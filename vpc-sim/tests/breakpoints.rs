//! Breakpoints by the control endpoint, with callers that go away.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vpc_sim::control;
use vpc_sim::ec2::{self, Cloud, NewInstance, NodeScope, Settings};

/// A region with one subnet and one instance, served as `vpc-sim up` serves it.
struct Bench {
    cloud: Arc<Cloud>,
    create: String,
    ec2: SocketAddr,
    control: SocketAddr,
    /// It ends the servers.
    _runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let cloud = Cloud::new(Settings::calm());
        let vpc = cloud.add_vpc("10.20.0.0/16".parse().expect("a network")).expect("a VPC");
        let cidr = "10.20.0.0/24".parse().expect("a network");
        let subnet = cloud.add_subnet(&vpc, cidr, "us-west-2a").expect("a subnet");
        let new = NewInstance {
            name: "node-a".to_owned(),
            instance_type: "m5.large".to_owned(),
            subnet: subnet.clone(),
            groups: Vec::new(),
            tags: Vec::new(),
        };
        cloud.add_instance(new).expect("an instance");
        let serve = |router: Router| {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("an address");
                tokio::spawn(async move { axum::serve(listener, router).await });
                address
            })
        };
        Self {
            ec2: serve(ec2::router(Arc::clone(&cloud), NodeScope::node("node-a"))),
            control: serve(control::router(Arc::clone(&cloud))),
            create: format!("Action=CreateNetworkInterface&Version=2016-11-15&SubnetId={subnet}"),
            cloud,
            _runtime: runtime,
        }
    }

    /// Sends a call, and waits for no answer.
    fn send(&self, form: &str) -> TcpStream {
        send(self.ec2, "POST /", form)
    }

    fn ask(&self, request: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = answer(send(self.control, request, &body));
        (status, serde_json::from_str(&answer).expect("JSON"))
    }

    fn set(&self, breakpoint: &Value) {
        let (status, answer) = self.ask("POST /breakpoint", breakpoint);
        assert_eq!((status, &answer["state"]), (200, &json!("waiting")), "{answer}");
    }

    /// The breakpoint, once it is not as in `unlike` any more.
    fn wait(&self, unlike: &str) -> Value {
        let request = format!("GET /breakpoint?node=node-a&wait=20&unlike={unlike}");
        let (status, answer) = self.ask(&request, &Value::Null);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn remove(&self, query: &str) -> Value {
        self.ask(&format!("DELETE /breakpoint?node=node-a{query}"), &Value::Null).1
    }

    /// Interfaces beside the instance's primary one.
    fn made(&self) -> usize {
        self.cloud.enis().len() - 1
    }
}

fn send(to: SocketAddr, request: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a bound");
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    stream
}

/// Status and body; status 0 where the connection is closed without an answer.
fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    // A reset is no answer either.
    let _ = stream.read_to_string(&mut text);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[test]
fn a_call_held_before_its_effect_has_none_when_its_caller_is_gone() {
    let bench = Bench::new();
    bench.set(&json!({"node": "node-a", "at": "before", "call": 2}));
    assert_eq!(answer(bench.send("Action=DescribeVpcs")).0, 200, "the first one passes");
    let caller = bench.send(&bench.create);
    let held = bench.wait("waiting");
    assert_eq!(held["state"], "held");
    assert_eq!(held["held"]["operation"], "CreateNetworkInterface");
    assert_eq!(held["held"]["parameters"], bench.create.as_str());
    assert_eq!(held["counted"], 2);
    assert_eq!(answer(bench.send("Action=DescribeVpcs")).0, 200, "others go their way meanwhile");
    drop(caller);
    assert_eq!(bench.wait("held")["state"], "gone");
    bench.remove("");
    assert_eq!(bench.made(), 0);
    let log = bench.cloud.call_log();
    assert!(log.iter().all(|call| call.operation == "DescribeVpcs"), "{log:?}");
}

#[test]
fn a_held_call_goes_on_or_never_as_it_is_asked() {
    for (at, query, made, status) in [
        ("before", "", 1, 200),
        ("before", "&drop=true", 0, 0),
        ("after", "", 1, 200),
        ("after", "&drop=true", 1, 0),
    ] {
        let bench = Bench::new();
        bench.set(&json!({"node": "node-a", "at": at, "operation": "CreateNetworkInterface"}));
        assert_eq!(answer(bench.send("Action=DescribeVpcs")).0, 200, "not of that operation");
        let caller = bench.send(&bench.create);
        assert_eq!(bench.wait("waiting")["state"], "held", "{at}");
        assert_eq!(bench.made(), usize::from(at == "after"), "{at}");
        bench.remove(query);
        assert_eq!(answer(caller).0, status, "{at}{query}");
        assert_eq!(bench.made(), made, "{at}{query}");
    }
}

#[test]
fn after_a_reply_all_is_held_that_follows() {
    let bench = Bench::new();
    bench.set(&json!({"node": "node-a", "at": "reply"}));
    let (status, body) = answer(bench.send("Action=DescribeVpcs"));
    assert!(status == 200 && body.contains("vpcSet"), "{status} {body}");
    assert_eq!(bench.wait("waiting")["held"]["operation"], "DescribeVpcs");
    let callers = [bench.send(&bench.create), bench.send(&bench.create)];
    let both_held = || {
        let (_, now) = bench.ask("GET /breakpoint?node=node-a", &Value::Null);
        (now["following"] == 2).then_some(())
    };
    kernel_test::wait_for("both are held", Duration::from_secs(20), both_held).expect("in time");
    bench.remove("&drop=true");
    assert_eq!(callers.map(|caller| answer(caller).0), [0, 0]);
    assert_eq!(bench.made(), 0);
    assert_eq!(answer(bench.send(&bench.create)).0, 200, "nothing holds a new one");
    assert_eq!(bench.made(), 1);
}

#[test]
fn what_means_nothing_is_refused() {
    let bench = Bench::new();
    for (request, body, field) in [
        ("POST /breakpoint", json!({"node": "node-a", "at": "before", "operation": "Nonsense"}), "operation"),
        ("POST /breakpoint", json!({"node": "node-a", "at": "before", "call": 0}), "call"),
        ("POST /breakpoint", json!({"node": "node-a", "at": "sometime"}), "sometime"),
        ("GET /breakpoint?node=node-a", Value::Null, "node"),
        ("GET /breakpoint?node=node-a&wait=soon", Value::Null, "wait"),
        ("GET /breakpoint?node=node-a&drop=true", Value::Null, "drop"),
        ("DELETE /breakpoint?node=node-a", Value::Null, "node"),
    ] {
        let (status, answer) = bench.ask(request, &body);
        assert_eq!(status, 400, "{request} {body}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(field)), "{answer}");
    }
}

#[test]
fn the_log_is_read_from_a_number_on() {
    let bench = Bench::new();
    for form in ["Action=DescribeVpcs", "Action=DescribeSubnets", "Action=DescribeInstances"] {
        answer(bench.send(form));
    }
    let read = |query: &str| {
        let (status, log) = bench.ask(&format!("GET /calls/log{query}"), &Value::Null);
        assert_eq!(status, 200, "{log}");
        log.as_array().expect("a list").iter().map(|call| call["number"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(read(""), [1, 2, 3]);
    assert_eq!(read("?node=node-a&after=1"), [2, 3]);
    assert_eq!(read("?node=node-b"), [0; 0]);
    assert_eq!(bench.ask("GET /calls/log?since=1", &Value::Null).0, 400);
}

#[test]
fn a_wait_ends_with_its_patience() {
    let bench = Bench::new();
    bench.set(&json!({"node": "node-a", "at": "after"}));
    let (_, answer) = bench.ask("GET /breakpoint?node=node-a&wait=0", &Value::Null);
    assert_eq!((&answer["state"], &answer["held"]), (&json!("waiting"), &Value::Null), "{answer}");
}
