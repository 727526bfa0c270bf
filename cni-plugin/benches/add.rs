//! How long ADD and DEL take: `cargo bench -p tidepool-cni`.
//!
//! The agent answers at once, so this is the plugin and the kernel: the process
//! from spawn to exit, in fresh sandboxes. With TIDEPOOL_BIN_DIR set, the binary
//! in there is measured (the static one that ships).

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use support::{Node, Sandbox};

const ROUNDS: usize = 400;

fn main() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("needs root");
        return Ok(());
    }
    println!("verb  at a time  p50 ms  p99 ms  max ms  failed");
    for parallel in [1, 8, 32] {
        let mut node = Node::new()?;
        if let Some(dir) = std::env::var_os("TIDEPOOL_BIN_DIR") {
            node.plugin = Path::new(&dir).join("tidepool-cni");
        }
        let _agent = node.agent()?;
        let sandboxes: Vec<_> = (0..ROUNDS).map(|_| Sandbox::new(None)).collect::<Result<_>>()?;
        for verb in ["ADD", "DEL"] {
            let mut times = Vec::new();
            for group in sandboxes.chunks(parallel) {
                times.extend(run_together(&node, verb, group));
            }
            report(verb, parallel, times);
        }
    }
    Ok(())
}

fn run_together(node: &Node, verb: &str, sandboxes: &[Sandbox]) -> Vec<Option<Duration>> {
    std::thread::scope(|scope| {
        let one = |sandbox| {
            let started = Instant::now();
            let outcome = node.run(verb, sandbox, &node.conf);
            outcome.is_ok_and(|outcome| outcome.success).then(|| started.elapsed())
        };
        let runs: Vec<_> = sandboxes.iter().map(|sandbox| scope.spawn(move || one(sandbox))).collect();
        runs.into_iter().map(|run| run.join().ok().flatten()).collect()
    })
}

fn report(verb: &str, parallel: usize, times: Vec<Option<Duration>>) {
    let failed = times.iter().filter(|time| time.is_none()).count();
    let mut millis: Vec<f64> = times.into_iter().flatten().map(|time| time.as_secs_f64() * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let last = millis.len().saturating_sub(1);
        millis.get((part * last as f64) as usize).copied().unwrap_or(f64::NAN)
    };
    println!("{verb:4}  {parallel:9}  {:6.2}  {:6.2}  {:6.2}  {failed}", at(0.5), at(0.99), at(1.0));
}
