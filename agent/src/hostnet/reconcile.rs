//! Observe, plan, execute.

use std::collections::{BTreeMap, BTreeSet};

use netlink::{
    Mac,
    nft::{self, Table, TableFamily},
};

use tokio::time::Instant;

use super::{
    Action, ActionKind, Desired, EniLink, Finding, HostNet, HostNetError, Observed,
    execute::execute,
    handle::State,
    observed::observe,
    plan::plan_wanted,
    wanted::{FROM_ENI, Wanted, preceding_rules, wanted},
};
use crate::cause::chain;

/// How often what is left after a refusal is tried, while others change links.
const ROUNDS: u32 = 4;

/// What a reconciliation did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What was done.
    pub actions: Vec<Action>,
    /// What is wanted and cannot be had now.
    pub findings: Vec<Finding>,
    /// How much of it had been there and was put back: somebody else removed or changed it.
    pub repairs: BTreeMap<ActionKind, u64>,
    /// Secondary ENIs whose links, routes and rules stand.
    pub linked: BTreeSet<Mac>,
    /// What the kernel refused; all else was done.
    pub refused: Option<Refused>,
}

/// Steps that the kernel did not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it said first, with its causes.
    pub error: String,
    /// What is still to be done, by a look at the kernel afterwards.
    pub left: Vec<Action>,
    /// All of that is about secondary ENIs: these are not in [`Report::linked`], and nothing else suffers.
    pub of_secondary_only: bool,
}

impl HostNet {
    /// Observes, plans, executes. Does nothing before [`Self::set_node`]. What the kernel refuses is in the report,
    /// beside all that was done.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn reconcile(&self) -> Result<Report, HostNetError> {
        let mut state = self.lock();
        let State { route, nft, rules, node: Some(node), pods, pods_complete, shown, installed } =
            &mut *state
        else {
            return Ok(Report { findings: vec![Finding::NotAsked], ..Report::default() });
        };
        let family = TableFamily::of(node.primary.primary_ip);
        let desired = Desired { node: node.clone(), pods: pods.values().cloned().collect() };
        // Until all is done, nothing counts as put back.
        let before = std::mem::take(installed);
        let mut report = Report::default();
        let mut unlinked = BTreeSet::new();
        let mut preceding = Vec::new();
        let mut refusal: Option<(String, Vec<Action>)> = None;
        for round in 1.. {
            let observed = known_again(observe(&desired, route, nft, rules)?, shown.as_ref());
            *installed = wanted(&desired, &observed.links);
            let mut actions = plan_wanted(installed, &observed);
            preceding = preceding_rules(&desired.pods, &observed.rules);
            if !*pods_complete {
                actions.retain(|action| !action.removes());
            }
            if let Some((error, tried)) = refusal.take() {
                // Neither what is still to be done was done, nor what is wanted no longer: a link went meanwhile.
                report.actions.retain(|one| !actions.contains(one) && (one.removes() || installed.had(one)));
                if round > ROUNDS || actions.iter().all(|action| tried.contains(action)) {
                    unlinked = enis_of(&actions, &desired, installed);
                    report.refused = Refused::new(error, actions, &desired, installed);
                    break;
                }
            }
            let outcome = execute(&actions, family, route, nft);
            *shown = match actions.iter().find_map(put_table) {
                None => shown.take(),
                Some(_) if outcome.is_err() => None,
                Some(table) => nft::observe(nft, table)?.map(|first| (table.clone(), first)),
            };
            report.actions.extend(actions.iter().cloned());
            match outcome {
                Ok(()) => break,
                // Which of them it refused, a look tells best.
                Err(error) => refusal = Some((chain(&error), actions)),
            }
        }
        report.count_repairs(&before);
        report.findings.clone_from(&installed.findings);
        report.findings.extend(preceding);
        let contested = {
            let mut pace = self.pace();
            pace.looked(Instant::now(), report.repairs.keys().copied());
            pace.contested()
        };
        report.findings.extend(contested.into_iter().map(Finding::Contested));
        let has_link = |eni: &&EniLink| !report.findings.contains(&Finding::EniWithoutLink { mac: eni.mac });
        let stands = |eni: &&EniLink| !unlinked.contains(&eni.mac);
        let secondary = desired.node.secondary.iter().filter(has_link).filter(stands);
        report.linked = secondary.map(|eni| eni.mac).collect();
        let of_pods: BTreeSet<u32> = desired.pods.iter().map(|pod| pod.host_ifindex).collect();
        self.known().links = installed.links.keys().copied().filter(|link| !of_pods.contains(link)).collect();
        if let Some(refused) = &report.refused {
            installed.forget(&refused.left);
        }
        Ok(report)
    }
}

impl Report {
    /// Counts those actions that put back what had been in force.
    fn count_repairs(&mut self, before: &Wanted) {
        for action in self.actions.iter().filter(|action| before.had(action)) {
            *self.repairs.entry(action.kind()).or_default() += 1;
        }
    }
}

impl Refused {
    /// None where nothing is left to be done.
    fn new(error: String, left: Vec<Action>, desired: &Desired, wanted: &Wanted) -> Option<Self> {
        let of_secondary_only = left.iter().all(|action| eni_of(action, desired, wanted).is_some());
        (!left.is_empty()).then_some(Self { error, left, of_secondary_only })
    }
}

fn put_table(action: &Action) -> Option<&Table> {
    match action {
        Action::PutTable(table) => Some(table),
        _ => None,
    }
}

/// Should this kernel show a table otherwise than it was told, then what it showed right after that is what was meant.
fn known_again(mut observed: Observed, shown: Option<&(Table, nft::Observed)>) -> Observed {
    if let (Some((table, first)), Some(now)) = (shown, &mut observed.nftables)
        && now == first
    {
        *now = nft::Observed::expected(table);
    }
    observed
}

/// The secondary ENI that a step is about; none for a step that concerns the node or a pod.
fn eni_of(action: &Action, desired: &Desired, wanted: &Wanted) -> Option<Mac> {
    let link = match action {
        Action::ChangeLink(change) => Some(change.index),
        Action::AddAddress(address) => Some(address.link),
        Action::PutRoute(route) | Action::RemoveRoute(route) => route.link,
        Action::AddRule(_)
        | Action::RemoveRule(_)
        | Action::PutNeighbour(_)
        | Action::RemoveNeighbour(_)
        | Action::PutTable(_)
        | Action::RemoveTable => None,
    };
    let table = match action {
        // A pod's rule names the same table, and is the pod's.
        Action::AddRule(rule) if rule.priority == FROM_ENI => Some(rule.table),
        _ => None,
    };
    let of = |eni: &&EniLink| {
        link.is_some_and(|link| wanted.enis.get(&eni.mac) == Some(&link)) || table == Some(eni.table)
    };
    desired.node.secondary.iter().find(of).map(|eni| eni.mac)
}

fn enis_of(actions: &[Action], desired: &Desired, wanted: &Wanted) -> BTreeSet<Mac> {
    actions.iter().filter_map(|action| eni_of(action, desired, wanted)).collect()
}
