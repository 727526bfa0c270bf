//! A node whose agent is killed at a given EC2 call, and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system_tests::house::{items, text};

use super::points::{At, Point};
use system_tests::world::World;

/// A node and its agent.
pub(crate) struct Node<'w> {
    pub(crate) target: Arc<Target<'w>>,
    agent: Option<Child>,
    log: PathBuf,
    /// Pods that ran when the agent was found killed, with their addresses.
    pub(crate) ran_then: Vec<(String, String)>,
    revived: usize,
}

/// What the thread that kills shares with the one that plays the scenario.
pub(crate) struct Target<'w> {
    pub(crate) world: &'w World,
    pub(crate) name: String,
    /// The agent's process; it is not reaped before it is found in `kills`.
    pid: AtomicI32,
    /// Set before a kill, taken back by the next start.
    is_struck: AtomicBool,
    /// Held for a push or a look.
    kills: Mutex<Vec<Kill>>,
}

/// An agent was killed.
#[derive(Debug, Clone)]
pub(crate) struct Kill {
    /// What it had called since the mark, the held call included.
    pub(crate) calls: Vec<String>,
    /// The node's last call until then that had its effect.
    pub(crate) last: u64,
}

impl<'w> Node<'w> {
    pub(crate) fn new(world: &'w World, name: &str, logs: &Path) -> Self {
        let target = Target {
            world,
            name: name.to_owned(),
            pid: AtomicI32::new(0),
            is_struck: AtomicBool::new(false),
            kills: Mutex::new(Vec::new()),
        };
        let log = logs.join(format!("{name}.log"));
        Self { target: Arc::new(target), agent: None, log, ran_then: Vec::new(), revived: 0 }
    }

    /// Starts the agent.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.target.world.command(&self.target.name, "tidepool-agent")?;
        let child = command.arg("run").stdout(log.try_clone()?).stderr(log).spawn()?;
        self.target.is_struck.store(false, Ordering::SeqCst);
        self.target.pid.store(i32::try_from(child.id())?, Ordering::SeqCst);
        self.agent = Some(child);
        Ok(())
    }

    /// Kills the agent, wherever it is.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Starts the agent again if it was killed at its point; a death of its own is an error.
    pub(crate) fn revive(&mut self) -> Result<()> {
        if self.target.kills().len() > self.revived {
            self.revived += 1;
            self.kill()?;
            self.ran_then = self.running()?;
            return self.start();
        }
        if self.target.is_struck.load(Ordering::SeqCst) {
            // By the thread that says so in a moment.
            return Ok(());
        }
        match self.agent.as_mut().map(Child::try_wait).transpose()?.flatten() {
            Some(status) if !self.target.is_struck.load(Ordering::SeqCst) => {
                bail!("the agent ended by itself: {status}")
            }
            _ => Ok(()),
        }
    }

    /// Pods of this node that run: names and addresses.
    pub(crate) fn running(&self) -> Result<Vec<(String, String)>> {
        let pods = self.target.world.pods()?;
        let ours = pods.iter().filter(|pod| pod["node"] == self.target.name.as_str() && pod["ready"] == true);
        Ok(ours.map(|pod| (text(&pod["name"]).to_owned(), text(&pod["ip"]).to_owned())).collect())
    }

    /// The kills since the last time that this was asked.
    pub(crate) fn take_kills(&mut self) -> Vec<Kill> {
        self.revived = 0;
        self.ran_then.clear();
        std::mem::take(&mut *self.target.kills())
    }

    /// The end of the agent's log.
    pub(crate) fn complaints(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // A test that failed already says why.
        let _ = self.kill();
    }
}

impl Target<'_> {
    fn kills(&self) -> std::sync::MutexGuard<'_, Vec<Kill>> {
        // A thread that panicked has failed the test.
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the breakpoint; calls are counted from now on.
    pub(crate) fn set(&self, at: At, operation: &str, call: u64) -> Result<()> {
        let breakpoint = json!({"node": self.name, "at": at, "operation": operation, "call": call});
        self.world.control("/breakpoint", Some(&breakpoint.to_string())).map(drop)
    }

    /// Takes the breakpoint away; what it holds never happens, or is never answered.
    pub(crate) fn clear(&self) -> Result<()> {
        let control = text(&self.world.up["control"]);
        let url = format!("{control}/breakpoint?node={}&drop=true", self.name);
        ensure!(self.world.http.delete(&url).call()?.status().is_success(), "no breakpoint on {}", self.name);
        Ok(())
    }

    /// Waits until the breakpoint holds its call; false when it was taken away before.
    fn is_held(&self) -> Result<bool> {
        loop {
            let path = format!("/breakpoint?node={}&wait=30", self.name);
            // None is there after the scenario's end.
            let Ok(view) = self.world.control(&path, None) else { return Ok(false) };
            match text(&view["state"]) {
                "waiting" => {}
                "held" => return Ok(true),
                "released" | "dropped" => return Ok(false),
                other => bail!("the held call is {other}, and nobody killed the agent: {view}"),
            }
        }
    }

    /// Kills the agent whenever its point is reached, whose breakpoint is set. Returns when the scenario has
    /// taken the breakpoint away, or all of it is done.
    pub(crate) fn strike(&self, point: &Point, mark: u64) -> Result<()> {
        let mut again = point.again.as_deref();
        loop {
            if !self.is_held()? {
                return Ok(());
            }
            self.is_struck.store(true, Ordering::SeqCst);
            kill(Pid::from_raw(self.pid.load(Ordering::SeqCst)), Signal::SIGKILL)
                .context("killing the agent")?;
            let mut calls = self.calls(mark)?;
            let last = calls.last().map_or(mark, |(number, _)| *number);
            self.clear()?;
            if point.at == At::Before {
                calls.push((0, point.call.operation.clone()));
            }
            let next = again.take();
            if let Some(operation) = next {
                self.set(At::After, operation, 1)?;
            }
            // From here on the agent is started again.
            self.kills().push(Kill { calls: calls.into_iter().map(|(_, name)| name).collect(), last });
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// The node's calls after a number.
    pub(crate) fn calls(&self, after: u64) -> Result<Vec<(u64, String)>> {
        let log = self.world.control(&format!("/calls/log?node={}&after={after}", self.name), None)?;
        let call = |call: &Value| Some((call["number"].as_u64()?, text(&call["operation"]).to_owned()));
        items(&log).map(|one| call(one).context("a call without a number")).collect()
    }

    /// The number of the node's last call.
    pub(crate) fn last_call(&self) -> Result<u64> {
        Ok(self.world.calls(&self.name)?.values().sum())
    }
}
