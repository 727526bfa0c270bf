//! The loop of one watch.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Client;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::{Change, WatchPace, WatchStatus};
use crate::k8s::error::{Error, ErrorClass};
use crate::k8s::object::{Meta, Object};

/// Objects of one page; a page is one request, so a big cluster is not one big answer.
const PAGE: u32 = 500;

/// Takes what a watch tells. False: nobody listens any more.
pub(crate) trait Sink<T>: Send {
    fn take(&mut self, change: Change<T>) -> impl Future<Output = bool> + Send;
}

/// A kind must be missing so many times in a row before there is nothing of it: one server of several may be behind.
const ABSENCES: u32 = 3;

/// Between those times at most while nothing was listed yet: a start waits for them.
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// One watch of one kind.
pub(crate) struct Watcher {
    pub(crate) client: Client,
    /// The kind in plural, for people.
    pub(crate) kind: &'static str,
    /// The path of the collection.
    pub(crate) path: &'static str,
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
    /// The kind need not be there. While it is not, there is nothing of it.
    pub(crate) optional: bool,
    pub(crate) pace: WatchPace,
    pub(crate) status: watch::Sender<WatchStatus>,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<WatchEvent<T>, kube::Error>> + Send>>;

/// Why following came to an end without an error.
enum End {
    /// The server ended the watch; it may be taken up at this version.
    Watch(String),
    /// Nobody listens any more.
    Listener,
}

/// Where a list left off.
struct Listed<T> {
    version: String,
    /// A streaming list goes on as a watch.
    events: Option<Events<T>>,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    token: Option<String>,
}

impl Watcher {
    /// Lists and follows until nobody listens any more.
    pub(crate) async fn run<T: Object>(self, mut sink: impl Sink<T>) {
        let mut backoff = Backoff::new(self.pace.backoff_min, self.pace.backoff_max);
        let mut streaming = true;
        let mut absences = 0;
        loop {
            let listed = if streaming {
                self.list_streaming(&mut sink).await
            } else {
                self.list_pages(&mut sink).await
            };
            match listed {
                Ok(Some(listed)) => {
                    backoff.reset();
                    absences = 0;
                    if !self.follow(listed, &mut sink, &mut backoff).await {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) if self.optional && error.class() == ErrorClass::Missing => {
                    absences += 1;
                    if !self.absent(absences, &mut sink).await {
                        return;
                    }
                    let pause = backoff.next(rand::random());
                    let synced = self.status.borrow().synced;
                    sleep(if synced { pause } else { pause.min(FIRST_PAUSE) }).await;
                }
                Err(error) => {
                    absences = 0;
                    // Servers before streaming lists refuse their parameters, each in its way.
                    let refused =
                        error.class() == ErrorClass::Unsupported || matches!(error, Error::Silent { .. });
                    if streaming && refused {
                        tracing::info!(kind = self.kind, %error, "no streaming list, listing by pages");
                        streaming = false;
                        continue;
                    }
                    self.failed(&error, &mut backoff).await;
                }
            }
        }
    }

    /// Follows what was listed; true: list anew.
    async fn follow<T: Object>(
        &self,
        listed: Listed<T>,
        sink: &mut impl Sink<T>,
        backoff: &mut Backoff,
    ) -> bool {
        let Listed { mut version, mut events } = listed;
        let mut silent = 0;
        while silent < self.pace.silent_watches {
            let began = Instant::now();
            let before = version.clone();
            match self.watch(&mut version, events.take(), sink).await {
                Ok(End::Listener) => return false,
                Ok(End::Watch(at)) => {
                    silent = if at == before { silent + 1 } else { 0 };
                    version = at;
                    if began.elapsed() < self.pace.backoff_min {
                        // A server that ends every watch at once must not be asked in a circle.
                        sleep(backoff.next(rand::random())).await;
                    } else {
                        backoff.reset();
                    }
                }
                Err(error) if error.class() == ErrorClass::Expired => {
                    tracing::info!(kind = self.kind, %error, "listing anew");
                    return true;
                }
                Err(error) if self.optional && error.class() == ErrorClass::Missing => return true,
                Err(error) => self.failed(&error, backoff).await,
            }
        }
        true
    }

    /// The API has no such kind; false: nobody listens any more.
    async fn absent<T: Object>(&self, absences: u32, sink: &mut impl Sink<T>) -> bool {
        self.succeeded();
        if self.status.borrow().missing || absences < ABSENCES {
            return true;
        }
        tracing::info!(kind = self.kind, "the API has no such kind");
        let heard = sink.take(Change::Begins).await && sink.take(Change::Complete).await;
        self.status.send_modify(|status| {
            status.synced = true;
            status.missing = true;
        });
        heard
    }

    async fn failed(&self, error: &Error, backoff: &mut Backoff) {
        let wait = backoff.next(rand::random());
        let text = describe(error);
        self.status.send_modify(|status| {
            status.failures += 1;
            // On a change only: an API that is away for an hour is one line, not a thousand.
            if status.failing.is_none() {
                tracing::warn!(kind = self.kind, error = text, "watch failed, trying on");
            }
            status.failing = Some(text);
            status.class = Some(error.class());
        });
        sleep(wait).await;
    }

    fn succeeded(&self) {
        self.status.send_if_modified(|status| {
            let recovered = status.failing.take().is_some();
            if recovered {
                status.class = None;
                tracing::info!(kind = self.kind, "watch recovered");
            }
            recovered
        });
    }

    async fn list_pages<T: Object>(&self, sink: &mut impl Sink<T>) -> Result<Option<Listed<T>>, Error> {
        let mut params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        self.status.send_modify(|status| status.lists += 1);
        if !sink.take(Change::Begins).await {
            return Ok(None);
        }
        loop {
            let request = Request::new(self.path)
                .list(&params)
                .map_err(|fault| self.request_error("list", kube::Error::BuildRequest(fault)))?;
            let text = timeout(self.pace.request, self.client.request_text(request))
                .await
                .map_err(|_| self.silent("list", self.pace.request))?
                .map_err(|fault| self.request_error("list", fault))?;
            let page: Page<T> =
                serde_json::from_str(&text).map_err(|fault| self.answer("list", fault.to_string()))?;
            self.succeeded();
            for object in page.items.unwrap_or_default() {
                if !sink.take(Change::Listed(object)).await {
                    return Ok(None);
                }
            }
            params.continue_token = page.metadata.token.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page
                    .metadata
                    .resource_version
                    .filter(|version| !version.is_empty())
                    .ok_or_else(|| self.answer("list", "it has no resourceVersion".to_owned()))?;
                return Ok(self.complete(sink).await.then_some(Listed { version, events: None }));
            }
        }
    }

    async fn list_streaming<T: Object>(&self, sink: &mut impl Sink<T>) -> Result<Option<Listed<T>>, Error> {
        self.status.send_modify(|status| status.lists += 1);
        let mut events = self.open::<T>("0", true).await?;
        if !sink.take(Change::Begins).await {
            return Ok(None);
        }
        loop {
            let next = timeout(self.pace.initial, events.next())
                .await
                .map_err(|_| self.silent("list", self.pace.initial))?;
            let event = match next {
                Some(event) => event.map_err(|fault| self.request_error("list", fault))?,
                None => return Err(self.answer("list", "it ended half way".to_owned())),
            };
            let heard = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    sink.take(Change::Listed(object)).await
                }
                WatchEvent::Deleted(object) => sink.take(Change::Deleted(object)).await,
                WatchEvent::Error(status) => return Err(self.ended(&status)),
                WatchEvent::Bookmark(mark) => {
                    if !mark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                        continue;
                    }
                    let version = mark.metadata.resource_version;
                    return Ok(self.complete(sink).await.then_some(Listed { version, events: Some(events) }));
                }
            };
            if !heard {
                return Ok(None);
            }
        }
    }

    async fn complete<T: Object>(&self, sink: &mut impl Sink<T>) -> bool {
        self.succeeded();
        let heard = sink.take(Change::Complete).await;
        self.status.send_modify(|status| {
            status.synced = true;
            status.missing = false;
        });
        heard
    }

    /// Follows from a version, which moves with what is heard.
    async fn watch<T: Object>(
        &self,
        version: &mut String,
        events: Option<Events<T>>,
        sink: &mut impl Sink<T>,
    ) -> Result<End, Error> {
        let mut events = match events {
            Some(events) => events,
            None => self.open::<T>(version, false).await?,
        };
        let patience = self.pace.watch + self.pace.margin;
        loop {
            let Ok(next) = timeout(patience, events.next()).await else {
                tracing::warn!(kind = self.kind, "watch is silent for longer than it should live");
                return Ok(End::Watch(version.clone()));
            };
            let Some(event) = next else { return Ok(End::Watch(version.clone())) };
            let (change, at) = match event.map_err(|fault| self.request_error("watch", fault))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let at = moved(object.meta());
                    (Some(Change::Applied(object)), at)
                }
                WatchEvent::Deleted(object) => {
                    let at = moved(object.meta());
                    (Some(Change::Deleted(object)), at)
                }
                WatchEvent::Bookmark(mark) => (None, Some(mark.metadata.resource_version)),
                WatchEvent::Error(status) => return Err(self.ended(&status)),
            };
            self.succeeded();
            if let Some(change) = change
                && !sink.take(change).await
            {
                return Ok(End::Listener);
            }
            if let Some(at) = at {
                *version = at;
            }
        }
    }

    async fn open<T: Object>(&self, version: &str, initial: bool) -> Result<Events<T>, Error> {
        let operation = if initial { "list" } else { "watch" };
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: u32::try_from(self.pace.watch.as_secs()).ok(),
            bookmarks: true,
            send_initial_events: initial,
        };
        let request = Request::new(self.path)
            .watch(&params, version)
            .map_err(|fault| self.request_error(operation, kube::Error::BuildRequest(fault)))?;
        let events = timeout(self.pace.request, self.client.request_events::<T>(request))
            .await
            .map_err(|_| self.silent(operation, self.pace.request))?
            .map_err(|fault| self.request_error(operation, fault))?;
        self.status.send_modify(|status| status.watches += 1);
        if !initial {
            self.succeeded();
        }
        Ok(Box::pin(events))
    }

    fn request_error(&self, operation: &'static str, source: kube::Error) -> Error {
        Error::Request { operation, path: self.path.to_owned(), source: Box::new(source) }
    }

    fn silent(&self, operation: &'static str, after: Duration) -> Error {
        Error::Silent { operation, path: self.path.to_owned(), after }
    }

    fn answer(&self, operation: &'static str, what: String) -> Error {
        Error::Answer { operation, path: self.path.to_owned(), what }
    }

    fn ended(&self, status: &kube::core::Status) -> Error {
        Error::Ended {
            path: self.path.to_owned(),
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }
    }
}

fn moved(meta: &Meta) -> Option<String> {
    Some(meta.resource_version.clone()).filter(|version| !version.is_empty())
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
