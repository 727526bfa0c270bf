//! Events of single packets, while somebody listens.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use ebpf_common::abi::{Control, Event, map};
use zerocopy::FromBytes;

use super::plain::Plain;
use super::{Datapath, MapError};

/// Whether events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Nobody listens: the programs write nothing.
    Nobody,
    /// Denies, and one in so many new allowed flows; 0 means none of these.
    Sampled(u32),
}

/// The ring of events. Its descriptor becomes readable when there are some.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    /// The next event, if there is one. Never waits.
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.ring.next()?;
        Event::read_from_bytes(&item).ok()
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Datapath {
    /// The reader of events; `None` once it was taken. The ring has one reader.
    pub fn take_event_reader(&mut self) -> Option<EventReader> {
        self.take_events().map(|ring| EventReader { ring })
    }

    /// Says whether somebody reads events. A full ring loses them; counters count on.
    ///
    /// # Errors
    /// Where the map can not be written.
    pub fn listen(&mut self, listener: Listener) -> Result<(), MapError> {
        let control = match listener {
            Listener::Nobody => Control::default(),
            Listener::Sampled(one_in) => Control { listeners: 1, sample_allowed: one_in },
        };
        self.maps.control.set(0, Plain(control), 0).map_err(MapError::aya(map::CONTROL, "write it"))
    }
}
