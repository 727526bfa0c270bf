mod filters;
mod numbered;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use policy_core::{Cluster, Step, Tables};
use prometheus_client::registry::Registry;
use rpc::{PodRef, Refusal, SandboxKey};

use super::*;
use crate::endpoint::{Endpoint, Enforcement};
use crate::metrics::Metrics;

/// What is told of the node agent's filters.
const AHEAD: &str = "a filter of the node agent";

/// Long enough for the busiest machine; no test waits it out unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Maps in memory.
#[derive(Default)]
struct Maps {
    tables: Tables,
    filters: BTreeMap<u32, Slot>,
    log: Vec<String>,
    /// Links that are gone.
    gone: BTreeSet<u32>,
    /// Slots whose links live.
    living: BTreeSet<u32>,
    failing: Option<&'static str>,
    /// The next entry that is written after so many is refused.
    written_until: Option<usize>,
    /// The last step that was refused.
    refused: Option<&'static str>,
    /// The most port entries that there is room for; 0: no limit.
    most_ports: usize,
    /// Links that take no filters.
    refusing: BTreeSet<u32>,
    /// Links with the node agent's filters.
    incumbent: BTreeSet<u32>,
    /// Links with a filter of somebody's before ours.
    foreign: BTreeMap<u32, String>,
    /// Links on which something changed.
    touched: BTreeSet<u32>,
    /// Links that cannot be looked at.
    blind: BTreeSet<u32>,
    /// Links that pins outlive.
    pinned: BTreeSet<u32>,
    /// How often a link was looked at.
    looks: usize,
    /// Programs that began a while ago have not ended yet.
    programs_run: bool,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Maps>>, Arc<Condvar>);

impl Memory {
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }
}

impl Kernel for Memory {
    fn installed(&mut self) -> Result<(Tables, u32), KernelError> {
        let tables = self.0.lock().unwrap().tables.clone();
        let last_epoch = tables.endpoints.values().map(|sets| sets.epoch).max().unwrap_or(0);
        Ok((tables, last_epoch))
    }

    fn bind(&mut self, binding: &Binding) -> Result<(), KernelError> {
        self.0.lock().unwrap().log.push(format!("bind {}", binding.slot.number()));
        Ok(())
    }

    fn clear(&mut self, slot: u32) -> Result<(), KernelError> {
        let mut maps = self.0.lock().unwrap();
        maps.tables.endpoints.remove(&slot);
        maps.log.push(format!("clear {slot}"));
        Ok(())
    }

    fn apply(&mut self, step: &Step) -> Result<(), Unfinished> {
        let mut maps = self.0.lock().unwrap();
        let mut room = step.len();
        if maps.failing.take_if(|failing| *failing == step.name()).is_some() {
            room = 0;
        }
        if let Some(left) = maps.written_until {
            room = room.min(left);
            maps.written_until = (room == step.len()).then(|| left - room);
        }
        if let (Step::AddPorts(list), 1..) = (step, maps.most_ports) {
            let ports = &maps.tables.ports;
            let mut used = ports.len();
            let place = list.iter().position(|(key, _)| {
                used += usize::from(!ports.contains_key(key));
                used > maps.most_ports
            });
            room = room.min(place.unwrap_or(list.len()));
        }
        if room < step.len() {
            maps.refused = Some(step.name());
            maps.tables.record(&step.prefix(room));
            return Err(Unfinished { done: room, error: "the map is full".into() });
        }
        maps.tables.record(step);
        maps.log.push(step.name().to_owned());
        Ok(())
    }

    fn grace(&self) -> Box<dyn FnMut() -> Result<(), KernelError> + Send> {
        let (maps, ended) = (Arc::clone(&self.0), Arc::clone(&self.1));
        Box::new(move || {
            let running = ended.wait_while(maps.lock().unwrap(), |maps| maps.programs_run).unwrap();
            drop(running);
            Ok(())
        })
    }

    fn attach(&mut self, binding: &Binding, take_over: bool) -> Result<Attached, KernelError> {
        let mut maps = self.0.lock().unwrap();
        if maps.failing.take_if(|failing| *failing == "attach").is_some() {
            return Err("no such device".into());
        }
        if maps.refusing.contains(&binding.end.ifindex) {
            return Err("an ingress qdisc stands there".into());
        }
        maps.filters.insert(binding.end.ifindex, binding.slot);
        if take_over {
            maps.incumbent.remove(&binding.end.ifindex);
        }
        let shaped = if binding.egress_shaped { " beside a qdisc" } else { "" };
        maps.log.push(format!("attach {}{shaped}", binding.end.ifname));
        let foreign = maps.foreign.get(&binding.end.ifindex).cloned().into_iter();
        let ahead = maps.incumbent.contains(&binding.end.ifindex).then(|| AHEAD.to_owned());
        Ok(Attached { foreign: foreign.chain(ahead).collect(), by_tcx: binding.egress_shaped })
    }

    fn inherit(&mut self, slots: &BTreeSet<u32>) -> Result<usize, KernelError> {
        let mut maps = self.0.lock().unwrap();
        maps.log.push(format!("inherit {slots:?}"));
        if maps.failing.take_if(|failing| *failing == "inherit").is_some() {
            return Err("connections are not tracked".into());
        }
        Ok(1)
    }

    fn look(&mut self, binding: &Binding) -> Result<Survey, KernelError> {
        let mut maps = self.0.lock().unwrap();
        maps.looks += 1;
        if maps.blind.contains(&binding.end.ifindex) {
            return Err("the kernel is busy".into());
        }
        Ok(Survey {
            ours: maps.filters.get(&binding.end.ifindex) == Some(&binding.slot),
            incumbent: maps.incumbent.contains(&binding.end.ifindex),
            ahead: maps
                .incumbent
                .contains(&binding.end.ifindex)
                .then(|| AHEAD.to_owned())
                .into_iter()
                .collect(),
            foreign: maps.foreign.get(&binding.end.ifindex).cloned().into_iter().collect(),
        })
    }

    fn touched(&mut self) -> Touched {
        Touched::Links(std::mem::take(&mut self.0.lock().unwrap().touched))
    }

    fn leads(&mut self, ifindex: u32) -> bool {
        self.0.lock().unwrap().filters.contains_key(&ifindex)
    }

    fn tidy(&mut self) {
        self.0.lock().unwrap().log.push("tidy".to_owned());
    }

    fn unpin_incumbent(&mut self) {
        self.0.lock().unwrap().log.push("unpin".to_owned());
    }

    fn lives(&mut self, ifindex: u32) -> bool {
        !self.0.lock().unwrap().gone.contains(&ifindex)
    }

    fn forget(&mut self, ifindex: u32) -> bool {
        let mut maps = self.0.lock().unwrap();
        maps.log.push(format!("forget {ifindex}"));
        maps.pinned.contains(&ifindex)
    }

    fn unclaimed(&mut self, claimed: &BTreeSet<u32>) -> Result<Vec<String>, KernelError> {
        let maps = self.0.lock().unwrap();
        let slots = maps.tables.endpoints.keys().filter(|slot| !claimed.contains(slot));
        Ok(slots.filter(|slot| maps.living.contains(slot)).map(|slot| format!("eni{slot}")).collect())
    }

    fn bound_to(&mut self, ifindex: u32) -> Vec<(u32, Vec<IpAddr>)> {
        // As `endpoint` below numbers them.
        let slot = ifindex - 100;
        let present = self.0.lock().unwrap().tables.endpoints.contains_key(&slot);
        present.then(|| (slot, vec![IpAddr::from([10, 0, 0, 1])])).into_iter().collect()
    }

    fn slot_of(&mut self, ifindex: u32) -> Option<Slot> {
        self.0.lock().unwrap().filters.get(&ifindex).copied()
    }

    fn counters(&mut self) -> Vec<PacketCount> {
        vec![PacketCount { direction: "to_pod", reason: "allowed", packets: 3, bytes: 300 }]
    }
}

struct World;

impl ClusterSource for World {
    fn snapshot(&self) -> Arc<Cluster> {
        Arc::default()
    }

    async fn ensure_pod(&self, pod: &PodRef, _: Duration) -> Result<(), Refusal> {
        if pod.name == "unknown" {
            return Err(Refusal::retryable(11, "pod-unknown", "the API does not know it"));
        }
        Ok(())
    }
}

fn enforcer(memory: &Memory) -> Enforcer<World> {
    Enforcer::start(memory.clone(), Arc::new(World), Metrics::new(&mut Registry::default())).expect("memory")
}

/// Ends an agent; returns when none of its threads touches the maps any more.
fn end<C: ClusterSource>(enforcer: Enforcer<C>, memory: &Memory) {
    drop(enforcer);
    let alone = || (Arc::strong_count(&memory.0) == 1).then_some(());
    kernel_test::wait_for("its threads end", PATIENCE, alone).expect("they end");
}

/// Returns when what nobody needs has left the maps.
async fn settle<C: ClusterSource>(enforcer: &Enforcer<C>) {
    let until = Instant::now() + PATIENCE;
    while enforcer.look(|all| all.leaving).await.expect("a thread") {
        assert!(Instant::now() < until, "it stays");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn endpoint(number: u16, name: &str) -> Endpoint {
    Endpoint {
        key: SandboxKey {
            network: "aws-cni".into(),
            container_id: format!("c{number}"),
            ifname: "eth0".into(),
        },
        slot: Slot::new(number).expect("a slot"),
        pod: Some(PodRef { namespace: "shop".into(), name: name.into(), uid: None }),
        address: IpAddr::from([10, 0, 0, number.to_be_bytes()[1]]),
        end: HostEnd {
            ifname: format!("eni{number}"),
            ifindex: u32::from(number) + 100,
            host_mac: [2; 6],
            pod_mac: [2; 6],
        },
        egress_shaped: false,
    }
}

#[tokio::test]
async fn a_newcomer_is_closed_then_judged_then_filtered() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    memory.log();
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    let log = memory.log();
    let place =
        |what: &str| log.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what} in {log:?}"));
    assert!(
        place("bind 1") < place("set_endpoints") && place("set_endpoints") < place("attach eni1"),
        "{log:?}"
    );
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1));
    assert_eq!(enforcer.report().borrow().local.len(), 1);
}

#[tokio::test]
async fn a_newcomer_that_cannot_be_filtered_is_refused_and_forgotten() {
    for failing in ["set_endpoints", "attach"] {
        let memory = Memory::default();
        let enforcer = enforcer(&memory);
        enforcer.activate().await.expect("nothing to compile");
        memory.0.lock().unwrap().failing = Some(failing);
        let refusal = enforcer.attach(endpoint(1, "web")).await.expect_err("a step fails");
        assert!(refusal.retryable && refusal.reason == "policy-not-applied", "{refusal:?}");
        assert!(memory.0.lock().unwrap().tables.endpoints.is_empty(), "{failing} left an endpoint");
        enforcer.attach(endpoint(1, "web")).await.expect("the second try");
    }
}

#[tokio::test]
async fn a_pod_that_the_api_does_not_know_is_refused() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    let refusal = enforcer.attach(endpoint(1, "unknown")).await.expect_err("no labels, no policy, no pod");
    assert_eq!(refusal.reason, "pod-unknown");
    assert!(memory.0.lock().unwrap().filters.is_empty());
}

#[tokio::test]
async fn a_restart_leaves_in_force_what_lives_and_empties_what_is_gone() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    first.attach(endpoint(2, "db")).await.expect("nothing fails");
    end(first, &memory);
    memory.log();

    let second = enforcer(&memory);
    second.attach(endpoint(1, "web")).await.expect("adopted");
    assert_eq!(memory.log(), Vec::<String>::new(), "nothing is written before all are known");
    second.activate().await.expect("nothing fails");
    let log = memory.log();
    assert!(log.contains(&"clear 2".to_owned()), "{log:?}");
    assert!(log.contains(&"attach eni1".to_owned()), "its programs are replaced in place: {log:?}");
}

#[tokio::test]
async fn what_a_take_over_leaves_to_be_moved_is_moved_before_any_change() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    end(first, &memory);

    let second = enforcer(&memory);
    second.attach(endpoint(1, "web")).await.expect("adopted");
    second.activate().await.expect("nothing fails");
    second.count().await;
    let log = memory.log();
    let place =
        |what: &str| log.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what} in {log:?}"));
    assert!(place("set_endpoints") < place("grace") && place("grace") < place("remove_rows"), "{log:?}");
    settle(&second).await;
    memory.log();
    second.cluster_changed(Instant::now()).await;
    // Answered after the compilation.
    second.detach(&endpoint(99, "nobody")).await;
    settle(&second).await;
    assert_eq!(memory.log(), Vec::<String>::new(), "nothing changed");
    assert_eq!(
        second.changes().after(0).len(),
        1,
        "the start is one change, and nobody's address had to be moved"
    );
}

#[tokio::test]
async fn pods_that_run_without_a_lease_are_left_in_force_and_nothing_is_served() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    end(first, &memory);
    memory.0.lock().unwrap().living.insert(1);

    let second = enforcer(&memory);
    let refusal = second.activate().await.expect_err("its lease was lost");
    assert!(refusal.message.contains("eni1") && refusal.reason == "leases-lost", "{refusal}");
    assert!(memory.0.lock().unwrap().tables.endpoints.contains_key(&1), "it stays in force");

    // What an ADD left that an agent did not live to finish is nobody's.
    assert_eq!(second.addresses_of(101).await, [IpAddr::from([10, 0, 0, 1])]);
    second.discard(101).await;
    second.activate().await.expect("nothing is lost");
    second.attach(endpoint(1, "web")).await.expect("nothing fails");
    second.discard(101).await;
    assert!(memory.0.lock().unwrap().tables.endpoints.contains_key(&1), "an endpoint's slot is not");
}

#[tokio::test]
async fn a_slot_whose_link_changed_hands_is_not_emptied_by_its_former_owner() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    let mut former = endpoint(1, "web");
    former.end.ifindex = 55;
    enforcer.detach(&former).await;
    assert!(memory.0.lock().unwrap().tables.endpoints.contains_key(&1));
    enforcer.detach(&endpoint(1, "web")).await;
    assert!(memory.0.lock().unwrap().tables.endpoints.is_empty());
}

#[tokio::test]
async fn nobody_waits_for_programs_to_end_and_what_is_used_again_stays() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    memory.0.lock().unwrap().programs_run = true;
    enforcer.detach(&endpoint(1, "web")).await;
    // What it left is what this one needs.
    enforcer.attach(endpoint(2, "web")).await.expect("nothing fails");
    assert!(!memory.0.lock().unwrap().tables.rows.is_empty());
    let end_programs = || {
        memory.0.lock().unwrap().programs_run = false;
        memory.1.notify_all();
    };
    end_programs();
    settle(&enforcer).await;
    enforcer.attach(endpoint(3, "web")).await.expect("nothing fails");
    settle(&enforcer).await;
    assert!(!memory.log().contains(&"remove_rows".to_owned()));

    enforcer.detach(&endpoint(2, "web")).await;
    enforcer.detach(&endpoint(3, "web")).await;
    settle(&enforcer).await;
    assert!(memory.0.lock().unwrap().tables.rows.is_empty(), "what nobody needs goes");
}

#[tokio::test]
async fn counters_reach_the_metrics() {
    let memory = Memory::default();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let enforcer = Enforcer::start(memory, Arc::new(World), metrics).expect("memory");
    enforcer.count().await;
    enforcer.count().await;
    let text = crate::metrics::render(&registry).expect("memory");
    assert!(text.contains("tidepool_packets_total{direction=\"to_pod\",reason=\"allowed\"} 3"), "{text}");
}

#[tokio::test]
async fn a_pod_that_the_bandwidth_plugin_will_shape_is_filtered_beside_its_qdisc() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(Endpoint { egress_shaped: true, ..endpoint(1, "web") }).await.expect("nothing fails");
    assert!(memory.log().contains(&"attach eni1 beside a qdisc".to_owned()));
}
