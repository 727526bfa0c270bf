//! What is in force, what decides, and what happens to packets.

use std::time::Duration;

use futures::StreamExt;
use policy_core::{EndpointSets, RuleName, SetId};
use serde_json::{Value, json};

use super::Parts;
use crate::flows::{Follower, Told, Wish};
use crate::http::{Fields, Lines};
use crate::policy::{InForce, Question};

/// A stream says at least this often that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Each local pod with its sets, and what could not be taken as given.
pub(super) async fn list(parts: &Parts) -> Result<Value, String> {
    let pods = parts.enforcer.look(pods).await.ok_or_else(ended)?;
    let report = parts.enforcer.report().borrow().clone();
    let findings: Vec<Value> = report
        .all_findings()
        .map(|finding| {
            json!({
                "kind": finding.kind.to_string(),
                "object": if finding.namespace.is_empty() {
                    finding.name.to_string()
                } else {
                    format!("{}/{}", finding.namespace, finding.name)
                },
                "path": finding.path, "reason": finding.reason.as_str(), "message": finding.message,
            })
        })
        .collect();
    Ok(json!({
        "error": report.error, "audit": parts.config.policy_audit.is_of_node(), "pods": pods, "entries": report.counts,
        "findings": findings,
    }))
}

fn ended() -> String {
    "the agent is stopping".to_owned()
}

fn pods(now: &InForce<'_>) -> Vec<Value> {
    let installed = now.compiler.installed();
    let told = now.local.values().map(|(pod, _)| {
        let sets = installed.endpoints.get(&pod.slot);
        let number = |number: fn(&EndpointSets) -> SetId| sets.map(|sets| number(sets).0);
        let content = |number: fn(&EndpointSets) -> SetId| sets.map(|sets| content(now, number(sets)));
        json!({
            "pod": pod.identity.as_ref().map(ToString::to_string),
            "addresses": pod.addresses,
            "slot": pod.slot,
            "epoch": sets.map(|sets| sets.epoch),
            "audited": sets.is_some_and(|sets| sets.audit),
            "ingress_set": number(|sets| sets.ingress),
            "egress_set": number(|sets| sets.egress),
            "ingress": content(|sets| sets.ingress),
            "egress": content(|sets| sets.egress),
        })
    });
    told.collect()
}

fn content(now: &InForce<'_>, set: SetId) -> Value {
    if set == SetId::default() {
        return Value::Null;
    }
    let rules = now.compiler.rules_of(set);
    let isolation = rules.iter().flat_map(|rules| &rules.isolation).map(|name| match name {
        RuleName::Isolation(policy, _) => policy.to_string(),
        other => other.to_string(),
    });
    json!({
        "set": set.0,
        "isolated_by": isolation.collect::<Vec<_>>(),
        // None: made by an agent before this one, which did not leave the names.
        "rules": rules.as_ref().map(|rules| rules.rules.iter().map(ToString::to_string).collect::<Vec<_>>()),
    })
}

/// What decides about a connection by the policies as they are written, and by what is in the maps for pods of this
/// node.
pub(super) async fn explain(parts: &Parts, fields: &Fields) -> Result<Value, String> {
    let cluster = parts.cluster.snapshot().cluster;
    let question = Question::read(|name| fields.get(name).cloned())?;
    // Every pod of the cluster is asked for its addresses, and a Service may have thousands of backends.
    let (asked, mut answer) = tokio::task::spawn_blocking(move || {
        let asked = question.resolve(&cluster)?;
        let answer = asked.answer(&cluster);
        Ok::<_, String>((asked, answer))
    })
    .await
    .map_err(|_| ended())??;
    let in_maps = asked.clone();
    let standing = parts.enforcer.look(move |now| in_maps.standing(now)).await.ok_or_else(ended)?;
    asked.compare(&mut answer, &standing, parts.config.policy_audit.is_of_node());
    Ok(answer)
}

/// Flows as lines of JSON, with an empty line now and then.
pub(super) async fn flows(parts: &Parts, fields: &Fields) -> Result<Lines, String> {
    let wish = Wish::read(|name| fields.get(name).cloned())?;
    let follower = parts.flows.follow(wish).await.map_err(|error| error.to_string())?;
    // At once: whoever asked knows from now on that nothing is missed.
    Ok(futures::stream::once(async { String::new() }).chain(lines(follower)).boxed())
}

fn lines(follower: Follower) -> impl futures::Stream<Item = String> + Send {
    futures::stream::unfold(follower, |mut follower| async move {
        let line = match tokio::time::timeout(SIGN_OF_LIFE, follower.next()).await {
            Err(_) => String::new(),
            Ok(None) => return None,
            Ok(Some(Told::Lost(lost))) => json!({ "lost": lost }).to_string(),
            Ok(Some(Told::Flow(flow))) => serde_json::to_string(&*flow).unwrap_or_default(),
        };
        Some((line, follower))
    })
}
