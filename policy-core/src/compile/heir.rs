//! Taking over maps whose contents nobody remembers: those of a former agent.
//!
//! Its sets are known by number only, and live pods are judged by them until the flip. So
//! on the way, every address gets a class that says besides what it is also which class
//! it had; the old sets' rows for that class are then rows for the new one. The first
//! content that comes with a former class takes its number: neither its addresses nor
//! the old sets' rows are written a second time. All others with that class become heirs
//! with numbers of their own, and the next update forgets their ancestry.
//!
//! No packet meets anything but old or new on the way. The old sets' rows stand as long as
//! an endpoint has one, whoever takes the number; a new set's row is a new key, and nobody
//! asks for it before the flip, when every address has its class. A number is taken once,
//! by a content that has none, and who comes with it afterwards and is something else becomes
//! an heir. Class 0 is taken from the beginning: only what satisfies no term stays there. The
//! number that an heir had is given to nobody else while there is the heir.

use std::net::IpAddr;

use ebpf_common::abi::{CLASS_NONE, RowKey, RowValue};
use ipnetwork::IpNetwork;

use super::class::Class;
use super::engine::Compiler;
use super::numbers::Numbers;
use crate::ids::ClassId;
use crate::tables::{VipAddress, prefix_of};

impl Compiler {
    /// The class of an address, or its class with the one that it had.
    pub(super) fn heir(&self, class: Class, of: Option<ClassId>) -> Class {
        match of {
            Some(of) => Class::Heir { class: Box::new(class), of },
            None => class,
        }
    }

    /// The class of a prefix.
    pub(super) fn heir_of_prefix(&self, prefix: IpNetwork, class: Class) -> Class {
        if !self.state.heirs {
            return class;
        }
        let around = |bits| self.maps.installed.cidrs.get(&prefix_of(prefix.network(), bits));
        let longest = (0..=prefix.prefix()).rev().find_map(around);
        self.heir(class, Some(ClassId(longest.map_or(CLASS_NONE, |value| value.class))))
    }

    /// The class of an address.
    pub(super) fn heir_of_address(&self, address: IpAddr, class: Class) -> Class {
        self.heir(class, self.state.heirs.then(|| self.maps.class_of(address)))
    }

    /// The class of unlike backends of a Service, and the port to ask for: that of the
    /// former entry, whose rows are asked until the flip.
    pub(super) fn heir_of_service(&self, key: &VipAddress, class: Class) -> (Class, u16) {
        match self.maps.installed.vips.get(key).filter(|_| self.state.heirs) {
            Some(former) => (self.heir(class, Some(former.class)), former.port),
            None => (class, key.port),
        }
    }

    /// The row of a set that is known by number only for a class.
    pub(super) fn inherited_row(&self, set: u32, class: &Class) -> Option<RowValue> {
        let Class::Heir { of, .. } = class else { return None };
        self.maps.installed.rows.get(&RowKey { set, class: of.0 }).copied()
    }
}

impl Numbers {
    /// The number that an heir's address had, and whether it is new to this agent; None where it is another content's.
    pub(super) fn inherit(&mut self, class: &Class) -> Option<(u32, bool)> {
        let Class::Heir { class, of } = class else { return None };
        match self.classes.get(of.0) {
            Some(known) => (known.present() == class.present()).then_some((of.0, false)),
            None => self.classes.adopt(class.as_ref().clone(), of.0).then_some((of.0, true)),
        }
    }
}
