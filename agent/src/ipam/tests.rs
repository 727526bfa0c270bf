//! The pool's task against a fake EC2, in paused time.

mod adoption;
mod fake_ec2;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipam_core::{
    EniId, EniRecord, Grant, InstanceTable, Now, Operation, Refusal, SandboxKey, SubnetId, Targets, tags,
};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    BootClock, EniPhase, LeaseError, LeaseRequest, Pool, PoolConfig, PoolView, StateDirs, TruthView,
};
use fake_ec2::{FakeEc2, NEEDED_TAGS, Trouble};

/// One machine: its cloud, its directories, its uptime.
struct Machine {
    ec2: FakeEc2,
    targets: Targets,
    home: TempDir,
    start: Instant,
    boot_id: String,
}

impl Machine {
    fn new(instance_type: &str) -> Self {
        let limits = InstanceTable::default().find(instance_type).expect("readable").expect("known");
        Self {
            ec2: FakeEc2::new(limits.clone()),
            targets: Targets::new(limits, SubnetId::new("subnet-a")),
            home: TempDir::new().expect("temporary directory"),
            start: Instant::now(),
            boot_id: "boot-1".to_owned(),
        }
    }

    /// Starts an agent's pool on a node where every pod that runs has its
    /// lease.
    fn boot(&self) -> Pool {
        let pool = self.boot_unadopted();
        let (reply, _) = tokio::sync::oneshot::channel();
        pool.commands.send(super::task::Command::AdoptionEnded { reply }).expect("the pool runs");
        pool
    }

    /// Starts an agent's pool, and a host that shows every attached ENI's
    /// link a moment later.
    fn boot_unadopted(&self) -> Pool {
        let config = PoolConfig {
            instance: FakeEc2::instance(),
            targets: self.targets.clone(),
            manage_untagged: false,
            cluster: Some("c1".to_owned()),
            extra_tags: BTreeMap::from([("team".to_owned(), "net".to_owned())]),
            queue_patience: Duration::ZERO,
        };
        let dirs = StateDirs { run: self.home.path().join("run"), journal: self.home.path().join("lib") };
        let now = Now::from_millis(5_000_000) + self.start.elapsed();
        let clock = BootClock::at(&*self.boot_id, now);
        let imds = Arc::new(self.ec2.clone());
        let pool = Pool::start_at(config, Arc::new(self.ec2.clone()), imds, &dirs, clock).expect("starts");
        let mut view = pool.view();
        let links = Arc::new(pool.downgrade());
        tokio::spawn(async move {
            let mut told = BTreeSet::new();
            while view.changed().await.is_ok() {
                let attached: Vec<_> = view
                    .borrow_and_update()
                    .enis
                    .iter()
                    .filter(|eni| eni.is_wanted_on_host())
                    .map(|eni| eni.mac)
                    .collect();
                for mac in attached {
                    if told.insert(mac) {
                        let links = Arc::clone(&links);
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(500)).await;
                            links(mac);
                        });
                    }
                }
            }
        });
        pool
    }
}

impl Pool {
    /// Tells of links without keeping the pool alive.
    fn downgrade(&self) -> impl Fn(super::MacAddr) + Send + Sync + 'static {
        let weak = self.commands.downgrade();
        move |mac| {
            if let Some(commands) = weak.upgrade() {
                let _ = commands.send(super::task::Command::Link { mac, ready: true });
            }
        }
    }
}

fn key(number: u32) -> SandboxKey {
    SandboxKey { network: "aws-cni".into(), container_id: format!("pod-{number}"), ifname: "eth0".into() }
}

fn request(number: u32) -> LeaseRequest {
    LeaseRequest { key: key(number), pod: None, deadline: Instant::now() + Duration::from_secs(35) }
}

async fn lease_all(pool: &Pool, numbers: std::ops::Range<u32>) -> Vec<Result<Grant, LeaseError>> {
    let waiting = numbers.map(|number| {
        let pool = pool.clone();
        async move {
            let grant = pool.lease(request(number)).await?;
            assert!(pool.commit(&key(number), "eni0").await);
            Ok(grant)
        }
    });
    futures::future::join_all(waiting).await
}

async fn wait_for(pool: &Pool, what: impl Fn(&PoolView) -> bool) -> Arc<PoolView> {
    let mut view = pool.view();
    view.wait_for(|view| what(view)).await.expect("the pool runs").clone()
}

/// Nothing under way and nothing to do for a while.
async fn rest() {
    tokio::time::sleep(Duration::from_secs(400)).await;
}

fn addresses(grants: &[Result<Grant, LeaseError>]) -> BTreeSet<IpAddr> {
    grants.iter().map(|grant| grant.as_ref().expect("granted").address).collect()
}

#[tokio::test(start_paused = true)]
async fn a_burst_waits_for_one_attach_and_restarts_change_nothing() {
    let machine = Machine::new("m5.large");
    let pool = machine.boot();
    wait_for(&pool, |view| view.counts.free == 9).await;
    let before = machine.ec2.lock().calls.clone();
    let begun = Instant::now();
    let grants = lease_all(&pool, 0..20).await;
    assert_eq!(addresses(&grants).len(), 20);
    // Create, attach, link: 300 ms each but the last, and the gathering.
    assert!(begun.elapsed() < Duration::from_millis(1200), "{:?}", begun.elapsed());
    rest().await;
    let calls = machine.ec2.lock().calls.clone();
    for operation in [Operation::CreateEni, Operation::Attach, Operation::Modify] {
        assert_eq!(calls[&operation], 2, "{calls:?}");
    }
    assert_eq!(calls[&Operation::Assign], before[&Operation::Assign], "{calls:?}");
    for eni in machine.ec2.lock().enis.values().skip(1) {
        assert!(NEEDED_TAGS.iter().all(|tag| eni.tags.contains_key(*tag)), "{:?}", eni.tags);
        assert_eq!(eni.tags.get("team").map(String::as_str), Some("net"));
        assert_eq!(eni.tags.get(tags::CLUSTER).map(String::as_str), Some("c1"));
    }

    for _ in 0..3 {
        drop(pool.clone());
    }
    drop(pool);
    machine.ec2.lock().calls.clear();
    let pool = machine.boot();
    wait_for(&pool, |view| view.counts.leased == 20 && view.counts.free == 7).await;
    let again = pool.lease(request(3)).await.expect("the same answer");
    assert_eq!(Some(again.address), grants[3].as_ref().ok().map(|grant| grant.address));
    rest().await;
    assert_eq!(machine.ec2.lock().mutating_calls(), 0, "{:?}", machine.ec2.lock().calls);
}

#[tokio::test(start_paused = true)]
async fn cooldown_survives_a_restart_but_leases_do_not_survive_a_reboot() {
    let mut machine = Machine::new("t3.small");
    let pool = machine.boot();
    let grants = lease_all(&pool, 0..9).await;
    assert_eq!(addresses(&grants).len(), 9);
    let freed = pool.release(&key(4)).await.expect("it had one");
    let begun = Instant::now();
    drop(pool);

    let pool = machine.boot();
    let grant = pool.lease(request(20)).await.expect("waits for the cooldown");
    assert_eq!(grant.address, freed.address, "the only one left");
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    drop(pool);

    machine.boot_id = "boot-2".to_owned();
    let pool = machine.boot();
    let view = wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    assert_eq!((view.counts.leased, view.counts.cooling), (0, 9), "unknown history cools down");
}

#[tokio::test(start_paused = true)]
async fn without_ec2_the_checkpoint_is_served_where_imds_agrees() {
    let machine = Machine::new("m5.large");
    let pool = machine.boot();
    let grants = lease_all(&pool, 0..3).await;
    wait_for(&pool, |view| view.counts.free > 5).await;
    drop(pool);

    let taken = {
        let mut cloud = machine.ec2.lock();
        cloud.trouble.insert(Operation::DescribeEnis, Trouble::Away);
        let used = addresses(&grants);
        let primary = cloud.enis.values_mut().next().expect("the primary ENI");
        let free = primary.singles.iter().position(|single| !used.contains(single)).expect("one is free");
        primary.singles.remove(free)
    };
    let pool = machine.boot();
    let view = wait_for(&pool, |view| view.truth == TruthView::Checkpoint).await;
    assert_eq!(view.counts.leased, 3);
    assert!(view.last_failure.as_ref().is_some_and(|failure| failure.operation == Operation::DescribeEnis));
    let more = lease_all(&pool, 10..13).await;
    assert!(!addresses(&more).contains(&taken));
    assert!(addresses(&more).is_disjoint(&addresses(&grants)));

    machine.ec2.lock().trouble.clear();
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
}

#[tokio::test(start_paused = true)]
async fn reasons_reach_the_caller() {
    let mut machine = Machine::new("t3.small");
    machine.targets.warm_ip = Some(0);
    let pool = machine.boot();
    wait_for(&pool, PoolView::is_ready).await;
    machine.ec2.lock().trouble.insert(Operation::Assign, Trouble::Denied);
    let error = pool.lease(request(0)).await.expect_err("denied");
    assert_eq!(error.reason(), "permission_denied");
    assert!(error.to_string().contains("AssignPrivateIpAddresses"), "{error}");

    machine.ec2.lock().trouble.insert(Operation::Assign, Trouble::Throttled);
    rest().await;
    let error = pool.lease(request(1)).await.expect_err("throttled");
    assert!(matches!(error, LeaseError::Refused(Refusal::Throttled { .. })), "{error}");
    // The pauses are drawn by lot: about a dozen calls, and hundreds where there were no pauses.
    let calls = machine.ec2.lock().calls[&Operation::Assign];
    assert!(calls < 60, "{calls} calls are hammering");

    machine.ec2.lock().trouble.clear();
    rest().await;
    let grants = lease_all(&pool, 10..19).await;
    assert_eq!(addresses(&grants).len(), 9);
    let error = pool.lease(request(20)).await.expect_err("full");
    assert_eq!(error.reason(), "eni_limit");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_leaves_the_queue_and_takes_no_address() {
    let machine = Machine::new("t3.small");
    let pool = machine.boot();
    lease_all(&pool, 0..9).await;
    let dropped = tokio::time::timeout(Duration::from_secs(5), pool.lease(request(20))).await;
    assert!(dropped.is_err(), "nothing is free");
    wait_for(&pool, |view| view.counts.waiting == 0).await;
    let withdrawn = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.lease(request(21)).await })
    };
    wait_for(&pool, |view| view.counts.waiting == 1).await;
    assert!(pool.release(&key(21)).await.is_none());
    let answer = withdrawn.await.expect("ran");
    assert!(matches!(answer, Err(LeaseError::Withdrawn)), "{answer:?}");

    pool.release(&key(0)).await.expect("it had one");
    rest().await;
    let view = wait_for(&pool, |view| view.counts.waiting == 0).await;
    assert_eq!(view.counts.leased, 8);
}

#[tokio::test(start_paused = true)]
async fn a_provisional_lease_comes_back_at_once_and_a_late_commit_is_refused() {
    let mut machine = Machine::new("t3.small");
    machine.targets.warm_ip = Some(0);
    machine.targets.max_pods = 1;
    let pool = machine.boot();
    let first = pool.lease(request(0)).await.expect("granted");
    assert!(pool.release(&key(0)).await.is_some());
    assert!(!pool.commit(&key(0), "eni0").await, "the lease is gone");
    let second = pool.lease(request(1)).await.expect("granted");
    assert_eq!(first.address, second.address, "it never reached the wire");
}

#[tokio::test(start_paused = true)]
async fn no_lease_without_a_checkpoint() {
    let machine = Machine::new("t3.small");
    let pool = machine.boot();
    wait_for(&pool, |view| view.counts.free == 3).await;
    std::fs::remove_dir_all(machine.home.path().join("run")).expect("removable");
    let error = pool.lease(request(0)).await.expect_err("cannot be written");
    assert_eq!(error.reason(), "state_not_written");
    std::fs::create_dir(machine.home.path().join("run")).expect("creatable");
    let grant = pool.lease(request(0)).await.expect("written now");
    let view = wait_for(&pool, |view| view.counts.leased == 1).await;
    assert!(view.enis.iter().any(|eni| eni.leased.contains(&grant.address)));
}

#[tokio::test(start_paused = true)]
async fn nothing_on_an_eni_without_a_link_is_leased() {
    let machine = Machine::new("t3.small");
    let pool = machine.boot();
    let grants = lease_all(&pool, 0..4).await;
    let last = grants.last().and_then(|grant| grant.as_ref().ok()).expect("granted");
    assert_eq!((last.device_index, last.network_card), (1, 0));
    pool.link_lost(last.mac);
    wait_for(&pool, |view| view.enis.iter().any(|eni| eni.mac == last.mac && !eni.is_linked)).await;
    let grant = pool.lease(request(10)).await.expect("from a third ENI");
    assert_ne!(grant.eni, last.eni);
}

/// A life of a node: it grows for a burst, the pods go, it shrinks.
async fn grow_and_shrink(pool: &Pool) {
    let grants = lease_all(pool, 0..20).await;
    assert_eq!(addresses(&grants).len(), 20);
    for number in 0..20 {
        pool.release(&key(number)).await;
    }
    rest().await;
    rest().await;
}

/// The agent dies after the effect of every single change in turn, and starts
/// again. The points are found by running until none is left.
#[tokio::test(start_paused = true)]
async fn a_crash_after_any_call_leaks_nothing() {
    let mut points = 0;
    for last in 0.. {
        let mut machine = Machine::new("m5.large");
        machine.targets.warm_ip = Some(2);
        machine.ec2.lock().silent_from = Some(last);
        let pool = machine.boot();
        let whole = tokio::time::timeout(Duration::from_secs(1500), async {
            // Until the call that never answers; its pods wait for ever.
            tokio::select! {
                () = grow_and_shrink(&pool) => {}
                () = async { while machine.ec2.lock().mutating_calls() <= last {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                } } => {}
            }
        });
        whole.await.expect("ends");
        let reached = machine.ec2.lock().mutating_calls() > last;
        if !reached {
            break;
        }
        points += 1;
        let held: BTreeMap<SandboxKey, IpAddr> =
            pool.leases().await.into_iter().map(|lease| (lease.key, lease.address)).collect();
        drop(pool);
        machine.ec2.lock().silent_from = None;

        let pool = machine.boot();
        wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
        for lease in pool.leases().await {
            assert_eq!(held.get(&lease.key), Some(&lease.address), "point {last}: running pods keep theirs");
        }
        let more = lease_all(&pool, 100..103).await;
        let in_use: BTreeSet<IpAddr> = pool.leases().await.iter().map(|lease| lease.address).collect();
        assert_eq!(in_use.len(), pool.leases().await.len(), "point {last}: no address twice");
        assert!(addresses(&more).is_subset(&in_use));
        for _ in 0..5 {
            rest().await;
        }
        check_no_leak(&machine, &pool, last);
        let journal =
            std::fs::read_to_string(machine.home.path().join("lib/ec2-intents.jsonl")).expect("readable");
        let lines = |kind: &str| journal.lines().filter(|line| line.contains(kind)).count();
        assert_eq!(lines("\"begin\""), lines("\"end\""), "point {last}: every change has ended\n{journal}");
    }
    // Four in growth for each of two ENIs less one, and the way back.
    assert!(points >= 11, "only {points} crash points");
}

fn check_no_leak(machine: &Machine, pool: &Pool, point: u32) {
    let view = pool.view().borrow().clone();
    let cloud = machine.ec2.lock();
    for eni in cloud.enis.values() {
        let EniRecord { id, attachment, .. } = eni;
        let attachment = attachment.as_ref().unwrap_or_else(|| panic!("point {point}: {id} is loose"));
        assert!(attachment.delete_on_termination, "point {point}: {id} would outlive the instance");
        let known = view.enis.iter().find(|known| known.id == *id);
        let known = known.unwrap_or_else(|| panic!("point {point}: {id} is not known"));
        assert_eq!(known.phase, EniPhase::Attached);
        let at_ec2: BTreeSet<IpAddr> = eni.singles.iter().copied().collect();
        assert_eq!(known.addresses.iter().copied().collect::<BTreeSet<_>>(), at_ec2, "point {point}: {id}");
    }
    let known: BTreeSet<&EniId> = view.enis.iter().map(|eni| &eni.id).collect();
    assert_eq!(known, cloud.enis.keys().collect(), "point {point}");
    assert_eq!(view.counts.free, 2, "point {point}: {:?}", view.counts);
}
