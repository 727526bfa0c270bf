//! The `awscni_*` names of aws-node's agent that concern the pool and EC2, with its types and labels, so that
//! dashboards, alerts and cni-metrics-helper go on working. What each counts here is in docs/metrics.md.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ipam_core::Operation;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use crate::ec2::CallReport;
use crate::ipam::{PoolView, Reconciled};

/// The step that something happened in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FnLabel {
    /// The incumbent's name of it.
    r#fn: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LatencyLabels {
    api: &'static str,
    error: &'static str,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    api: &'static str,
    error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DelLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EniLabel {
    eni: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CidrLabel {
    cidr: String,
}

/// A summary without quantiles: a sum and a count. Shown as a histogram without buckets, which has the same two
/// lines; the text form calls it by its right name.
#[derive(Debug, Clone, Default)]
struct Summary(Arc<Mutex<(f64, u64)>>);

impl Summary {
    fn observe(&self, value: f64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 += value;
        seen.1 += 1;
    }
}

impl TypedMetric for Summary {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Summary {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (sum, count) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.encode_histogram::<NoLabelSet>(sum, count, &[], None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The incumbent's names; cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Incumbent {
    eni_max: Gauge,
    ip_max: Gauge,
    eni_allocated: Gauge,
    total_ip_addresses: Gauge,
    assigned_ip_addresses: Gauge,
    total_ipv4_prefixes: Gauge,
    assigned_ip_per_cidr: Family<CidrLabel, Gauge>,
    assigned_ip_per_eni: Family<EniLabel, Gauge>,
    add_ip_req_count: Counter,
    del_ip_req_count: Family<DelLabel, Counter>,
    no_available_ip_addresses: Counter,
    reconcile_count: Family<FnLabel, Counter>,
    force_removed_enis: Counter,
    force_removed_ips: Counter,
    ipamd_error_count: Family<FnLabel, Counter>,
    aws_api_latency_ms: Family<LatencyLabels, Summary>,
    aws_api_error_count: Family<ErrorLabels, Counter>,
    ec2api_req_count: Family<FnLabel, Counter>,
    ec2api_error_count: Family<FnLabel, Counter>,
    /// Protects the labels that stand in the scrape now; held for set arithmetic only.
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug, Default)]
struct Shown {
    enis: BTreeSet<String>,
    cidrs: BTreeSet<String>,
}

impl Incumbent {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("awscni_eni_max", "The most ENIs that the node can have", all.eni_max.clone());
        registry.register(
            "awscni_ip_max",
            "The most addresses that its ENIs can hold for pods",
            all.ip_max.clone(),
        );
        registry.register(
            "awscni_eni_allocated",
            "ENIs attached, those of others included",
            all.eni_allocated.clone(),
        );
        registry.register(
            "awscni_total_ip_addresses",
            "Addresses on managed ENIs, primary ones not counted",
            all.total_ip_addresses.clone(),
        );
        registry.register(
            "awscni_assigned_ip_addresses",
            "Addresses that pods hold",
            all.assigned_ip_addresses.clone(),
        );
        registry.register(
            "awscni_total_ipv4_prefixes",
            "Prefixes on managed ENIs",
            all.total_ipv4_prefixes.clone(),
        );
        registry.register(
            "awscni_assigned_ip_per_cidr",
            "Addresses that pods hold, by prefix or single address",
            all.assigned_ip_per_cidr.clone(),
        );
        registry.register(
            "awscni_assigned_ip_per_eni",
            "Addresses that pods hold, by ENI",
            all.assigned_ip_per_eni.clone(),
        );
        registry.register(
            "awscni_add_ip_req_count",
            "Addresses asked for by ADDs",
            all.add_ip_req_count.clone(),
        );
        registry.register(
            "awscni_del_ip_req_count",
            "Addresses given back by DELs",
            all.del_ip_req_count.clone(),
        );
        registry.register(
            "awscni_no_available_ip_addresses",
            "ADDs that were refused since there was no address until their deadline",
            all.no_available_ip_addresses.clone(),
        );
        registry.register(
            "awscni_reconcile_count",
            "ENIs and addresses in which EC2's word differed from the pool's",
            all.reconcile_count.clone(),
        );
        registry.register(
            "awscni_force_removed_enis",
            "ENIs that vanished with pods on them",
            all.force_removed_enis.clone(),
        );
        registry.register(
            "awscni_force_removed_ips",
            "Addresses that EC2 took from running pods",
            all.force_removed_ips.clone(),
        );
        registry.register(
            "awscni_ipamd_error_count",
            "Steps of the pool that failed",
            all.ipamd_error_count.clone(),
        );
        registry.register(
            "awscni_aws_api_latency_ms",
            "Time of EC2 calls in milliseconds",
            all.aws_api_latency_ms.clone(),
        );
        registry.register(
            "awscni_aws_api_error_count",
            "Error answers of EC2, by code",
            all.aws_api_error_count.clone(),
        );
        registry.register("awscni_ec2api_req_count", "EC2 calls", all.ec2api_req_count.clone());
        registry.register(
            "awscni_ec2api_error_count",
            "EC2 calls that failed",
            all.ec2api_error_count.clone(),
        );
        all
    }

    pub(super) fn call(&self, report: &CallReport<'_>) {
        let api = report.operation.as_str();
        let failed = report.error.is_some();
        let status = if failed { report.code() } else { "200" }.to_owned();
        let labels = LatencyLabels { api, error: if failed { "true" } else { "false" }, status };
        self.aws_api_latency_ms.get_or_create(&labels).observe(report.took.as_secs_f64() * 1000.0);
        self.ec2api_req_count.get_or_create(&FnLabel { r#fn: api }).inc();
        if failed {
            self.ec2api_error_count.get_or_create(&FnLabel { r#fn: api }).inc();
            self.ipamd_error_count.get_or_create(&FnLabel { r#fn: step(report.operation) }).inc();
        }
        if !report.code().is_empty() {
            let labels = ErrorLabels { api, error: report.code().to_owned() };
            self.aws_api_error_count.get_or_create(&labels).inc();
        }
    }

    /// An ADD asked for an address.
    pub(super) fn asked(&self) {
        self.add_ip_req_count.inc();
    }

    /// There was none for it.
    pub(super) fn none_available(&self) {
        self.no_available_ip_addresses.inc();
    }

    /// A pod's address was given back; `wired` says that the pod had been attached.
    pub(super) fn given_back(&self, wired: bool) {
        let reason = if wired { "PodDeleted" } else { "SetupNSFailed" };
        self.del_ip_req_count.get_or_create(&DelLabel { reason }).inc();
    }

    pub(super) fn pool(&self, view: &PoolView) {
        let counts = &view.counts;
        for (gauge, value) in [
            (&self.eni_max, counts.eni_limit),
            (&self.ip_max, counts.capacity),
            (&self.eni_allocated, counts.enis),
            (&self.total_ip_addresses, counts.total),
            (&self.assigned_ip_addresses, counts.leased),
            (&self.total_ipv4_prefixes, counts.prefixes),
        ] {
            gauge.set(value.into());
        }
        self.per_eni(view);
        self.reconciled(&view.reconciled);
    }

    fn per_eni(&self, view: &PoolView) {
        let (mut enis, mut cidrs) = (BTreeSet::new(), BTreeSet::new());
        for eni in view.enis.iter().filter(|eni| eni.is_wanted_on_host()) {
            let label = EniLabel { eni: eni.id.to_string() };
            self.assigned_ip_per_eni.get_or_create(&label).set(count(eni.leased.len()));
            enis.insert(label.eni);
            let singles = eni.addresses.iter().map(|address| ipnetwork::IpNetwork::from(*address));
            for cidr in singles.chain(eni.prefixes.iter().copied()) {
                let label = CidrLabel { cidr: cidr.to_string() };
                let leased = eni.leased.iter().filter(|address| cidr.contains(**address)).count();
                self.assigned_ip_per_cidr.get_or_create(&label).set(count(leased));
                cidrs.insert(label.cidr);
            }
        }
        // What is no longer there must not stand in the scrape for ever.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for eni in shown.enis.difference(&enis) {
            self.assigned_ip_per_eni.remove(&EniLabel { eni: eni.clone() });
        }
        for cidr in shown.cidrs.difference(&cidrs) {
            self.assigned_ip_per_cidr.remove(&CidrLabel { cidr: cidr.clone() });
        }
        *shown = Shown { enis, cidrs };
    }

    fn reconciled(&self, seen: &Reconciled) {
        for (name, total) in [
            ("eniReconcileAdd", seen.enis_found),
            ("eniReconcileDel", seen.enis_lost),
            ("eniDataStorePoolReconcileAdd", seen.addresses_adopted),
            ("eniIPPoolReconcileDel", seen.addresses_dropped),
        ] {
            follow(&self.reconcile_count.get_or_create(&FnLabel { r#fn: name }), total);
        }
        follow(&self.force_removed_enis, seen.enis_lost_in_use);
        follow(&self.force_removed_ips, seen.addresses_lost_in_use);
    }
}

/// Brings a counter up to a total that is counted elsewhere.
fn follow(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The incumbent's name of the step in which it makes this call.
const fn step(operation: Operation) -> &'static str {
    match operation {
        Operation::CreateEni | Operation::Attach => "increaseIPPoolAllocENI",
        Operation::Modify | Operation::CreateTags => "increaseIPPoolsetupENIFailed",
        Operation::Assign => "increaseIPPoolAllocIPAddressesFailed",
        Operation::Unassign => "decreaseIPPool",
        Operation::Detach | Operation::DeleteEni => "decreaseIPPoolFreeENIFailed",
        Operation::DescribeEnis
        | Operation::DescribeSubnets
        | Operation::DescribeInstances
        | Operation::DescribeInstanceTypes => "reconcileFailedGetENIs",
    }
}
