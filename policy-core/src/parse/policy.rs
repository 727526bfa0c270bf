//! A whole policy.

use super::block::parse_block;
use super::limits::Size;
use super::port::parse_port;
use super::raw::{RawPeer, RawPolicy, RawPort, RawRule};
use super::selector::parse_selector;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::model::{NamespaceMatch, Peer, Peers, Policy, PortMatch, Ports, Rule, Selector};

/// Parses a policy. It always yields one that can be enforced: what is not understood
/// is closed, with a finding.
pub fn parse_policy(raw: &RawPolicy) -> (Policy, Vec<Finding>) {
    let mut parser = Parser { raw, findings: Vec::new() };
    let policy = parser.policy();
    (policy, parser.findings)
}

struct Parser<'a> {
    raw: &'a RawPolicy,
    findings: Vec<Finding>,
}

impl Parser<'_> {
    fn find(&mut self, path: String, reason: FindingReason, message: String) {
        self.findings.push(Finding {
            kind: ObjectKind::NetworkPolicy,
            namespace: self.raw.namespace.as_str().into(),
            name: self.raw.name.as_str().into(),
            path,
            reason,
            message,
        });
    }

    fn policy(&mut self) -> Policy {
        let (ingress, egress) = self.directions();
        match parse_selector(&self.raw.pod_selector) {
            Ok(subject) if self.is_too_large() => {
                Policy { subject, ingress: ingress.then(Vec::new), egress: egress.then(Vec::new) }
            }
            Ok(subject) => Policy {
                subject,
                ingress: ingress.then(|| self.rules(&self.raw.ingress, "spec.ingress", "from")),
                egress: egress.then(|| self.rules(&self.raw.egress, "spec.egress", "to")),
            },
            Err(fault) => {
                self.find(
                    "spec.podSelector".into(),
                    FindingReason::InvalidSelector,
                    format!("{fault}; every pod of the namespace is isolated instead"),
                );
                Policy {
                    subject: Selector::everything(),
                    ingress: ingress.then(Vec::new),
                    egress: egress.then(Vec::new),
                }
            }
        }
    }

    fn is_too_large(&mut self) -> bool {
        let rules = self.raw.ingress.iter().chain(&self.raw.egress);
        let excess = rules.map(size).fold(Size::default(), Size::and).excess();
        let Some(excess) = excess else { return false };
        let message = format!("{excess}; until then it isolates its pods and allows nothing");
        self.find("spec".into(), FindingReason::TooLarge, message);
        true
    }

    /// Which directions the policy isolates. Without types: ingress, and egress where
    /// it has a rule.
    fn directions(&mut self) -> (bool, bool) {
        let (mut ingress, mut egress) = (false, false);
        if self.raw.policy_types.is_empty() {
            return (true, !self.raw.egress.is_empty());
        }
        for (index, name) in self.raw.policy_types.iter().enumerate() {
            match name.as_str() {
                "Ingress" => ingress = true,
                "Egress" => egress = true,
                other => {
                    (ingress, egress) = (true, true);
                    self.find(
                        format!("spec.policyTypes[{index}]"),
                        FindingReason::InvalidPolicyType,
                        format!("policy type {other:?} is not known, only Ingress and Egress are; both directions are isolated"),
                    );
                }
            }
        }
        (ingress, egress)
    }

    fn rules(&mut self, raw: &[RawRule], path: &str, word: &str) -> Vec<Rule> {
        raw.iter()
            .enumerate()
            .map(|(index, rule)| Rule {
                peers: self.peers(&rule.peers, &format!("{path}[{index}].{word}")),
                ports: self.ports(&rule.ports, &format!("{path}[{index}].ports")),
            })
            .collect()
    }

    fn peers(&mut self, raw: &[RawPeer], path: &str) -> Peers {
        if raw.is_empty() {
            return Peers::Any;
        }
        let peers = raw.iter().enumerate().filter_map(|(index, peer)| match self.peer(peer) {
            Ok(peer) => Some(peer),
            Err(fault) => {
                let (reason, message) = fault;
                let message = format!("{message}; this peer matches nothing");
                self.find(format!("{path}[{index}]"), reason, message);
                None
            }
        });
        Peers::Only(peers.collect())
    }

    fn peer(&self, raw: &RawPeer) -> Result<Peer, (FindingReason, String)> {
        let selector =
            |fault: super::selector::SelectorFault| (FindingReason::InvalidSelector, fault.to_string());
        let invalid = |message: String| (FindingReason::InvalidPeer, message);
        match (&raw.namespace_selector, &raw.pod_selector, &raw.ip_block) {
            (None, None, None) => {
                Err(invalid("a peer says nothing: write a selector, {} for all, or an ipBlock".into()))
            }
            (None, None, Some(block)) => {
                parse_block(block).map(Peer::Block).map_err(|fault| invalid(fault.to_string()))
            }
            (_, _, Some(_)) => {
                Err(invalid("ipBlock cannot be combined with a selector: make two peers of it".into()))
            }
            (namespaces, pods, None) => Ok(Peer::Pods {
                namespaces: match namespaces {
                    Some(raw) => NamespaceMatch::Selected(parse_selector(raw).map_err(selector)?),
                    None => NamespaceMatch::Named(self.raw.namespace.as_str().into()),
                },
                pods: match pods {
                    Some(raw) => parse_selector(raw).map_err(selector)?,
                    None => Selector::everything(),
                },
            }),
        }
    }

    fn ports(&mut self, raw: &[RawPort], path: &str) -> Ports {
        if raw.is_empty() {
            return Ports::All;
        }
        let mut ports: Vec<PortMatch> = Vec::with_capacity(raw.len());
        for (index, port) in raw.iter().enumerate() {
            match parse_port(port) {
                Ok(port) => ports.push(port),
                Err(fault) => self.find(
                    format!("{path}[{index}]"),
                    FindingReason::InvalidPort,
                    format!("{fault}; this port matches nothing"),
                ),
            }
        }
        Ports::Only(ports)
    }
}

fn size(rule: &RawRule) -> Size {
    let holes = |peer: &RawPeer| peer.ip_block.as_ref().map_or(0, |block| block.except.len());
    let peers = rule.peers.iter().map(|peer| 1 + holes(peer)).sum();
    Size { rules: 1, peers, ports: rule.ports.len() }
}
