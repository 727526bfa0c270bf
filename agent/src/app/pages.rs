//! The pages below `/debug/`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::Parts;
use crate::endpoint::{EndpointView, Phase};
use crate::http::{Fields, Page, Site};
use crate::ipam::{BootClock, PoolView};
use crate::policy::Question;
use crate::readiness::Readiness;

type Shared = Arc<OnceLock<Parts>>;

/// Everything that is served over HTTP.
pub(super) fn site(registry: Registry, readiness: Readiness, parts: Shared) -> Site {
    let mut pages: BTreeMap<&'static str, Page> = BTreeMap::new();
    let mut add = |name: &'static str, answer: fn(&Parts, &Fields) -> Result<Value, String>| {
        let parts = Arc::clone(&parts);
        let page: Page = Box::new(move |fields| {
            let parts = Arc::clone(&parts);
            async move {
                let parts = parts.get().ok_or_else(|| "the agent is starting; see /readyz".to_owned())?;
                answer(parts, &fields)
            }
            .boxed()
        });
        pages.insert(name, page);
    };
    add("config", |parts, _| Ok(json!(parts.config)));
    add("pool", |parts, _| Ok(pool(&parts.pool.view().borrow().clone())));
    add("endpoints", |parts, _| Ok(parts.endpoints.view().iter().map(endpoint).collect()));
    add("policy", |parts, _| Ok(policy(parts)));
    add("kubernetes", |parts, _| Ok(kubernetes(parts)));
    add("explain", |parts, fields| {
        Question::read(|name| fields.get(name).cloned())?.answer(&parts.cluster.snapshot().cluster)
    });
    let refresh = Box::new(move || {
        let parts = Arc::clone(&parts);
        async move {
            if let Some(parts) = parts.get() {
                parts.enforcer.count().await;
                for watch in parts.cluster.watches() {
                    parts.metrics.watch(watch.kind, watch.failing.is_some(), watch.failures);
                }
            }
        }
        .boxed()
    });
    Site { registry, readiness, refresh, pages }
}

fn pool(view: &PoolView) -> Value {
    let counts = &view.counts;
    // Where the clock cannot be read, what is tried again seems due.
    let now = BootClock::read().map(|clock| clock.now()).unwrap_or_default();
    json!({
        "truth": format!("{:?}", view.truth),
        "addresses": {
            "total": counts.total, "leased": counts.leased, "free": counts.free, "cooling": counts.cooling,
            "pending": counts.pending, "withheld": counts.withheld, "waiting": counts.waiting,
        },
        "limits": { "addresses": counts.capacity, "enis": counts.eni_limit, "pods": counts.max_pods },
        "enis": view.enis.iter().map(|eni| json!({
            "id": eni.id.as_str(), "mac": eni.mac.to_string(), "primary": eni.is_primary,
            "foreign": eni.foreign.map(|reason| format!("{reason:?}")),
            "phase": format!("{:?}", eni.phase), "device_index": eni.device_index, "network_card": eni.network_card,
            "subnet": eni.subnet.as_str(), "primary_address": eni.primary_ip, "linked": eni.is_linked,
            "addresses": eni.addresses, "prefixes": eni.prefixes, "leased": eni.leased,
        })).collect::<Vec<_>>(),
        "last_failure": view.last_failure.as_ref().map(|failure| json!({
            "operation": failure.operation.as_str(), "class": failure.class.as_str(), "message": failure.message,
        })),
        "growth": view.reach.as_str(),
        "contradicted": view.contradicted,
        "blocked": view.hindrance.as_ref().map(|hindrance| json!({
            "reason": hindrance.reason, "cause": hindrance.cause, "remedy": hindrance.remedy,
            "tried_again_in_s": hindrance.until.map(|until| until.since(now).as_secs_f64()),
        })),
        "reconciled": {
            "enis_found": view.reconciled.enis_found, "enis_lost": view.reconciled.enis_lost,
            "addresses_adopted": view.reconciled.addresses_adopted,
            "addresses_dropped": view.reconciled.addresses_dropped,
        },
    })
}

fn endpoint(view: &EndpointView) -> Value {
    json!({
        "sandbox": view.key.to_string(),
        "pod": view.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        "address": view.grant.address,
        "eni": view.grant.eni,
        "table": view.grant.table,
        "phase": match view.phase { Phase::Leased => "leased", Phase::Attached => "attached" },
        "link": view.endpoint.as_ref().map(|endpoint| &endpoint.end.ifname),
        "slot": view.endpoint.as_ref().map(|endpoint| endpoint.slot.number()),
    })
}

fn policy(parts: &Parts) -> Value {
    let report = parts.enforcer.report().borrow().clone();
    let pods: Vec<Value> = report
        .local
        .iter()
        .map(|pod| {
            let sets = report.endpoints.get(&pod.slot);
            json!({
                "pod": pod.identity.as_ref().map(ToString::to_string),
                "addresses": pod.addresses,
                "slot": pod.slot,
                "ingress_set": sets.map(|sets| sets.ingress.0),
                "egress_set": sets.map(|sets| sets.egress.0),
                "epoch": sets.map(|sets| sets.epoch),
            })
        })
        .collect();
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "object": format!("{}/{}", finding.namespace, finding.name), "path": finding.path,
                "reason": finding.reason.as_str(), "message": finding.message,
            })
        })
        .collect();
    json!({ "error": report.error, "pods": pods, "entries": report.counts, "findings": findings })
}

fn kubernetes(parts: &Parts) -> Value {
    let snapshot = parts.cluster.snapshot();
    json!({
        "synced": snapshot.synced,
        "generation": snapshot.generation,
        "namespaces": snapshot.cluster.namespaces.len(),
        "pods": snapshot.cluster.namespaces.values().map(|namespace| namespace.pods.len()).sum::<usize>(),
        "watches": parts.cluster.watches().iter().map(|watch| format!("{watch:?}")).collect::<Vec<_>>(),
    })
}
