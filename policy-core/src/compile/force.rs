//! The terms that sets in force ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::Compiler;
use super::registry::Counts;
use super::term::Term;
use crate::ids::TermId;
use crate::model::IpBlock;

/// Terms that active sets ask for, by what they are judged on. Blocks are in the
/// `Elementary`; terms for whole namespaces and families are judged by the home of a class.
#[derive(Clone, Debug, Default)]
pub(super) struct TermsInForce {
    users: Counts,
    pub(super) pods: BTreeMap<TermId, Arc<Term>>,
    pub(super) ports: BTreeMap<TermId, Arc<Term>>,
    pub(super) nodes: BTreeMap<TermId, Arc<Term>>,
}

/// What came into force and what went out of it.
#[derive(Clone, Debug, Default)]
pub(super) struct TermChange {
    pub(super) pods: Vec<(TermId, Arc<Term>)>,
    pub(super) ports: Vec<(TermId, Arc<Term>)>,
    pub(super) blocks: Vec<(TermId, IpBlock)>,
    pub(super) removed: Vec<TermId>,
    /// Whether some of those that went are of named ports.
    pub(super) ports_went: bool,
    /// Whether some of them are of nodes.
    pub(super) nodes: bool,
}

impl TermChange {
    /// Whether groups of pods may be of other classes.
    pub(super) fn concerns_groups(&self) -> bool {
        !(self.pods.is_empty() && self.ports.is_empty() && self.removed.is_empty())
    }
}

impl Compiler {
    /// Brings the terms into force that these sets ask for and that no set did, and takes
    /// those out that no set asks for any more.
    pub(super) fn enforce(&mut self, came: &[u32], went: &[u32]) -> TermChange {
        let mut change = TermChange::default();
        let (numbers, force, split) = (&self.numbers, &mut self.state.terms, self.state.split);
        let terms_of = |set: &u32| {
            let mut terms: Vec<TermId> =
                numbers.sets.get(*set).map(|set| set.terms().collect()).unwrap_or_default();
            terms.sort_unstable();
            terms.dedup();
            terms
        };
        for id in came.iter().flat_map(terms_of) {
            if !force.users.add(id.0) {
                continue;
            }
            let Some(term) = numbers.terms.get(id.0) else { continue };
            match term.as_ref() {
                Term::Pods { .. } if split && term.is_whole_namespace() => {}
                Term::Pods { .. } => {
                    force.pods.insert(id, Arc::clone(term));
                    change.pods.push((id, Arc::clone(term)));
                }
                Term::Port { .. } => {
                    force.ports.insert(id, Arc::clone(term));
                    change.ports.push((id, Arc::clone(term)));
                }
                Term::Nodes(_) => {
                    force.nodes.insert(id, Arc::clone(term));
                    change.nodes = true;
                }
                Term::Block(block) => change.blocks.push((id, block.clone())),
            }
        }
        for id in went.iter().flat_map(terms_of) {
            if force.users.take(id.0) {
                force.pods.remove(&id);
                change.ports_went |= force.ports.remove(&id).is_some();
                change.nodes |= force.nodes.remove(&id).is_some();
                change.removed.push(id);
            }
        }
        change.removed.sort_unstable();
        change
    }
}
