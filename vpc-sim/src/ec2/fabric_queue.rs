//! What the fabric is yet to be told, by the time at which it happens.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::clock::SimTime;
use super::ids::EniId;
use super::port::{EniLink, FabricPort};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Attached(Box<EniLink>, Vec<IpNetwork>),
    Detached(EniId),
    Addresses(EniId, Vec<IpNetwork>),
    SourceDestCheck(EniId, bool),
}

impl Event {
    pub(crate) fn tell(self, port: &dyn FabricPort) {
        match self {
            Self::Attached(link, addresses) => {
                let eni_id = link.eni_id.clone();
                port.attached(*link);
                port.addresses_changed(&eni_id, addresses);
            }
            Self::Detached(eni_id) => port.detached(&eni_id),
            Self::Addresses(eni_id, addresses) => port.addresses_changed(&eni_id, addresses),
            Self::SourceDestCheck(eni_id, enabled) => {
                port.source_dest_check_changed(&eni_id, enabled);
            }
        }
    }
}

/// When an event happens, and a number that keeps those of one time in order.
pub(crate) type Ticket = (SimTime, u64);

/// The events that were not told yet.
#[derive(Debug, Default)]
pub(crate) struct FabricQueue {
    /// Whether anybody listens.
    is_open: bool,
    waiting: BTreeMap<Ticket, Event>,
    in_flight: Option<Ticket>,
    next: u64,
}

impl FabricQueue {
    pub(crate) fn open(&mut self) {
        self.is_open = true;
    }

    pub(crate) fn close(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    pub(crate) fn push(&mut self, due: SimTime, event: Event) {
        if self.is_open {
            self.waiting.insert((due, self.next), event);
            self.next += 1;
        }
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<SimTime> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next event that is due. [`FabricQueue::told`] is called when it was told.
    pub(crate) fn take_due(&mut self, now: SimTime) -> Option<Event> {
        if self.next_due()? > now {
            return None;
        }
        let (ticket, event) = self.waiting.pop_first()?;
        self.in_flight = Some(ticket);
        Some(event)
    }

    pub(crate) fn told(&mut self) {
        self.in_flight = None;
    }

    /// Whether an event that is due at `now`, made before `number`, was not told.
    pub(crate) fn owes(&self, now: SimTime, number: u64) -> bool {
        let due = |(at, n): Ticket| at <= now && n < number;
        self.in_flight.is_some_and(due) || self.waiting.keys().copied().any(due)
    }

    /// The number that the next event will have.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }
}
