//! Taking over maps whose contents nobody remembers: those of a former agent.
//!
//! Its sets are known by number only, and live pods are judged by them until the flip. So
//! on the way, every address gets a class that says besides what it is also which class
//! it had; the old sets' rows for that class are then rows for the new one. The next
//! compilation forgets the ancestry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ebpf_common::abi::{CLASS_NONE, RowKey};
use ipnetwork::IpNetwork;

use super::cidr::encloses;
use super::class::Class;
use crate::ids::ClassId;
use crate::tables::{Tables, Transition, VipAddress, VipTarget};

/// What was in the maps.
#[derive(Clone, Copy)]
pub(super) struct Estate<'a> {
    pub(super) installed: &'a Tables,
    /// Whether it must be carried over at all.
    pub(super) unknown: bool,
}

impl Estate<'_> {
    /// Where the address space must be cut besides.
    pub(super) fn marks(&self) -> impl Iterator<Item = IpNetwork> {
        self.installed.cidrs.keys().copied().filter(|_| self.unknown)
    }

    /// The class of a prefix.
    pub(super) fn of_prefix(&self, prefix: IpNetwork, class: Class) -> Class {
        let around = self.installed.cidrs.iter().filter(|(old, _)| encloses(**old, prefix));
        let longest = around.max_by_key(|(old, _)| old.prefix());
        self.heir(class, longest.map_or(CLASS_NONE, |(_, value)| value.class))
    }

    /// The class of an address.
    pub(super) fn of_address(&self, address: IpAddr, class: Class) -> Class {
        if !self.unknown {
            return class;
        }
        self.heir(class, self.installed.class_of(address).0)
    }

    /// The class of unlike backends of a Service, and the port to ask for: that of the
    /// former entry, whose rows are asked until the flip.
    pub(super) fn of_service(&self, key: &VipAddress, class: Class) -> (Class, u16) {
        match self.installed.vips.get(key).filter(|_| self.unknown) {
            Some(VipTarget { class: old, port }) => (self.heir(class, old.0), *port),
            None => (class, key.port),
        }
    }

    fn heir(&self, class: Class, of: u32) -> Class {
        if self.unknown { Class::Heir { class: Box::new(class), of: ClassId(of) } } else { class }
    }

    /// The rows that sets known by number only need for a class.
    pub(super) fn rows(
        &self,
        unknown: &BTreeSet<u32>,
        id: ClassId,
        class: &Class,
        transition: &mut Transition,
    ) {
        let Class::Heir { of, .. } = class else { return };
        for set in unknown {
            let key = |class: ClassId| RowKey { set: *set, class: class.0 };
            if let Some(row) = self.installed.rows.get(&key(*of)) {
                transition.rows.insert(key(id), *row);
            }
        }
    }
}
