//! Other readings than the programs': the tables walked, and the specification.

use anyhow::Result;
use ebpf_common::abi::Direction;
use policy_core::model::Protocol as Transport;
use policy_core::{Compiler, Evaluator, Query, model, oracle};
use system_tests::probe::Protocol;

use super::Driver;
use crate::ask::{Ask, By, Heard, number};
use crate::scene::{Kind, OWN_SERVICE, Scene, own_vip};

impl Driver<'_> {
    /// The tables walked, both compilers', and the specification read directly.
    pub(super) fn other_readings(
        &self,
        ask: &Ask,
        scene: &Scene,
        expected: (bool, bool),
        fresh: &Compiler,
    ) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for crossing in ask.crossings(scene).into_iter().filter(|crossing| crossing.by != By::Node) {
            let egress = crossing.direction == Direction::Out;
            let slot = self.places.slot(&scene.parties[crossing.party])?;
            let query = Query {
                slot,
                direction: if egress { model::Direction::Egress } else { model::Direction::Ingress },
                peer: if egress { ask.to_address } else { ask.from_address },
                protocol: number(ask.protocol, ask.from_address.is_ipv4()),
                port: ask.port,
            };
            let wanted = if egress { expected.0 } else { expected.1 };
            for (whose, compiler) in [("", &self.compiler), ("fresh ", fresh)] {
                let tables = compiler.installed();
                let audited = tables.endpoints.get(&slot).is_some_and(|endpoint| endpoint.audit);
                if (Evaluator::new(tables).decide(&query).allowed || audited) != wanted {
                    faults.push(format!("the {whose}tables say otherwise about {}", query.direction));
                }
            }
        }
        if let Some(ask) = by_own_service(ask, scene)? {
            let Heard::Ends { egress, .. } = self.host_says(&ask, scene)? else { return Ok(faults) };
            faults.extend((egress != expected.0).then(|| by_service(egress)));
        }
        faults.extend(self.specification(ask, scene, expected));
        Ok(faults)
    }

    /// The node's own packets are no matter of policies.
    fn specification(&self, ask: &Ask, scene: &Scene, expected: (bool, bool)) -> Option<String> {
        let kind = |party: usize| scene.parties[party].kind;
        if kind(ask.from) == Kind::Node {
            return None;
        }
        let (cluster, protocol) = (&scene.cluster, number(ask.protocol, ask.from_address.is_ipv4()));
        let transport = Transport::from_number(protocol);
        let service = transport.and_then(|spoken| oracle::resolve(cluster, ask.to_address, spoken, ask.port));
        let is_service = kind(ask.to) == Kind::Service;
        // What leads nowhere is none of its business.
        if is_service && service.as_ref().is_none_or(Vec::is_empty) {
            return None;
        }
        let audited = |party: usize| {
            let owner = cluster.owner(scene.parties[party].addresses[0]);
            owner.is_some_and(|(_, _, pod)| pod.audit)
        };
        let source = oracle::Party::at(cluster, ask.from_address);
        let direct = oracle::Party::at(cluster, ask.to_address);
        let front = transport.and_then(|spoken| oracle::front(cluster, source, direct, spoken, ask.port));
        let targets = match service {
            Some(list) => {
                list.into_iter().map(|(to, port)| (oracle::Party::behind(cluster, to), port)).collect()
            }
            None => vec![(oracle::Party::at(cluster, ask.to_address), ask.port)],
        };
        let said = targets.into_iter().map(|(target, port)| {
            let [egress, ingress] = oracle::rulings(cluster, source, target, protocol, port);
            let ours = |party: usize| kind(party) == Kind::Local;
            (
                (egress.allows() && front.is_none()) || !ours(ask.from) || audited(ask.from),
                ingress.allows() || !ours(ask.to) || (!is_service && audited(ask.to)),
            )
        });
        let all = said.fold((true, true), |all, one| (all.0 && one.0, all.1 && one.1));
        (all != expected).then(|| {
            let heard = Heard::Ends { egress: all.0, ingress: all.1 };
            format!("the specification says {}", heard.words())
        })
    }
}

pub(super) fn by_service(egress: bool) -> String {
    let verdict = if egress { "allowed" } else { "denied" };
    format!("{verdict} by way of its Service")
}

/// The same by the Service of the destination, where every pod has one.
pub(super) fn by_own_service(ask: &Ask, scene: &Scene) -> Result<Option<Ask>> {
    let fits = scene.own_services
        && ask.from_address.is_ipv4()
        && ask.protocol != Protocol::Icmp
        && scene.parties[ask.from].kind == Kind::Local
        && scene.parties[ask.to].kind == Kind::Local;
    if !fits {
        return Ok(None);
    }
    // Only the first crossing is asked: that of the source.
    Ok(Some(Ask { to_address: own_vip(ask.to)?, port: ask.port + OWN_SERVICE, ..ask.clone() }))
}
