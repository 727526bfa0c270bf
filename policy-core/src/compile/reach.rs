//! Which active sets speak of which classes in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ebpf_common::abi::CLASS_NONE;

use super::class::{Class, Home};
use super::numbers::Numbers;
use super::term::Term;
use crate::ids::TermId;

/// Whom each active set speaks of, and the reverse. To all others it says what it says to class 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Classes for which all active sets have their rows.
    classes: BTreeSet<u32>,
    /// Those of them that have a term.
    of_term: HashMap<TermId, BTreeSet<u32>>,
    /// Those that have a home.
    of_home: BTreeMap<Home, BTreeSet<u32>>,
    /// Those that are more than terms, of which every set may speak.
    of_all: BTreeSet<u32>,
    /// Sets that ask for a term.
    asked: HashMap<TermId, BTreeSet<u32>>,
    /// Sets with the terms of theirs that are judged by the home of a class.
    at_home: BTreeMap<u32, Vec<Arc<Term>>>,
    /// Sets that are known by number only: they may speak of every class.
    unknown: BTreeSet<u32>,
}

impl Reach {
    /// Whether a class has its rows.
    pub(super) fn has_class(&self, class: u32) -> bool {
        self.classes.contains(&class)
    }

    pub(super) fn add_set(&mut self, numbers: &Numbers, set: u32) {
        let Some(content) = numbers.sets.get(set) else {
            self.unknown.insert(set);
            return;
        };
        for id in content.terms() {
            self.asked.entry(id).or_default().insert(set);
            let Some(term) = numbers.terms.get(id.0).filter(|term| is_of_home(term)) else { continue };
            let known = self.at_home.entry(set).or_default();
            if !known.contains(term) {
                known.push(Arc::clone(term));
            }
        }
    }

    pub(super) fn remove_set(&mut self, numbers: &Numbers, set: u32) {
        self.unknown.remove(&set);
        self.at_home.remove(&set);
        for id in numbers.sets.get(set).into_iter().flat_map(|content| content.terms()) {
            remove(&mut self.asked, id, set);
        }
    }

    pub(super) fn add_class(&mut self, numbers: &Numbers, class: u32) {
        let Some(content) = numbers.classes.get(class) else { return };
        self.classes.insert(class);
        let Some((terms, home)) = parts(content) else {
            self.of_all.insert(class);
            return;
        };
        for id in terms {
            self.of_term.entry(id).or_default().insert(class);
        }
        if let Some(home) = home {
            self.of_home.entry(home.clone()).or_default().insert(class);
        }
    }

    pub(super) fn remove_class(&mut self, numbers: &Numbers, class: u32) {
        self.classes.remove(&class);
        self.of_all.remove(&class);
        let Some((terms, home)) = numbers.classes.get(class).and_then(|content| parts(content)) else {
            return;
        };
        for id in terms {
            remove(&mut self.of_term, id, class);
        }
        if let Some((home, classes)) = home.and_then(|home| Some((home, self.of_home.get_mut(home)?))) {
            classes.remove(&class);
            if classes.is_empty() {
                self.of_home.remove(home);
            }
        }
    }

    /// The classes to which a set may say something else than to class 0, and class 0, which comes first.
    pub(super) fn classes_of(&self, numbers: &Numbers, set: u32) -> BTreeSet<u32> {
        let Some(content) = numbers.sets.get(set) else { return self.classes.clone() };
        let mut found = self.of_all.clone();
        found.extend(self.classes.get(&CLASS_NONE));
        found.extend(content.terms().filter_map(|id| self.of_term.get(&id)).flatten());
        if let Some(terms) = self.at_home.get(&set) {
            let homes =
                self.of_home.iter().filter(|(home, _)| terms.iter().any(|term| speaks_of(term, home)));
            found.extend(homes.flat_map(|(_, classes)| classes));
        }
        found
    }

    /// The sets, of these, that may say something else to one class than to another: only those that ask for what the
    /// two do not have in common.
    pub(super) fn sets_between(
        &self,
        numbers: &Numbers,
        classes: [u32; 2],
        active: &BTreeSet<u32>,
    ) -> BTreeSet<u32> {
        let known = classes.map(|class| numbers.classes.get(class).and_then(|content| features(content)));
        let [Some((one, here)), Some((other, there))] = known else {
            // What a set says to all others it says to both, or it speaks of one of them.
            let spoken_of = classes.into_iter().filter(|class| *class != CLASS_NONE);
            return spoken_of.flat_map(|class| self.sets_of(numbers, class, active)).collect();
        };
        let mut found = self.unknown.clone();
        let apart = one.symmetric_difference(&other);
        found.extend(apart.filter_map(|(id, _)| self.asked.get(id)).flatten());
        if here != there {
            let speaks =
                |term: &Arc<Term>| [here, there].into_iter().flatten().any(|home| speaks_of(term, home));
            let at_home = self.at_home.iter().filter(|(_, terms)| terms.iter().any(speaks));
            found.extend(at_home.map(|(set, _)| *set));
        }
        found.retain(|set| active.contains(set));
        found
    }

    /// The active sets, of these, that may say something else to a class than to class 0.
    pub(super) fn sets_of(&self, numbers: &Numbers, class: u32, active: &BTreeSet<u32>) -> BTreeSet<u32> {
        let content = numbers.classes.get(class).filter(|_| class != CLASS_NONE);
        let Some((terms, home)) = content.and_then(|content| parts(content)) else { return active.clone() };
        let mut found = self.unknown.clone();
        found.extend(terms.filter_map(|id| self.asked.get(&id)).flatten());
        if let Some(home) = home {
            let at_home =
                self.at_home.iter().filter(|(_, terms)| terms.iter().any(|term| speaks_of(term, home)));
            found.extend(at_home.map(|(set, _)| *set));
        }
        found.retain(|set| active.contains(set));
        found
    }
}

/// A term that a class satisfies; of a named port with the number that its pods give to it.
type Feature = (TermId, Option<u16>);

/// What a class that is no more than terms and a home says of its addresses.
fn features(class: &Class) -> Option<(BTreeSet<Feature>, Option<&Home>)> {
    let (_, home) = parts(class)?;
    let numbered = match class {
        Class::Pod { ports, .. } => ports.iter().map(|(id, port)| (*id, Some(*port))).collect(),
        _ => Vec::new(),
    };
    let terms = class.terms().iter().map(|id| (*id, None));
    Some((terms.chain(numbered).collect(), home))
}

/// Terms and home of a class that is no more than these.
fn parts(class: &Class) -> Option<(impl Iterator<Item = TermId>, Option<&Home>)> {
    let (terms, ports, home): (_, &[(TermId, u16)], _) = match class {
        Class::Pod { home, terms, ports } => (terms, ports, home.as_ref()),
        Class::Outside { terms } => (terms, &[], None),
        Class::LocalNode { .. } | Class::Heir { .. } | Class::Service { .. } => return None,
    };
    Some((terms.iter().copied().chain(ports.iter().map(|(id, _)| *id)), home))
}

/// Whether a term can be judged by the home of a class alone.
fn is_of_home(term: &Term) -> bool {
    match term {
        Term::Pods { .. } => term.is_whole_namespace(),
        Term::Block(block) => block.is_whole_family(),
        _ => false,
    }
}

fn speaks_of(term: &Term, home: &Home) -> bool {
    match term {
        Term::Pods { namespaces, .. } => namespaces.matches(&home.namespace, home.labels.as_deref()),
        Term::Block(block) => block.cidr.is_ipv4() == home.ipv4,
        _ => false,
    }
}

fn remove(index: &mut HashMap<TermId, BTreeSet<u32>>, id: TermId, number: u32) {
    if let Some(numbers) = index.get_mut(&id) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(&id);
        }
    }
}
