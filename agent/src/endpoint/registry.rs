//! What is known of every sandbox: its state, whether an ADD runs for it, and whether it was deleted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc::{PodRef, SandboxKey};
use tokio_util::sync::CancellationToken;

use super::slots::Slots;
use super::{Endpoint, Grant};

/// How long a deleted sandbox is remembered: longer than any plugin lives (its `timeoutSeconds` is at most 600, and
/// its watchdog gives it 5 more). An ADD that began after the DEL is served at once, since a container may be started
/// again: podman and `cnitool` do that.
const TOMBSTONE: Duration = Duration::from_secs(605);

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has an address, nothing else.
    Leased,
    /// It is wired and under policy.
    Attached,
}

/// One sandbox, for people.
#[derive(Debug, Clone)]
pub struct EndpointView {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where the runtime named one.
    pub pod: Option<PodRef>,
    /// Its address and ENI.
    pub grant: Grant,
    /// The host end and the slot, once attached.
    pub endpoint: Option<Endpoint>,
    /// How far it has come.
    pub phase: Phase,
    /// Its lease was made of what stood on the node.
    pub adopted: bool,
    /// The name of its host end, and as of when: of two sandboxes that share it, the later one has the link.
    pub(super) named: Named,
}

/// Since when a sandbox has the name of its host end.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) host_ifname: String,
    /// As in [`Sandbox`].
    pub(super) begun_ns: u64,
    /// It ran before this agent, which does not know when it began.
    pub(super) restored: bool,
}

/// A sandbox with an address.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) pod: Option<PodRef>,
    pub(super) grant: Grant,
    pub(super) host_ifname: String,
    pub(super) host_mac: [u8; 6],
    pub(super) pod_mac: [u8; 6],
    /// The ADD that leased it: only that ADD's connection may undo it.
    pub(super) add: u64,
    /// Its lease was made of what stood on the node: its DEL may come by another key, or never.
    pub(super) adopted: bool,
    /// As in [`Endpoint`].
    pub(super) egress_shaped: bool,
    /// When the ADD began that leased it ([`rpc::monotonic_ns`]); where nobody told, when the agent came to know it.
    pub(super) begun_ns: u64,
    pub(super) endpoint: Option<Endpoint>,
}

/// One sandbox's serialisation: verbs of the same key run one after the other.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Held while a verb works on this key. Everything is awaited under it except the plugin.
    pub(super) turn: tokio::sync::Mutex<Option<Sandbox>>,
    /// Cancels the ADD that waits or works; a DEL's first step. Held for an instant only.
    add: Mutex<CancellationToken>,
    /// How many ADDs wait or work.
    adding: AtomicUsize,
}

/// An ADD that waits or works, for as long as this is held.
pub(super) struct Adding<'a>(&'a Entry);

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.0.adding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    /// An ADD begins: whatever a DEL cancels from now on is this one.
    pub(super) fn begin_add(&self) -> (CancellationToken, Adding<'_>) {
        self.adding.fetch_add(1, Ordering::Relaxed);
        (self.add.lock().unwrap_or_else(PoisonError::into_inner).clone(), Adding(self))
    }

    /// Whether an ADD waits or works.
    pub(super) fn is_adding(&self) -> bool {
        self.adding.load(Ordering::Relaxed) > 0
    }

    /// Ends the ADD that waits or works.
    pub(super) fn cancel_add(&self) {
        let mut token = self.add.lock().unwrap_or_else(PoisonError::into_inner);
        token.cancel();
        *token = CancellationToken::new();
    }
}

/// All sandboxes. The lock is held for look-ups only, never across an await.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<SandboxKey, Arc<Entry>>,
    /// When each was deleted ([`rpc::monotonic_ns`]).
    tombstones: HashMap<SandboxKey, u64>,
    slots: Slots,
}

impl Registry {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, key: &SandboxKey) -> Arc<Entry> {
        Arc::clone(self.inner().entries.entry(key.clone()).or_default())
    }

    /// Drops an entry that nobody else holds and that knows nothing.
    pub(super) fn forget(&self, key: &SandboxKey, entry: Arc<Entry>) {
        let mut inner = self.inner();
        // One reference is the map's, one is `entry`.
        if Arc::strong_count(&entry) == 2 && entry.turn.try_lock().is_ok_and(|sandbox| sandbox.is_none()) {
            inner.entries.remove(key);
        }
    }

    pub(super) fn entries(&self) -> Vec<(SandboxKey, Arc<Entry>)> {
        self.inner().entries.iter().map(|(key, entry)| (key.clone(), Arc::clone(entry))).collect()
    }

    /// Remembers that `key` is deleted now, and forgets old memories.
    pub(super) fn bury(&self, key: &SandboxKey) {
        let now = rpc::monotonic_ns();
        let mut inner = self.inner();
        inner.tombstones.retain(|_, since| is_remembered(*since, now));
        inner.tombstones.insert(key.clone(), now);
    }

    /// Whether `key` was deleted since `begun_ns`: an ADD that began then is late. One that does not tell when it
    /// began (0) counts as late for as long as the DEL is remembered.
    pub(super) fn is_buried(&self, key: &SandboxKey, begun_ns: u64) -> bool {
        let deleted = self.inner().tombstones.get(key).copied();
        deleted.is_some_and(|since| begun_ns <= since && is_remembered(since, rpc::monotonic_ns()))
    }

    /// `wanted` where it is free, else any free slot.
    pub(super) fn take_slot(&self, wanted: Option<super::Slot>) -> Option<super::Slot> {
        let mut inner = self.inner();
        match wanted {
            Some(slot) if inner.slots.take(slot) => Some(slot),
            _ => inner.slots.next(),
        }
    }

    pub(super) fn give_back_slot(&self, slot: super::Slot) {
        self.inner().slots.give_back(slot);
    }
}

fn is_remembered(since_ns: u64, now_ns: u64) -> bool {
    u128::from(now_ns.saturating_sub(since_ns)) < TOMBSTONE.as_nanos()
}
