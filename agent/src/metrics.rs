//! Every metric of the agent, one field each.
//!
//! Own names start with `tidepool_`; the `awscni_*` names that existing dashboards draw are kept beside them.
//! Label values come from closed sets, never from messages or names of pods. docs/metrics.md lists them all; a test
//! keeps it true.

mod classic;
mod incumbent;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::ec2::CallReport;
use crate::ipam::{PoolView, Refusal};
use incumbent::Incumbent;

/// The text form's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A CNI verb and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabels {
    /// `ADD`, `DEL`, …
    pub verb: &'static str,
    /// `ok`, or the reason of the refusal.
    pub outcome: String,
}

/// An EC2 call and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// The EC2 operation, such as `AssignPrivateIpAddresses`.
    pub operation: &'static str,
    /// `ok` or the class of the error.
    pub outcome: &'static str,
}

/// A kind of Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// In plural, such as `networkpolicies`.
    pub kind: &'static str,
}

/// Which packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PacketLabels {
    /// `from_pod` or `to_pod`.
    pub direction: &'static str,
    /// Why they passed or not.
    pub reason: &'static str,
}

/// Why something was counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of a closed set.
    pub reason: String,
}

/// An EC2 operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabel {
    /// Such as `AssignPrivateIpAddresses`.
    pub operation: &'static str,
}

/// A state that addresses are in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// `free`, `leased`, `cooling`, `pending` (asked for) or `withheld` (beyond max-pods).
    pub state: &'static str,
}

type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    // 1 ms to 65 s, each bucket twice the one before.
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// All metrics; cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Seconds that a verb took in the agent.
    pub verb_seconds: HistogramFamily<VerbLabels>,
    /// Seconds that an EC2 call took, waiting for our own rate limit not counted.
    pub ec2_call_seconds: HistogramFamily<CallLabels>,
    /// Addresses by state.
    pub addresses: Family<StateLabel, Gauge>,
    /// ENIs attached to this node that we manage, the primary one included.
    pub enis: Gauge,
    /// ADDs that wait for an address now.
    pub waiting_adds: Gauge,
    /// Host objects that something else had removed and that were put back, by kind.
    pub host_repairs: Family<ReasonLabel, Counter>,
    /// Reconciliations of host networking that failed.
    pub host_errors: Counter,
    packets: Family<PacketLabels, Counter>,
    packet_bytes: Family<PacketLabels, Counter>,
    /// Seconds from a change in the API to its last map write.
    pub policy_seconds: Histogram,
    /// Policy applications that failed; the older policy stays in force.
    pub policy_errors: Counter,
    /// Objects that could not be understood in full.
    pub policy_findings: Gauge,
    /// Who follows flows now.
    pub flow_followers: Gauge,
    /// Events of packets that found no room in the ring while somebody followed.
    pub flow_events_lost: Counter,
    watch_failing: Family<KindLabel, Gauge>,
    watch_failures: Family<KindLabel, Counter>,
    /// Endpoints under policy on this node.
    pub endpoints: Gauge,
    /// 1 while the agent can serve ADDs.
    pub ready: Gauge,
    /// 1 while this node holds the Lease of the leak sweeper.
    pub leak_sweeper: Gauge,
    /// Leaked ENIs of the cluster that this node deleted.
    pub leaked_enis_deleted: Counter,
    /// Leaked ENIs that EC2 did not let go.
    pub leaked_enis_failed: Counter,
    /// Sweeps that ended early: EC2 refused, or the Lease was lost.
    pub leak_sweeps_cut: Counter,
    /// Requests for the sweeper's Lease that failed.
    pub leak_lease_failures: Counter,
    /// ADDs that were refused, by reason.
    pub add_refused: Family<ReasonLabel, Counter>,
    /// 1 for the reason why the pool cannot have what it lacks.
    pool_blocked: Family<ReasonLabel, Gauge>,
    /// Addresses of running pods that EC2 does not list on their ENI.
    contradicted: Gauge,
    /// Differences that the metadata service showed, for which EC2 was asked.
    pub metadata_differences: Counter,
    /// Leases whose link was gone and for which no DEL came.
    pub orphaned_leases: Counter,
    /// Sandboxes that run for pods which the Kubernetes API no longer has.
    pub sandboxes_without_pod: Gauge,
    held_back: Family<OperationLabel, Counter<f64, AtomicU64>>,
    incumbent: Incumbent,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            verb_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            ec2_call_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            addresses: Family::default(),
            enis: Gauge::default(),
            waiting_adds: Gauge::default(),
            host_repairs: Family::default(),
            host_errors: Counter::default(),
            packets: Family::default(),
            packet_bytes: Family::default(),
            policy_seconds: seconds(),
            policy_errors: Counter::default(),
            policy_findings: Gauge::default(),
            flow_followers: Gauge::default(),
            flow_events_lost: Counter::default(),
            watch_failing: Family::default(),
            watch_failures: Family::default(),
            endpoints: Gauge::default(),
            ready: Gauge::default(),
            leak_sweeper: Gauge::default(),
            leaked_enis_deleted: Counter::default(),
            leaked_enis_failed: Counter::default(),
            leak_sweeps_cut: Counter::default(),
            leak_lease_failures: Counter::default(),
            add_refused: Family::default(),
            pool_blocked: Family::default(),
            contradicted: Gauge::default(),
            metadata_differences: Counter::default(),
            orphaned_leases: Counter::default(),
            sandboxes_without_pod: Gauge::default(),
            held_back: Family::default(),
            incumbent: Incumbent::new(registry),
        };
        let own = registry.sub_registry_with_prefix("tidepool");
        own.register("build", "Version of the agent", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        own.register_with_unit(
            "cni",
            "Time of a CNI verb in the agent",
            Unit::Seconds,
            metrics.verb_seconds.clone(),
        );
        own.register_with_unit(
            "ec2_call",
            "Time of an EC2 call",
            Unit::Seconds,
            metrics.ec2_call_seconds.clone(),
        );
        own.register("addresses", "Addresses by state", metrics.addresses.clone());
        own.register("add_refused", "ADDs that were refused, by reason", metrics.add_refused.clone());
        own.register(
            "pool_blocked",
            "1 for the reason why the pool cannot have what it lacks, 0 for former ones",
            metrics.pool_blocked.clone(),
        );
        own.register(
            "contradicted_addresses",
            "Addresses of running pods that EC2 does not list on their ENI",
            metrics.contradicted.clone(),
        );
        own.register(
            "metadata_differences",
            "Differences that the metadata service showed, for which EC2 was asked",
            metrics.metadata_differences.clone(),
        );
        own.register(
            "orphaned_leases",
            "Leases whose link was gone and for which no DEL came",
            metrics.orphaned_leases.clone(),
        );
        own.register(
            "sandboxes_without_pod",
            "Sandboxes that run for pods which the Kubernetes API no longer has",
            metrics.sandboxes_without_pod.clone(),
        );
        own.register_with_unit(
            "ec2_held_back",
            "Time that calls waited for this node's own rate limit",
            Unit::Seconds,
            metrics.held_back.clone(),
        );
        own.register("enis", "ENIs attached and managed", metrics.enis.clone());
        own.register("waiting_adds", "ADDs that wait for an address", metrics.waiting_adds.clone());
        own.register("host_repairs", "Host objects put back, by kind", metrics.host_repairs.clone());
        own.register("host_errors", "Host reconciliations that failed", metrics.host_errors.clone());
        own.register("packets", "Packets since the maps were made, by reason", metrics.packets.clone());
        own.register_with_unit("packet", "Their bytes", Unit::Bytes, metrics.packet_bytes.clone());
        own.register_with_unit(
            "policy_apply",
            "Time from a change to its last map write",
            Unit::Seconds,
            metrics.policy_seconds.clone(),
        );
        own.register("policy_errors", "Policy applications that failed", metrics.policy_errors.clone());
        own.register("policy_findings", "Objects not understood in full", metrics.policy_findings.clone());
        own.register("flow_followers", "Who follows flows now", metrics.flow_followers.clone());
        own.register(
            "flow_events_lost",
            "Events that found no room in the ring while somebody followed",
            metrics.flow_events_lost.clone(),
        );
        own.register(
            "watch_failing",
            "1 while a Kubernetes watch fails, by kind",
            metrics.watch_failing.clone(),
        );
        own.register(
            "watch_failures",
            "Failures of Kubernetes watches, by kind",
            metrics.watch_failures.clone(),
        );
        own.register("endpoints", "Endpoints under policy", metrics.endpoints.clone());
        own.register("ready", "1 while ADDs are served", metrics.ready.clone());
        own.register(
            "leak_sweeper",
            "1 while this node sweeps the cluster's leaked ENIs",
            metrics.leak_sweeper.clone(),
        );
        own.register(
            "leaked_enis_deleted",
            "Leaked ENIs that this node deleted",
            metrics.leaked_enis_deleted.clone(),
        );
        own.register(
            "leaked_enis_failed",
            "Leaked ENIs that EC2 did not let go",
            metrics.leaked_enis_failed.clone(),
        );
        own.register(
            "leak_sweeps_cut",
            "Sweeps for leaked ENIs that ended early",
            metrics.leak_sweeps_cut.clone(),
        );
        own.register(
            "leak_lease_failures",
            "Failed requests for the sweeper's Lease",
            metrics.leak_lease_failures.clone(),
        );
        metrics
    }

    /// Counts one verb.
    pub fn verb(&self, verb: &'static str, outcome: &str, took: Duration) {
        let labels = VerbLabels { verb, outcome: outcome.to_owned() };
        self.verb_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts one EC2 call.
    pub fn ec2_call(&self, report: &CallReport<'_>) {
        let operation = report.operation.as_str();
        let labels = CallLabels { operation, outcome: report.outcome() };
        self.ec2_call_seconds.get_or_create(&labels).observe(report.took.as_secs_f64());
        self.held_back.get_or_create(&OperationLabel { operation }).inc_by(report.held_back.as_secs_f64());
        self.incumbent.call(report);
    }

    /// An ADD asks for an address.
    pub fn address_asked(&self) {
        self.incumbent.asked();
    }

    /// There was no address for an ADD until its deadline.
    pub fn none_available(&self) {
        self.incumbent.none_available();
    }

    /// A pod's address was given back; `wired` says that the pod had been attached.
    pub fn address_given_back(&self, wired: bool) {
        self.incumbent.given_back(wired);
    }

    /// Counts one refused ADD.
    pub fn add_refused(&self, reason: &str) {
        self.add_refused.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// How a watch fares: a dead one means policies that grow old.
    pub fn watch(&self, kind: &'static str, failing: bool, failures: u64) {
        let label = KindLabel { kind };
        self.watch_failing.get_or_create(&label).set(failing.into());
        let counter = self.watch_failures.get_or_create(&label);
        counter.inc_by(failures.saturating_sub(counter.get()));
    }

    /// Packets since the maps were made: the kernel counts, this only follows.
    pub fn packets(&self, direction: &'static str, reason: &'static str, packets: u64, bytes: u64) {
        let labels = PacketLabels { direction, reason };
        for (family, total) in [(&self.packets, packets), (&self.packet_bytes, bytes)] {
            let counter = family.get_or_create(&labels);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Shows the pool as it is.
    pub fn pool(&self, view: &PoolView) {
        let counts = &view.counts;
        let states = [
            ("free", counts.free),
            ("leased", counts.leased),
            ("cooling", counts.cooling),
            ("pending", counts.pending),
            ("withheld", counts.withheld),
        ];
        for (state, count) in states {
            self.addresses.get_or_create(&StateLabel { state }).set(count.into());
        }
        self.enis.set(counts.enis.into());
        self.waiting_adds.set(counts.waiting.into());
        self.contradicted.set(i64::try_from(view.contradicted.len()).unwrap_or(i64::MAX));
        let blocked = view.hindrance.as_ref().map(|hindrance| hindrance.reason);
        for reason in Refusal::WORDS {
            let label = ReasonLabel { reason: reason.to_owned() };
            // Only what was seen once has a line.
            if blocked == Some(reason) || self.pool_blocked.get(&label).is_some() {
                self.pool_blocked.get_or_create(&label).set(i64::from(blocked == Some(reason)));
            }
        }
        self.incumbent.pool(view);
    }
}

/// The scrape's text.
///
/// # Errors
///
/// Only where formatting into memory fails.
pub fn render(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    Ok(classic::classic(&body))
}
