//! Events of single packets, while somebody listens.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{Array, Map, MapData, RingBuf};
use ebpf_common::abi::{Control, Event, map};
use zerocopy::FromBytes;

use super::counters::{PerCpu, lost_events};
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

impl Listener {
    fn control(self) -> Control {
        match self {
            Self::Nobody => Control::default(),
            Self::Sampled(one_in) => Control { listeners: 1, sample_allowed: one_in },
        }
    }
}

/// The ring of events with its switch. Its descriptor becomes readable when there are some. It has handles of its own,
/// so that whoever reads does not wait for whoever writes policy.
pub struct EventReader {
    ring: RingBuf<MapData>,
    control: Array<MapData, Plain<Control>>,
    stats: PerCpu,
}

impl EventReader {
    pub(super) fn open(ring: RingBuf<MapData>, pins: &Path) -> Result<Self, MapError> {
        let pinned = |name| MapData::from_pin(pins.join(name)).map_err(MapError::aya(name, "open its pin"));
        let control = Map::Array(pinned(map::CONTROL)?);
        let stats = Map::PerCpuArray(pinned(map::STATS)?);
        Ok(Self {
            ring,
            control: control.try_into().map_err(MapError::aya(map::CONTROL, "use it as its type"))?,
            stats: stats.try_into().map_err(MapError::aya(map::STATS, "use it as its type"))?,
        })
    }

    /// The next event, if there is one. Never waits.
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.ring.next()?;
        Event::read_from_bytes(&item).ok()
    }

    /// Says whether somebody reads. A full ring loses events, which are counted; counters of packets count on.
    ///
    /// # Errors
    /// Where the map can not be written.
    pub fn listen(&mut self, listener: Listener) -> Result<(), MapError> {
        self.control.set(0, Plain(listener.control()), 0).map_err(MapError::aya(map::CONTROL, "write it"))
    }

    /// Events that found no room since the maps were made.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn lost(&self) -> Result<u64, MapError> {
        lost_events(&self.stats)
    }
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
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
        self.events.take()
    }

    /// As [`EventReader::listen`].
    ///
    /// # Errors
    /// Where the map can not be written.
    pub fn listen(&mut self, listener: Listener) -> Result<(), MapError> {
        self.maps
            .control
            .set(0, Plain(listener.control()), 0)
            .map_err(MapError::aya(map::CONTROL, "write it"))
    }
}
