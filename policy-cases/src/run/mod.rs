//! Case after case, and what differs.

mod readings;
mod report;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::Direction;
use kernel_test::NetNs;
use policy_core::{Compiler, CompilerOptions, RuleId, Step as Change, Tables};

use crate::ask::{Ask, Expectation, Heard, meaning, row};
use crate::flow::Flows;
use crate::format::{Case, Step};
use crate::host::{HostModel, ends};
use crate::kernel::Kernel;
use crate::packets::{self, Packets};
use crate::places::Places;
use crate::scene::Scene;
use readings::{by_own_service, by_service};
pub use report::{Report, Via};

/// Two of the kernel's ticks, and time to spare.
const TICKS: Duration = Duration::from_secs(4);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Reads a file of cases.
pub fn read(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list of cases", path.display()))
}

/// Judges all cases, and tells each probe that differs with the rules that decided.
pub fn run(cases: &[Case], via: Via, tell: &mut (dyn FnMut(String) + Send)) -> Result<Report> {
    let mut report = Report::default();
    let read = cases.iter().map(|case| {
        let scenes = case.steps.iter().map(Scene::new).collect::<Result<Vec<_>>>();
        let scenes = scenes.with_context(|| format!("case {} ({})", case.n, case.description))?;
        Ok((case, scenes))
    });
    let read = read.collect::<Result<Vec<_>>>()?;
    let mut rest = &read[..];
    while let Some((_, first)) = rest.first() {
        let mut places =
            Places::default().with(first.iter()).context("two pods of a case have one address")?;
        let mut count = 1;
        while let Some(larger) = rest.get(count).and_then(|(_, scenes)| places.with(scenes.iter())) {
            places = larger;
            count += 1;
        }
        let (group, others) = rest.split_at(count);
        rest = others;
        run_group(group, &places, via, &mut report, tell)?;
    }
    Ok(report)
}

fn run_group(
    group: &[(&Case, Vec<Scene>)],
    places: &Places,
    via: Via,
    report: &mut Report,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<()> {
    match via {
        Via::Host => Driver::new(places, Judge::Host, report, tell).cases(group),
        Via::Kernel => NetNs::with_mounts()?.run(|| {
            let kernel = Kernel::load(Kernel::make_links(places)?)?;
            Driver::new(places, Judge::Kernel(kernel), report, tell).cases(group)
        }),
        Via::Packets => {
            let wired = packets::wire(places)?;
            wired.node.run(|| {
                let packets = Packets::new(&wired, places)?;
                Driver::new(places, Judge::Packets(packets), report, tell).cases(group)
            })
        }
    }
}

enum Judge<'a> {
    Host,
    Kernel(Kernel),
    Packets(Packets<'a>),
}

struct Driver<'a> {
    places: &'a Places,
    judge: Judge<'a>,
    compiler: Compiler,
    host: HostModel,
    round: u32,
    report: &'a mut Report,
    tell: &'a mut (dyn FnMut(String) + Send),
}

impl<'a> Driver<'a> {
    fn new(
        places: &'a Places,
        judge: Judge<'a>,
        report: &'a mut Report,
        tell: &'a mut (dyn FnMut(String) + Send),
    ) -> Self {
        let compiler = Compiler::new(CompilerOptions::default(), Tables::default());
        Self { places, judge, compiler, host: HostModel::new(), round: 0, report, tell }
    }

    fn cases(mut self, group: &[(&Case, Vec<Scene>)]) -> Result<()> {
        let begun = Instant::now();
        for (case, scenes) in group {
            let mut flows = Flows::default();
            // Beside the one that goes on from case to case: a fresh one, which splits classes the other way.
            let options = CompilerOptions { split_namespaces: 0, ..CompilerOptions::default() };
            let mut fresh = Compiler::new(options, Tables::default());
            for (place, (step, scene)) in case.steps.iter().zip(scenes).enumerate() {
                let at = format!("case {} step {} ({})", case.n, place + 1, case.description);
                self.step(step, scene, &mut fresh, &mut flows, &at).with_context(|| at.clone())?;
            }
        }
        self.report.took += begun.elapsed();
        Ok(())
    }

    fn step(
        &mut self,
        step: &Step,
        scene: &Scene,
        fresh: &mut Compiler,
        flows: &mut Flows,
        at: &str,
    ) -> Result<()> {
        self.round += 1;
        let local = scene.local("", |party| self.places.slot(party))?;
        let slots: BTreeMap<u32, Vec<IpAddr>> =
            local.iter().map(|pod| (pod.slot, pod.addresses.clone())).collect();
        let mut changes = Vec::new();
        for (compiler, changes) in [(&mut self.compiler, Some(&mut changes)), (fresh, None)] {
            let known: Vec<u32> = compiler.installed().endpoints.keys().copied().collect();
            known
                .iter()
                .filter(|slot| !slots.contains_key(slot))
                .for_each(|slot| compiler.clear_endpoint(*slot));
            let steps = compiler.update(&scene.cluster, &local).steps;
            steps.iter().for_each(|one| compiler.record(one));
            changes.into_iter().for_each(|list: &mut Vec<Change>| list.extend(steps.iter().cloned()));
        }
        let found: Vec<String> = scene
            .findings
            .iter()
            .cloned()
            .chain(self.compiler.findings().iter().map(ToString::to_string))
            .collect();
        ensure!(found.len() == step.findings, "{} findings, not {}: {found:#?}", found.len(), step.findings);
        self.host.fill(self.compiler.installed(), &slots);
        match &mut self.judge {
            Judge::Host => {}
            Judge::Kernel(kernel) => kernel.enter(&slots, &changes)?,
            Judge::Packets(packets) => packets.enter(scene, &slots, &changes)?,
        }
        for line in &step.flows {
            self.flow(scene, flows, line, at)?;
        }
        let mut expectations: Vec<Expectation> = Vec::new();
        for line in &step.expected {
            expectations.extend(row(scene, line, self.round)?);
        }
        self.table(scene, expectations, fresh, at)
    }

    /// A flow's packets, one after the other: each must pass, or none. One that lives again may
    /// need the kernel's next tick for it.
    fn flow(&mut self, scene: &Scene, flows: &mut Flows, line: &str, at: &str) -> Result<()> {
        let talk = flows.read(scene, line, self.round)?;
        self.report.probes += 1;
        let begun = Instant::now();
        let said = loop {
            let said = self.talk(&talk.packets, scene)?;
            let patient = talk.passes && !matches!(self.judge, Judge::Host) && begun.elapsed() < TICKS;
            if !patient || said.iter().all(|heard| *heard == Heard::Whole(true)) {
                break said;
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        if said.iter().any(|heard| *heard != Heard::Whole(talk.passes)) {
            self.report.differ += 1;
            let words: Vec<&str> = said.iter().map(|heard| heard.words()).collect();
            let why = self.why(&talk.packets[0], scene)?;
            (self.tell)(format!("{at}: flow {line}: packets were {}; {why}", words.join(", ")));
        }
        Ok(())
    }

    fn talk(&mut self, packets: &[Ask], scene: &Scene) -> Result<Vec<Heard>> {
        let mut said = Vec::new();
        for packet in packets {
            // The host's copy sees every packet, so that its flows are those of the kernel.
            let decided = self.host.decide(packet, scene, self.places)?;
            said.push(match &mut self.judge {
                Judge::Host => Heard::Whole(decided.iter().all(|(_, decision)| decision.reason.passes())),
                Judge::Kernel(kernel) => match kernel.ask(packet, scene, self.places)? {
                    Heard::Ends { egress, ingress } => Heard::Whole(egress && ingress),
                    other => other,
                },
                Judge::Packets(node) => node.ask(&[packet], scene, self.places)?[0],
            });
        }
        Ok(said)
    }

    fn table(
        &mut self,
        scene: &Scene,
        mut expectations: Vec<Expectation>,
        fresh: &Compiler,
        at: &str,
    ) -> Result<()> {
        if matches!(self.judge, Judge::Packets(_)) {
            let all = expectations.len();
            expectations.retain(|one| one.ask.from != one.ask.to);
            self.report.of_itself += all - expectations.len();
        }
        self.report.probes += expectations.len();
        let asks: Vec<&Ask> = expectations.iter().map(|one| &one.ask).collect();
        let heard: Vec<Heard> = match &mut self.judge {
            Judge::Host => asks.iter().map(|ask| self.host_says(ask, scene)).collect::<Result<_>>()?,
            Judge::Kernel(kernel) => {
                asks.iter().map(|ask| kernel.ask(ask, scene, self.places)).collect::<Result<_>>()?
            }
            Judge::Packets(packets) => packets.ask(&asks, scene, self.places)?,
        };
        for (Expectation { ask, mark }, heard) in expectations.iter().zip(heard) {
            let expected = meaning(*mark).context("a mark")?;
            let mut faults = Vec::new();
            if !heard.agrees(expected) {
                faults.push(format!("expected {mark}, is {}", heard.words()));
            }
            match &self.judge {
                Judge::Host => faults.extend(self.other_readings(ask, scene, expected, fresh)?),
                Judge::Kernel(kernel) => {
                    if let Some(ask) = by_own_service(ask, scene)? {
                        let Heard::Ends { egress, .. } = kernel.ask(&ask, scene, self.places)? else {
                            continue;
                        };
                        faults.extend((egress != expected.0).then(|| by_service(egress)));
                    }
                }
                Judge::Packets(_) => {}
            }
            if !faults.is_empty() {
                self.report.differ += 1;
                let (what, why) = (ask.describe(scene), self.why(&ask.anew(self.round)?, scene)?);
                (self.tell)(format!("{at}: {what}: {}; {why}", faults.join(", ")));
            }
        }
        Ok(())
    }

    fn host_says(&self, ask: &Ask, scene: &Scene) -> Result<Heard> {
        let decided = self.host.decide(ask, scene, self.places)?;
        let said: Vec<(Direction, bool)> = decided
            .iter()
            .map(|(crossing, decision)| (crossing.direction, decision.reason.passes()))
            .collect();
        Ok(ends(&said))
    }

    /// What a probe is decided by, in words.
    fn why(&self, ask: &Ask, scene: &Scene) -> Result<String> {
        let mut words = Vec::new();
        for (crossing, decision) in self.host.decide(ask, scene, self.places)? {
            let way = match crossing.direction {
                Direction::Out => "egress",
                Direction::In => "ingress",
            };
            let verdict = if decision.reason.passes() { "allowed" } else { "denied" };
            let by = match self.compiler.rule(RuleId(decision.rule)) {
                Some(rule) if decision.rule != 0 => format!("by {rule}"),
                _ => format!("({})", decision.reason.label()),
            };
            words.push(format!("{way} {verdict} {by}"));
        }
        Ok(words.join(", "))
    }
}
