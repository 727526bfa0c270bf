//! One cluster for all trials, on a thread of its own: it ends with the thread that made it.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use super::cluster::Cluster;

/// What a trial does.
pub(crate) type Scenario = fn(&mut Cluster) -> Result<()>;

/// A scenario and who waits for its end.
type Work = (Scenario, Sender<Result<()>>);

/// The thread and its inbox.
type Started = (Sender<Work>, JoinHandle<()>);

/// The cluster, which is made for the first trial. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Option<Started>>>);

impl Shared {
    /// Nothing is started yet.
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Runs a scenario in the cluster, clean of what others left.
    pub(crate) fn run(&self, scenario: Scenario) -> Result<()> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (works, _) = guard.get_or_insert_with(start);
        let (answer, answered) = channel();
        works.send((scenario, answer)).ok().context("the cluster's thread ended")?;
        answered.recv().context("the cluster's thread ended")?
    }

    /// Takes the cluster down, where there is one.
    pub(crate) fn end(&self) {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((works, thread)) = started {
            drop(works);
            // What it could say, a trial has said.
            let _ = thread.join();
        }
    }
}

fn start() -> Started {
    let (works, inbox) = channel::<Work>();
    let thread = std::thread::spawn(move || {
        let mut cluster = Cluster::start().map_err(|error| format!("{error:#}"));
        for (scenario, answer) in inbox {
            let outcome = match &mut cluster {
                Ok(cluster) => cluster.clean().and_then(|()| scenario(cluster)),
                Err(error) => Err(anyhow!("no cluster: {error}")),
            };
            // Nobody waits where a trial was ended.
            let _ = answer.send(outcome);
        }
    });
    (works, thread)
}
