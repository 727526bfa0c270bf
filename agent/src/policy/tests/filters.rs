//! Filters that others touch, and pods that ran before.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_core::FindingReason;
use prometheus_client::registry::Registry;

use super::{Memory, World, end, endpoint, enforcer, settle};
use crate::endpoint::{Endpoint, Enforcement, Slot};
use crate::metrics::Metrics;
use crate::policy::Enforcer;

#[tokio::test]
async fn filters_that_could_not_be_attached_at_the_start_are_tried_again() {
    let memory = Memory::default();
    let first = enforcer(&memory);
    first.activate().await.expect("nothing to compile");
    first.attach(endpoint(1, "web")).await.expect("nothing fails");
    end(first, &memory);

    memory.0.lock().unwrap().filters.clear();
    let second = enforcer(&memory);
    second.attach(endpoint(1, "web")).await.expect("adopted");
    memory.0.lock().unwrap().failing = Some("set_endpoints");
    drop(second.activate().await);
    assert!(second.report().borrow().error.is_some(), "the node is not ready");
    second.cluster_changed(std::time::Instant::now()).await;
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
        let findings = report.filters.iter().filter(|finding| finding.reason == FindingReason::NotFiltered);
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
    assert!(place("tidy") < place("unpin"), "{steps:?}");
    let last = ["attach eni2", "inherit {1}", "attach eni1", "inherit {1}", "unpin"];
    assert!(steps.ends_with(&last), "{steps:?}");
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
        let reasons = report.filters.iter().map(|finding| finding.reason);
        reasons.filter(|reason| *reason != FindingReason::UnknownPod).collect::<Vec<_>>()
    };
    assert_eq!((enforcer.slot_of(101).await, reasons()), (None, vec![FindingReason::NotFiltered]));
    assert!(memory.0.lock().unwrap().incumbent.contains(&101), "the node agent's stay");
    enforcer.verify().await;
    assert_eq!((enforcer.slot_of(101).await, reasons()), (Slot::new(1), vec![]));
    assert!(memory.0.lock().unwrap().incumbent.is_empty());
}

#[tokio::test]
async fn links_are_taken_over_a_few_at_a_time_with_flows_read_before_and_after() {
    const PODS: u16 = 40;
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    for number in 1..=PODS {
        enforcer.attach(endpoint(number, "web")).await.expect("adopted");
    }
    enforcer.activate().await.expect("nothing fails");
    let log = memory.log();
    let first = log.iter().position(|step| step.starts_with("inherit")).expect("flows are read");
    assert_eq!(log[first..first + 3], ["inherit {1}", "attach eni1", "inherit {1}"], "of one at first");
    let mut known = BTreeMap::<u16, usize>::new();
    for step in &log[first..] {
        for number in 1..=PODS {
            let read = step.strip_prefix("inherit").is_some_and(|slots| {
                slots.split(|c: char| !c.is_ascii_digit()).any(|slot| slot == number.to_string())
            });
            let attached = *step == format!("attach eni{number}");
            let stage = known.entry(number).or_default();
            assert_eq!(attached, attached && *stage == 1, "{number} is attached after one reading: {log:?}");
            *stage += usize::from(read || attached);
        }
    }
    assert!(known.values().all(|stage| *stage == 3), "each is read for, attached and read for: {known:?}");
}

#[tokio::test]
async fn a_node_agent_that_comes_back_is_told_and_left_alone() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.attach(endpoint(1, "web")).await.expect("adopted");
    enforcer.activate().await.expect("nothing fails");
    enforcer.attach(endpoint(2, "db")).await.expect("nothing fails");
    settle(&enforcer).await;
    memory.log();
    let told = || {
        let report = enforcer.report().borrow().clone();
        assert_eq!(report.error, None, "policy is in force as far as ours can");
        let foreign = report.filters.iter().filter(|finding| finding.reason == FindingReason::ForeignFilter);
        foreign.map(|finding| finding.name.to_string()).collect::<Vec<_>>()
    };
    {
        let mut maps = memory.0.lock().unwrap();
        maps.incumbent.extend([101, 102]);
        maps.touched.extend([101, 102]);
    }
    for _ in 0..3 {
        enforcer.verify().await;
        assert_eq!((memory.log(), told()), (Vec::new(), vec!["web".to_owned(), "db".to_owned()]));
    }
    // What it removes is put back behind its own, as any other's.
    {
        let mut maps = memory.0.lock().unwrap();
        maps.filters.remove(&101);
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!((memory.log(), told().len()), (vec!["attach eni1".to_owned()], 2));
    assert!(memory.0.lock().unwrap().incumbent.contains(&101));
}

#[tokio::test]
async fn a_pod_whose_link_takes_no_filters_any_more_makes_the_node_unready() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    let told = || {
        let report = enforcer.report().borrow().clone();
        let found = report.filters.iter().any(|finding| finding.reason == FindingReason::NotFiltered);
        (report.error.is_some(), found)
    };
    {
        let mut maps = memory.0.lock().unwrap();
        maps.filters.clear();
        maps.refusing.insert(101);
        maps.touched.insert(101);
    }
    enforcer.verify().await;
    assert_eq!(told(), (true, true));
    enforcer.cluster_changed(std::time::Instant::now()).await;
    enforcer.attach(endpoint(2, "db")).await.expect("its own link is sound");
    assert_eq!(told(), (true, true));
    memory.0.lock().unwrap().refusing.clear();
    enforcer.verify().await;
    assert_eq!((told(), enforcer.slot_of(101).await), ((false, false), Slot::new(1)));
}

#[tokio::test]
async fn an_older_policy_in_force_is_told_whatever_becomes_of_filters() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    memory.0.lock().unwrap().failing = Some("set_endpoints");
    enforcer.attach(endpoint(2, "db")).await.expect_err("a step fails");
    memory.0.lock().unwrap().filters.clear();
    memory.0.lock().unwrap().touched.insert(101);
    enforcer.verify().await;
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1), "they are back");
    assert!(enforcer.report().borrow().error.is_some());
}

#[tokio::test]
async fn a_change_that_could_not_be_looked_at_is_looked_at_again() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    {
        let mut maps = memory.0.lock().unwrap();
        maps.filters.clear();
        maps.touched.insert(101);
        maps.blind.insert(101);
    }
    enforcer.verify().await;
    assert_eq!(enforcer.slot_of(101).await, None);
    memory.0.lock().unwrap().blind.clear();
    enforcer.verify().await;
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1));
}

#[tokio::test]
async fn what_tcx_does_not_announce_is_asked_for() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(Endpoint { egress_shaped: true, ..endpoint(1, "web") }).await.expect("nothing fails");
    enforcer.verify().await;
    memory.0.lock().unwrap().looks = 0;
    enforcer.verify().await;
    assert_eq!(memory.0.lock().unwrap().looks, 0, "they lead");
    memory.0.lock().unwrap().filters.clear();
    enforcer.verify().await;
    assert_eq!(enforcer.slot_of(101).await, Slot::new(1));
}

#[tokio::test]
async fn filters_of_others_are_told_until_they_go_and_links_are_looked_at_only_when_they_change() {
    let memory = Memory::default();
    let enforcer = enforcer(&memory);
    enforcer.activate().await.expect("nothing to compile");
    enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
    let told = || {
        let report = enforcer.report().borrow().clone();
        let reasons = report.filters.iter().map(|finding| (finding.reason, finding.name.to_string()));
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
    enforcer.cluster_changed(std::time::Instant::now()).await;
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
