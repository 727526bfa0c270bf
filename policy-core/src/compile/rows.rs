//! What active sets say to the classes in use.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebpf_common::abi::{
    CLASS_NONE, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PortKey, PortValue, RowKey, RowValue,
};

use super::class::Class;
use super::engine::Compiler;
use super::row::{Judge, Verdicts, to_own_node};
use super::term::Term;
use crate::ids::TermId;

/// Whom a set speaks of. To all others it says what it says to class 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Its terms, sorted.
    terms: Vec<TermId>,
    /// Those of them that are judged by the home of a class.
    home: Vec<Arc<Term>>,
}

impl Compiler {
    fn reach_of(&self, set: u32) -> Option<Reach> {
        let mut terms: Vec<TermId> = self.numbers.sets.get(set)?.terms().collect();
        terms.sort_unstable();
        terms.dedup();
        let known = terms.iter().filter_map(|id| self.numbers.terms.get(id.0));
        let home = known.filter(|term| match term.as_ref() {
            Term::Pods { .. } => term.is_whole_namespace(),
            Term::Block(block) => block.is_whole_family(),
            _ => false,
        });
        let home = home.cloned().collect();
        Some(Reach { terms, home })
    }

    /// Whether a set may say something else to a class than to class 0.
    pub(super) fn reaches(&self, set: u32, class: u32) -> bool {
        let Some(reach) = self.state.reach.get(&set) else { return true };
        let Some(class) = self.numbers.classes.get(class) else { return true };
        let asked = |id: &TermId| reach.terms.binary_search(id).is_ok();
        match class.as_ref() {
            Class::Pod { home, terms, ports } => {
                let at_home = |term: &Arc<Term>| match (term.as_ref(), home) {
                    (Term::Pods { namespaces, .. }, Some(home)) => {
                        namespaces.matches(&home.namespace, home.labels.as_deref())
                    }
                    (Term::Block(block), Some(home)) => block.cidr.is_ipv4() == home.ipv4,
                    _ => false,
                };
                terms.iter().any(asked)
                    || ports.iter().any(|(id, _)| asked(id))
                    || reach.home.iter().any(at_home)
            }
            Class::Outside { terms } => terms.iter().any(asked),
            _ => true,
        }
    }

    /// Every active set gets rows for every class in use, the leaving sets as well: live
    /// pods are judged by them until the flip.
    pub(super) fn fill_rows(&mut self, came: &[u32], went: &[u32]) {
        let touched = std::mem::take(&mut self.state.usage.touched);
        self.maps.idle_classes.extend(touched.iter().copied());
        let used = |class: &u32| self.state.usage.users.has(*class);
        let (new, gone): (Vec<u32>, Vec<u32>) = touched
            .into_iter()
            .filter(|class| used(class) != self.state.rowed.contains(class))
            .partition(|class| used(class));
        self.state.rowed.extend(new.iter().copied());
        self.state.rowed.retain(|class| gone.binary_search(class).is_err());
        for set in went {
            self.state.defaults.remove(set);
            self.state.reach.remove(set);
            for key in self.maps.rows_of(*set) {
                self.maps.want_row(key, None);
            }
        }
        let stay: Vec<u32> = self.state.active.iter().filter(|set| !came.contains(set)).copied().collect();
        for set in stay {
            for class in &gone {
                self.maps.want_row(RowKey { set, class: *class }, None);
            }
            for class in &new {
                self.fill_row(set, *class);
            }
        }
        let all: Vec<u32> = self.state.rowed.iter().copied().collect();
        for set in came {
            if let Some(reach) = self.reach_of(*set) {
                self.state.reach.insert(*set, reach);
            }
            if self.numbers.sets.get(*set).is_none() {
                // Known by number only: what stands in the maps stays as long as it is asked.
                for key in self.maps.rows_of(*set) {
                    self.maps.want_row(key, self.maps.installed.rows.get(&key).copied());
                }
            }
            // Class 0 is the least, so it comes first.
            for class in &all {
                self.fill_row(*set, *class);
            }
        }
        let (active, rowed) = (&self.state.active, &self.state.rowed);
        self.state.mixed.retain(|(class, set)| rowed.contains(class) && active.contains(set));
    }

    fn fill_row(&mut self, set: u32, class: u32) {
        let key = RowKey { set, class };
        if class != CLASS_NONE && !self.reaches(set, class) {
            return;
        }
        let Some(of_class) = self.numbers.classes.get(class).cloned() else { return };
        let Some(of_set) = self.numbers.sets.get(set).cloned() else {
            if let Some(row) = self.inherited_row(set, &of_class) {
                self.maps.want_row(key, Some(row));
            }
            return;
        };
        let judge = Judge { terms: &self.numbers.terms, classes: &self.numbers.classes };
        let row = judge.row(&of_set, &of_class).map(|verdicts| match verdicts {
            Verdicts::Deny(rule) => RowValue { profile: PROFILE_DENY_ALL, rule: rule.0 },
            Verdicts::Mixed(rule) => {
                self.state.mixed.insert((class, set));
                self.state.services.retell = true;
                RowValue { profile: PROFILE_DENY_ALL, rule: rule.0 }
            }
            Verdicts::Allow(rule) => RowValue { profile: PROFILE_ALLOW_ALL, rule: rule.0 },
            Verdicts::Ports(profile) => {
                let rule = profile.rest.rule.0;
                let (id, new) = self.numbers.profile(profile);
                if new {
                    self.maps.idle_profiles.insert(id);
                }
                RowValue { profile: id, rule }
            }
        });
        if class == CLASS_NONE
            && let Some(row) = row
        {
            self.state.defaults.insert(set, row);
        }
        // The programs ask for this node's own row only, without falling back.
        let exact = to_own_node(&of_set, &of_class);
        let default = self.state.defaults.get(&set).copied();
        let elided = class != CLASS_NONE && !exact && row == default;
        self.maps.want_row(key, row.filter(|_| !elided));
    }

    /// The keys of a profile's ports.
    pub(super) fn ports_of(&self, id: u32) -> Vec<PortKey> {
        match self.numbers.profiles.get(id) {
            Some(profile) => profile.entries(id).map(|(key, _)| key).collect(),
            None => self.maps.foreign_ports.get(&id).cloned().unwrap_or_default(),
        }
    }

    /// What stands in the maps for a profile.
    pub(super) fn port_entries(&self, id: u32) -> Vec<(PortKey, PortValue)> {
        self.numbers.profiles.get(id).map(|profile| profile.entries(id).collect()).unwrap_or_default()
    }

    /// The sets that endpoints have and shall not have.
    pub(super) fn leaving(&self) -> BTreeSet<u32> {
        let wanted = self.wanted_sets();
        self.state.active.iter().filter(|set| !wanted.contains(set)).copied().collect()
    }
}
