//! What active sets say to the classes in use.

use std::collections::BTreeSet;

use ebpf_common::abi::{
    CLASS_NONE, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PortKey, PortValue, RowKey, RowValue,
};

use super::engine::Compiler;
use super::row::{Judge, Verdicts, to_own_node};

impl Compiler {
    /// Every active set gets rows for every class in use, the leaving sets as well: live
    /// pods are judged by them until the flip.
    pub(super) fn fill_rows(&mut self, came: &[u32], went: &[u32]) {
        let touched = std::mem::take(&mut self.state.usage.touched);
        self.maps.idle_classes.extend(touched.iter().copied());
        let used = |class: &u32| self.state.usage.users.has(*class);
        let (new, gone): (Vec<u32>, Vec<u32>) = touched
            .into_iter()
            .filter(|class| used(class) != self.state.reach.has_class(*class))
            .partition(|class| used(class));
        for set in went {
            self.state.defaults.remove(set);
            self.state.reach.remove_set(&self.numbers, *set);
            for key in self.maps.rows_of(*set) {
                self.maps.want_row(key, None);
            }
        }
        let came: BTreeSet<u32> = came.iter().copied().collect();
        let stay: BTreeSet<u32> = self.state.active.difference(&came).copied().collect();
        for class in gone {
            self.state.reach.remove_class(&self.numbers, class);
            for set in self.state.reach.sets_of(&self.numbers, class, &stay) {
                self.maps.want_row(RowKey { set, class }, None);
            }
        }
        for class in new {
            self.state.reach.add_class(&self.numbers, class);
            for set in self.state.reach.sets_of(&self.numbers, class, &stay) {
                self.fill_row(set, class);
            }
        }
        for set in came {
            self.state.reach.add_set(&self.numbers, set);
            if self.numbers.sets.get(set).is_none() {
                // Known by number only: what stands in the maps stays as long as it is asked.
                for key in self.maps.rows_of(set) {
                    self.maps.want_row(key, self.maps.installed.rows.get(&key).copied());
                }
            }
            for class in self.state.reach.classes_of(&self.numbers, set) {
                self.fill_row(set, class);
            }
        }
        let (active, reach) = (&self.state.active, &self.state.reach);
        self.state.mixed.retain(|(class, set)| reach.has_class(*class) && active.contains(set));
    }

    fn fill_row(&mut self, set: u32, class: u32) {
        let key = RowKey { set, class };
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
