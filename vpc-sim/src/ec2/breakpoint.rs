//! Breakpoints: one call of a node is held before its effect, or after it and
//! before its reply, or all is held that follows its reply. Whoever waits for it
//! can end the caller there, as a crash would.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::operations;

/// Where in a call's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakAt {
    /// It has come, and nothing has happened.
    Before,
    /// It has had its effect, and is not answered.
    After,
    /// It was answered. Every later call of the node is held before its effect.
    Reply,
}

/// A breakpoint to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakpointSpec {
    /// The node whose calls are counted: those that come to its URL.
    pub node: String,
    /// Where the call is held.
    pub at: BreakAt,
    /// Which call, counted from when the breakpoint is set: 1 is the next one.
    #[serde(default = "next")]
    pub call: u64,
    /// Count calls of this operation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

fn next() -> u64 {
    1
}

/// Why a breakpoint cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BreakpointError {
    /// No operation has that name.
    #[error("operation: no operation is called {0}")]
    Operation(String),
    /// Counting begins with 1.
    #[error("call: the first call is 1, not 0")]
    Call,
}

/// What has become of a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakState {
    /// Its call has not come so far.
    Waiting,
    /// The call is held; with `reply`, those that follow it are.
    Held,
    /// What was held went on.
    Released,
    /// What was held is never answered; a call held before its effect has none.
    Dropped,
    /// The caller closed the connection of the held call. A call held before its
    /// effect has none.
    Gone,
}

/// The call that a breakpoint was set for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldCall {
    /// Its operation.
    pub operation: String,
    /// Its form as it was sent, without what signs it.
    pub parameters: String,
}

/// A breakpoint as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakpointView {
    /// As it was set.
    #[serde(flatten)]
    pub spec: BreakpointSpec,
    /// What has become of it.
    pub state: BreakState,
    /// How many calls it has counted.
    pub counted: u64,
    /// The call, once it has come.
    pub held: Option<HeldCall>,
    /// With `reply`: how many calls have come after it and are held.
    pub following: u64,
}

/// All breakpoints: at most one for each node.
#[derive(Debug, Default)]
pub(crate) struct Breakpoints {
    /// Held for a look-up, never across an await.
    by_node: Mutex<BTreeMap<String, Arc<Breakpoint>>>,
}

#[derive(Debug)]
pub(crate) struct Breakpoint {
    spec: BreakpointSpec,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
struct Progress {
    state: BreakState,
    counted: u64,
    held: Option<HeldCall>,
    following: u64,
}

impl Breakpoints {
    /// Sets a breakpoint in the place of the node's former one, whose calls are
    /// let go on.
    pub(crate) fn set(&self, spec: BreakpointSpec) -> Result<BreakpointView, BreakpointError> {
        if let Some(unknown) = spec.operation.as_ref().filter(|name| !operations::is_known(name)) {
            return Err(BreakpointError::Operation(unknown.clone()));
        }
        if spec.call == 0 {
            return Err(BreakpointError::Call);
        }
        let progress = Progress { state: BreakState::Waiting, counted: 0, held: None, following: 0 };
        let node = spec.node.clone();
        let set = Arc::new(Breakpoint { spec, progress: watch::Sender::new(progress) });
        let view = set.view();
        if let Some(former) = self.lock().insert(node, set) {
            former.end(BreakState::Released);
        }
        Ok(view)
    }

    /// Takes a node's breakpoint away. What it holds goes on, or with `drop` is
    /// never answered and has no more effect. `None` where there is none.
    pub(crate) fn remove(&self, node: &str, drop: bool) -> Option<BreakpointView> {
        let removed = self.lock().remove(node)?;
        removed.end(if drop { BreakState::Dropped } else { BreakState::Released });
        Some(removed.view())
    }

    /// The node's breakpoint as soon as its state differs from `unlike`, or as
    /// it stands after `patience`. `None` where there is none.
    pub(crate) async fn wait(
        &self,
        node: &str,
        unlike: BreakState,
        patience: Duration,
    ) -> Option<BreakpointView> {
        let found = self.lock().get(node).cloned()?;
        let mut progress = found.progress.subscribe();
        // Neither an end of patience nor of the breakpoint is an error: the view tells.
        let _ = tokio::time::timeout(patience, progress.wait_for(|now| now.state != unlike)).await;
        Some(found.view())
    }

    /// A call has come: what becomes of it on its way.
    pub(crate) fn arrive(&self, node: &str, operation: &str, parameters: &str) -> Passage {
        let Some(found) = self.lock().get(node).cloned() else {
            return Passage::Free;
        };
        let mut passage = Passage::Free;
        found.progress.send_if_modified(|progress| {
            if progress.state == BreakState::Held && found.spec.at == BreakAt::Reply {
                progress.following += 1;
                passage = Passage::Later(found.clone());
                return true;
            }
            let counts = found.spec.operation.as_deref().is_none_or(|only| only == operation);
            if progress.held.is_some() || progress.state != BreakState::Waiting || !counts {
                return false;
            }
            progress.counted += 1;
            if progress.counted < found.spec.call {
                return false;
            }
            let (operation, parameters) = (operation.to_owned(), parameters.to_owned());
            progress.held = Some(HeldCall { operation, parameters });
            if found.spec.at == BreakAt::Before {
                progress.state = BreakState::Held;
            }
            passage = Passage::Struck(found.clone());
            true
        });
        passage
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Breakpoint>>> {
        // Nothing that can panic runs while it is held.
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breakpoint {
    fn view(&self) -> BreakpointView {
        let Progress { state, counted, held, following } = self.progress.borrow().clone();
        BreakpointView { spec: self.spec.clone(), state, counted, held, following }
    }

    /// It is over, unless it was already.
    fn end(&self, state: BreakState) {
        self.progress.send_if_modified(|progress| {
            let goes_on = matches!(progress.state, BreakState::Waiting | BreakState::Held);
            if goes_on {
                progress.state = state;
            }
            goes_on
        });
    }

    /// The call has come so far, unless the breakpoint was taken away meanwhile.
    fn hold(&self) {
        self.progress.send_if_modified(|progress| {
            let waits = progress.state == BreakState::Waiting;
            if waits {
                progress.state = BreakState::Held;
            }
            waits
        });
    }

    /// Waits while it holds; whether the call goes on.
    async fn passed(&self) -> bool {
        let mut progress = self.progress.subscribe();
        match progress.wait_for(|now| now.state != BreakState::Held).await {
            Ok(now) => now.state != BreakState::Dropped,
            // The sender is a field of ours.
            Err(_) => true,
        }
    }

    /// The same for the very call; when its connection closes, nobody polls this
    /// any more, and the call is gone.
    async fn passed_or_gone(&self) -> bool {
        let _gone = Gone(self);
        self.passed().await
    }
}

/// Marks a breakpoint whose call is still held when this is dropped.
struct Gone<'a>(&'a Breakpoint);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.progress.send_if_modified(|progress| {
            let held = progress.state == BreakState::Held;
            if held {
                progress.state = BreakState::Gone;
            }
            held
        });
    }
}

/// One call on its way past its node's breakpoint.
#[derive(Debug)]
pub(crate) enum Passage {
    /// Nothing holds it.
    Free,
    /// It is the one that the breakpoint was set for.
    Struck(Arc<Breakpoint>),
    /// It follows the one that was held at its reply.
    Later(Arc<Breakpoint>),
}

impl Passage {
    /// To be awaited before the call has its effect; false: it has none, and no
    /// answer.
    pub(crate) async fn before_effect(&self) -> bool {
        match self {
            Self::Struck(struck) if struck.spec.at == BreakAt::Before => struck.passed_or_gone().await,
            Self::Later(reply) => reply.passed().await,
            Self::Free | Self::Struck(_) => true,
        }
    }

    /// To be awaited when it has had its effect; false: it has no answer.
    pub(crate) async fn after_effect(&self) -> bool {
        match self {
            Self::Struck(struck) if struck.spec.at == BreakAt::After => {
                struck.hold();
                struck.passed_or_gone().await
            }
            _ => true,
        }
    }

    /// The body of its answer.
    pub(crate) fn reply(self, body: String) -> Body {
        match self {
            Self::Struck(struck) if struck.spec.at == BreakAt::Reply => {
                let whole = futures::stream::unfold(
                    (Some(Bytes::from(body)), Written(struck)),
                    |(rest, written)| async move {
                        rest.map(|bytes| (Ok::<_, Infallible>(bytes), (None, written)))
                    },
                );
                Body::from_stream(whole)
            }
            _ => Body::from(body),
        }
    }
}

/// Told by its drop: the server drops a body once all of it is in the
/// connection's buffer.
struct Written(Arc<Breakpoint>);

impl Drop for Written {
    fn drop(&mut self) {
        self.0.hold();
    }
}
