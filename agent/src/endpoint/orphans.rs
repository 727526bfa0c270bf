//! What outlives its reason: leases of sandboxes whose link is gone, and sandboxes of pods that are gone.
//!
//! The first are released, for nobody can use the address any more. The second run, whatever the API says: they are
//! reported and never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc::{PodRef, SandboxKey};

use super::transaction::Endpoints;
use super::{Addresses, EndpointView, Enforcement, HostEnd, Wiring};

/// How long a link may be gone before its lease is: a DEL takes the link away first, and an ADD that is repeated
/// makes it anew. Both ask for the rest at once, unless the agent is away.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// Since when something is missing, by sandbox and link.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<SandboxKey, (u32, Instant)>);

impl Absences {
    /// Takes in what is missing now; what is not is forgotten. Returns what has been missing for `patience`.
    fn observe(
        &mut self,
        missing: impl IntoIterator<Item = (SandboxKey, u32)>,
        now: Instant,
        patience: Duration,
    ) -> Vec<(SandboxKey, u32)> {
        let before = std::mem::take(&mut self.0);
        for (key, ifindex) in missing {
            let known = before.get(&key).filter(|(link, _)| *link == ifindex);
            let since = known.map_or(now, |(_, since)| *since);
            self.0.insert(key, (ifindex, since));
        }
        let due = self.0.iter().filter(|(_, (_, since))| now.duration_since(*since) >= patience);
        due.map(|(key, (ifindex, _))| (key.clone(), *ifindex)).collect()
    }
}

/// What is remembered between two looks. Each lock is held for an instant, never across an await.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    links: Mutex<Absences>,
    pods: Mutex<Absences>,
    /// What the last GC of each network named as living.
    living: Mutex<BTreeMap<String, BTreeSet<(String, String)>>>,
}

impl Orphans {
    pub(super) fn collected(&self, network: &str, valid: &[(String, String)]) {
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.insert(network.to_owned(), valid.iter().cloned().collect());
    }

    fn is_named(&self, key: &SandboxKey) -> bool {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = living.get(&key.network);
        of_network.is_some_and(|valid| valid.contains(&(key.container_id.clone(), key.ifname.clone())))
    }
}

impl<A: Addresses, W: Wiring, E: Enforcement> Endpoints<A, W, E> {
    /// Releases leases whose link has been gone for ten seconds, with cooldown; `suspects` are addresses whose link
    /// somebody missed. Returns how many. A DEL or an ADD of the same sandbox that runs meanwhile has its turn before
    /// or after, and finds what it needs or begins again.
    pub async fn give_back_orphans(&self, suspects: &BTreeSet<IpAddr>, now: Instant) -> usize {
        let mut missing = Vec::new();
        for view in self.view() {
            let Some(endpoint) = view.endpoint.filter(|one| suspects.contains(&one.address)) else {
                continue;
            };
            if self.is_gone(&endpoint.end).await {
                missing.push((view.key, endpoint.end.ifindex));
            }
        }
        let due = {
            let mut links = self.orphans.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.observe(missing, now, LINK_PATIENCE)
        };
        let mut released = 0;
        for (key, ifindex) in due {
            released += usize::from(self.release_orphan(&key, ifindex).await);
        }
        released
    }

    /// Whether a link that was there is gone. Where the kernel cannot be asked it is taken to be there.
    pub(super) async fn is_gone(&self, end: &HostEnd) -> bool {
        match self.ports.wiring.lives(end).await {
            Ok(lives) => !lives,
            Err(refusal) => {
                tracing::warn!(link = end.ifname, error = %refusal, "the link cannot be read");
                false
            }
        }
    }

    async fn release_orphan(&self, key: &SandboxKey, ifindex: u32) -> bool {
        let entry = self.registry.entry(key);
        let mut turn = entry.turn.lock().await;
        // Meanwhile it may have been deleted, or made anew.
        let still = turn.as_ref().and_then(|sandbox| sandbox.endpoint.as_ref());
        let orphaned = still.is_some_and(|endpoint| endpoint.end.ifindex == ifindex);
        if orphaned {
            tracing::warn!(sandbox = %key, "its link is gone and no DEL came; the address is given back");
            if let Err(refusal) = self.undo(key, &mut turn).await {
                tracing::warn!(sandbox = %key, error = %refusal, "the address could not be given back");
            }
        }
        drop(turn);
        self.registry.forget(key, entry);
        orphaned
    }

    /// Sandboxes whose pod has been gone for `patience`, and that no GC of the runtime named as living. `is_known`
    /// says whether the API has this very pod; it is asked again by whoever reports.
    pub fn strangers(
        &self,
        is_known: impl Fn(&PodRef) -> bool,
        now: Instant,
        patience: Duration,
    ) -> Vec<EndpointView> {
        let views = self.view();
        let missing = views.iter().filter_map(|view| {
            let pod = view.pod.as_ref().filter(|pod| pod.uid.is_some())?;
            let endpoint = view.endpoint.as_ref()?;
            let stranger = !is_known(pod) && !self.orphans.is_named(&view.key);
            stranger.then(|| (view.key.clone(), endpoint.end.ifindex))
        });
        let due = {
            let mut pods = self.orphans.pods.lock().unwrap_or_else(PoisonError::into_inner);
            pods.observe(missing, now, patience)
        };
        views.into_iter().filter(|view| due.iter().any(|(key, _)| *key == view.key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> SandboxKey {
        SandboxKey { network: "aws-cni".into(), container_id: id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn patience_begins_anew_with_another_link_and_after_a_return() {
        let (mut absences, start) = (Absences::default(), Instant::now());
        let second = Duration::from_secs(1);
        let patience = 10 * second;
        let mut at = |seconds: u32, missing: &[u32]| {
            let missing = missing.iter().map(|ifindex| (key("a"), *ifindex));
            absences.observe(missing, start + seconds * second, patience).len()
        };
        assert_eq!([at(0, &[7]), at(9, &[7]), at(10, &[7]), at(11, &[7])], [0, 0, 1, 1]);
        assert_eq!([at(12, &[8]), at(21, &[8]), at(22, &[8])], [0, 0, 1], "another link");
        assert_eq!([at(23, &[]), at(24, &[8]), at(33, &[8]), at(34, &[8])], [0, 0, 0, 1], "it was back");
    }

    #[test]
    fn the_last_collection_says_who_lives() {
        let orphans = Orphans::default();
        assert!(!orphans.is_named(&key("a")), "nobody asked yet");
        orphans.collected("aws-cni", &[("a".into(), "eth0".into())]);
        orphans.collected("another", &[]);
        assert!(orphans.is_named(&key("a")) && !orphans.is_named(&key("b")));
        orphans.collected("aws-cni", &[]);
        assert!(!orphans.is_named(&key("a")));
    }
}
