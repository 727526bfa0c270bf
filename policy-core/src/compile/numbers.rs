//! The numbers of all contents, each kept as long as anything is made of it.

use std::collections::BTreeSet;

use ebpf_common::abi::{CLASS_NONE, PROFILE_ALLOW_ALL};

use super::class::Class;
use super::profile::Profile;
use super::registry::{Counts, Registry};
use super::set::Set;
use super::term::Term;
use crate::ids::{ClassId, RuleName, TermId};
use crate::tables::Tables;

/// Contents by number.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) terms: Registry<Term>,
    pub(super) classes: Registry<Class>,
    pub(super) sets: Registry<Set>,
    pub(super) profiles: Registry<Profile>,
    pub(super) rules: Registry<RuleName>,
    /// Sets that ask for a term.
    term_refs: Counts,
    /// Sets and profiles that name a rule.
    rule_refs: Counts,
    /// Classes that are made of a class, or known to have been it.
    part_refs: Counts,
}

impl Numbers {
    /// None of what the maps hold is given to other contents.
    pub(super) fn new(installed: &Tables) -> Self {
        let (mut sets, mut classes, mut profiles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for endpoint in installed.endpoints.values() {
            sets.extend([endpoint.ingress.0, endpoint.egress.0]);
        }
        for (key, row) in &installed.rows {
            sets.insert(key.set);
            classes.insert(key.class);
            profiles.insert(row.profile);
        }
        classes.extend(installed.cidrs.values().map(|value| value.class));
        classes.extend(installed.peers.values().map(|value| value.class()));
        classes.extend(installed.vips.values().map(|target| target.class.0));
        profiles.extend(installed.ports.keys().map(|key| u32::from_be_bytes(key.profile_be)));
        classes.remove(&CLASS_NONE);
        let none = BTreeSet::new();
        let mut numbers = Self {
            terms: Registry::new(1, &none),
            classes: Registry::new(CLASS_NONE, &classes),
            sets: Registry::new(1, &sets),
            profiles: Registry::new(PROFILE_ALLOW_ALL + 1, &profiles),
            rules: Registry::new(1, &none),
            term_refs: Counts::default(),
            rule_refs: Counts::default(),
            part_refs: Counts::default(),
        };
        // The first of all gets the lowest number: 0.
        numbers.classes.intern(Class::none());
        numbers
    }

    pub(super) fn set(&mut self, content: Set) -> u32 {
        let (id, new) = self.sets.number(content);
        if let Some(set) = self.sets.get(id).filter(|_| new) {
            for term in set.terms().collect::<BTreeSet<TermId>>() {
                self.term_refs.add(term.0);
            }
            for rule in set.rule_ids() {
                self.rule_refs.add(rule.0);
            }
        }
        id
    }

    pub(super) fn class(&mut self, content: Class) -> u32 {
        let (id, new) = match self.inherit(&content) {
            Some(inherited) => inherited,
            None => self.classes.number(content),
        };
        if let Some(class) = self.classes.get(id).filter(|_| new) {
            for part in parts(class) {
                self.part_refs.add(part.0);
            }
        }
        id
    }

    pub(super) fn profile(&mut self, content: Profile) -> (u32, bool) {
        let (id, new) = self.profiles.number(content);
        if let Some(profile) = self.profiles.get(id).filter(|_| new) {
            for rule in profile.rules() {
                self.rule_refs.add(rule.0);
            }
        }
        (id, new)
    }

    /// Whether another class is made of a class, or was it.
    pub(super) fn is_part(&self, class: u32) -> bool {
        self.part_refs.has(class)
    }

    pub(super) fn forget_set(&mut self, id: u32) {
        let Some(set) = self.sets.forget(id) else { return };
        for term in set.terms().collect::<BTreeSet<TermId>>() {
            if self.term_refs.take(term.0) {
                self.terms.forget(term.0);
            }
        }
        for rule in set.rule_ids() {
            if self.rule_refs.take(rule.0) {
                self.rules.forget(rule.0);
            }
        }
    }

    /// Forgets a class; yields those that it was made of.
    pub(super) fn forget_class(&mut self, id: u32) -> Vec<u32> {
        let Some(class) = self.classes.forget(id) else { return Vec::new() };
        let parts: Vec<u32> = parts(&class).map(|part| part.0).collect();
        parts.into_iter().filter(|part| self.part_refs.take(*part)).collect()
    }

    pub(super) fn forget_profile(&mut self, id: u32) {
        let Some(profile) = self.profiles.forget(id) else { return };
        for rule in profile.rules() {
            if self.rule_refs.take(rule.0) {
                self.rules.forget(rule.0);
            }
        }
    }
}

fn parts(class: &Class) -> impl Iterator<Item = ClassId> {
    let (backends, front) = match class.present() {
        Class::Service { backends, front } => (backends.as_ref(), *front),
        _ => (&[][..], None),
    };
    // Rows are asked for under the number that an heir had.
    let former = match class {
        Class::Heir { of, .. } => Some(*of),
        _ => None,
    };
    backends.iter().map(|backend| backend.class).chain(front.map(|front| front.class)).chain(former)
}
