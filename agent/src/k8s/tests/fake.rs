//! A small API server: lists, watches with history, and a script of misdeeds.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What a request gets instead of the right answer.
#[derive(Clone, Debug)]
pub(super) enum Misdeed {
    /// This status with this body and, if given, Retry-After.
    Status(u16, String, Option<u32>),
    /// HTTP 200 and then this one ERROR event.
    ErrorEvent(Value),
    /// HTTP 200, this much of the right answer, and the end of the stream.
    EndAfter(usize),
    /// HTTP 200 and this much of the right answer, in the middle of the next line the connection breaks.
    BreakAfter(usize),
    /// HTTP 200 and silence.
    Silence,
    /// No answer at all.
    Hang,
}

/// Which requests a misdeed is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    List,
    Watch,
    Streaming,
    Get,
}

struct Inner {
    version: u64,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    history: Vec<(u64, String, &'static str, Value)>,
    script: HashMap<(String, Kind), VecDeque<Misdeed>>,
    log: Vec<(String, Kind, HashMap<String, String>)>,
    created: Vec<Value>,
    /// Patches, by path.
    patched: Vec<(String, Value)>,
    /// Kinds that are not served.
    absent: BTreeSet<String>,
}

/// The server; it ends with this value.
pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    moved: watch::Sender<u64>,
    /// How often all watches were ended.
    ends: watch::Sender<u64>,
    address: std::net::SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Shared {
    inner: Arc<Mutex<Inner>>,
    moved: watch::Receiver<u64>,
    ends: watch::Receiver<u64>,
}

pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
/// What must be listed before anything is shown; the last one where its kind is there.
pub(super) const COLLECTIONS: [&str; 7] =
    [PODS, NAMESPACES, POLICIES, SERVICES, SLICES, NODES, CLUSTER_POLICIES];

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("no test panics while it holds this")
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            version: 10,
            objects: BTreeMap::new(),
            history: Vec::new(),
            script: HashMap::new(),
            log: Vec::new(),
            created: Vec::new(),
            patched: Vec::new(),
            absent: BTreeSet::new(),
        }));
        let (moved, receiver) = watch::channel(10);
        let (ends, ended) = watch::channel(0);
        let shared = Shared { inner: Arc::clone(&inner), moved: receiver, ends: ended };
        let router = Router::new().fallback(answer).with_state(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serving");
        });
        Self { inner, moved, ends, address, task }
    }

    pub(super) async fn client(&self) -> kube::Client {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let uri = format!("http://{}", self.address).parse().expect("an address is a URI");
        kube::Client::try_from(kube::Config::new(uri)).expect("a client")
    }

    /// Puts an object in; a watch tells of it.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let old = inner.objects.entry(path.into()).or_default().insert(key(&object), object.clone());
        let word = if old.is_some() { "MODIFIED" } else { "ADDED" };
        inner.history.push((version, path.into(), word, object));
        drop(inner);
        self.moved.send_replace(version);
    }

    /// Takes an object out; a watch tells of it.
    pub(super) fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        let version = inner.version;
        let removed = inner.objects.entry(path.into()).or_default().remove(&format!("{namespace}/{name}"));
        if let Some(mut object) = removed {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            inner.history.push((version, path.into(), "DELETED", object));
        }
        drop(inner);
        self.moved.send_replace(version);
    }

    /// Changes the objects behind the back of the watches.
    pub(super) fn delete_silently(&self, path: &str, namespace: &str, name: &str) {
        let mut inner = lock(&self.inner);
        inner.version += 1;
        inner.objects.entry(path.into()).or_default().remove(&format!("{namespace}/{name}"));
    }

    /// The next request of a kind gets this.
    pub(super) fn misdeed(&self, path: &str, kind: Kind, misdeed: Misdeed) {
        lock(&self.inner).script.entry((path.into(), kind)).or_default().push_back(misdeed);
    }

    /// No more misdeeds.
    pub(super) fn forgive(&self) {
        lock(&self.inner).script.clear();
    }

    /// Whether every misdeed was met with.
    pub(super) fn is_done(&self) -> bool {
        lock(&self.inner).script.values().all(VecDeque::is_empty)
    }

    /// How many requests of a kind there were.
    pub(super) fn count(&self, path: &str, kind: Kind) -> usize {
        lock(&self.inner).log.iter().filter(|(p, k, _)| p == path && *k == kind).count()
    }

    /// A parameter of the last request of a kind.
    pub(super) fn last(&self, path: &str, kind: Kind, parameter: &str) -> Option<String> {
        let inner = lock(&self.inner);
        let found = inner.log.iter().rev().find(|(p, k, _)| p == path && *k == kind);
        found.and_then(|(_, _, query)| query.get(parameter).cloned())
    }

    /// What was created.
    pub(super) fn created(&self) -> Vec<Value> {
        lock(&self.inner).created.clone()
    }

    /// What was patched, by path.
    pub(super) fn patched(&self) -> Vec<(String, Value)> {
        lock(&self.inner).patched.clone()
    }

    /// Serves a kind, or serves it no more; it is served from the start.
    pub(super) fn serve(&self, path: &str, served: bool) {
        let mut inner = lock(&self.inner);
        if served {
            inner.absent.remove(path);
        } else {
            inner.absent.insert(path.to_owned());
        }
    }

    /// Ends every open watch cleanly.
    pub(super) fn end_watches(&self) {
        self.ends.send_modify(|count| *count += 1);
    }
}

fn key(object: &Value) -> String {
    let word = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", word("namespace"), word("name"))
}

/// No parameter that is asked for here needs unescaping.
fn parameters(query: Option<&str>) -> HashMap<String, String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = parameters(request.uri().query());
    if request.method() == axum::http::Method::POST {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
        let object: Value = serde_json::from_slice(&body).expect("JSON");
        let mut inner = lock(&shared.inner);
        let taken = inner.created.iter().any(|old| key(old) == key(&object));
        inner.created.push(object.clone());
        let code = if taken { StatusCode::CONFLICT } else { StatusCode::CREATED };
        let body = if taken { status(409, "AlreadyExists", "it is there") } else { object };
        return (code, body.to_string()).into_response();
    }
    if request.method() == axum::http::Method::PATCH {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
        let patch: Value = serde_json::from_slice(&body).expect("JSON");
        lock(&shared.inner).patched.push((path, patch));
        return json!({}).to_string().into_response();
    }
    if lock(&shared.inner).absent.contains(&path) {
        // The words of a server that has no such kind: no JSON.
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let is_watch = query.get("watch").is_some_and(|value| value == "true");
    let streaming = query.contains_key("sendInitialEvents");
    let kind = match (is_watch, streaming) {
        (true, true) => Kind::Streaming,
        (true, false) => Kind::Watch,
        _ if COLLECTIONS.contains(&path.as_str()) => Kind::List,
        _ => Kind::Get,
    };
    let misdeed = {
        let mut inner = lock(&shared.inner);
        inner.log.push((path.clone(), kind, query.clone()));
        inner.script.get_mut(&(path.clone(), kind)).and_then(VecDeque::pop_front)
    };
    match misdeed {
        Some(Misdeed::Status(code, body, retry_after)) => {
            let mut response = (StatusCode::from_u16(code).expect("a code"), body).into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("Retry-After", seconds.into());
            }
            response
        }
        Some(Misdeed::ErrorEvent(status)) => {
            let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
            // The server keeps the stream open for a while after that.
            let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(line))]);
            Body::from_stream(body.chain(stream::pending())).into_response()
        }
        Some(Misdeed::Silence) => {
            Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()).into_response()
        }
        Some(Misdeed::Hang) => std::future::pending().await,
        Some(Misdeed::EndAfter(lines)) => {
            let lines = lines_of(&shared, &path, &query).take(lines);
            Body::from_stream(lines.map(Ok::<_, std::io::Error>)).into_response()
        }
        Some(Misdeed::BreakAfter(lines)) => {
            let lines = lines_of(&shared, &path, &query).take(lines).map(Ok);
            let half = Ok(Bytes::from_static(b"{\"type\":\"ADDED\",\"obj"));
            let fault = Err(std::io::Error::other("broken"));
            Body::from_stream(lines.chain(stream::iter([half, fault]))).into_response()
        }
        None => match kind {
            Kind::Watch | Kind::Streaming => {
                let lines = lines_of(&shared, &path, &query);
                Body::from_stream(lines.map(Ok::<_, std::io::Error>)).into_response()
            }
            Kind::List => list(&shared, &path, &query),
            Kind::Get => get(&shared, &path),
        },
    }
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn list(shared: &Shared, path: &str, query: &HashMap<String, String>) -> Response {
    let inner = lock(&shared.inner);
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let from = number("continue").unwrap_or(0);
    let limit = number("limit").unwrap_or(usize::MAX).min(3);
    let all: Vec<&Value> = inner.objects.get(path).into_iter().flat_map(BTreeMap::values).collect();
    let items: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
    let mut metadata = json!({"resourceVersion": inner.version.to_string()});
    if from + items.len() < all.len() {
        metadata["continue"] = json!((from + items.len()).to_string());
    }
    let items = if items.is_empty() { Value::Null } else { json!(items) };
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
        .to_string()
        .into_response()
}

/// `/api/v1/namespaces/NS/pods/NAME`
fn get(shared: &Shared, path: &str) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    let inner = lock(&shared.inner);
    let found = match parts.as_slice() {
        [_, _, _, _, namespace, _, name] => {
            inner.objects.get(PODS).and_then(|pods| pods.get(&format!("{namespace}/{name}")))
        }
        _ => None,
    };
    match found {
        Some(pod) => pod.to_string().into_response(),
        None => (StatusCode::NOT_FOUND, status(404, "NotFound", "not there").to_string()).into_response(),
    }
}

fn lines_of(
    shared: &Shared,
    path: &str,
    query: &HashMap<String, String>,
) -> impl futures::Stream<Item = Bytes> + Send + use<> {
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    let mut from: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut first: Vec<Value> = Vec::new();
    let inner = Arc::clone(&shared.inner);
    let mut moved = shared.moved.clone();
    moved.mark_unchanged();
    let mut ends = shared.ends.clone();
    ends.mark_unchanged();
    let path = path.to_owned();
    if query.contains_key("sendInitialEvents") {
        let inner = lock(&inner);
        from = inner.version;
        let objects = inner.objects.get(&path).into_iter().flat_map(BTreeMap::values);
        first.extend(objects.map(|object| json!({"type": "ADDED", "object": object})));
        first.push(json!({"type": "BOOKMARK", "object": {
            "kind": "Whatever", "apiVersion": "v1", "spec": {"containers": null},
            "metadata": {"resourceVersion": from.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
        }}));
    }
    tokio::spawn(async move {
        loop {
            let news: Vec<(u64, Value)> = {
                let inner = lock(&inner);
                let later = inner.history.iter().filter(|(at, kind, _, _)| *at > from && *kind == path);
                later.map(|(at, _, word, object)| (*at, json!({"type": word, "object": object}))).collect()
            };
            if let Some((at, _)) = news.last() {
                from = *at;
            }
            for event in first.drain(..).chain(news.into_iter().map(|(_, event)| event)) {
                if sender.send(Bytes::from(format!("{event}\n"))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = moved.changed() => if changed.is_err() { return },
                _ = ends.changed() => return,
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|line| (line, receiver)) })
}

/// A pod that runs on a node.
pub(super) fn pod(namespace: &str, name: &str, node: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": {"app": name},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}
