//! The result, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::changes::{Change, Sample};
use super::cluster::Size;
use super::memory::Memory;
use crate::bench::invoke::Verb;
use crate::bench::node::Started;
use crate::bench::samples::{Summary, Turn, quantile};

const MIB: f64 = 1024.0 * 1024.0;

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    size: Size,
    adds: Option<Summary>,
    start: Option<(Started, Sample)>,
    memory: Vec<(&'static str, Memory)>,
    changes: Vec<(Change, Vec<Sample>)>,
}

impl Report {
    pub(super) fn new(size: Size) -> Self {
        Self { size, adds: None, start: None, memory: Vec::new(), changes: Vec::new() }
    }

    pub(super) fn adds(&mut self, turn: &Turn) {
        self.adds = turn.summary(Verb::Add);
    }

    pub(super) fn start(&mut self, started: Started, first: Sample) {
        self.start = Some((started, first));
    }

    pub(super) fn memory(&mut self, when: &'static str, memory: Memory) {
        self.memory.push((when, memory));
    }

    pub(super) fn change(&mut self, change: Change, samples: Vec<Sample>) {
        self.changes.push((change, samples));
    }

    /// Tables in the terms of Markdown.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} pods and {} policies in {} namespaces of {} pods each, and one of {} pods.",
            self.size.pods,
            self.size.policies,
            self.size.namespaces(),
            (self.size.pods - self.size.crowd()) / self.size.namespaces(),
            self.size.crowd(),
        )?;
        if let Some((started, first)) = &self.start {
            writeln!(
                out,
                "Start among its pods: synced after {:.1} s, serving after {:.1} s; the first compilation {:.0} ms, \
                 its {} entries {:.0} ms.",
                started.synced.as_secs_f64(),
                started.ready.as_secs_f64(),
                ms(first.compile),
                first.entries,
                ms(first.apply),
            )?;
        }
        if let Some(adds) = self.adds {
            writeln!(
                out,
                "{} ADDs: p50 {:.1} ms, p99 {:.1}; processor of the agent for each {:.1} ms.",
                adds.calls,
                adds.p50,
                adds.p99,
                adds.agent_cpu.unwrap_or(f64::NAN),
            )?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "| change | times | addresses | from the API p50 ms | p99 | from the watch p50 | p99 | max | compile p50 | p99 | map writes p50 | p99 |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for (change, samples) in &self.changes {
            let part = |of: fn(&Sample) -> f64, part| quantile(&sorted(samples, of), part);
            writeln!(
                out,
                "| {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
                change.name(),
                samples.len(),
                part(addresses, 0.5),
                part(from_write, 0.5),
                part(from_write, 0.99),
                part(from_arrival, 0.5),
                part(from_arrival, 0.99),
                part(from_arrival, 1.0),
                part(compile, 0.5),
                part(compile, 0.99),
                part(apply, 0.5),
                part(apply, 0.99),
            )?;
        }
        writeln!(out)?;
        writeln!(out, "| memory | agent MiB | at its highest | maps MiB |")?;
        writeln!(out, "|---|---|---|---|")?;
        for (when, memory) in &self.memory {
            let mib = |bytes: u64| bytes as f64 / MIB;
            writeln!(
                out,
                "| {when} | {:.0} | {:.0} | {:.0} |",
                mib(memory.resident),
                mib(memory.highest),
                mib(memory.maps)
            )?;
        }
        Ok(())
    }

    /// The same as one document.
    pub(super) fn document(&self) -> Value {
        let changes = self.changes.iter().map(|(change, samples)| {
            let figures = |of: fn(&Sample) -> f64| {
                let sorted = sorted(samples, of);
                json!({ "p50": quantile(&sorted, 0.5), "p99": quantile(&sorted, 0.99), "max": quantile(&sorted, 1.0) })
            };
            json!({
                "change": change.name(), "times": samples.len(), "addresses": figures(addresses),
                "from_write_ms": figures(from_write), "from_arrival_ms": figures(from_arrival),
                "compile_ms": figures(compile), "apply_ms": figures(apply),
            })
        });
        let memory = self.memory.iter().map(|(when, memory)| {
            json!({ "when": when, "resident": memory.resident, "highest": memory.highest, "maps": memory.maps })
        });
        json!({
            "pods": self.size.pods, "policies": self.size.policies, "namespaces": self.size.namespaces(),
            "start": self.start.map(|(started, first)| json!({
                "synced_s": started.synced.as_secs_f64(), "ready_s": started.ready.as_secs_f64(),
                "compile_ms": ms(first.compile), "apply_ms": ms(first.apply), "entries": first.entries,
            })),
            "adds": self.adds.map(|adds| json!({
                "calls": adds.calls, "p50_ms": adds.p50, "p99_ms": adds.p99, "agent_cpu_ms": adds.agent_cpu,
            })),
            "changes": changes.collect::<Vec<_>>(),
            "memory_bytes": memory.collect::<Vec<_>>(),
        })
    }
}

/// In short, while it is measured.
pub(super) fn line(samples: &[Sample]) -> String {
    let sorted = sorted(samples, from_arrival);
    let (p50, p99) = (quantile(&sorted, 0.5), quantile(&sorted, 0.99));
    format!("{} times, from the watch p50 {p50:.1} ms, p99 {p99:.1} ms", samples.len())
}

fn sorted(samples: &[Sample], of: fn(&Sample) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn addresses(sample: &Sample) -> f64 {
    sample.addresses as f64
}

fn from_write(sample: &Sample) -> f64 {
    ms(sample.from_write)
}

fn from_arrival(sample: &Sample) -> f64 {
    ms(sample.from_arrival)
}

fn compile(sample: &Sample) -> f64 {
    ms(sample.compile)
}

fn apply(sample: &Sample) -> f64 {
    ms(sample.apply)
}
