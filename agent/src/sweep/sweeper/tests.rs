//! The loops against a cloud and a Lease in memory, on a paused clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use ipam_core::{EniId, EniKind, EniRecord, EniStatus, InstanceId, MacAddr, Operation, SubnetId, tags};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{Report, Sweeper};
use crate::ec2::{Ec2Error, Ec2Result};
use crate::metrics::Metrics;
use crate::rfc3339;
use crate::sweep::{Kept, LeaseRecord, LeaseStore, LeaseTerms, Leftovers, Reply, Request, Settings};

const CLUSTER: &str = "blue";
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct World {
    enis: BTreeMap<EniId, EniRecord>,
    living: BTreeSet<InstanceId>,
    /// Errors of the next deletes: status and code.
    refusals: VecDeque<(u16, &'static str)>,
    /// Each delete and each tag that was asked for, by whom and when.
    changes: Vec<(String, EniId, Instant)>,
    describes: Vec<Instant>,
    asked_for: Vec<BTreeSet<InstanceId>>,
    lease: Option<LeaseRecord>,
    version: u64,
    /// Whether the API server is away.
    is_silent: bool,
    reports: Vec<Report>,
}

impl World {
    fn add(&mut self, id: &str, instance: &str, age: Option<Duration>) {
        let mut tags = BTreeMap::from([
            (tags::CLUSTER.to_owned(), CLUSTER.to_owned()),
            (tags::INSTANCE_ID.to_owned(), instance.to_owned()),
        ]);
        if let Some(age) = age {
            tags.insert(tags::CREATED_AT.to_owned(), rfc3339::write(SystemTime::now() - age));
        }
        let eni = EniRecord {
            id: EniId::new(id),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            subnet: SubnetId::new("subnet-a"),
            kind: EniKind::Interface,
            status: EniStatus::Available,
            attachment: None,
            primary_ip: std::net::IpAddr::from([10, 0, 0, 5]),
            singles: Vec::new(),
            prefixes: Vec::new(),
            groups: BTreeSet::new(),
            tags,
            requester_managed: false,
        };
        self.enis.insert(eni.id.clone(), eni);
    }

    fn add_leaked(&mut self, count: u32) {
        for number in 0..count {
            self.add(&format!("eni-{number:04}"), "i-gone", Some(HOUR));
        }
    }
}

/// The world as one node sees it.
#[derive(Clone)]
struct Shared {
    node: String,
    world: Arc<Mutex<World>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics inside")
    }
}

impl Leftovers for Shared {
    fn unattached<'a>(&'a self, cluster: &'a str, vpc: &'a str) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(async move {
            assert_eq!((cluster, vpc), (CLUSTER, "vpc-1"));
            let mut world = self.lock();
            world.describes.push(Instant::now());
            Ok(world.enis.values().cloned().collect())
        })
    }

    fn living<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>> {
        Box::pin(async move {
            let mut world = self.lock();
            world.asked_for.push(instances.clone());
            Ok(instances.intersection(&world.living).cloned().collect())
        })
    }

    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            let mut world = self.lock();
            world.changes.push((self.node.clone(), eni.clone(), Instant::now()));
            if let Some((status, code)) = world.refusals.pop_front() {
                return Err(Ec2Error::answered(Operation::DeleteEni, status, code, ""));
            }
            world.enis.remove(eni);
            Ok(())
        })
    }

    fn date<'a>(&'a self, eni: &'a EniId, created_at: String) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            let mut world = self.lock();
            world.changes.push((self.node.clone(), eni.clone(), Instant::now()));
            if let Some(eni) = world.enis.get_mut(eni) {
                eni.tags.insert(tags::CREATED_AT.to_owned(), created_at);
            }
            Ok(())
        })
    }
}

impl LeaseStore for Shared {
    fn ask<'a>(&'a self, request: &'a Request, terms: &'a LeaseTerms) -> BoxFuture<'a, Reply> {
        Box::pin(async move {
            let is_silent = self.lock().is_silent;
            if is_silent {
                sleep(terms.patience).await;
                return Reply::Failed;
            }
            let mut world = self.lock();
            let transitions = match (request, &world.lease) {
                (Request::Read, Some(lease)) => return Reply::Found(lease.clone()),
                (Request::Read | Request::Write(_), None) => return Reply::Absent,
                (Request::Create, None) => 0,
                (Request::Write(seen), Some(lease)) if seen.version == lease.version => lease.transitions + 1,
                (Request::Create | Request::Write(_), Some(_)) => return Reply::Conflict,
            };
            world.version += 1;
            let lease = LeaseRecord {
                holder: Some(terms.holder.clone()),
                duration: Some(terms.duration),
                transitions,
                version: world.version.to_string(),
            };
            Reply::Written(world.lease.insert(lease).clone())
        })
    }
}

/// A node's sweeper at work, with its metrics.
struct Node {
    metrics: Metrics,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(world: &Arc<Mutex<World>>, node: &str) -> Node {
    let shared = Shared { node: node.to_owned(), world: Arc::clone(world) };
    let settings = Settings {
        node: node.to_owned(),
        cluster: CLUSTER.to_owned(),
        vpc: "vpc-1".to_owned(),
        period: HOUR,
        give_up_after: Duration::from_secs(60),
    };
    let metrics = Metrics::new(&mut Registry::default());
    let told = Arc::clone(world);
    let sweeper = Sweeper::new(settings, shared.clone(), shared, metrics.clone(), move |report| {
        told.lock().expect("no test panics inside").reports.push(report.clone());
    });
    Node { metrics, task: tokio::spawn(sweeper.run()) }
}

fn world(fill: impl FnOnce(&mut World)) -> Arc<Mutex<World>> {
    let mut world = World::default();
    fill(&mut world);
    Arc::new(Mutex::new(world))
}

fn look(world: &Arc<Mutex<World>>) -> MutexGuard<'_, World> {
    world.lock().expect("no test panics inside")
}

#[tokio::test(start_paused = true)]
async fn one_of_two_sweeps_and_the_other_follows_it() {
    let world = world(|world| world.add_leaked(3));
    let nodes = ["node-1", "node-2"].map(|name| (name, start(&world, name)));
    sleep(HOUR * 3).await;
    let holder =
        look(&world).lease.as_ref().and_then(|lease| lease.holder.clone()).expect("somebody holds it");
    for (name, node) in &nodes {
        let (deleted, holds) = (node.metrics.leaked_enis_deleted.get(), node.metrics.leak_sweeper.get());
        assert_eq!((deleted, holds), if *name == holder { (3, 1) } else { (0, 0) }, "{name}");
    }
    let sweeps = look(&world).describes.len();
    assert!((3..=4).contains(&sweeps), "{sweeps} sweeps in three hours");
    assert!(look(&world).changes.iter().all(|(by, ..)| *by == holder));

    for (name, node) in &nodes {
        if *name == holder {
            node.task.abort();
        }
    }
    look(&world).add_leaked(2);
    sleep(HOUR).await;
    let other = nodes.iter().find(|(name, _)| *name != holder).expect("two of them");
    assert_eq!((other.1.metrics.leaked_enis_deleted.get(), other.1.metrics.leak_sweeper.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_does_what_the_plan_says_and_tells_it() {
    let world = world(|world| {
        world.add_leaked(7);
        world.add("eni-young", "i-gone", Some(Duration::from_secs(30)));
        world.add("eni-living", "i-lives", Some(Duration::from_secs(600)));
        world.add("eni-undated", "i-gone", None);
        world.living.insert(InstanceId::new("i-lives"));
    });
    let _node = start(&world, "node-1");
    sleep(Duration::from_secs(600)).await;
    let state = look(&world);
    let left: Vec<&str> = state.enis.keys().map(EniId::as_str).collect();
    assert_eq!(left, ["eni-living", "eni-undated", "eni-young"]);
    assert!(state.enis[&EniId::new("eni-undated")].tags.contains_key(tags::CREATED_AT));
    assert_eq!(state.asked_for, [["i-gone", "i-lives"].map(InstanceId::new).into()]);
    let [report] = state.reports.as_slice() else { panic!("{:?}", state.reports) };
    assert_eq!((report.found, report.deleted.len(), report.failed), (10, 7, 0));
    assert_eq!(report.dated, [EniId::new("eni-undated")]);
    assert_eq!(report.kept, BTreeMap::from([(Kept::Undated, 1), (Kept::Young, 1), (Kept::Living, 1)]));
    let message = report.message().expect("something is gone");
    assert!(message.starts_with("deleted 7 network interface(s)") && message.ends_with(", …"), "{message}");
    let moments: Vec<Instant> = state.changes.iter().map(|(.., at)| *at).collect();
    let gaps = moments.windows(2).map(|two| two[1] - two[0]);
    assert!(gaps.min().is_some_and(|least| least >= Duration::from_millis(500)), "{moments:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_to_delete_is_one_call() {
    let world = world(|world| world.add("eni-young", "i-gone", Some(Duration::from_secs(30))));
    let _node = start(&world, "node-1");
    sleep(Duration::from_secs(600)).await;
    let state = look(&world);
    assert_eq!((state.describes.len(), state.asked_for.len(), state.changes.len()), (1, 0, 0));
    assert_eq!(state.reports[0].message(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_stops_a_sweep_between_two_deletes() {
    // A sweep of 1,000 seconds; the Lease is renewed every 200.
    type Loss = fn(&mut World);
    let cases: [(&str, Loss, std::ops::Range<usize>); 2] = [
        (
            "another one has it",
            |world| {
                let lease = world.lease.as_mut().expect("held");
                lease.holder = Some("other".to_owned());
                lease.version = "stolen".to_owned();
            },
            // Until the renewal, which finds out.
            200..450,
        ),
        // Until two thirds of it are over.
        ("the API server is away", |world| world.is_silent = true, 600..805),
    ];
    for (what, loss, deletes) in cases {
        let world = world(|world| world.add_leaked(2000));
        let node = start(&world, "node-1");
        while look(&world).changes.is_empty() {
            sleep(Duration::from_secs(1)).await;
        }
        loss(&mut look(&world));
        sleep(Duration::from_secs(590)).await;
        let done = look(&world).changes.len();
        assert!(deletes.contains(&done), "{what}: {done} deletes");
        assert_eq!(node.metrics.leak_sweeper.get(), 0, "{what}");
        assert_eq!(node.metrics.leak_sweeps_cut.get(), 1, "{what}");
        assert_eq!(look(&world).reports[0].deleted.len(), done, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals() {
    // Refusals of the first deletes of three; then: deletes asked for, ENIs counted as deleted and as failed, and
    // sweeps cut short, in half an hour.
    type Refusals = &'static [(u16, &'static str)];
    const THROTTLE: (u16, &str) = (503, "RequestLimitExceeded");
    let cases: [(&str, Refusals, [u64; 4]); 6] = [
        ("none", &[], [3, 3, 0, 0]),
        ("its node was first", &[(400, "InvalidNetworkInterfaceID.NotFound")], [3, 2, 0, 0]),
        ("its node attached it", &[(400, "InvalidNetworkInterface.InUse")], [3, 2, 0, 0]),
        ("a throttle that passes", &[THROTTLE; 4], [7, 3, 0, 0]),
        // Tried again after some minutes.
        ("a throttle that stays", &[THROTTLE; 5], [8, 3, 0, 1]),
        ("what no class fits", &[(400, "SomethingNew")], [3, 2, 1, 0]),
    ];
    for (what, refusals, expected) in cases {
        let world = world(|world| {
            world.add_leaked(3);
            world.refusals = refusals.iter().copied().collect();
        });
        let node = start(&world, "node-1");
        sleep(Duration::from_secs(1500)).await;
        let metrics = &node.metrics;
        let counts = [
            look(&world).changes.len() as u64,
            metrics.leaked_enis_deleted.get(),
            metrics.leaked_enis_failed.get(),
            metrics.leak_sweeps_cut.get(),
        ];
        assert_eq!(counts, expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_ends_the_sweep() {
    let world = world(|world| {
        world.add_leaked(50);
        world.refusals = VecDeque::from([(403, "UnauthorizedOperation"); 1000]);
    });
    let node = start(&world, "node-1");
    sleep(HOUR).await;
    // One attempt in each sweep, and these come every few minutes.
    let state = look(&world);
    let (sweeps, asked) = (state.describes.len(), state.changes.len());
    assert!(sweeps == asked && (6..=25).contains(&sweeps), "{sweeps} sweeps, {asked} deletes");
    assert_eq!(node.metrics.leak_sweeps_cut.get(), sweeps as u64);
}
