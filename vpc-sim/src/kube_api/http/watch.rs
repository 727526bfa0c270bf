//! Watches: a stream of events that ends when the client leaves, the time is
//! up, the history no longer reaches back, or a test says so.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::error::{ApiError, FieldFault};
use super::super::faults::{Closing, OpenWatch};
use super::super::kinds::{PODS, ResourceType};
use super::super::selector::Selector;
use super::super::store::{Change, Happened, ListQuery, Store, Stored, VersionMatch};
use super::super::table;
use super::Call;
use super::accept::View;
use super::path::Target;
use super::read::wait_for_version;
use super::render::Form;

/// Events written at once; also how much a slow reader keeps us holding.
const BATCH: usize = 500;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the time-out.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Without timeoutSeconds: once to twice this.
const DEFAULT_TIMEOUT_SECONDS: u64 = 1800;

/// Opens a watch.
pub(super) async fn open(call: Call, target: &Target) -> Result<Response, ApiError> {
    let form = Form::of(&call.headers, &call.query)?;
    let (query, store, kind) = (&call.query, &call.store, &target.kind);
    let selector = query.selector(kind)?;
    let version = query.version()?;
    let send_initial = query.tristate("sendInitialEvents");
    check_options(send_initial, query.matching()?)?;
    if store.is_initializing() {
        return Err(ApiError::initializing());
    }
    if send_initial == Some(true)
        && let Some(version) = version
    {
        wait_for_version(store, version).await?;
    }
    let timeout = match query.number("timeoutSeconds")? {
        None | Some(0) => rand::rng().random_range(DEFAULT_TIMEOUT_SECONDS..2 * DEFAULT_TIMEOUT_SECONDS),
        Some(seconds) => seconds,
    };
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let bookmarks = query.flag("allowWatchBookmarks");

    // Subscribed before the snapshot, so that no change falls in between.
    let pulse = store.subscribe(kind).ok_or_else(ApiError::no_such_path)?;
    let fresh = version.is_none_or(|version| version == 0);
    let with_snapshot = send_initial.unwrap_or(fresh);
    let (initial, cursor) = if with_snapshot {
        let list = ListQuery { selector: selector.clone(), ..ListQuery::default() };
        let page = store.list(kind, target.namespace.as_deref(), &list)?;
        (page.items.into(), page.version)
    } else if fresh {
        (VecDeque::new(), store.version())
    } else {
        (VecDeque::new(), version.unwrap_or_default())
    };
    if let Err(error) = store.changes_after(kind, cursor, 0) {
        let event = format!("{}\n", json!({"type": "ERROR", "object": error.status()}));
        return Ok(stream_response(Body::from(event)));
    }
    let user_agent = call.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let (id, end) = store.faults().register(OpenWatch {
        uri: call.uri.to_string(),
        user_agent: user_agent.unwrap_or_default().to_owned(),
    });
    let watching = Watching {
        registration: Registration { store: Arc::clone(store), id },
        kind: Arc::clone(kind),
        namespace: target.namespace.clone(),
        selector,
        form,
        initial,
        initial_end: send_initial == Some(true) && bookmarks,
        cursor,
        told: cursor,
        pulse,
        end,
        stalled: store.faults().stalled(),
        deadline,
        bookmarks: bookmarks.then(|| next_bookmark(deadline)),
        columns_sent: false,
        over: false,
    };
    let stream = futures::stream::unfold(watching, |mut watching| async move {
        let chunk = watching.next().await?;
        Some((chunk, watching))
    });
    Ok(stream_response(Body::from_stream(stream)))
}

fn stream_response(body: Body) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A streaming list must say how its version is meant, and nothing else may.
fn check_options(send_initial: Option<bool>, matching: Option<VersionMatch>) -> Result<(), ApiError> {
    let field = "resourceVersionMatch";
    let needed = || {
        FieldFault::forbidden(
            field,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )
    };
    let faults = match (send_initial, matching) {
        (Some(_), Some(VersionMatch::NotOlderThan)) | (None, None) => return Ok(()),
        (Some(_), None) => vec![needed()],
        (Some(_), Some(VersionMatch::Exact)) => {
            vec![needed(), FieldFault::unsupported(field, &json!("Exact"), &["NotOlderThan"])]
        }
        (None, Some(_)) => vec![FieldFault::forbidden(
            field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )],
    };
    Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &faults))
}

/// Takes the watch out of the register when its stream goes.
struct Registration {
    store: Arc<Store>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.store.faults().unregister(self.id);
    }
}

/// An open watch.
struct Watching {
    registration: Registration,
    kind: Arc<ResourceType>,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    /// What is left of the objects that were there at the start.
    initial: VecDeque<Arc<Stored>>,
    /// Whether the bookmark that ends them is still to come.
    initial_end: bool,
    /// All changes up to this version have been seen.
    cursor: u64,
    /// The client knows that it has seen all up to this version.
    told: u64,
    pulse: watch::Receiver<u64>,
    end: watch::Receiver<Option<Closing>>,
    stalled: watch::Receiver<bool>,
    deadline: Instant,
    /// When the next bookmark is due, if the client takes any.
    bookmarks: Option<Instant>,
    columns_sent: bool,
    over: bool,
}

impl Watching {
    /// The next chunk of events; `None` at the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let closing = *self.end.borrow_and_update();
            match closing {
                _ if self.over => return None,
                Some(Closing::Clean) => return None,
                Some(Closing::Abort) => {
                    self.over = true;
                    return Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
                }
                None => {}
            }
            let stalled = *self.stalled.borrow_and_update();
            if !stalled {
                let out = self.collect()?;
                if !out.is_empty() {
                    return Some(Ok(out.into()));
                }
            }
            if Instant::now() >= self.deadline {
                return None;
            }
            let wake = self.bookmarks.map_or(self.deadline, |due| due.min(self.deadline));
            tokio::select! {
                changed = self.pulse.changed(), if !stalled => if changed.is_err() { return None },
                changed = self.end.changed() => if changed.is_err() { return None },
                changed = self.stalled.changed() => if changed.is_err() { return None },
                () = sleep_until(if stalled { self.deadline } else { wake }) => {}
            }
        }
    }

    /// What can be written now; `None` if the history no longer reaches back:
    /// this reader was too slow.
    fn collect(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if !self.initial.is_empty() {
            let count = self.initial.len().min(BATCH);
            let batch: Vec<_> = self.initial.drain(..count).collect();
            for object in batch {
                self.write(&mut out, "ADDED", &object);
            }
        }
        if !self.initial.is_empty() {
            return Some(out);
        }
        if std::mem::take(&mut self.initial_end) {
            self.write_bookmark(&mut out, true);
        }
        while out.is_empty() {
            let store = &self.registration.store;
            let (changes, seen) = store.changes_after(&self.kind, self.cursor, BATCH).ok()?;
            self.cursor = seen;
            for change in &changes {
                self.write_change(&mut out, change);
            }
            if changes.len() < BATCH {
                break;
            }
        }
        if out.is_empty() && self.bookmarks.is_some_and(|due| due <= Instant::now()) {
            if self.cursor > self.told {
                self.write_bookmark(&mut out, false);
            }
            self.bookmarks =
                (Instant::now() + BOOKMARK_BEFORE_END < self.deadline).then(|| next_bookmark(self.deadline));
        }
        Some(out)
    }

    /// Writes a change as this watch sees it: an object that comes into its
    /// selection is added, one that leaves it is deleted.
    fn write_change(&mut self, out: &mut Vec<u8>, change: &Change) {
        let sees = |object: &Arc<Stored>| {
            self.namespace.as_ref().is_none_or(|namespace| object.namespace == *namespace)
                && self.selector.matches(object)
        };
        let now = change.happened != Happened::Deleted && sees(&change.object);
        let before = change.previous.as_ref().filter(|object| sees(object));
        match (before, now) {
            (None, false) => return,
            (None, true) => self.write(out, "ADDED", &change.object),
            (Some(_), true) => self.write(out, "MODIFIED", &change.object),
            (Some(_), false) if change.happened == Happened::Deleted => {
                self.write(out, "DELETED", &change.object);
            }
            (Some(previous), false) => {
                // As it was when it was last seen, but with the version of now.
                let last = previous.at_version(&self.kind, change.version);
                self.write(out, "DELETED", &last);
            }
        }
        self.told = change.version;
    }

    fn write(&mut self, out: &mut Vec<u8>, event: &str, object: &Stored) {
        out.extend_from_slice(format!(r#"{{"type":"{event}","object":"#).as_bytes());
        let form = self.table_form();
        form.write_object(out, &self.kind, object);
        self.end_event(out);
    }

    /// Only the first table of a watch says its columns.
    fn table_form(&mut self) -> Form {
        let first = !std::mem::replace(&mut self.columns_sent, true);
        Form { omit_columns: !first, ..self.form }
    }

    fn end_event(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"}\n");
    }

    fn write_bookmark(&mut self, out: &mut Vec<u8>, ends_initial: bool) {
        let mut meta = json!({"resourceVersion": self.cursor.to_string()});
        if ends_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form.view {
            View::Table => {
                let version = json!({"resourceVersion": self.cursor.to_string()});
                let empty = empty_object(&self.kind, meta);
                let mut table = table::table(&self.kind, &[empty], self.form.include, &version);
                table["columnDefinitions"] = Value::Null;
                table
            }
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            View::Whole => empty_object(&self.kind, meta),
        };
        let event = json!({"type": "BOOKMARK", "object": object});
        out.extend_from_slice(event.to_string().as_bytes());
        out.push(b'\n');
        self.told = self.cursor;
    }
}

/// An object of a kind with nothing in it, as bookmarks carry it.
fn empty_object(kind: &ResourceType, meta: Value) -> Value {
    let mut object = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta});
    if kind.is(PODS) {
        // Not a valid pod, and on purpose: the real server sends just this.
        object["spec"] = json!({"containers": null});
        object["status"] = json!({});
    }
    object
}

/// When the next bookmark is due: in a minute, or shortly before the end.
fn next_bookmark(deadline: Instant) -> Instant {
    let before_end = deadline.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(deadline);
    (Instant::now() + BOOKMARK_EVERY).min(before_end)
}
