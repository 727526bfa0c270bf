//! The ring of events, and who knows the names behind its numbers.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ebpf_common::abi::Event;
use policy_core::{Cluster, RuleId};

use super::ClusterPort;
use crate::cause::chain;
use crate::datapath::{EventReader, Listener};
use crate::flows::{InForce, Known, Ring};
use crate::k8s::ClusterHandle;
use crate::policy::Enforcer;

/// The ring.
#[derive(Debug)]
pub struct RingPort(EventReader);

impl RingPort {
    /// Reads by `reader`.
    #[must_use]
    pub fn new(reader: EventReader) -> Self {
        Self(reader)
    }
}

impl AsFd for RingPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ring for RingPort {
    fn next_event(&mut self) -> Option<Event> {
        self.0.next_event()
    }

    fn listen(&mut self, sample: Option<u32>) -> Result<(), String> {
        let listener = sample.map_or(Listener::Nobody, Listener::Sampled);
        self.0.listen(listener).map_err(|error| chain(&error))
    }

    fn lost(&self) -> u64 {
        self.0.lost().unwrap_or_default()
    }
}

/// The cluster's names, and the policy thread's.
#[derive(Debug)]
pub struct KnownPort {
    cluster: ClusterHandle,
    enforcer: Arc<Enforcer<ClusterPort>>,
}

impl KnownPort {
    /// Asks these two.
    #[must_use]
    pub fn new(cluster: ClusterHandle, enforcer: Arc<Enforcer<ClusterPort>>) -> Self {
        Self { cluster, enforcer }
    }
}

impl Known for KnownPort {
    fn cluster(&self) -> Arc<Cluster> {
        self.cluster.snapshot().cluster
    }

    async fn in_force(&self, rules: BTreeSet<u32>) -> InForce {
        let asked = self.enforcer.look(move |now| InForce {
            rules: rules.into_iter().filter_map(|id| Some((id, now.compiler.rule(RuleId(id))?))).collect(),
            pods: now.local.values().map(|(pod, _)| (pod.slot, pod.clone())).collect(),
        });
        asked.await.unwrap_or_default()
    }
}
