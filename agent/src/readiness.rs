//! What still stands between the agent and serving, by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use tokio::sync::watch;

/// The parts that must work before an ADD can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// aws-node is not alive on this node.
    Incumbent,
    /// EC2 was read and the pool runs.
    Pool,
    /// Pods, namespaces, policies and services were listed.
    Kubernetes,
    /// It is known where pods' addresses come from: with custom networking, the node's ENIConfig is there.
    Subnets,
    /// Programs and maps are loaded, and the first compilation was applied.
    Datapath,
    /// Routes, rules and translation are as wanted.
    Host,
    /// The socket for the plugin is open.
    Socket,
}

impl Part {
    pub(crate) const ALL: [Self; 7] = [
        Self::Incumbent,
        Self::Pool,
        Self::Kubernetes,
        Self::Subnets,
        Self::Datapath,
        Self::Host,
        Self::Socket,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Incumbent => "incumbent",
            Self::Pool => "pool",
            Self::Kubernetes => "kubernetes",
            Self::Subnets => "subnets",
            Self::Datapath => "datapath",
            Self::Host => "host",
            Self::Socket => "socket",
        }
    }
}

type Missing = BTreeMap<Part, String>;

/// One writer per part, many readers.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Missing>>);

/// What a part that was never reached says.
const STARTING: &str = "starting";

impl Default for Readiness {
    fn default() -> Self {
        let missing = Part::ALL.into_iter().map(|part| (part, STARTING.to_owned())).collect();
        Self(Arc::new(watch::Sender::new(missing)))
    }
}

impl Readiness {
    /// `part` works.
    pub fn reached(&self, part: Part) {
        self.0.send_if_modified(|missing| {
            let changed = missing.remove(&part).is_some();
            if changed {
                tracing::info!(part = part.name(), "ready");
            }
            changed
        });
    }

    /// `part` does not work, and why.
    pub fn lost(&self, part: Part, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|missing| {
            let never = missing.get(&part).is_some_and(|present| present.starts_with(STARTING));
            let reason = if never { format!("{STARTING}: {reason}") } else { reason.clone() };
            if missing.get(&part) == Some(&reason) {
                return false;
            }
            tracing::warn!(part = part.name(), reason, "not ready");
            missing.insert(part, reason);
            true
        });
    }

    /// Nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Whether ADDs can be served: everything is there, and host networking and an ENIConfig were once. While
    /// host networking is repaired, pods that come meanwhile are wired all the same; without the ENIConfig
    /// there are still the addresses that it brought.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.0
            .borrow()
            .iter()
            .all(|(part, reason)| matches!(part, Part::Host | Part::Subnets) && !reason.starts_with(STARTING))
    }

    /// Whether pods that run may be in trouble: what carries and filters their packets worked once, and does not now.
    #[must_use]
    pub fn is_impaired(&self) -> bool {
        let missing = self.0.borrow();
        let broken = |part| missing.get(&part).is_some_and(|reason| !reason.starts_with(STARTING));
        broken(Part::Datapath) || broken(Part::Host)
    }

    /// Waits until nothing is missing.
    pub async fn wait_ready(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        drop(receiver.wait_for(BTreeMap::is_empty).await);
    }

    /// Tells every change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<Part, String>> {
        self.0.subscribe()
    }

    /// One line for each part: `pool ok`, `kubernetes: starting`.
    #[must_use]
    pub fn report(&self) -> String {
        let missing = self.0.borrow();
        let mut text = String::new();
        for part in Part::ALL {
            // Writing into a String cannot fail.
            let _ = match missing.get(&part) {
                None => writeln!(text, "{} ok", part.name()),
                Some(reason) => writeln!(text, "{}: {reason}", part.name()),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_when_every_part_is() {
        let readiness = Readiness::default();
        for part in Part::ALL {
            assert!(!readiness.is_ready() && !readiness.can_serve(), "{part:?} is missing");
            readiness.reached(part);
        }
        readiness.wait_ready().await;
        readiness.lost(Part::Kubernetes, "not synced");
        assert!(!readiness.is_ready());
        assert!(!readiness.can_serve());
        readiness.reached(Part::Kubernetes);
        readiness.lost(Part::Host, "a route cannot be added");
        assert!(readiness.can_serve() && !readiness.is_ready());
        readiness.lost(Part::Kubernetes, "not synced");
        assert!(readiness.report().contains("kubernetes: not synced"), "{}", readiness.report());
    }

    #[test]
    fn only_what_worked_once_is_impaired() {
        let readiness = Readiness::default();
        assert!(!readiness.is_impaired(), "it starts");
        readiness.lost(Part::Datapath, "no maps");
        assert!(!readiness.is_impaired(), "it starts still");
        for part in Part::ALL {
            readiness.reached(part);
        }
        readiness.lost(Part::Kubernetes, "not synced");
        readiness.lost(Part::Pool, "EC2 is away");
        assert!(!readiness.is_impaired(), "pods that run do without");
        for part in [Part::Datapath, Part::Host] {
            readiness.lost(part, "refused by the kernel");
            assert!(readiness.is_impaired());
            readiness.reached(part);
        }
    }
}
