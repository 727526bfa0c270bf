//! The pool with the real SDK client against the simulator's wire.
//!
//! Each trial serves an EC2 API and an instance's metadata on loopback and
//! runs the pool in a process of its own (this binary again), since the SDK
//! finds endpoints and credentials by its environment, as in production.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use ipam_core::{AllocationMode, InstanceTable, SandboxKey, Targets};
use kernel_test::{Trial, trial};
use serde::{Deserialize, Serialize};
use tidepool_agent::ec2::{AwsEc2, CallBudget, Ec2, Guard, ImdsClient, NoObserver, limits_of};
use tidepool_agent::ipam::{LeaseRequest, Pool, PoolConfig, PoolView, StateDirs};
use tokio::time::Instant;
use vpc_sim::ec2::{Cloud, FaultRule, InstanceFacts, NewInstance, NodeScope, Settings};
use vpc_sim::imds::Resolver;

/// Set in the process that runs the pool: what it is to do.
const PART: &str = "TIDEPOOL_TEST_PART";
const NODE: &str = "node-a";

/// What the process with the pool does and with what.
#[derive(Serialize, Deserialize)]
struct Part {
    state: String,
    /// The table of instance types in place of the built-in one.
    table: Option<String>,
    prefixes: bool,
    warm_ip: Option<u32>,
    /// Pods that come, all at once.
    pods: std::ops::Range<u32>,
    /// Whether they go again, and their addresses are given back.
    leave: bool,
    /// The patience of each pod.
    patience_s: u64,
}

/// What it tells when it has ended.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    addresses: BTreeMap<u32, IpAddr>,
    reasons: BTreeSet<String>,
    longest_wait_ms: u64,
    free: u32,
    enis: usize,
    prefixes: u32,
}

fn main() -> ExitCode {
    match std::env::var(PART) {
        Ok(part) => match run_part(&part) {
            Ok(told) => {
                println!("{}", serde_json::to_string(&told).expect("plain data"));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        },
        Err(_) => kernel_test::run(trials()),
    }
}

fn trials() -> Vec<Trial> {
    vec![
        trial("burst_then_restart_then_shrink", &[], burst_then_restart_then_shrink),
        trial("default_latencies", &[], default_latencies),
        trial("prefixes", &[], prefixes),
        trial("a_type_that_the_table_lacks", &[], a_type_that_the_table_lacks),
        trial("a_refusal_names_the_call", &[], a_refusal_names_the_call),
        trial("lost_answers_lead_to_no_second_effect", &[], lost_answers_lead_to_no_second_effect),
    ]
}

// ---------------------------------------------------------------- the cloud

struct World {
    cloud: Arc<Cloud>,
    facts: InstanceFacts,
    ec2: SocketAddr,
    imds: SocketAddr,
    state: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(instance_type: &str, settings: Settings) -> Result<Self> {
        let cloud = Cloud::new(settings);
        let vpc = cloud.add_vpc("10.20.0.0/16".parse()?)?;
        let subnet = cloud.add_subnet(&vpc, "10.20.0.0/20".parse()?, "us-west-2a")?;
        let facts = cloud.add_instance(NewInstance {
            name: NODE.to_owned(),
            instance_type: instance_type.to_owned(),
            subnet,
            groups: Vec::new(),
            tags: Vec::new(),
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (ec2, imds) = runtime.block_on(async {
            let ec2 = serve(vpc_sim::ec2::router(Arc::clone(&cloud), NodeScope::node(NODE))).await?;
            let resolver = Resolver::Fixed(facts.instance_id.clone());
            let imds = serve(vpc_sim::imds::router(Arc::clone(&cloud), resolver)).await?;
            anyhow::Ok((ec2, imds))
        })?;
        Ok(Self { cloud, facts, ec2, imds, state: tempfile::tempdir()?, _runtime: runtime })
    }

    fn part(&self) -> Part {
        Part {
            state: self.state.path().display().to_string(),
            table: None,
            prefixes: false,
            warm_ip: None,
            pods: 0..0,
            leave: false,
            patience_s: 20,
        }
    }

    /// Runs a part to its end.
    fn run(&self, part: &Part) -> Result<Told> {
        let output = Command::new(std::env::current_exe()?)
            .env(PART, serde_json::to_string(part)?)
            .env("AWS_ENDPOINT_URL_EC2", format!("http://{}", self.ec2))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", self.imds))
            // Credentials come from the instance's role.
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_PROFILE")
            .env("AWS_CONFIG_FILE", "/nonexistent")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "the pool's process failed");
        serde_json::from_slice(&output.stdout).context("what it told")
    }

    fn calls(&self) -> BTreeMap<String, u64> {
        let calls = self.cloud.calls();
        let mut of_node = BTreeMap::new();
        for (operation, count) in calls.get(NODE).into_iter().flatten() {
            of_node.insert(operation.clone(), *count);
        }
        of_node
    }

    fn mutating_calls(&self) -> u64 {
        self.calls().iter().filter(|(name, _)| !name.starts_with("Describe")).map(|(_, count)| count).sum()
    }

    fn fault(&self, operation: &str, kind: &str, count: u32) -> Result<()> {
        Ok(self.cloud.set_fault(FaultRule::new(operation, kind, count))?)
    }
}

async fn serve(router: axum::Router) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

// ----------------------------------------------------------------- the pool

fn run_part(part: &str) -> Result<Told> {
    let part: Part = serde_json::from_str(part)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(play(part))
}

fn key(number: u32) -> SandboxKey {
    SandboxKey { network: "aws-cni".into(), container_id: format!("pod-{number}"), ifname: "eth0".into() }
}

async fn play(part: Part) -> Result<Told> {
    let imds = Arc::new(ImdsClient::new());
    let facts = imds.facts().await?;
    let aws = AwsEc2::connect(&facts.region).await?;
    let ec2: Arc<dyn Ec2> = Arc::new(Guard::new(Arc::new(aws), CallBudget::default(), Arc::new(NoObserver)));
    let table = match &part.table {
        Some(text) => InstanceTable::new(text),
        None => InstanceTable::default(),
    };
    let limits = limits_of(&*ec2, &facts.instance_type, table, &Path::new(&part.state).join("lib")).await?;
    let mut targets = Targets::new(limits, facts.subnet.clone());
    targets.warm_ip = part.warm_ip;
    // A minute of surplus is long for a test; the rest is as in production.
    targets.timing.shrink_after = Duration::from_millis(500);
    targets.timing.eni_min_age = Duration::from_millis(500);
    targets.cooldown = Duration::from_millis(500);
    if part.prefixes {
        targets.mode = AllocationMode::Prefix;
        targets.max_pods = targets.limits.max_pods(true);
    }
    let config = PoolConfig {
        instance: facts.instance.clone(),
        targets,
        manage_untagged: false,
        cluster: Some("test".to_owned()),
        extra_tags: BTreeMap::new(),
        queue_patience: Duration::ZERO,
    };
    let state = Path::new(&part.state);
    let dirs = StateDirs { run: state.join("run"), journal: state.join("lib") };
    let pool = Pool::start(config, ec2, imds, &dirs)?;
    tell_links(pool.clone());
    // No pod runs that this pool does not know of.
    ensure!(pool.adoption_ended().await, "the checkpoint could not be written");
    wait_for(&pool, PoolView::is_ready).await?;

    let patience = Duration::from_secs(part.patience_s);
    let asked = part.pods.clone().map(|number| {
        let pool = pool.clone();
        async move {
            let begun = Instant::now();
            let request = LeaseRequest { key: key(number), pod: None, deadline: begun + patience };
            let answer = pool.lease(request).await;
            if answer.is_ok() {
                pool.commit(&key(number), "eni0").await;
            }
            (number, answer, begun.elapsed())
        }
    });
    let (mut addresses, mut reasons, mut longest) = (BTreeMap::new(), BTreeSet::new(), Duration::ZERO);
    for (number, answer, waited) in join_all(asked).await {
        longest = longest.max(waited);
        match answer {
            Ok(grant) => {
                addresses.insert(number, grant.address);
            }
            Err(error) => {
                reasons.insert(format!("{}: {error}", error.reason()));
            }
        }
    }
    if part.leave {
        for number in part.pods {
            pool.release(&key(number)).await;
        }
        // One ENI's worth stays, on the primary ENI.
        wait_for(&pool, |view| view.counts.total == view.counts.free && view.enis.len() == 1).await?;
    }
    // Whatever was begun ends; a pool at rest does not change for a second.
    let mut view = pool.view();
    while let Ok(changed) = tokio::time::timeout(Duration::from_secs(1), view.changed()).await {
        changed?;
    }
    let last = view.borrow().clone();
    Ok(Told {
        addresses,
        reasons,
        longest_wait_ms: u64::try_from(longest.as_millis())?,
        free: last.counts.free,
        enis: last.enis.len(),
        prefixes: last.counts.prefixes,
    })
}

/// The host side: every attached ENI has its link at once.
fn tell_links(pool: Pool) {
    tokio::spawn(async move {
        let mut view = pool.view();
        while view.changed().await.is_ok() {
            let unlinked: Vec<_> = view
                .borrow_and_update()
                .enis
                .iter()
                .filter(|eni| eni.is_wanted_on_host() && !eni.is_linked)
                .map(|eni| eni.mac)
                .collect();
            unlinked.into_iter().for_each(|mac| pool.link_ready(mac));
        }
    });
}

async fn wait_for(pool: &Pool, what: impl Fn(&PoolView) -> bool) -> Result<()> {
    let mut view = pool.view();
    let found = tokio::time::timeout(Duration::from_secs(60), view.wait_for(|view| what(view))).await;
    if found.is_err() {
        bail!("not within a minute: {:?}", pool.view().borrow());
    }
    Ok(())
}

// --------------------------------------------------------------- the trials

fn burst_then_restart_then_shrink() -> Result<()> {
    let world = World::new("m5.large", Settings::calm())?;
    let told = world.run(&Part { pods: 0..20, ..world.part() })?;
    ensure!(told.addresses.len() == 20, "{:?}", told.reasons);
    ensure!(told.addresses.values().collect::<BTreeSet<_>>().len() == 20, "an address twice");
    ensure!(!told.addresses.values().any(|address| *address == IpAddr::V4(world.facts.primary_ip)));
    let calls = world.calls();
    for operation in ["CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"] {
        ensure!(calls.get(operation) == Some(&2), "{calls:?}");
    }
    ensure!(calls.get("AssignPrivateIpAddresses") == Some(&1), "{calls:?}");

    world.cloud.reset_calls();
    let again = world.run(&Part { pods: 0..20, ..world.part() })?;
    ensure!(again.addresses == told.addresses, "the same sandboxes have the same addresses");
    ensure!((again.free, again.enis) == (7, 3), "{} free on {} ENIs", again.free, again.enis);
    ensure!(world.mutating_calls() == 0, "a restart: {:?}", world.calls());

    let told = world.run(&Part { pods: 0..20, leave: true, ..world.part() })?;
    ensure!((told.free, told.enis) == (9, 1), "{} free on {} ENIs", told.free, told.enis);
    let left = world.cloud.enis();
    ensure!(left.len() == 1, "{left:?}");
    Ok(())
}

fn default_latencies() -> Result<()> {
    let world = World::new("m5.large", Settings::default())?;
    let told = world.run(&Part { pods: 0..20, patience_s: 40, ..world.part() })?;
    ensure!(told.addresses.len() == 20, "{:?}", told.reasons);
    ensure!(told.enis == 3, "{} ENIs", told.enis);
    Ok(())
}

fn prefixes() -> Result<()> {
    let world = World::new("m5.large", Settings::calm())?;
    let told = world.run(&Part { prefixes: true, pods: 0..60, ..world.part() })?;
    ensure!(told.addresses.len() == 60, "{:?}", told.reasons);
    ensure!((told.prefixes, told.enis) == (5, 1), "{} prefixes on {} ENIs", told.prefixes, told.enis);
    ensure!(world.mutating_calls() <= 2, "one when it starts, one for the burst: {:?}", world.calls());
    Ok(())
}

fn a_type_that_the_table_lacks() -> Result<()> {
    let world = World::new("m5.large", Settings::calm())?;
    let calls = || world.calls().get("DescribeInstanceTypes").copied().unwrap_or(0);
    let part = |pods| Part { table: Some("instance_type\n".to_owned()), pods, ..world.part() };
    // Three ENIs of ten addresses, as EC2 has it.
    let told = world.run(&part(0..20))?;
    ensure!(told.addresses.len() == 20 && told.enis == 3, "{told:?}");
    ensure!(calls() == 1, "{} calls", calls());
    let told = world.run(&part(20..22))?;
    ensure!(told.addresses.len() == 2 && calls() == 1, "after a restart: {} calls, {told:?}", calls());
    Ok(())
}

fn a_refusal_names_the_call() -> Result<()> {
    let world = World::new("t3.small", Settings::calm())?;
    world.fault("AssignPrivateIpAddresses", "unauthorized", 1000)?;
    let told = world.run(&Part { warm_ip: Some(0), pods: 0..2, patience_s: 2, ..world.part() })?;
    ensure!(told.addresses.is_empty());
    let reason = told.reasons.first().context("a reason")?;
    ensure!(
        reason.starts_with("permission_denied") && reason.contains("AssignPrivateIpAddresses"),
        "{reason}"
    );
    ensure!(world.mutating_calls() <= 3, "no hammering: {:?}", world.calls());

    world.cloud.clear_faults();
    world.fault("AssignPrivateIpAddresses", "throttle", 1000)?;
    let told = world.run(&Part { warm_ip: Some(0), pods: 0..2, patience_s: 2, ..world.part() })?;
    let reason = told.reasons.first().context("a reason")?;
    ensure!(reason.starts_with("throttled"), "{reason}");
    Ok(())
}

fn lost_answers_lead_to_no_second_effect() -> Result<()> {
    let world = World::new("m5.large", Settings::calm())?;
    for operation in [
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
    ] {
        let mut fault = FaultRule::new(operation, "timeout_after_effect", 1);
        fault.hold_ms = Some(0);
        world.cloud.set_fault(fault)?;
        world.fault(operation, "server_error", 1)?;
    }
    world.fault("DescribeNetworkInterfaces", "server_error", 2)?;
    let told = world.run(&Part { pods: 0..20, patience_s: 60, ..world.part() })?;
    ensure!(told.addresses.len() == 20, "{:?}", told.reasons);
    let enis = world.cloud.enis();
    ensure!(enis.len() == 3, "{} ENIs, one was made twice", enis.len());
    let on_primary = enis.iter().map(|eni| eni.addresses.len()).max();
    ensure!(on_primary <= Some(10), "{enis:?}");
    Ok(())
}
