//! Puts the parts together: what starts after what, and what runs until the end.
//!
//! The HTTP side comes first, so that a node that cannot start says why. Pods that run come next, their routes and
//! their deletion, for which the Kubernetes API is not needed; then policy, for which it is, and with it new pods.
//! The conflist comes last: from that moment the runtime sends pods. Every part retries by itself; only a task that ends is fatal, and the kubelet
//! starts the agent anew.

mod authorities;
mod facts;
mod follow;
mod hint;
mod lifecycle;
mod links;
mod memory;
mod orphans;
mod pages;
mod recover;
mod targets;
mod truth;

use std::convert::Infallible;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cause::chain;
use crate::config::{Config, Environment};
use crate::datapath::{Datapath, Options};
use crate::ec2::{AwsEc2, CallBudget, Ec2, EniListing, Guard};
use crate::endpoint::{Endpoints, Ports, Shape};
use crate::flows::Flows;
use crate::hostnet::HostNet;
use crate::ipam::{Pool, PoolConfig, StateDirs};
use crate::k8s::{self, ClusterHandle};
use crate::metrics::Metrics;
use crate::policy::Enforcer;
use crate::ports::{
    CallPort, ClusterPort, HostPort, KernelPort, KnownPort, LeasePort, LeftoversPort, PoolPort, RingPort,
    Teller,
};
use crate::readiness::{Part, Readiness};
use crate::server::{self, Server};
use crate::sweep::{self, Sweeper};
use crate::takeover::{self, Presence};
use crate::{flows, http, install};

/// The socket's name below the state directory.
pub const SOCKET: &str = "agent.sock";
/// Between two attempts to put the first compilation in force.
const ACTIVATION_PAUSE: Duration = Duration::from_secs(2);
/// Addresses for pods on an ENI of a type that is not in the table: those of most types of four virtual CPUs.
const USUAL_SLOTS: u32 = 14;
/// What is written at the end takes milliseconds; the kubelet waits for thirty seconds.
const LAST_WORK: Duration = Duration::from_secs(5);
/// Held by the one agent of the node below the state directory.
pub const LOCK: &str = "agent.lock";

/// Everything that answers questions, once it is there.
struct Parts {
    config: Config,
    pool: Pool,
    cluster: ClusterHandle,
    endpoints: Arc<Endpoints<PoolPort, HostPort, Enforcer<ClusterPort>>>,
    enforcer: Arc<Enforcer<ClusterPort>>,
    flows: Flows,
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
    // To the very end: what is written last is written by one.
    let _lock = lock(&config)?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    // Held by what has something left to do when it ends.
    let (unfinished, mut finished) = mpsc::channel::<Infallible>(1);
    let outcome = tokio::select! {
        outcome = serve(config, &stop, &mut tasks, unfinished) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // Pods keep running: maps stay pinned, filters belong to their links, the conflist stays.
    tracing::info!("stopping");
    stop.cancel();
    drop(tokio::time::timeout(LAST_WORK, finished.recv()).await);
    tasks.shutdown().await;
    outcome
}

async fn serve(
    config: Config,
    stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
    unfinished: mpsc::Sender<Infallible>,
) -> anyhow::Result<()> {
    // A later dependency may bring a second provider; then rustls would not choose by itself. An error means
    // that one was installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
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
    tasks.spawn(memory::give_back());

    tracing::info!(config = serde_json::to_string(&config).unwrap_or_default(), "configuration");
    let (imds, facts) = beside(tasks, facts::read(&readiness)).await?;
    let certificates =
        tokio::task::spawn_blocking(|| authorities::check(rustls_native_certs::load_native_certs));
    certificates.await??;
    let client = k8s::connect().await?;
    let options = k8s::Options {
        node: config.node_name.clone(),
        pod_audit: config.policy_audit.heeds_pods(),
        eni_configs: config.custom_networking.is_some(),
        service_cidrs: config.service_cidrs.iter().copied().map(Into::into).collect(),
        fleet: fleet(&config, &facts.instance_type),
        pace: k8s::WatchPace::default(),
    };
    let (cluster, driver) = k8s::start(client, options);
    tasks.spawn(async move {
        driver.run().await;
        "kubernetes"
    });

    let teller = Teller::new(cluster.clone(), config.node_name.clone());
    tasks.spawn(takeover::watch_lists(config.cni_conf_dir.clone(), readiness.clone(), teller.clone()));
    let presence = Presence::new(&config, &cluster);
    // Pods of a node that is ours need not wait for the Kubernetes API.
    let is_ours = takeover::is_current(&config.state_dir, &config.incumbent_checkpoint);
    beside(tasks, takeover::wait_until_gone(presence.clone(), is_ours, &readiness, &teller)).await?;
    recover::without_superseded(&config)?;
    let (alive, returned) = watch::channel(false);
    tasks.spawn(takeover::watch_for_return(presence.clone(), alive, readiness.clone(), teller.clone()));

    let aws = AwsEc2::connect(&facts.region).await?;
    let calls = CallPort::new(metrics.clone(), teller.clone());
    let observer = Arc::new(calls.clone());
    let ec2: Arc<dyn Ec2> = Arc::new(Guard::new(
        Arc::new(aws),
        CallBudget { account: config.ec2_share, ..CallBudget::default() },
        observer,
    ));
    let limits = facts::limits(&*ec2, &facts.instance_type, &config.journal_dir, &readiness);
    let limits = beside(tasks, limits).await?;
    let patience = config.pool.lease_patience();
    let (notices, notice) = beside(tasks, lifecycle::read(&imds)).await?;
    tasks.spawn(lifecycle::follow(Arc::clone(&imds), notices));
    let mut follower =
        targets::Follower::new(config.clone(), limits, &facts, cluster.clone(), notice, readiness.clone())
            .holding_while(returned.clone());
    let pool_config = PoolConfig {
        instance: facts.instance.clone(),
        targets: follower.look(),
        manage_untagged: config.manage_untagged,
        cluster: config.cluster_name.clone(),
        extra_tags: config.eni_tags.clone(),
        queue_patience: follow::QUEUE_PATIENCE,
    };
    let dirs = StateDirs { run: config.state_dir.clone(), journal: config.journal_dir.clone() };
    let listing: Arc<dyn EniListing> = imds.clone();
    let give_up_after = pool_config.targets.timing.give_up_after;
    if let Some(settings) = sweep::Settings::new(&config, &facts.vpc, give_up_after) {
        let sweeper = sweeper(settings, Arc::clone(&ec2), &cluster, &config.pod_namespace, &metrics);
        let (returned, metrics) = (returned.clone(), metrics.clone());
        tasks.spawn(async move {
            until(returned, sweeper.run()).await;
            metrics.leak_sweeper.set(0);
            // A new start begins it anew, when aws-node has left again.
            std::future::pending().await
        });
    }
    let started = recover::start_pool(&pool_config, &ec2, &listing, &dirs, &readiness);
    let pool = beside(tasks, started).await?;
    tasks.spawn(follow::queue(cluster.clone(), pool.clone()));
    tasks.spawn(follower.follow(pool.clone()));
    let watched = pool.clone();
    tasks.spawn(async move {
        watched.stopped().await;
        "pool"
    });

    let hostnet = HostNet::open().context("host networking cannot be opened")?;
    let (counted, ready) = (metrics.clone(), readiness.clone());
    let keeper = links::Keeper::new(hostnet.clone(), pool.clone(), counted, ready, teller.clone());
    tasks.spawn(links::follow(keeper.clone(), config.clone(), Arc::clone(&imds), facts.clone()));
    let vanished = keeper.vanished();
    tasks.spawn(links::keep(keeper, stop.clone()));

    let mut datapath = open_datapath(&config).await?;
    let reader = datapath.take_event_reader().context("the ring of events was taken")?;
    let enforcer = Enforcer::start(
        KernelPort::new(datapath),
        Arc::new(ClusterPort::new(cluster.clone())),
        metrics.clone(),
    );
    let enforcer = Arc::new(enforcer.map_err(|error| anyhow::anyhow!("the maps cannot be read: {error}"))?);
    let names = KnownPort::new(cluster.clone(), Arc::clone(&enforcer));
    let (flows, hub) = flows::Hub::new(RingPort::new(reader), names, metrics.clone())
        .context("the ring of events cannot be read")?;
    tasks.spawn(async move {
        hub.run().await;
        "flows"
    });

    let ports = Ports {
        addresses: Arc::new(PoolPort::new(pool.clone(), teller.clone(), calls, metrics.clone(), patience)),
        wiring: Arc::new(HostPort::new(hostnet.clone())),
        enforcement: Arc::clone(&enforcer),
    };
    let shape = Shape { veth_prefix: config.veth_prefix.clone(), pod_mtu: config.pod_mtu };
    let endpoints = Arc::new(Endpoints::new(ports, shape));
    let mut view = pool.view();
    let read = beside(tasks, view.wait_for(|view| view.is_ready())).await?;
    drop(read.context("the pool ended while it started")?);
    beside(tasks, recover::recover(&endpoints, &pool, &config, &readiness)).await??;
    readiness.reached(Part::Pool);
    // From now on a pod's route that nobody claims is a leftover.
    let complete = hostnet.clone();
    tokio::task::spawn_blocking(move || complete.pods_complete()).await?;
    tasks.spawn(orphans::links(Arc::clone(&endpoints), vanished, metrics.clone()));
    tasks.spawn(recover::follow_enis(Arc::clone(&endpoints), pool.clone()));
    let record = config.incumbent_checkpoint.clone();
    let unserved = CancellationToken::new();
    let kept = takeover::keep_record(
        record,
        pool.clone(),
        Arc::clone(&endpoints),
        move || presence.serves(),
        unserved.clone(),
    );
    let last_leases = unserved.drop_guard();
    tasks.spawn(async move {
        let ended = kept.await;
        drop(unfinished);
        ended
    });
    tasks.spawn(follow::pool(pool.clone(), metrics.clone()));
    let pace = truth::Pace { period: config.imds_period, lag: config.timing.lag };
    tasks.spawn(truth::metadata(pool.clone(), Arc::clone(&imds), metrics.clone(), pace));
    tasks.spawn(truth::contradicted(pool.clone(), teller.clone()));
    let socket = config.state_dir.join(SOCKET);
    let server = Server {
        endpoints: Arc::clone(&endpoints),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        refusals: server::Refusals::default(),
    };
    let listener =
        server::listen(&socket).with_context(|| format!("{} cannot be opened", socket.display()))?;
    let stopping = stop.clone();
    tasks.spawn(async move {
        let _last_leases = last_leases;
        Arc::new(server).serve(listener, stopping).await;
        "socket"
    });
    readiness.reached(Part::Socket);
    let orphaned = metrics.clone();
    let filled = parts.set(Parts {
        config: config.clone(),
        pool: pool.clone(),
        cluster: cluster.clone(),
        endpoints: Arc::clone(&endpoints),
        enforcer: Arc::clone(&enforcer),
        flows,
        metrics,
    });
    debug_assert!(filled.is_ok(), "set once");

    // Until here nothing needed the Kubernetes API: pods that run have their routes and filters, and can be
    // deleted. What is in force for them stays until the whole of policy is known; no pod comes before.
    let activated = async {
        facts::node(&cluster, &readiness, &config.node_name).await;
        endpoints.name(&recover::local_pods(&cluster, &config.node_name)).await;
        while let Err(refusal) = enforcer.activate().await {
            readiness.lost(Part::Datapath, refusal.to_string());
            tokio::time::sleep(ACTIVATION_PAUSE).await;
        }
    };
    beside(tasks, activated).await?;
    tasks.spawn(follow::cluster(cluster.clone(), Arc::clone(&enforcer)));
    tasks.spawn(follow::filters(Arc::clone(&enforcer)));
    let sandboxes = Arc::clone(&endpoints);
    let patience_with_pods = config.sandbox_patience;
    tasks.spawn(orphans::pods(sandboxes, cluster.clone(), teller.clone(), orphaned, patience_with_pods));
    tasks.spawn(recover::ask_again(endpoints));
    tasks.spawn(follow::policy(enforcer, cluster, readiness.clone()));
    beside(tasks, readiness.wait_ready()).await?;
    install::install_plugin(&plugin_source()?, &config.cni_bin_dir)?;
    let (conf_dir, bin_dir) = (config.cni_conf_dir.clone(), config.cni_bin_dir.clone());
    let has_tcx = crate::datapath::has_tcx();
    if !has_tcx && bin_dir.join("bandwidth").exists() {
        let message = "the kernel has no tcx (Linux 6.6), so that the plugin bandwidth is not chained: pods' bandwidth \
                       annotations have no effect on this node";
        tracing::warn!("{message}");
        teller.node("BandwidthIgnored", message);
    }
    tokio::task::spawn_blocking(move || {
        install::write_conflist(&conf_dir, &bin_dir, &socket, patience, has_tcx)
    })
    .await??;
    tasks.spawn(takeover::displace(hostnet, config.cni_conf_dir.clone(), teller));
    tracing::info!(node = config.node_name, "serving");

    Err(ended_early(tasks.join_next().await))
}

/// What tells our turn at EC2 among all nodes. It is needed before EC2 can be asked about a type that the table does
/// not know; then a common size does.
fn fleet(config: &Config, instance_type: &str) -> k8s::Fleet {
    let limits = ipam_core::InstanceTable::default().find(instance_type).ok().flatten();
    let slots = limits.as_ref().map_or(USUAL_SLOTS, ipam_core::InstanceLimits::slots_per_eni);
    let prefixes = config.pool.prefixes && limits.is_none_or(|limits| limits.prefixes);
    let per_eni = if prefixes { slots * 16 } else { slots };
    let pool = &config.pool;
    let warm = match (pool.warm_ip, pool.minimum_ip) {
        (None, None) if prefixes => pool.warm_prefix * 16,
        (None, None) => pool.warm_eni * slots,
        (warm, _) => warm.unwrap_or(0),
    };
    let shape = ipam_core::Shape { per_eni, uses_primary: config.custom_networking.is_none(), warm };
    k8s::Fleet { account: config.ec2_share, shape }
}

/// What `work` comes to, unless a task ends before it does.
async fn beside<T>(tasks: &mut JoinSet<&'static str>, work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => Ok(done),
        ended = tasks.join_next() => Err(ended_early(ended)),
    }
}

/// Does `work` until `held` is true.
async fn until(mut held: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    let held = async {
        if held.wait_for(|held| *held).await.is_err() {
            // Whoever could say so has ended.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! { () = work => {}, () = held => {} }
}

/// No task ends by itself; when one does the kubelet shall start everything anew.
fn ended_early(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(name)) => anyhow::anyhow!("the task «{name}» ended"),
        Some(Err(error)) => anyhow::Error::new(error).context("a task failed"),
        None => anyhow::anyhow!("no task is left"),
    }
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
    let options = Options {
        audit_all: config.policy_audit.is_of_node(),
        trust_node_addresses: config.trust_node_addresses,
        ..Options::default()
    };
    // Loading takes tens of milliseconds in the kernel.
    let opened = tokio::task::spawn_blocking(move || KernelPort::open(&root, &options)).await?;
    opened.map_err(|error| anyhow::anyhow!("{}", chain(&error)))
}

/// The cluster's leak sweeper, as far as this node has a part in it.
fn sweeper(
    settings: sweep::Settings,
    ec2: Arc<dyn Ec2>,
    cluster: &ClusterHandle,
    namespace: &str,
    metrics: &Metrics,
) -> Sweeper<LeftoversPort, LeasePort> {
    let lease = LeasePort::new(cluster.lease(namespace, sweep::LEASE));
    let cluster = cluster.clone();
    Sweeper::new(settings, LeftoversPort(ec2), lease, metrics.clone(), move |report| {
        if let Some(node) = cluster.node()
            && let Some(message) = report.message()
        {
            cluster.publish_event(k8s::EventSpec {
                object: k8s::EventObject {
                    api_version: "v1",
                    kind: "Node",
                    namespace: String::new(),
                    name: node.name.clone(),
                    uid: Some(node.uid.clone()),
                },
                kind: k8s::EventKind::Normal,
                reason: "LeakedInterfacesDeleted",
                message,
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_ends_whatever_is_waited_for() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        assert_eq!(beside(&mut tasks, async { 5 }).await.expect("no task ended"), 5);
        tasks.spawn(async { "pool" });
        let ended = beside(&mut tasks, std::future::pending::<()>()).await.expect_err("it ended");
        assert!(ended.to_string().contains("pool"), "{ended}");
    }

    #[tokio::test]
    async fn work_is_held_while_aws_node_is_alive() {
        let (alive, returned) = watch::channel(false);
        let work = tokio::spawn(until(returned.clone(), std::future::pending()));
        tokio::task::yield_now().await;
        assert!(!work.is_finished());
        alive.send_replace(true);
        work.await.expect("no panic");
        until(returned, std::future::pending()).await;
    }
}
