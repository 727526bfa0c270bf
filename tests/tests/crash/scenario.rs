//! A node's life in short: its agent starts, it grows to three ENIs, shrinks again. Played anew for every point at
//! which the agent can be killed, on several nodes of one simulation.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernel_test::wait_for;

use super::checks::{self, Reading};
use super::node::Node;
use super::points::{Point, Points, Stage};
use system_tests::world::World;
use system_tests::world::manifests::pod;

/// Three ENIs of four addresses: seven pods and a warm address need all three, and the machine few pods.
const INSTANCE_TYPE: &str = "t3.small";
/// Free addresses that each pool keeps.
const WARM: u64 = 1;
/// Pods that come and go, beside one that stays.
const PODS: usize = 6;
/// Nodes that are played on at once, beside the one with the pod that all talk to.
const NODES: usize = 6;
/// Further nodes, each of which is born once.
const UNBORN: usize = 30;

/// Short times, so that nothing but EC2's calls takes long. The simulated EC2 is calm: what it says, is.
const KNOBS: &[(&str, &str)] = &[
    ("WARM_IP_TARGET", "1"),
    ("IP_COOLDOWN_PERIOD", "0"),
    ("TIDEPOOL_SHRINK_AFTER", "0.4"),
    ("TIDEPOOL_ENI_MIN_AGE", "0"),
    ("TIDEPOOL_GIVE_UP_AFTER", "0.5"),
    ("TIDEPOOL_DELETE_DELAY", "0.1"),
    ("TIDEPOOL_EC2_LAG", "0.3"),
    // A look that comes by the clock is no call of the scenario's.
    ("TIDEPOOL_IMDS_PERIOD", "3600"),
];
/// Longer than each of those: who has done nothing for so long has nothing to do.
const QUIET: Duration = Duration::from_millis(1000);
/// Between two looks at agents and EC2, which cost more than most.
const PACE: Duration = Duration::from_millis(40);
/// Only ends a run that has failed already.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn every_point() -> Result<()> {
    let began = Instant::now();
    let mut world = World::of(1 + NODES + UNBORN, INSTANCE_TYPE, KNOBS)?;
    world.start_agent("node-1")?;
    world.wait_until_ready("node-1")?;
    world.apply(&pod("far", "node-1", "far"))?;
    world.wait_for_pods(&["far"])?;
    let logs = tempfile::tempdir()?;
    let field = Field {
        world: &world,
        logs: logs.path(),
        unborn: Mutex::new((2..=1 + NODES + UNBORN).rev().map(|number| format!("node-{number}")).collect()),
        points: Mutex::default(),
    };

    let mut players = Vec::new();
    for _ in 0..NODES {
        let mut player = Player::new(&field)?;
        player.play(Stage::Birth, None).context("without a crash")?;
        players.push(player);
    }
    for stage in [Stage::Start, Stage::Life] {
        players[0].play(stage, None).context("without a crash")?;
    }
    println!("{}", lock(&field.points).listing());
    std::thread::scope(|scope| {
        let played: Vec<_> = players.into_iter().map(|player| scope.spawn(|| player.play_all())).collect();
        // All of them first, so that no thread is left behind.
        let ended = played.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic"))?);
        let faults: Vec<String> =
            ended.filter_map(Result::err).map(|error: anyhow::Error| format!("{error:?}")).collect();
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })?;
    println!("{} in {:.0} s", lock(&field.points).summary()?, began.elapsed().as_secs_f64());
    Ok(())
}

/// What all players share.
struct Field<'w> {
    world: &'w World,
    logs: &'w Path,
    /// Nodes that never had an agent; held for a pop.
    unborn: Mutex<Vec<String>>,
    /// Held for a look or a note.
    points: Mutex<Points>,
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic in another thread has failed the test already.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node with a pod that stays and talks to another node's for all the time.
struct Player<'w> {
    field: &'w Field<'w>,
    node: Node<'w>,
    stays: String,
    /// Its address and its connection, once it runs.
    talks: Option<(String, TcpStream)>,
    runs: u32,
}

impl<'w> Player<'w> {
    /// On a node that never had an agent.
    fn new(field: &'w Field<'w>) -> Result<Self> {
        let name = lock(&field.unborn).pop().context("all nodes are born; make UNBORN larger")?;
        let node = Node::new(field.world, &name, field.logs);
        Ok(Self { field, node, stays: format!("{name}-stays"), talks: None, runs: 0 })
    }

    /// Plays for points until none is left.
    fn play_all(mut self) -> Result<()> {
        loop {
            let Some((point, tries)) = lock(&self.field.points).next() else { return Ok(()) };
            let began = Instant::now();
            let mut newborn = None;
            let player = match point.call.stage {
                Stage::Birth => newborn.insert(Self::new(self.field)?),
                Stage::Start | Stage::Life => &mut self,
            };
            let reached = player.play(point.call.stage, Some(&point)).with_context(|| {
                let node = &player.node;
                format!("killed at {point}, on {}\n{}", node.target.name, node.complaints())
            })?;
            let word = if reached { "" } else { ": the call did not come" };
            println!("  {point}{word} ({:.1} s)", began.elapsed().as_secs_f64());
            lock(&self.field.points).ran(point, tries, reached);
        }
    }

    /// Plays a stage, with a kill at a point. Whether the point was reached.
    fn play(&mut self, stage: Stage, point: Option<&Point>) -> Result<bool> {
        self.runs += 1;
        let mark = self.node.target.last_call()?;
        if stage == Stage::Start {
            self.node.kill()?;
        }
        if let Some(Point { call, at, .. }) = point {
            self.node.target.set(*at, &call.operation, call.occurrence)?;
        }
        let target = Arc::clone(&self.node.target);
        std::thread::scope(|scope| {
            let striker = point.map(|point| scope.spawn(|| target.strike(point, mark)));
            let played = match stage {
                Stage::Birth => self.be_born(),
                Stage::Start => self.start(),
                Stage::Life => self.live(),
            };
            // Its end ends the striker, too.
            let _ = target.clear();
            let struck = striker.map_or(Ok(Ok(())), std::thread::ScopedJoinHandle::join);
            played.and(struck.map_err(|_| anyhow::anyhow!("a panic"))?)
        })?;

        let kills = self.node.take_kills();
        let calls = match kills.first() {
            Some(kill) => kill.calls.clone(),
            None => names(self.node.target.calls(mark)?),
        };
        lock(&self.field.points).saw(stage, &calls);
        let Some(point) = point else { return Ok(false) };
        if let Some(kill) = kills.first() {
            let recovery = names(self.node.target.calls(kill.last)?);
            lock(&self.field.points).saw_recovery(point, &recovery);
        }
        Ok(kills.len() == 1 + usize::from(point.again.is_some()))
    }

    fn be_born(&mut self) -> Result<()> {
        let world = self.field.world;
        self.node.start()?;
        world.apply(&pod(&self.stays, &self.node.target.name, "stays"))?;
        self.wait("its first pod runs", |player| {
            let running = player.node.running()?;
            let (_, address) = running.into_iter().next().context("it does not")?;
            let flow = world.connect(&player.stays, "far")?;
            player.talks = Some((address, flow));
            Ok(())
        })?;
        self.rest()
    }

    fn start(&mut self) -> Result<()> {
        self.node.start()?;
        self.rest()
    }

    fn live(&mut self) -> Result<()> {
        let world = self.node.target.world;
        let name = self.node.target.name.clone();
        let names: Vec<String> = (0..PODS).map(|number| format!("{name}-{}-{number}", self.runs)).collect();
        let manifest: String = names.iter().map(|pod_name| pod(pod_name, &name, "comes-and-goes")).collect();
        world.apply(&manifest)?;
        self.wait("its pods run", |player| {
            let running = player.node.running()?;
            for name in &names {
                ensure!(running.iter().any(|(pod, _)| pod == name), "{name} does not run");
            }
            Ok(())
        })?;
        // At its largest: later there is nothing left of its ENIs that could be wrong.
        self.rest()?;
        let mut pairs = Vec::new();
        for name in &names {
            pairs.extend([(name.as_str(), "far"), ("far", name.as_str())]);
        }
        for ((reached, detail), (from, to)) in world.probe(5000, &pairs)?.into_iter().zip(pairs) {
            ensure!(reached, "{from} does not reach {to}: {detail}");
        }

        world.control("/delete", Some(&manifest))?;
        self.wait("its pods are gone", |player| {
            let running = player.node.target.world.pods()?;
            let left = running.iter().find(|pod| names.iter().any(|name| pod["name"] == name.as_str()));
            match left {
                Some(pod) => bail!("{pod} is left"),
                None => Ok(()),
            }
        })?;
        self.rest()
    }

    /// Waits until the pool has nothing to do, and checks what is left.
    fn rest(&mut self) -> Result<()> {
        let mut last: Option<(Reading, Instant)> = None;
        self.wait("the pool is at rest and nothing is left over", |player| {
            let reading = Reading::take(&player.node.target)?;
            let judged = reading.judge(WARM);
            let since = match last.take() {
                Some((known, since)) if known == reading => since,
                _ => Instant::now(),
            };
            last = Some((reading, since));
            judged?;
            ensure!(since.elapsed() >= QUIET, "it changes still");
            checks::leases(&player.node.target, &player.node.running()?)?;
            checks::journal(&player.node.target)
        })?;
        self.nobody_noticed()
    }

    /// Checks that pods that ran when the agent was killed run as before.
    fn nobody_noticed(&mut self) -> Result<()> {
        let running = self.node.running()?;
        let deleted = |pod: &str| pod != self.stays && running.iter().all(|(name, _)| name != pod);
        for pod in self.node.ran_then.iter().filter(|(name, _)| !deleted(name)) {
            ensure!(running.contains(pod), "{pod:?} ran when the agent was killed; now {running:?}");
        }
        let (address, flow) = self.talks.as_mut().context("its first pod never ran")?;
        let stays = (self.stays.clone(), address.clone());
        ensure!(running.contains(&stays), "{stays:?} stays; now {running:?}");
        echo(flow).context("its connection is dead")?;
        checks::cluster(&self.node.target)
    }

    /// Looks until `look` has nothing to complain of, and starts the agent again when it was killed.
    fn wait(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let (mut looked, mut complaint) = (None::<Instant>, anyhow::anyhow!("not looked at"));
        let mut broken = None;
        let waited = wait_for(what, BOUND, || {
            if let Err(error) = self.node.revive() {
                broken = Some(error);
                return Some(());
            }
            if looked.is_some_and(|at| at.elapsed() < PACE) {
                return None;
            }
            let outcome = look(self);
            looked = Some(Instant::now());
            outcome.map_err(|error| complaint = error).ok()
        });
        match (broken, waited) {
            (Some(error), _) => Err(error.context(what.to_owned())),
            (None, Ok(())) => Ok(()),
            (None, Err(bound)) => Err(complaint.context(bound)),
        }
    }
}

/// Says a word over a connection to an echo and hears it.
fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"tide")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    ensure!(&heard == b"tide", "heard {heard:?}");
    Ok(())
}

fn names(calls: Vec<(u64, String)>) -> Vec<String> {
    calls.into_iter().map(|(_, name)| name).collect()
}
