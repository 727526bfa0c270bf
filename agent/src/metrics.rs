//! Every metric of the agent, one field each.
//!
//! Own names start with `tidepool_`; the `awscni_*` gauges that existing dashboards draw are kept beside them.
//! Label values come from closed sets, never from messages or names of pods.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::ipam::AddressCounts;

/// What OpenMetrics asks of a scrape's content type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    watch_failing: Family<KindLabel, Gauge>,
    watch_failures: Family<KindLabel, Counter>,
    /// Endpoints under policy on this node.
    pub endpoints: Gauge,
    /// 1 while the agent can serve ADDs.
    pub ready: Gauge,
    awscni_total: Gauge,
    awscni_assigned: Gauge,
    awscni_enis: Gauge,
    awscni_prefixes: Gauge,
    awscni_eni_max: Gauge,
    awscni_ip_max: Gauge,
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
            watch_failing: Family::default(),
            watch_failures: Family::default(),
            endpoints: Gauge::default(),
            ready: Gauge::default(),
            awscni_total: Gauge::default(),
            awscni_assigned: Gauge::default(),
            awscni_enis: Gauge::default(),
            awscni_prefixes: Gauge::default(),
            awscni_eni_max: Gauge::default(),
            awscni_ip_max: Gauge::default(),
        };
        registry.register(
            "awscni_total_ip_addresses",
            "Addresses on managed ENIs, primary ones not counted",
            metrics.awscni_total.clone(),
        );
        registry.register(
            "awscni_assigned_ip_addresses",
            "Addresses that pods hold",
            metrics.awscni_assigned.clone(),
        );
        registry.register("awscni_eni_allocated", "ENIs attached and managed", metrics.awscni_enis.clone());

        registry.register(
            "awscni_total_ipv4_prefixes",
            "Prefixes on managed ENIs",
            metrics.awscni_prefixes.clone(),
        );
        registry.register(
            "awscni_eni_max",
            "The most ENIs that the node can have",
            metrics.awscni_eni_max.clone(),
        );
        registry.register(
            "awscni_ip_max",
            "The most addresses that its ENIs can hold",
            metrics.awscni_ip_max.clone(),
        );

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
        metrics
    }

    /// Counts one verb.
    pub fn verb(&self, verb: &'static str, outcome: &str, took: Duration) {
        let labels = VerbLabels { verb, outcome: outcome.to_owned() };
        self.verb_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts one EC2 call.
    pub fn ec2_call(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        self.ec2_call_seconds.get_or_create(&CallLabels { operation, outcome }).observe(took.as_secs_f64());
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
    pub fn pool(&self, counts: &AddressCounts) {
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
        self.awscni_total.set(counts.total.into());
        self.awscni_assigned.set(counts.leased.into());
        self.awscni_enis.set(counts.enis.into());
        self.awscni_prefixes.set(counts.prefixes.into());
        self.awscni_eni_max.set(counts.eni_limit.into());
        self.awscni_ip_max.set(counts.capacity.into());
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
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_carries_both_families_of_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.verb("ADD", "ok", Duration::from_millis(3));
        metrics.watch("pods", true, 2);
        metrics.watch("pods", false, 2);
        metrics.pool(&AddressCounts {
            total: 7,
            free: 4,
            leased: 2,
            cooling: 1,
            enis: 1,
            ..AddressCounts::default()
        });
        let body = render(&registry).expect("memory");
        for line in [
            "awscni_total_ip_addresses 7",
            "awscni_assigned_ip_addresses 2",
            "tidepool_watch_failing{kind=\"pods\"} 0",
            "tidepool_watch_failures_total{kind=\"pods\"} 2",
            "tidepool_addresses{state=\"cooling\"} 1",
            "tidepool_cni_seconds_count{verb=\"ADD\",outcome=\"ok\"} 1",
            "# EOF",
        ] {
            assert!(body.contains(line), "{line} is missing in:\n{body}");
        }
    }
}
