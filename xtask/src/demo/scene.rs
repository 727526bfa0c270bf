//! All that runs in a demo, and the steps on it. Dropping it ends everything.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use super::agents::{self, Agent};
use super::control::{Control, Pod, Probe};
use super::document::Story;
use super::example::Example;
use super::interrupt::Interrupt;
use super::matrix::{Cell, Matrix};
use super::scratch::Scratch;
use super::simulation::{self, Request, Up};
use super::verdicts::{self, Denials};
use crate::process::Service;
use crate::progress;

/// Running parts. Fields drop in this order: the agents before their nodes,
/// the log files last.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) agents: Vec<Agent>,
    simulator: Service,
    pub(crate) up: Up,
    pub(crate) control: Control,
    interrupt: &'a Interrupt,
    /// Whether the objects we make outlive the simulator.
    api_is_foreign: bool,
    scratch: Scratch,
}

/// A first ENI takes up to five seconds to attach, and pods wait for it.
const PODS_READY_WITHIN: Duration = Duration::from_secs(90);
const ENFORCED_WITHIN: Duration = Duration::from_secs(15);
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// An allowed connection takes a millisecond, but for a machine that builds
/// something else meanwhile.
const PROBE_ALLOWED: Duration = Duration::from_secs(5);
/// A denied one takes all of this. An allowed one that takes longer is tried
/// again.
const PROBE_DENIED: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

impl<'a> Scene<'a> {
    /// Starts the simulator and an agent on each of its nodes.
    pub(crate) fn start(
        options: &Options,
        bin_dir: &Path,
        capabilities: &[String],
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let request = Request {
            bin_dir,
            seed: options.seed,
            kubeconfig: options.kubeconfig.as_deref(),
            nodes: 2,
            instance_type: "m5.large",
            lived_in: true,
        };
        let (simulator, up) = simulation::start(&request, &scratch, interrupt)?;
        let control = Control::new(&up.control);
        let mut scene = Self {
            agents: Vec::new(),
            simulator,
            up,
            control,
            interrupt,
            api_is_foreign: options.kubeconfig.is_some(),
            scratch,
        };
        for node in scene.up.nodes.clone() {
            scene.agents.push(agents::start(&node, bin_dir, capabilities, &[], &scene.scratch)?);
        }
        Ok(scene)
    }

    /// Creates the application and waits until all its pods are ready.
    pub(crate) fn apply_application(&mut self, example: &Example) -> Result<Vec<Pod>> {
        if self.api_is_foreign {
            // What a demo that was killed left there.
            self.delete_example(example)?;
        }
        self.control.apply(&example.application)?;
        let mut seen = Vec::new();
        let ready = self.wait("all pods are ready", PODS_READY_WITHIN, |scene| {
            seen = scene.example_pods(example)?;
            let ready = seen.iter().filter(|pod| pod.ready).count();
            Ok((ready == example.pods.len()).then(|| seen.clone()))
        });
        if ready.is_err() && (self.interrupt.came() || self.check().is_err()) {
            // Then that is the news, and not who waited.
            return ready;
        }
        ready.with_context(|| {
            let waiting: Vec<String> = seen
                .iter()
                .filter(|pod| !pod.ready)
                .map(|pod| format!("{}: {}", pod.id(), pod.message.as_deref().unwrap_or("no message")))
                .collect();
            let complaints: Vec<String> = self.agents.iter().flat_map(Agent::complaints).collect();
            format!(
                "these pods are not ready:\n  {}\nand the agents complained:\n  {}\n",
                waiting.join("\n  "),
                complaints.join("\n  ")
            )
        })
    }

    pub(crate) fn apply_policies(&self, example: &Example) -> Result<()> {
        self.control.apply(&example.policies)
    }

    /// Tries every cell of the expected matrix, once: a pod whose ADD returned
    /// can talk.
    pub(crate) fn probe_without_policies(&self, example: &Example) -> Result<Matrix> {
        self.probe(PROBE_ALLOWED, example.expected.cells.keys())
    }

    /// Waits until the agents say that they enforce, then until the cells are
    /// as expected. One that never is so stays as it was seen last.
    pub(crate) fn wait_for_policies(&mut self, example: &Example) -> Result<Matrix> {
        let start = Instant::now();
        let pods = self.example_pods(example)?;
        let said = self.wait("the agents have compiled the policies", ENFORCED_WITHIN, |scene| {
            let judged = verdicts::judge(&scene.agents, &pods, example.expected.cells.keys())?;
            let same =
                example.expected.cells.iter().all(|(cell, allowed)| {
                    judged.get(cell).is_none_or(|denial| denial.is_none()) == *allowed
                });
            Ok(same.then_some(()))
        });
        self.interrupt.check()?;
        match said {
            Ok(()) => progress::detail(&format!("compiled after {:.1} s", start.elapsed().as_secs_f32())),
            // The cells say more than the reason why this did not come.
            Err(error) => progress::warning(&format!("{error:#}")),
        }
        let mut seen = Matrix::new();
        let settled = self.wait("the cells are as expected", ENFORCED_WITHIN, |scene| {
            seen = scene.probe(PROBE_DENIED, example.expected.cells.keys())?;
            Ok((seen == example.expected.cells).then_some(()))
        });
        self.interrupt.check()?;
        ensure!(!seen.is_empty() || settled.is_ok(), "no cell could be probed");
        Ok(seen)
    }

    /// Which policy denied each denied cell, as the agents tell.
    pub(crate) fn explain_denials(&self, after: &Matrix, pods: &[Pod]) -> Result<Denials> {
        let denied = after.iter().filter(|(_, allowed)| !**allowed).map(|(cell, _)| cell);
        let judged = verdicts::judge(&self.agents, pods, denied)?;
        Ok(judged.into_iter().filter_map(|(cell, denial)| Some((cell, denial?))).collect())
    }

    /// Gathers the rest of what there is to tell.
    pub(crate) fn finish(
        &self,
        example: &Example,
        pods: Vec<Pod>,
        before: Matrix,
        after: Matrix,
        denials: Denials,
    ) -> Result<Story> {
        Ok(Story {
            up: self.up.clone(),
            sources: example.expected.sources.clone(),
            targets: example.expected.targets.clone(),
            expected: example.expected.cells.clone(),
            pods,
            before,
            after,
            denials,
            enis: self.control.enis()?,
            calls: self.control.calls()?,
            add_ms: self.control.add_ms()?,
        })
    }

    /// Waits for Ctrl-C.
    pub(crate) fn wait_for_the_end(&mut self) -> Result<()> {
        while !self.interrupt.came() {
            self.check()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Deletes what was made in an API that is not the simulator's own.
    pub(crate) fn clean_up(&mut self, example: &Example) -> Result<()> {
        if self.api_is_foreign {
            progress::step("Deleting what was made");
            self.delete_example(example)?;
        }
        Ok(())
    }

    fn delete_example(&self, example: &Example) -> Result<()> {
        self.control.delete(&example.policies)?;
        self.control.delete(&example.application)?;
        // Not interrupted: this is the end, and it is bounded.
        let start = Instant::now();
        while !self.example_pods(example)?.is_empty() {
            ensure!(start.elapsed() < GONE_WITHIN, "the pods are not gone after {GONE_WITHIN:?}");
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn example_pods(&self, example: &Example) -> Result<Vec<Pod>> {
        let mut pods = self.control.pods()?;
        pods.retain(|pod| example.pods.contains(&pod.id()));
        pods.sort_by_key(|pod| example.pods.iter().position(|id| *id == pod.id()));
        Ok(pods)
    }

    fn probe<'c>(&self, timeout: Duration, cells: impl Iterator<Item = &'c Cell>) -> Result<Matrix> {
        let probes: Vec<Probe> = cells
            .map(|cell| Probe {
                from: cell.from.clone(),
                to: cell.target.to.clone(),
                protocol: cell.target.protocol.clone(),
                port: cell.target.port,
            })
            .collect();
        let outcomes = self.control.probe(timeout, &probes)?;
        ensure!(outcomes.len() == probes.len(), "{} answers to {} probes", outcomes.len(), probes.len());
        Ok(outcomes.into_iter().map(|outcome| (outcome.cell(), outcome.allowed)).collect())
    }

    /// Looks until there is a value. Ends early when a part of the scene has
    /// ended or somebody pressed Ctrl-C.
    fn wait<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.interrupt.check()?;
            self.check()?;
            let last = match look(self) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => None,
                // An agent that is starting refuses connections.
                Err(error) => Some(error),
            };
            if start.elapsed() > bound {
                let waited = format!("waited {bound:?} in vain: {what}");
                return Err(match last {
                    Some(error) => error.context(waited),
                    None => anyhow::anyhow!(waited),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// An error with the end of its log where something ended by itself.
    fn check(&mut self) -> Result<()> {
        if let Some(status) = self.simulator.ended() {
            bail!(
                "{} ended, {status}:\n{}",
                self.simulator.name(),
                simulation::tail(&self.scratch.file("vpc-sim.log"))
            );
        }
        for agent in &mut self.agents {
            if let Some(status) = agent.service.ended() {
                bail!("{} ended, {status}:\n{}", agent.service.name(), simulation::tail(&agent.log));
            }
        }
        Ok(())
    }
}
