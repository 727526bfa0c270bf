//! The third-party cases through parser, compiler and plan: every expected bit, by the
//! pods' addresses and by their Services'; and the oracle and the kernel's own code on the same.

mod cases;
mod kernel_code;

use anyhow::{Context, ensure};
use cases::{Case, vip};
use kernel_test::{Need, trial};
use policy_core::model::{Direction, Protocol};
use policy_core::{Compiler, CompilerOptions, Evaluator, Query, Tables, oracle};

const FILE: &str = "TIDEPOOL_POLICY_CASES";

fn main() {
    kernel_test::run(vec![trial("every_bit_of_the_third_party_cases", &[Need::Env(FILE)], every_bit)]);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the cases are not ours to copy; the test reads them where they are"
)]
fn every_bit() -> anyhow::Result<()> {
    let path = std::env::var_os(FILE).context("not set")?;
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let (mut probes, mut wrong) = (0_u32, Vec::new());
    for case in &cases {
        // Both ways of splitting classes must say the same.
        for split_namespaces in [1024, 0] {
            let (seen, bad) = run(case, split_namespaces)?;
            if split_namespaces != 0 {
                probes += seen;
            }
            wrong.extend(bad);
        }
    }
    println!("{probes} probes, {} differ", wrong.len());
    ensure!(wrong.is_empty(), "{} differ, the first: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    ensure!(probes > 0, "the file has no probes");
    Ok(())
}

fn run(case: &Case, split_namespaces: usize) -> anyhow::Result<(u32, Vec<String>)> {
    let mut compiler = Compiler::new(CompilerOptions { split_namespaces, ..CompilerOptions::default() });
    let mut maps = Tables::default();
    let (mut probes, mut wrong) = (0, Vec::new());
    for step in &case.steps {
        let cluster = step.cluster()?;
        // Who clears a slot clears it by itself.
        let local = step.local();
        maps.endpoints.retain(|slot, _| local.iter().any(|pod| pod.slot == *slot));
        let compiled = compiler.compile(&cluster, &local, &maps);
        ensure!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        for one in compiled.plan(&maps) {
            maps.record(&one);
        }
        ensure!(maps == compiled.tables, "case {}: the plan does not lead to the tables", case.n);
        let evaluator = Evaluator::new(&maps);
        let mut host = kernel_code::host(&maps, &local);
        for line in &step.expected {
            let mut words = line.split(' ');
            let (what, from, row) = (words.next(), words.next(), words.next());
            let (protocol, port) = what.and_then(|w| w.split_once('/')).context("no port")?;
            let protocol = Protocol::from_name(protocol).context("no protocol")?;
            let port: u16 = port.parse()?;
            let name = |pod: &cases::CasePod| format!("{}/{}", pod.ns, pod.name);
            let source =
                step.pods.iter().position(|pod| Some(name(pod).as_str()) == from).context("no source")?;
            for (target, expected) in row.context("no row")?.chars().enumerate() {
                let mut agreed = true;
                let mut ask = |pod: usize, direction, peer, port| {
                    let slot = u32::try_from(pod).expect("few") + 1;
                    let protocol = protocol.number();
                    let query = Query { slot, direction, peer, protocol, port };
                    let allowed = evaluator.decide(&query).allowed;
                    agreed &= kernel_code::passes(&mut host, step.pods[pod].ip, &query) == allowed;
                    allowed
                };
                let (source_ip, target_ip) = (step.pods[source].ip, step.pods[target].ip);
                let ingress = ask(target, Direction::Ingress, source_ip, port);
                let egress = ask(source, Direction::Egress, target_ip, port);
                let by_service = ask(source, Direction::Egress, vip(target), port + 1000);
                let direct = oracle::allowed(&cluster, source_ip, target_ip, protocol.number(), port);
                let verdict = match (ingress, egress) {
                    (true, true) => '.',
                    (true, false) => 'e',
                    (false, true) => 'i',
                    (false, false) => 'X',
                };
                probes += 1;
                if !agreed || verdict != expected || by_service != egress || direct != (expected == '.') {
                    wrong.push(format!(
                        "case {} ({}): {line} to {}: {verdict}, by Service {by_service}, oracle {direct}, kernel code agrees {agreed}",
                        case.n,
                        case.description,
                        name(&step.pods[target]),
                    ));
                }
            }
        }
    }
    Ok((probes, wrong))
}
