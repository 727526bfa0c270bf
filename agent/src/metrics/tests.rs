use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam_core::{FailureClass, Operation, SubnetId};
use prometheus_client::registry::Registry;

use super::{Metrics, ReasonLabel, render};
use crate::ec2::{CallReport, Ec2Error};
use crate::ipam::{AddressCounts, EniPhase, EniView, Hindrance, PoolView, Reconciled};

/// What aws-node v1.23.1 has of the pool and EC2: name, type, labels.
const INCUMBENT: &[(&str, &str, &[&str])] = &[
    ("awscni_add_ip_req_count", "counter", &[]),
    ("awscni_assigned_ip_addresses", "gauge", &[]),
    ("awscni_assigned_ip_per_cidr", "gauge", &["cidr"]),
    ("awscni_assigned_ip_per_eni", "gauge", &["eni"]),
    ("awscni_aws_api_error_count", "counter", &["api", "error"]),
    ("awscni_aws_api_latency_ms", "summary", &["api", "error", "status"]),
    ("awscni_del_ip_req_count", "counter", &["reason"]),
    ("awscni_ec2api_error_count", "counter", &["fn"]),
    ("awscni_ec2api_req_count", "counter", &["fn"]),
    ("awscni_eni_allocated", "gauge", &[]),
    ("awscni_eni_max", "gauge", &[]),
    ("awscni_force_removed_enis", "counter", &[]),
    ("awscni_force_removed_ips", "counter", &[]),
    ("awscni_ip_max", "gauge", &[]),
    ("awscni_ipamd_error_count", "counter", &["fn"]),
    ("awscni_no_available_ip_addresses", "counter", &[]),
    ("awscni_reconcile_count", "counter", &["fn"]),
    ("awscni_total_ip_addresses", "gauge", &[]),
    ("awscni_total_ipv4_prefixes", "gauge", &[]),
];

fn view() -> PoolView {
    let address = |text: &str| text.parse().expect("an address");
    let eni = EniView {
        id: ipam_core::EniId::new("eni-1"),
        mac: ipam_core::MacAddr([2, 0, 0, 0, 0, 1]),
        is_primary: true,
        foreign: None,
        phase: EniPhase::Attached,
        device_index: Some(0),
        network_card: 0,
        subnet: SubnetId::new("subnet-1"),
        subnet_cidr: None,
        primary_ip: address("10.0.0.1"),
        is_linked: true,
        addresses: vec![address("10.0.0.5"), address("10.0.0.6")],
        prefixes: vec!["10.0.1.0/28".parse().expect("a block")],
        leased: BTreeSet::from([address("10.0.0.5"), address("10.0.1.7")]),
    };
    PoolView {
        enis: vec![eni],
        counts: AddressCounts { total: 18, free: 15, leased: 2, cooling: 1, enis: 1, ..Default::default() },
        contradicted: BTreeSet::from([address("10.0.0.7")]),
        hindrance: Some(Hindrance { reason: "throttled", cause: String::new(), remedy: "", until: None }),
        reconciled: Reconciled {
            enis_found: 1,
            enis_lost: 2,
            enis_lost_in_use: 1,
            addresses_adopted: 4,
            addresses_dropped: 5,
            addresses_lost_in_use: 6,
        },
        ..PoolView::default()
    }
}

fn call(metrics: &Metrics, error: Option<&Ec2Error>) {
    metrics.ec2_call(&CallReport {
        operation: Operation::Assign,
        error,
        took: Duration::from_millis(250),
        held_back: Duration::from_millis(500),
    });
}

/// Every metric with a value in it: a family without one is not shown.
fn exercised() -> (Registry, Metrics) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    metrics.verb("lease", "ok", Duration::from_millis(3));
    let throttled = Ec2Error::answered(Operation::Assign, 503, "RequestLimitExceeded", "");
    assert_eq!(throttled.class, FailureClass::Throttled);
    call(&metrics, None);
    call(&metrics, Some(&throttled));
    metrics.watch("pods", true, 2);
    metrics.watch("pods", false, 2);
    metrics.packets("to_pod", "allowed", 3, 300);
    metrics.host_repairs.get_or_create(&ReasonLabel { reason: "route".to_owned() }).inc();
    metrics.address_asked();
    metrics.none_available();
    metrics.add_refused("throttled");
    metrics.address_given_back(true);
    metrics.pool(&view());
    (registry, metrics)
}

/// What a scrape says of one metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    help: String,
    labels: Vec<String>,
}

fn families(scrape: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a help");
            families.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let parts = [
                name,
                name.trim_end_matches("_bucket"),
                name.trim_end_matches("_sum"),
                name.trim_end_matches("_count"),
            ];
            let family = parts.into_iter().find(|name| families.contains_key(*name));
            let family = family.unwrap_or_else(|| panic!("{line} is of no family"));
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'))
                .map_or("", |(inside, _)| inside);
            let names = labels.split(',').filter_map(|pair| pair.split_once('='));
            let names: Vec<String> =
                names.map(|(name, _)| name.to_owned()).filter(|name| name != "le").collect();
            let known = &mut families.get_mut(family).expect("found above").labels;
            if known.is_empty() {
                *known = names;
            }
        }
    }
    families
}

#[test]
fn the_incumbents_names_types_and_labels_are_kept() {
    let (registry, _metrics) = exercised();
    let shown = families(&render(&registry).expect("memory"));
    let kept: BTreeSet<&str> =
        shown.keys().map(String::as_str).filter(|name| name.starts_with("awscni_")).collect();
    assert_eq!(kept, INCUMBENT.iter().map(|(name, ..)| *name).collect());
    for (name, kind, labels) in INCUMBENT {
        let family = &shown[*name];
        assert_eq!(
            (family.kind.as_str(), family.labels.as_slice()),
            (*kind, to_owned(labels).as_slice()),
            "{name}"
        );
    }
}

fn to_owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

#[test]
fn values() {
    let (registry, metrics) = exercised();
    let body = render(&registry).expect("memory");
    for line in [
        "awscni_total_ip_addresses 18",
        "awscni_assigned_ip_addresses 2",
        "awscni_assigned_ip_per_eni{eni=\"eni-1\"} 2",
        "awscni_assigned_ip_per_cidr{cidr=\"10.0.0.5/32\"} 1",
        "awscni_assigned_ip_per_cidr{cidr=\"10.0.1.0/28\"} 1",
        "awscni_aws_api_latency_ms_sum{api=\"AssignPrivateIpAddresses\",error=\"false\",status=\"200\"} 250.0",
        "awscni_aws_api_latency_ms_count{api=\"AssignPrivateIpAddresses\",error=\"true\",status=\"RequestLimitExceeded\"} 1",
        "awscni_aws_api_error_count{api=\"AssignPrivateIpAddresses\",error=\"RequestLimitExceeded\"} 1",
        "awscni_ec2api_req_count{fn=\"AssignPrivateIpAddresses\"} 2",
        "awscni_ec2api_error_count{fn=\"AssignPrivateIpAddresses\"} 1",
        "awscni_ipamd_error_count{fn=\"increaseIPPoolAllocIPAddressesFailed\"} 1",
        "awscni_reconcile_count{fn=\"eniIPPoolReconcileDel\"} 5",
        "awscni_force_removed_ips 6",
        "awscni_del_ip_req_count{reason=\"PodDeleted\"} 1",
        "awscni_add_ip_req_count 1",
        "tidepool_add_refused_total{reason=\"throttled\"} 1",
        "tidepool_pool_blocked{reason=\"throttled\"} 1",
        "tidepool_contradicted_addresses 1",
        "tidepool_ec2_held_back_seconds_total{operation=\"AssignPrivateIpAddresses\"} 1.0",
        "tidepool_watch_failing{kind=\"pods\"} 0",
        "tidepool_watch_failures_total{kind=\"pods\"} 2",
        "tidepool_addresses{state=\"cooling\"} 1",
        "tidepool_cni_seconds_count{verb=\"lease\",outcome=\"ok\"} 1",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is missing in:\n{body}");
    }

    // A pool that is well, on other ENIs: what was goes, totals stay.
    metrics.pool(&PoolView { reconciled: view().reconciled, ..PoolView::default() });
    let body = render(&registry).expect("memory");
    assert!(!body.contains("awscni_assigned_ip_per_eni{") && !body.contains("per_cidr{"), "{body}");
    assert!(body.contains("tidepool_pool_blocked{reason=\"throttled\"} 0\n"), "{body}");
    assert!(body.contains("awscni_force_removed_ips 6\n"), "{body}");
}

#[test]
fn every_registered_metric_is_shown_here() {
    let (registry, _metrics) = exercised();
    let shown = families(&render(&registry).expect("memory")).len();
    let registered = [include_str!("../metrics.rs"), include_str!("incumbent.rs")]
        .iter()
        .map(|source| source.matches(".register(").count() + source.matches(".register_with_unit(").count())
        .sum::<usize>();
    assert_eq!(
        shown, registered,
        "give the new metric a value in `exercised`, so that its row is in docs/metrics.md"
    );
}

/// docs/metrics.md has the table that the registry leads to; `UPDATE_GOLDEN=1` writes it.
#[test]
fn the_documentation_lists_them_all() {
    let (registry, _metrics) = exercised();
    let mut table = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, Family { kind, help, labels }) in families(&render(&registry).expect("memory")) {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        table.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(path).expect("docs/metrics.md");
    let (before, rest) = page.split_once("<!-- table -->\n").expect("the table's begin");
    let (_, after) = rest.split_once("<!-- end of table -->").expect("the table's end");
    let wanted = format!("{before}<!-- table -->\n{table}<!-- end of table -->{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &wanted).expect("writable");
    } else {
        assert_eq!(page, wanted, "run the test with UPDATE_GOLDEN=1");
    }
}
