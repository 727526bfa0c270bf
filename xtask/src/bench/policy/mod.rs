//! How long a change of policy takes in a large cluster, from the API to the
//! last map write, and what the agent takes there.

mod changes;
mod cluster;
mod memory;
mod report;

use anyhow::Result;

use super::contender::Contender;
use super::node::BenchNode;
use super::{Options, Programs, rounds};
use crate::demo::example;
use crate::demo::interrupt::Interrupt;
use crate::progress;
use crate::workspace::Workspace;
use changes::Change;
use cluster::Size;
use report::Report;

/// What `--only` calls it.
pub(super) const NAME: &str = "policy";
const PODS: u32 = 150_000;
/// ADDs at a time.
const AT_A_TIME: usize = 4;

/// Runs it; false when an ADD failed.
pub(super) fn run(
    workspace: &Workspace,
    options: &Options,
    programs: &Programs,
    interrupt: &Interrupt,
) -> Result<bool> {
    let size = Size { pods: options.cluster_pods.unwrap_or(PODS), policies: options.policies };
    progress::step(&format!("A cluster of {} pods and {} policies", size.pods, size.policies));
    let capabilities = example::capabilities(&workspace.root().join("daemonset.yaml"))?;
    let fill = |api: &_, node: &str| cluster::fill(api, node, size);
    let mut node = BenchNode::start(programs, &capabilities, interrupt, fill)?;
    let mut report = Report::new(size);
    let started = node.started();
    progress::detail(&format!(
        "synced after {:.1} s, ready after {:.1} s",
        secs(started.synced),
        secs(started.ready)
    ));

    let local = (cluster::LOCAL_NAMESPACES as usize) * cluster::LOCAL_APPS.len();
    progress::step(&format!("{local} pods on the node"));
    let pods = Contender::tidepool(&node, &programs.plugin, local)?;
    let adds = rounds::adds(&pods, AT_A_TIME, &node)?;
    report.adds(&adds);

    progress::step("The agent anew, among its pods");
    node.restart(interrupt)?;
    report.start(node.started(), changes::first(&node)?);
    changes::settle(&node, interrupt)?;
    let pid = node.agent()?.service.pid();
    report.memory("after the start", memory::of(pid)?);
    for change in Change::ALL {
        progress::step(change.name());
        let samples = changes::measure(change, options.changes, size, &node, interrupt)?;
        progress::detail(&report::line(&samples));
        report.change(change, samples);
        report.memory(change.name(), memory::of(pid)?);
    }
    if options.json {
        println!("{}", serde_json::to_string(&report.document())?);
    } else {
        report.write(&mut std::io::stdout())?;
    }
    for failure in adds.failures().iter().take(5) {
        progress::warning(failure);
    }
    Ok(adds.failures().is_empty())
}

fn secs(time: std::time::Duration) -> f32 {
    time.as_secs_f32()
}
