//! Maps that are written and emptied many entries at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::Map;
use ebpf_common::abi::map;
use zerocopy::{Immutable, IntoBytes};

use super::syscall::{delete_batch, delete_one, update_batch, update_one};
use super::{MapError, OpenError};

/// Entries of one call: enough that the call costs nothing beside the work,
/// few enough that a full map is noticed early.
const BATCH: usize = 4096;
/// `ENOTSUPP` of the kernel's own headers: this map has no batches (tries
/// before Linux 5.14).
const ENOTSUPP: i32 = 524;

/// Descriptors of those that policy fills.
pub(super) struct Bulk {
    pub(super) peer4: BulkMap,
    pub(super) peer6: BulkMap,
    pub(super) cidr4: BulkMap,
    pub(super) cidr6: BulkMap,
    pub(super) row: BulkMap,
    pub(super) port: BulkMap,
    pub(super) vip: BulkMap,
}

/// One of them.
pub(super) struct BulkMap {
    name: &'static str,
    fd: OwnedFd,
}

/// An entry failed.
pub(super) struct Stopped {
    /// How many before it stand, or are gone.
    pub(super) done: usize,
    pub(super) source: MapError,
}

impl Bulk {
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, OpenError> {
        let open = |name| BulkMap::of(ebpf, name);
        Ok(Self {
            peer4: open(map::PEER4)?,
            peer6: open(map::PEER6)?,
            cidr4: open(map::CIDR4)?,
            cidr6: open(map::CIDR6)?,
            row: open(map::ROW)?,
            port: open(map::PORT)?,
            vip: open(map::VIP)?,
        })
    }
}

impl BulkMap {
    fn of(ebpf: &Ebpf, name: &'static str) -> Result<Self, OpenError> {
        match ebpf.map(name) {
            Some(Map::HashMap(data) | Map::LpmTrie(data)) => {
                let fd = data.fd().as_fd().try_clone_to_owned();
                Ok(Self { name, fd: fd.map_err(MapError::io(name, "copy its descriptor"))? })
            }
            _ => Err(OpenError::Missing { name }),
        }
    }

    /// Writes entries in their order, over older ones. The types are those of
    /// the map: it copies as many bytes as it was made for.
    ///
    /// # Errors
    /// Where the map is full; entries before that one are written.
    pub(super) fn write<K, V>(&self, entries: impl Iterator<Item = (K, V)>) -> Result<(), Stopped>
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        let stopped = |done, error| Stopped { done, source: MapError::io(self.name, "set entries")(error) };
        let mut done = 0;
        while done < keys.len() {
            let end = keys.len().min(done + BATCH);
            let (written, outcome) = update_batch(self.fd.as_fd(), &keys[done..end], &values[done..end]);
            done += written;
            match outcome {
                Err(error) if has_no_batches(&error) && written == 0 => break,
                other => other.map_err(|error| stopped(done, error))?,
            }
        }
        for (at, (key, value)) in keys.iter().zip(&values).enumerate().skip(done) {
            update_one(self.fd.as_fd(), key, value).map_err(|error| stopped(at, error))?;
        }
        Ok(())
    }

    /// Removes entries in their order; one that is not there is fine.
    ///
    /// # Errors
    /// Where the map cannot be written; entries before that one are gone.
    pub(super) fn remove<K: IntoBytes + Immutable>(
        &self,
        keys: impl Iterator<Item = K>,
    ) -> Result<(), Stopped> {
        let stopped =
            |done, error| Stopped { done, source: MapError::io(self.name, "remove entries")(error) };
        let keys: Vec<K> = keys.collect();
        let mut done = 0;
        while done < keys.len() {
            let end = keys.len().min(done + BATCH);
            let (removed, outcome) = delete_batch(self.fd.as_fd(), &keys[done..end]);
            done += removed;
            match outcome {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => done += 1,
                Err(error) if has_no_batches(&error) && removed == 0 => break,
                other => other.map_err(|error| stopped(done, error))?,
            }
        }
        for (at, key) in keys.iter().enumerate().skip(done) {
            match delete_one(self.fd.as_fd(), key) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other.map_err(|error| stopped(at, error))?,
            }
        }
        Ok(())
    }
}

fn has_no_batches(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL))
}
