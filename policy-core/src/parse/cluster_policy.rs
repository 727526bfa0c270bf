//! A whole ClusterNetworkPolicy.
//!
//! What is not understood in a rule is closed as the API demands: a rule that accepts
//! matches nothing, one that denies or passes denies everything. Where it is the policy
//! itself that is not understood (tier, priority, subject), the policy is taken as
//! strictly as it may be meant: what it accepts it does not, what it passes it denies.

use super::cluster_peer::{is_domains_only, namespaced, read_peer};
use super::cluster_port::read_protocol;
use super::limits::Size;
use super::raw_cluster::{RawClusterPolicy, RawClusterRule};
use super::selector::parse_selector;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::model::{Action, ClusterPolicy, ClusterRule, Direction, Peers, Ports, Selector, Subject, Tier};

/// The greatest priority that the API knows.
const LAST_PRIORITY: u16 = 1000;

/// Parses a ClusterNetworkPolicy. It always yields one that can be enforced: what is
/// not understood is closed, with a finding.
pub fn parse_cluster_policy(raw: &RawClusterPolicy) -> (ClusterPolicy, Vec<Finding>) {
    let mut parser = Parser { raw, findings: Vec::new(), size: Size::default() };
    let policy = parser.policy();
    (policy, parser.findings)
}

/// Why a part of a rule cannot be taken as written.
struct Fault {
    path: String,
    reason: FindingReason,
    message: String,
}

struct Parser<'a> {
    raw: &'a RawClusterPolicy,
    findings: Vec<Finding>,
    /// That of the rules read so far.
    size: Size,
}

impl Parser<'_> {
    fn find(&mut self, path: impl Into<String>, reason: FindingReason, message: String) {
        self.findings.push(Finding {
            kind: ObjectKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name: self.raw.name.as_str().into(),
            path: path.into(),
            reason,
            message,
        });
    }

    fn policy(&mut self) -> ClusterPolicy {
        let tier = self.tier();
        let priority = self.priority();
        let subject = self.subject();
        let sure = tier.is_some() && priority.is_some() && subject.is_some();
        let everybody = Subject { namespaces: Selector::everything(), pods: Selector::everything() };
        ClusterPolicy {
            tier: tier.unwrap_or(Tier::Admin),
            priority: priority.unwrap_or(0),
            subject: subject.unwrap_or(everybody),
            ingress: self.rules(Direction::Ingress, sure),
            egress: self.rules(Direction::Egress, sure),
        }
    }

    fn tier(&mut self) -> Option<Tier> {
        match self.raw.tier.as_str() {
            "Admin" => Some(Tier::Admin),
            "Baseline" => Some(Tier::Baseline),
            other => {
                let message = format!(
                    "tier {other:?} is not known; taken as Admin, without what it accepts or passes; write \
                     Admin or Baseline"
                );
                self.find("spec.tier", FindingReason::InvalidRule, message);
                None
            }
        }
    }

    fn priority(&mut self) -> Option<u16> {
        let number = self.raw.priority.and_then(|number| u16::try_from(number).ok());
        let known = number.filter(|number| *number <= LAST_PRIORITY);
        if known.is_none() {
            let written =
                self.raw.priority.map_or("a missing priority".to_owned(), |n| format!("priority {n}"));
            let message = format!(
                "{written} is not one; taken as 0, without what it accepts or passes; write a number from 0 \
                 to {LAST_PRIORITY}"
            );
            self.find("spec.priority", FindingReason::InvalidRule, message);
        }
        known
    }

    fn subject(&mut self) -> Option<Subject> {
        let raw = &self.raw.subject;
        let found = match (&raw.namespaces, &raw.pods) {
            (Some(namespaces), None) => parse_selector(namespaces)
                .map(|namespaces| Subject { namespaces, pods: Selector::everything() })
                .map_err(|fault| ("spec.subject.namespaces", fault.to_string())),
            (None, Some(pods)) => namespaced(pods)
                .map(|(namespaces, pods)| Subject { namespaces, pods })
                .map_err(|message| ("spec.subject.pods", message)),
            _ => Err(("spec.subject", "one of namespaces and pods must be set".to_owned())),
        };
        match found {
            Ok(subject) => Some(subject),
            Err((path, message)) => {
                let message = format!(
                    "{message}; taken as every pod, without what it accepts or passes, until that is mended"
                );
                self.find(path, FindingReason::InvalidSelector, message);
                None
            }
        }
    }

    fn rules(&mut self, direction: Direction, sure: bool) -> Vec<ClusterRule> {
        let (raw, path) = match direction {
            Direction::Ingress => (&self.raw.ingress, "spec.ingress"),
            Direction::Egress => (&self.raw.egress, "spec.egress"),
        };
        raw.iter()
            .enumerate()
            .map(|(index, rule)| {
                let mut rule = self.rule(direction, rule, &format!("{path}[{index}]"));
                match rule.action {
                    Action::Accept if !sure => rule.peers = Peers::Only(Vec::new()),
                    Action::Pass if !sure => rule.action = Action::Deny,
                    _ => {}
                }
                rule
            })
            .collect()
    }

    fn rule(&mut self, direction: Direction, raw: &RawClusterRule, path: &str) -> ClusterRule {
        let action = match raw.action.as_str() {
            "Accept" => Action::Accept,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => {
                let message =
                    format!("action {other:?} is not known; taken as Deny; write Accept, Deny or Pass");
                self.find(format!("{path}.action"), FindingReason::InvalidRule, message);
                Action::Deny
            }
        };
        let name = (!raw.name.is_empty()).then(|| raw.name.as_str().into());
        let word = if direction == Direction::Ingress { "from" } else { "to" };
        let mut faults = Vec::new();
        self.size = self.size.and(size(raw));
        if let Some(message) = self.size.excess() {
            faults.push(Fault { path: path.to_owned(), reason: FindingReason::TooLarge, message });
        }
        let peers = self.peers(direction, action, raw, &format!("{path}.{word}"), &mut faults);
        let ports = ports(raw, &format!("{path}.protocols"), &mut faults);
        if faults.is_empty() {
            return ClusterRule { name, action, peers, ports };
        }
        let effect = match action {
            Action::Accept => "this rule matches nothing",
            Action::Deny | Action::Pass => "this rule denies everything",
        };
        for Fault { path, reason, message } in faults {
            self.find(path, reason, format!("{message}; {effect} until that is mended"));
        }
        match action {
            Action::Accept => ClusterRule { name, action, peers: Peers::Only(Vec::new()), ports },
            Action::Deny | Action::Pass => {
                ClusterRule { name, action: Action::Deny, peers: Peers::Any, ports: Ports::All }
            }
        }
    }

    fn peers(
        &mut self,
        direction: Direction,
        action: Action,
        raw: &RawClusterRule,
        path: &str,
        faults: &mut Vec<Fault>,
    ) -> Peers {
        let mut list = Vec::new();
        if raw.peers.is_empty() {
            let message = "a rule needs at least one peer".to_owned();
            faults.push(Fault { path: path.to_owned(), reason: FindingReason::InvalidPeer, message });
        }
        let by_name = raw.protocols.iter().any(|entry| !entry.destination_named_port.is_empty());
        for (index, peer) in raw.peers.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if is_domains_only(peer) && direction == Direction::Egress && action == Action::Accept {
                let message = "domain names are not supported; this peer matches nothing; name its networks \
                               instead"
                    .to_owned();
                self.find(format!("{path}.domainNames"), FindingReason::NotSupported, message);
                continue;
            }
            let within = peer.namespaces.is_some() || peer.pods.is_some();
            if by_name && !within {
                let message = "networks, nodes and domainNames have no named ports; give numbers".to_owned();
                faults.push(Fault { path, reason: FindingReason::InvalidPeer, message });
                continue;
            }
            match read_peer(direction, peer) {
                Ok(found) => list.extend(found),
                Err((field, reason, message)) => {
                    faults.push(Fault { path: format!("{path}{field}"), reason, message });
                }
            }
        }
        Peers::Only(list)
    }
}

fn ports(raw: &RawClusterRule, path: &str, faults: &mut Vec<Fault>) -> Ports {
    if raw.protocols.is_empty() {
        return Ports::All;
    }
    let mut list = Vec::new();
    for (index, entry) in raw.protocols.iter().enumerate() {
        match read_protocol(entry) {
            Ok(found) => list.extend(found),
            Err(message) => {
                let path = format!("{path}[{index}]");
                faults.push(Fault { path, reason: FindingReason::InvalidPort, message });
            }
        }
    }
    Ports::Only(list)
}

fn size(rule: &RawClusterRule) -> Size {
    let peers = rule.peers.iter().map(|peer| peer.networks.len().max(1)).sum();
    Size { rules: 1, peers, ports: rule.protocols.len() }
}
