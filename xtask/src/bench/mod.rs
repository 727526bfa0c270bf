//! `cargo xtask bench`: how long ADD and DEL take, beside other plugins on the
//! same machine in the same minutes.
//!
//! The real agent runs in a node of the simulated VPC, with pods that its API
//! knows and a policy that selects them; sandboxes are made before. Contenders
//! take turns within each round, so that whatever else the machine does falls
//! on all of them; ratios are taken within a round.

mod api;
mod cluster;
mod contender;
mod invoke;
mod node;
mod packets;
mod policy;
mod rounds;
mod samples;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::demo::interrupt::Interrupt;
use crate::demo::{INTERRUPTED, example};
use crate::progress;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use api::Api;
use contender::Contender;
use node::BenchNode;

/// What can be asked of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each contender has its turn at each number of calls at a time.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// ADDs, and then DELs, of one turn.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pods: u32,
    /// How many calls are under way at a time.
    #[arg(long, default_values_t = [1, 8, 32], value_delimiter = ',', value_name = "N")]
    at_a_time: Vec<usize>,
    /// Beside the table: that many ADDs of ours, eight at a time, and what failed.
    #[arg(long, default_value_t = 0, value_name = "N")]
    soak: u32,
    /// Pods elsewhere in the cluster, in namespaces of 20, each namespace with a policy of its own: none if absent. With
    /// --only policy, in 1,000 namespaces: 150,000 if absent.
    #[arg(long, value_name = "N")]
    cluster_pods: Option<u32>,
    /// Only contenders whose name contains this; or `policy`: how long a change of policy takes in a large cluster; or
    /// `policy-packets`: what a packet costs by how many rules are in force.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// With --only policy: how many NetworkPolicies the cluster has.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    policies: u32,
    /// With --only policy: how often each kind of change is made.
    #[arg(long, default_value_t = 200, value_name = "N")]
    changes: u32,
    /// Another plugin on a node that stands already: a JSON file with name, net, mnt, program, cni_path and conf.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// One JSON document on standard output instead of the table.
    #[arg(long)]
    json: bool,
    /// Binaries that are already built; nothing is installed or built then.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Where Debian's containernetworking-plugins are.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
const FLOOR: &str = "floor";

/// What is measured with.
struct Programs {
    bin_dir: PathBuf,
    plugin: PathBuf,
    floor: PathBuf,
}

/// Runs it. The code is 1 when a call of ours failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces need root");
    if options.only.as_deref() == Some(packets::NAME) {
        return Ok(if packets::run(workspace)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let programs = programs(workspace, options)?;
    let interrupt = Interrupt::catch()?;
    let start = Instant::now();
    let measured = match options.only.as_deref() {
        Some(policy::NAME) => policy::run(workspace, options, &programs, &interrupt),
        _ => measure(workspace, options, &programs, &interrupt),
    };
    match measured {
        Ok(ok) => {
            progress::done(&format!("{:.1} s", start.elapsed().as_secs_f32()));
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(_) if interrupt.came() => {
            progress::detail("stopped; nothing is left behind");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

fn programs(workspace: &Workspace, options: &Options) -> Result<Programs> {
    if let Some(dir) = &options.bin_dir {
        let bin_dir = std::path::absolute(dir)?;
        return Ok(Programs { plugin: bin_dir.join(build::PLUGIN), floor: bin_dir.join(FLOOR), bin_dir });
    }
    let tools = setup::run(workspace, Purpose::Demo)?;
    let built = build::run(workspace, &tools, Profile::Release)?;
    progress::step("Building the kernel's floor");
    let floor = build::example(workspace, FLOOR)?;
    Ok(Programs { plugin: built.plugin, floor, bin_dir: built.bin_dir })
}

fn measure(
    workspace: &Workspace,
    options: &Options,
    programs: &Programs,
    interrupt: &Interrupt,
) -> Result<bool> {
    progress::step("Starting a node with its agent");
    let capabilities = example::capabilities(&workspace.root().join("daemonset.yaml"))?;
    let fill = |api: &Api, node: &str| cluster::fill(api, node, options);
    let node = BenchNode::start(programs, &capabilities, interrupt, fill)?;
    let pods = usize::try_from(options.pods)?;
    let mut contenders = vec![
        Contender::process(&node, pods)?,
        Contender::bridge(Path::new(REFERENCE_PLUGINS), node.scratch(), pods)?,
        Contender::tidepool(&node, &programs.plugin, pods)?,
    ];
    if let Some(file) = &options.beside {
        contenders.push(Contender::beside(file, pods)?);
    }
    if let Some(only) = &options.only {
        contenders.retain(|one| one.name.contains(only.as_str()));
    }
    let floor = options.only.as_ref().is_none_or(|only| FLOOR.contains(only.as_str()));
    let floor = floor.then_some(programs.floor.as_path());
    progress::step("Measuring");
    let mut samples = rounds::take_turns(options, &mut contenders, floor, &node, interrupt)?;
    if options.soak > 0 {
        progress::step(&format!("{} ADDs, eight at a time", options.soak));
        let ours = contenders.iter().find(|one| one.is_ours()).context("ours is left out by --only")?;
        rounds::soak(options.soak, ours, &node, interrupt, &mut samples)?;
    }
    if options.json {
        println!("{}", serde_json::to_string(&table::document(&samples))?);
    } else {
        table::write(&mut std::io::stdout(), &samples)?;
    }
    let failures = samples.failures_of(contender::OURS);
    for failure in failures.iter().take(5) {
        progress::warning(failure);
    }
    Ok(failures.is_empty())
}
