//! The pages below `/debug/`.

mod policy;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::Parts;
use crate::endpoint::{EndpointView, Phase};
use crate::http::{Fields, Page, Site, Stream};
use crate::ipam::{BootClock, PoolView};
use crate::policy::Programmed;
use crate::readiness::Readiness;

type Shared = Arc<OnceLock<Parts>>;
type Answer<'a, T> = BoxFuture<'a, Result<T, String>>;

/// Everything that is served over HTTP.
pub(super) fn site(registry: Registry, readiness: Readiness, parts: Shared) -> Site {
    let mut pages: BTreeMap<&'static str, Page> = BTreeMap::new();
    let mut add = |name: &'static str, answer: fn(&Parts, &Fields) -> Result<Value, String>| {
        let parts = Arc::clone(&parts);
        let page: Page = Box::new(move |fields| {
            let parts = Arc::clone(&parts);
            async move { answer(started(&parts)?, &fields) }.boxed()
        });
        pages.insert(name, page);
    };
    add("config", |parts, _| Ok(json!(parts.config)));
    add("pool", |parts, _| Ok(pool(&parts.pool.view().borrow().clone())));
    add("endpoints", |parts, _| Ok(parts.endpoints.view().iter().map(endpoint).collect()));
    add("changes", |parts, fields| {
        let after = fields.get("after").map_or(Ok(0), |text| text.parse());
        let after = after.map_err(|_| "after: it is the number of a change".to_owned())?;
        Ok(parts.enforcer.changes().after(after).iter().map(change).collect())
    });
    add("kubernetes", |parts, _| Ok(kubernetes(parts)));
    let mut ask = |name: &'static str, answer: for<'a> fn(&'a Parts, &'a Fields) -> Answer<'a, Value>| {
        let parts = Arc::clone(&parts);
        let page: Page = Box::new(move |fields| {
            let parts = Arc::clone(&parts);
            async move { answer(started(&parts)?, &fields).await }.boxed()
        });
        pages.insert(name, page);
    };
    ask("policy", |parts, _| policy::list(parts).boxed());
    ask("explain", |parts, fields| policy::explain(parts, fields).boxed());
    let following = Arc::clone(&parts);
    let flows: Stream = Box::new(move |fields| {
        let parts = Arc::clone(&following);
        async move { policy::flows(started(&parts)?, &fields).await }.boxed()
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
    Site { registry, readiness, refresh, pages, flows }
}

fn started(parts: &OnceLock<Parts>) -> Result<&Parts, String> {
    parts.get().ok_or_else(|| "the agent is starting; see /readyz".to_owned())
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

/// Times in microseconds, moments since 1970.
fn change(change: &Programmed) -> Value {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let since_1970 = |time: SystemTime| micros(time.duration_since(UNIX_EPOCH).unwrap_or_default());
    json!({
        "number": change.number,
        "arrived_us": since_1970(change.arrived),
        "in_force_us": since_1970(change.in_force),
        "compile_us": micros(change.compile),
        "apply_us": micros(change.apply),
        "addresses": change.addresses,
        "entries": change.entries,
    })
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
