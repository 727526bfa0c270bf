//! Puts the parts together: what starts after what, and what runs until the end.
//!
//! The HTTP side comes first, so that a node that cannot start says why. The conflist comes last: from that
//! moment the runtime sends pods. Every part retries by itself; only a task that ends is fatal, and the kubelet
//! starts the agent anew.

mod facts;
mod follow;
mod links;
mod pages;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use ipam_core::{AllocationMode, Growth};
use nix::fcntl::{Flock, FlockArg};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cause::chain;
use crate::config::{Config, Environment};
use crate::datapath::Datapath;
use crate::ec2::{AwsEc2, CallBudget, CallObserver, CallReport, Ec2, Guard};
use crate::endpoint::{Addresses, Endpoints, Enforcement, Ports, Shape, Wiring};
use crate::hostnet::HostNet;
use crate::ipam::{Pool, PoolConfig, StateDirs, Targets};
use crate::k8s::{self, ClusterHandle, NodeFacts};
use crate::metrics::Metrics;
use crate::policy::Enforcer;
use crate::ports::{ClusterPort, HostPort, KernelPort, PoolPort};
use crate::readiness::{Part, Readiness};
use crate::server::{self, Server};
use crate::{http, install};

/// The socket's name below the state directory.
const SOCKET: &str = "agent.sock";
/// Between two attempts to put the first compilation in force.
const ACTIVATION_PAUSE: Duration = Duration::from_secs(2);
/// Held by the one agent of the node below the state directory.
const LOCK: &str = "agent.lock";

/// Everything that answers questions, once it is there.
struct Parts {
    config: Config,
    pool: Pool,
    cluster: ClusterHandle,
    endpoints: Arc<Endpoints<PoolPort, HostPort, Enforcer<ClusterPort>>>,
    enforcer: Arc<Enforcer<ClusterPort>>,
    metrics: Metrics,
}

/// What the privileged init container does: copies the plugin to the runtime's directory and lets the node forward.
///
/// # Errors
///
/// Where the plugin is not beside this binary or the directory cannot be written.
pub fn install_plugin(environment: &dyn Environment) -> anyhow::Result<()> {
    let directory = environment.get("TIDEPOOL_CNI_BIN_DIR").unwrap_or_else(|| "/opt/cni/bin".to_owned());
    install::install_plugin(&plugin_source()?, &PathBuf::from(directory))?;
    crate::hostnet::enable_forwarding()
        .context("run this container privileged, or set the sysctl on the node")?;
    Ok(())
}

/// The plugin ships beside the agent.
fn plugin_source() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the agent's own path cannot be read")?;
    Ok(own.with_file_name(install::PLUGIN))
}

/// Serves the node until SIGTERM or SIGINT.
///
/// # Errors
///
/// What cannot be mended by trying again, and any task that ends.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let outcome = tokio::select! {
        outcome = serve(config, &stop, &mut tasks) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // Pods keep running: maps stay pinned, filters belong to their links, the conflist stays.
    tracing::info!("stopping");
    stop.cancel();
    tasks.shutdown().await;
    outcome
}

async fn serve(
    config: Config,
    stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> anyhow::Result<()> {
    // A later dependency may bring a second provider; then rustls would not choose by itself. An error means
    // that one was installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _lock = lock(&config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    let parts: Arc<OnceLock<Parts>> = Arc::default();
    let listener = http::listen(config.http_addr)
        .await
        .with_context(|| format!("TIDEPOOL_METRICS_ADDR: {} cannot be bound", config.http_addr))?;
    let site = pages::site(registry, readiness.clone(), Arc::clone(&parts));
    tasks.spawn(async move {
        let ended = http::serve(listener, site).await;
        tracing::error!(?ended, "the HTTP side ended");
        "http"
    });
    tasks.spawn(follow::readiness(readiness.clone(), metrics.clone()));

    tracing::info!(config = serde_json::to_string(&config).unwrap_or_default(), "configuration");
    let (imds, facts) = facts::read(&readiness).await;
    let client = k8s::connect().await?;
    let options = k8s::Options {
        node: config.node_name.clone(),
        service_cidrs: config.service_cidrs.iter().copied().map(Into::into).collect(),
        pace: k8s::WatchPace::default(),
    };
    let (cluster, driver) = k8s::start(client, options);
    tasks.spawn(async move {
        driver.run().await;
        "kubernetes"
    });
    let node = facts::node(&cluster, &readiness, &config.node_name).await;

    let aws = AwsEc2::connect(&facts.region).await?;
    let observer = Arc::new(Observer(metrics.clone()));
    let ec2: Arc<dyn Ec2> = Arc::new(Guard::new(Arc::new(aws), CallBudget::default(), observer));
    let limits = facts::limits(&*ec2, &facts.instance_type, &readiness).await;
    let patience = config.pool.lease_patience();
    let base = Targets::new(limits, facts.subnet.clone());
    let pool_config = PoolConfig {
        instance: facts.instance.clone(),
        targets: targets(&base, &config, &node),
        manage_untagged: config.manage_untagged,
        cluster: config.cluster_name.clone(),
        extra_tags: config.eni_tags.clone(),
    };
    let dirs = StateDirs { run: config.state_dir.clone(), journal: config.journal_dir.clone() };
    let listing = imds.clone();
    let pool = Pool::start(pool_config, ec2, listing, &dirs)?;
    let watched = pool.clone();
    tasks.spawn(async move {
        watched.stopped().await;
        "pool"
    });

    let hostnet = HostNet::open().context("host networking cannot be opened")?;
    let keeper = links::Keeper::new(hostnet.clone(), pool.clone(), metrics.clone(), readiness.clone());
    tasks.spawn(links::follow(keeper.clone(), config.clone(), Arc::clone(&imds), facts.clone()));
    tasks.spawn(links::keep(keeper, stop.clone()));

    let datapath = open_datapath(&config).await?;
    let enforcer = Enforcer::start(
        KernelPort::new(datapath),
        Arc::new(ClusterPort::new(cluster.clone())),
        metrics.clone(),
    );
    let enforcer = Arc::new(enforcer.map_err(|error| anyhow::anyhow!("the maps cannot be read: {error}"))?);

    let ports = Ports {
        addresses: Arc::new(PoolPort::new(pool.clone(), cluster.clone(), patience)),
        wiring: Arc::new(HostPort::new(hostnet.clone())),
        enforcement: Arc::clone(&enforcer),
    };
    let shape = Shape { veth_prefix: config.veth_prefix.clone(), pod_mtu: config.pod_mtu };
    let endpoints = Arc::new(Endpoints::new(ports, shape));
    let mut view = pool.view();
    view.wait_for(|view| view.is_ready()).await.context("the pool ended while it started")?;
    readiness.reached(Part::Pool);
    restored(&endpoints).await?;
    while let Err(refusal) = enforcer.activate().await {
        readiness.lost(Part::Datapath, refusal.to_string());
        tokio::time::sleep(ACTIVATION_PAUSE).await;
    }
    // From now on a pod's route that nobody claims is a leftover.
    tokio::task::spawn_blocking(move || hostnet.pods_complete()).await?;

    tasks.spawn(follow::pool(pool.clone(), metrics.clone()));
    tasks.spawn(follow::cluster(cluster.clone(), Arc::clone(&enforcer), pool.clone(), config.clone(), base));
    tasks.spawn(follow::filters(Arc::clone(&enforcer)));
    tasks.spawn(follow::policy(Arc::clone(&enforcer), cluster.clone(), readiness.clone()));
    let socket = config.state_dir.join(SOCKET);
    let server =
        Server { endpoints: Arc::clone(&endpoints), readiness: readiness.clone(), metrics: metrics.clone() };
    let listener =
        server::listen(&socket).with_context(|| format!("{} cannot be opened", socket.display()))?;
    let stopping = stop.clone();
    tasks.spawn(async move {
        Arc::new(server).serve(listener, stopping).await;
        "socket"
    });
    readiness.reached(Part::Socket);
    let filled = parts.set(Parts { config: config.clone(), pool, cluster, endpoints, enforcer, metrics });
    debug_assert!(filled.is_ok(), "set once");

    tokio::select! {
        () = readiness.wait_ready() => {}
        ended = tasks.join_next() => return Err(ended_early(ended)),
    }
    install::install_plugin(&plugin_source()?, &config.cni_bin_dir)?;
    install::write_conflist(&config.cni_conf_dir, &config.cni_bin_dir, &socket, patience)?;
    tracing::info!(node = config.node_name, "serving");

    Err(ended_early(tasks.join_next().await))
}

/// No task ends by itself; when one does the kubelet shall start everything anew.
fn ended_early(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(name)) => anyhow::anyhow!("the task «{name}» ended"),
        Some(Err(error)) => anyhow::Error::new(error).context("a task failed"),
        None => anyhow::anyhow!("no task is left"),
    }
}

async fn restored<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: &Endpoints<A, W, E>,
) -> anyhow::Result<()> {
    let outcome = endpoints.restore().await;
    outcome.map_err(|refusal| anyhow::anyhow!("the pods that run could not be looked up: {refusal}"))
}

/// One agent per node: two would lease the same addresses.
fn lock(config: &Config) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("TIDEPOOL_STATE_DIR: {} cannot be made", config.state_dir.display()))?;
    let path = config.state_dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow::anyhow!("another agent holds {}: {error}", path.display()))
}

async fn open_datapath(config: &Config) -> anyhow::Result<Datapath> {
    let root = config.bpffs_dir.clone();
    // Loading takes tens of milliseconds in the kernel.
    let opened = tokio::task::spawn_blocking(move || KernelPort::open(&root)).await?;
    opened.map_err(|error| anyhow::anyhow!("{}", chain(&error)))
}

/// The pool's targets: the operator's, and what the Node object says.
fn targets(base: &Targets, config: &Config, node: &NodeFacts) -> Targets {
    let growth = match (config.provisioning_disabled, node.unschedulable && !config.manage_when_cordoned) {
        (true, _) => Growth::None,
        (false, true) => Growth::DemandOnly,
        (false, false) => Growth::Normal,
    };
    Targets {
        mode: if config.pool.prefixes { AllocationMode::Prefix } else { AllocationMode::Secondary },
        warm_prefix: config.pool.warm_prefix,
        warm_eni: config.pool.warm_eni,
        warm_ip: config.pool.warm_ip,
        minimum_ip: config.pool.minimum_ip,
        max_eni: config.pool.max_eni,
        cooldown: config.pool.cooldown,
        max_pods: node.max_pods.unwrap_or_else(|| base.limits.max_pods(config.pool.prefixes)),
        growth,
        ..base.clone()
    }
}

/// EC2 calls into the metrics.
struct Observer(Metrics);

impl CallObserver for Observer {
    fn call_ended(&self, report: CallReport) {
        self.0.ec2_call(report.operation.as_str(), report.outcome.as_str(), report.took);
    }
}
