//! The calls: contenders in turn, so many at a time.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Deserialize;

use super::Options;
use super::contender::{Contender, OURS};
use super::invoke::{Verb, call, fresh_id};
use super::node::BenchNode;
use super::samples::{Cpu, Samples, Turn};
use crate::demo::interrupt::Interrupt;
use crate::process;
use crate::progress;

/// The row of the kernel's floor.
const FLOOR: &str = "kernel: namespace + veth";

/// Every contender at every level, round after round. The first round warms
/// caches and counts for nothing.
pub(super) fn take_turns(
    options: &Options,
    contenders: &mut [Contender],
    floor: Option<&Path>,
    node: &BenchNode,
    interrupt: &Interrupt,
) -> Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..=options.rounds {
        let mut said = Vec::new();
        for &at_a_time in &options.at_a_time {
            if let Some(program) = floor {
                interrupt.check()?;
                let turn = floor_turn(program, at_a_time, options.pods)?;
                samples.add((round > 0).then_some(round), FLOOR, at_a_time, turn);
            }
            for contender in contenders.iter_mut() {
                interrupt.check()?;
                contender.refresh()?;
                let turn = turn(contender, at_a_time, node)?;
                if contender.is_ours() {
                    said.push(format!("{at_a_time} at a time {:.2} ms", turn.median(Verb::Add)));
                }
                samples.add((round > 0).then_some(round), contender.name, at_a_time, turn);
            }
        }
        if round > 0 {
            progress::detail(&format!("round {round}: {}", said.join(", ")));
        }
    }
    Ok(samples)
}

/// `count` ADDs of `contender`, eight at a time, in cycles over its sandboxes.
pub(super) fn soak(
    count: u32,
    contender: &Contender,
    node: &BenchNode,
    interrupt: &Interrupt,
    samples: &mut Samples,
) -> Result<()> {
    let mut left = usize::try_from(count)?;
    while left > 0 {
        interrupt.check()?;
        let turn = turn(contender, 8, node)?;
        left = left.saturating_sub(contender.sandboxes.len());
        samples.soak(turn);
    }
    Ok(())
}

/// An ADD of every sandbox, then a DEL of each.
fn turn(contender: &Contender, at_a_time: usize, node: &BenchNode) -> Result<Turn> {
    calls(&[Verb::Add, Verb::Del], contender, at_a_time, node)
}

/// An ADD of every sandbox, which stay.
pub(super) fn adds(contender: &Contender, at_a_time: usize, node: &BenchNode) -> Result<Turn> {
    calls(&[Verb::Add], contender, at_a_time, node)
}

fn calls(verbs: &[Verb], contender: &Contender, at_a_time: usize, node: &BenchNode) -> Result<Turn> {
    let ids: Vec<String> = contender.sandboxes.iter().map(|_| fresh_id()).collect();
    let mut turn = Turn::default();
    for &verb in verbs {
        let agent = || if contender.name == OURS { node.agent_cpu() } else { Ok(Duration::ZERO) };
        let before = (children_cpu()?, agent()?);
        let outcomes = all(contender, verb, &ids, at_a_time)?;
        let cpu = Cpu {
            plugin: children_cpu()?.saturating_sub(before.0),
            agent: agent()?.saturating_sub(before.1),
            calls: outcomes.len(),
        };
        turn.add(verb, outcomes, cpu);
    }
    Ok(turn)
}

/// One call for each sandbox, by `at_a_time` threads that never wait for one
/// another.
fn all(
    contender: &Contender,
    verb: Verb,
    ids: &[String],
    at_a_time: usize,
) -> Result<Vec<Result<Duration, String>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        contender.place.enter()?;
        let mut outcomes = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let (Some(sandbox), Some(id)) = (contender.sandboxes.get(place), ids.get(place)) else {
                return Ok(outcomes);
            };
            outcomes.push(call(contender, verb, sandbox, id));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let mut outcomes = Vec::new();
        for thread in threads {
            let part: Result<Vec<_>> = thread.join().map_err(|_| anyhow!("a calling thread panicked"))?;
            outcomes.extend(part?);
        }
        Ok(outcomes)
    })
}

/// Processor time of every process that was started and waited for.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for processor time")?;
    let of = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

/// What the floor prints, in milliseconds.
#[derive(Deserialize)]
struct FloorTimes {
    add: Vec<f64>,
    del: Vec<f64>,
}

/// The same without processes: threads that make namespace and pair.
fn floor_turn(program: &Path, at_a_time: usize, pods: u32) -> Result<Turn> {
    let mut command = Command::new(program);
    command.arg(at_a_time.to_string()).arg(pods.to_string());
    let said = process::output(&mut command)?;
    let times: FloorTimes = serde_json::from_str(&said).context("the floor printed no times")?;
    let mut turn = Turn::default();
    for (verb, millis) in [(Verb::Add, times.add), (Verb::Del, times.del)] {
        let outcomes = millis.into_iter().map(|millis| Ok(Duration::from_secs_f64(millis / 1e3))).collect();
        turn.add(verb, outcomes, Cpu::default());
    }
    Ok(turn)
}
