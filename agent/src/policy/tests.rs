use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use policy_core::{Cluster, FindingReason, Step, Tables};
use prometheus_client::registry::Registry;
use rpc::{PodRef, Refusal, SandboxKey};

use super::*;
use crate::endpoint::{Endpoint, Enforcement};
use crate::metrics::Metrics;

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
    /// Links that take no filters.
    refusing: BTreeSet<u32>,
    /// Links with the node agent's filters.
    incumbent: BTreeSet<u32>,
    /// Links with a filter of somebody's before ours.
    foreign: BTreeMap<u32, String>,
    /// Links on which something changed.
    touched: BTreeSet<u32>,
    /// Links that pins outlive.
    pinned: BTreeSet<u32>,
    /// How often a link was looked at.
    looks: usize,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Maps>>);

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

    fn apply(&mut self, step: &Step) -> Result<(), KernelError> {
        let mut maps = self.0.lock().unwrap();
        if maps.failing.take_if(|failing| *failing == step.name()).is_some() {
            return Err("the map is full".into());
        }
        maps.tables.record(step);
        maps.log.push(step.name().to_owned());
        Ok(())
    }

    fn attach(&mut self, binding: &Binding) -> Result<Vec<String>, KernelError> {
        let mut maps = self.0.lock().unwrap();
        if maps.failing.take_if(|failing| *failing == "attach").is_some() {
            return Err("no such device".into());
        }
        if maps.refusing.contains(&binding.end.ifindex) {
            return Err("an ingress qdisc stands there".into());
        }
        maps.filters.insert(binding.end.ifindex, binding.slot);
        maps.incumbent.remove(&binding.end.ifindex);
        let shaped = if binding.egress_shaped { " beside a qdisc" } else { "" };
        maps.log.push(format!("attach {}{shaped}", binding.end.ifname));
        Ok(maps.foreign.get(&binding.end.ifindex).cloned().into_iter().collect())
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
        Ok(Survey {
            ours: maps.filters.get(&binding.end.ifindex) == Some(&binding.slot),
            incumbent: maps.incumbent.contains(&binding.end.ifindex),
            foreign: maps.foreign.get(&binding.end.ifindex).cloned().into_iter().collect(),
        })
    }

    fn touched(&mut self) -> Touched {
        Touched::Links(std::mem::take(&mut self.0.lock().unwrap().touched))
    }

    fn tidy(&mut self) {
        self.0.lock().unwrap().log.push("tidy".to_owned());
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
    drop(first);
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
async fn filters_that_could_not_be_attached_at_the_start_are_tried_again() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    drop(first);

    memory.0.lock().unwrap().filters.clear();
    let second = enforcer(&memory);
    second.attach(endpoint(1, "web")).await.expect("adopted");
    memory.0.lock().unwrap().failing = Some("set_endpoints");
    drop(second.activate().await);
    assert!(second.report().borrow().error.is_some(), "the node is not ready");
    second.cluster_changed().await;
    let mut report = second.report();
    report.wait_for(|report| report.error.is_none()).await.expect("the thread lives");
    assert_eq!(second.slot_of(101).await, Slot::new(1));
}

#[tokio::test]
async fn a_pod_that_ran_before_and_whose_link_takes_no_filters_stops_nobody_else() {
    let memory = Memory::default();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let enforcer = Enforcer::start(memory.clone(), Arc::new(World), metrics).expect("memory");
    enforcer.attach(endpoint(1, "web")).await.expect("adopted");
    enforcer.attach(endpoint(2, "db")).await.expect("adopted");
    memory.0.lock().unwrap().refusing.insert(101);
    enforcer.activate().await.expect("the others are in force");
    assert_eq!(enforcer.slot_of(102).await, Slot::new(2));
    let told = || {
        let report = enforcer.report().borrow().clone();
        assert_eq!(report.error, None, "the node serves");
        let findings = report.findings.iter().filter(|finding| finding.reason == FindingReason::NotFiltered);
        findings.map(|finding| finding.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(), ["web"]);
    // Others come; of them, one that refuses is refused.
    enforcer.attach(endpoint(3, "new")).await.expect("it has nothing to do with it");
    memory.0.lock().unwrap().refusing.insert(104);
    enforcer.attach(endpoint(4, "cache")).await.expect_err("no policy, no pod");
    assert_eq!(told(), ["web"]);
    let text = crate::metrics::render(&registry).expect("memory");
    let line = text.lines().find(|line| line.starts_with("tidepool_policy_findings ")).expect("a metric");
    assert!(!line.ends_with(" 0"), "{line}");

    // It is tried again, and told no more once it takes them.
    enforcer.verify().await;
    assert_eq!(told(), ["web"]);
    memory.0.lock().unwrap().refusing.clear();
    enforcer.verify().await;
    assert_eq!(told(), Vec::<String>::new());
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1));
}

#[tokio::test]
async fn filters_that_somebody_removes_are_put_back_and_counted() {
    let memory = Memory::default();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let enforcer = Enforcer::start(memory.clone(), Arc::new(World), metrics).expect("memory");
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.filters.clear();
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1));
    let text = crate::metrics::render(&registry).expect("memory");
    assert!(text.contains("tidepool_host_repairs_total{reason=\"filter\"} 1"), "{text}");
}

#[tokio::test]
async fn a_link_that_went_with_its_pod_makes_nobody_unready() {
    let memory = Memory::default();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let enforcer = Enforcer::start(memory.clone(), Arc::new(World), metrics).expect("memory");
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.filters.clear();
        maps.gone.insert(101);
        maps.failing = Some("attach");
    }
    enforcer.verify().await;
    enforcer.attach(endpoint(2, "db")).await.expect_err("its own attach fails");
    enforcer.attach(endpoint(2, "db")).await.expect("others come and go");
    assert_eq!(enforcer.report().borrow().error, None);
    let text = crate::metrics::render(&registry).expect("memory");
    assert!(!text.contains("reason=\"filter\""), "nothing was repaired: {text}");
}

#[tokio::test]
async fn pods_that_run_without_a_lease_are_left_in_force_and_nothing_is_served() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    drop(first);
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
async fn flows_of_pods_that_ran_before_are_known_before_their_filters_and_again_after() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.attach(endpoint(1, "web")).await.expect("adopted");
    enforcer.attach(endpoint(2, "db")).await.expect("adopted");
    // The second has ours already, from an agent before this one; of the first nothing is known.
    memory.0.lock().unwrap().filters.insert(102, Slot::new(2).expect("a slot"));
    enforcer.activate().await.expect("nothing fails");
    let log = memory.log();
    let steps: Vec<_> = log.iter().map(String::as_str).filter(|step| !step.starts_with("bind")).collect();
    let place = |wanted: &str| steps.iter().position(|step| *step == wanted).expect(wanted);
    assert!(place("inherit {1}") < place("attach eni1"), "{steps:?}");
    assert!(steps.ends_with(&["attach eni1", "attach eni2", "inherit {1}", "tidy"]), "{steps:?}");
    // A newcomer has no flows.
    enforcer.attach(endpoint(3, "new")).await.expect("nothing fails");
    assert!(memory.log().iter().all(|step| !step.starts_with("inherit")));
}

#[tokio::test]
async fn a_pod_keeps_what_filters_it_has_while_its_flows_cannot_be_read() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.attach(endpoint(1, "web")).await.expect("adopted");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.incumbent.insert(101);
        maps.failing = Some("inherit");
    }
    enforcer.activate().await.expect("it serves others");
    let reasons = || {
        let report = enforcer.report().borrow().clone();
        let reasons = report.findings.iter().map(|finding| finding.reason);
        reasons.filter(|reason| *reason != FindingReason::UnknownPod).collect::<Vec<_>>()
    };
    assert_eq!((enforcer.slot_of(101).await, reasons()), (None, vec![FindingReason::NotFiltered]));
    assert!(memory.0.lock().unwrap().incumbent.contains(&101), "the node agent's stay");
    enforcer.verify().await;
    assert_eq!((enforcer.slot_of(101).await, reasons()), (Slot::new(1), vec![]));
    assert!(memory.0.lock().unwrap().incumbent.is_empty());
}

#[tokio::test]
async fn a_node_agent_that_comes_back_is_replaced_again() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    memory.log();
    {
        let mut maps = memory.0.lock().unwrap();
        maps.incumbent.insert(101);
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!(memory.log(), ["inherit {1}", "attach eni1", "inherit {1}", "tidy"]);
}

#[tokio::test]
async fn filters_of_others_are_told_until_they_go_and_links_are_looked_at_only_when_they_change() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    let told = || {
        let report = enforcer.report().borrow().clone();
        let reasons = report.findings.iter().map(|finding| (finding.reason, finding.name.to_string()));
        reasons.filter(|(reason, _)| *reason != FindingReason::UnknownPod).collect::<Vec<_>>()
    };
    let looks = || std::mem::take(&mut memory.0.lock().unwrap().looks);
    enforcer.verify().await;
    looks();
    enforcer.verify().await;
    assert_eq!((looks(), told()), (0, vec![]), "nothing changed");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.foreign.insert(101, "a filter of somebody".to_owned());
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!((looks(), told()), (1, vec![(FindingReason::ForeignFilter, "web".to_owned())]));
    enforcer.cluster_changed().await;
    enforcer.verify().await;
    assert_eq!(told().len(), 1, "still there");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.foreign.clear();
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!(told(), vec![]);
}

#[tokio::test]
async fn a_pod_that_the_bandwidth_plugin_will_shape_is_filtered_beside_its_qdisc() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(Endpoint { egress_shaped: true, ..endpoint(1, "web") }).await.expect("nothing fails");
    assert!(memory.log().contains(&"attach eni1 beside a qdisc".to_owned()));
}

#[tokio::test]
async fn what_a_link_leaves_behind_goes_after_the_link() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    memory.0.lock().unwrap().pinned.insert(101);
    enforcer.detach(&endpoint(1, "web")).await;
    let asked = || memory.log().into_iter().filter(|step| step == "forget 101").count();
    assert_eq!(asked(), 1);
    enforcer.verify().await;
    assert_eq!(asked(), 1, "the link is still there");
    memory.0.lock().unwrap().pinned.clear();
    enforcer.verify().await;
    enforcer.verify().await;
    assert_eq!(asked(), 1, "and then nobody asks any more");
}
