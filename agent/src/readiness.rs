//! What still stands between the agent and serving, by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// The runtime has no network list of others that comes before ours.
    Network,
}

impl Part {
    pub(crate) const ALL: [Self; 8] = [
        Self::Incumbent,
        Self::Pool,
        Self::Kubernetes,
        Self::Subnets,
        Self::Datapath,
        Self::Host,
        Self::Socket,
        Self::Network,
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
            Self::Network => "network",
        }
    }
}

type Missing = BTreeMap<Part, String>;

/// One writer per part, many readers. Locks are held for look-ups only.
#[derive(Debug, Clone)]
pub struct Readiness {
    missing: Arc<watch::Sender<Missing>>,
    remarks: Arc<Mutex<Missing>>,
    /// Since when parts are broken that worked once.
    broken: Arc<Mutex<BTreeMap<Part, Instant>>>,
}

/// What a part that was never reached says.
const STARTING: &str = "starting";
/// How long a part may be broken before pods that run count as impaired: what others remove is put back at once, and a
/// step that the kernel refused is tried again every ten seconds.
const REPAIR: Duration = Duration::from_secs(15);

impl Default for Readiness {
    fn default() -> Self {
        let missing = Part::ALL.into_iter().map(|part| (part, STARTING.to_owned())).collect();
        let missing = Arc::new(watch::Sender::new(missing));
        Self { missing, remarks: Arc::default(), broken: Arc::default() }
    }
}

impl Readiness {
    /// `part` works.
    pub fn reached(&self, part: Part) {
        self.broken().remove(&part);
        self.missing.send_if_modified(|missing| {
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
        self.missing.send_if_modified(|missing| {
            let never = missing.get(&part).is_some_and(|present| present.starts_with(STARTING));
            if !never {
                self.broken().entry(part).or_insert_with(Instant::now);
            }
            let reason = if never { format!("{STARTING}: {reason}") } else { reason.clone() };
            if missing.get(&part) == Some(&reason) {
                return false;
            }
            tracing::warn!(part = part.name(), reason, "not ready");
            missing.insert(part, reason);
            true
        });
    }

    /// What is to be known of `part` though it works; it replaces what was noted before.
    pub fn note(&self, part: Part, remark: Option<String>) {
        let mut notes = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        match remark {
            Some(remark) => notes.insert(part, remark),
            None => notes.remove(&part),
        };
    }

    /// Nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// Whether ADDs can be served: everything is there, and host networking and an ENIConfig were once. While
    /// host networking is repaired, pods that come meanwhile are wired all the same; without the ENIConfig
    /// there are still the addresses that it brought. Whoever calls us although the runtime has another list is served.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.missing.borrow().iter().all(|(part, reason)| match part {
            Part::Network => true,
            Part::Host | Part::Subnets => !reason.starts_with(STARTING),
            _ => false,
        })
    }

    /// Whether pods that run may be in trouble: what carries and filters their packets worked once, and has not for
    /// longer than a repair takes.
    #[must_use]
    pub fn is_impaired(&self, now: Instant) -> bool {
        let broken = self.broken();
        let lasts = |part| broken.get(&part).is_some_and(|since| now.duration_since(*since) >= REPAIR);
        lasts(Part::Datapath) || lasts(Part::Host)
    }

    #[cfg(test)]
    pub(crate) fn lost_since(&self, part: Part, reason: &str, since: Instant) {
        self.lost(part, reason);
        self.broken().insert(part, since);
    }

    fn broken(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, Instant>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is missing.
    pub async fn wait_ready(&self) {
        let mut receiver = self.missing.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        drop(receiver.wait_for(BTreeMap::is_empty).await);
    }

    /// Tells every change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<Part, String>> {
        self.missing.subscribe()
    }

    /// One line for each part: `pool ok`, `kubernetes: starting`.
    #[must_use]
    pub fn report(&self) -> String {
        let missing = self.missing.borrow();
        let notes = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for part in Part::ALL {
            // Writing into a String cannot fail.
            let _ = match (missing.get(&part), notes.get(&part)) {
                (None, None) => writeln!(text, "{} ok", part.name()),
                (None, Some(remark)) => writeln!(text, "{} ok, but {remark}", part.name()),
                (Some(reason), _) => writeln!(text, "{}: {reason}", part.name()),
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
            assert!(!readiness.is_ready(), "{part:?} is missing");
            assert_eq!(readiness.can_serve(), part == Part::Network, "{part:?} is missing");
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
    fn a_remark_stands_beside_what_works() {
        let readiness = Readiness::default();
        Part::ALL.into_iter().for_each(|part| readiness.reached(part));
        readiness.note(Part::Network, Some("a list is left alone".into()));
        assert!(readiness.is_ready());
        assert!(
            readiness.report().contains("network ok, but a list is left alone\n"),
            "{}",
            readiness.report()
        );
        readiness.note(Part::Network, None);
        assert!(readiness.report().contains("network ok\n"), "{}", readiness.report());
    }

    #[test]
    fn only_what_worked_once_and_is_not_repaired_is_impaired() {
        let readiness = Readiness::default();
        let impaired = || [Duration::ZERO, REPAIR].map(|later| readiness.is_impaired(Instant::now() + later));
        assert_eq!(impaired(), [false; 2], "it starts");
        readiness.lost(Part::Datapath, "no maps");
        assert_eq!(impaired(), [false; 2], "it starts still");
        for part in Part::ALL {
            readiness.reached(part);
        }
        readiness.lost(Part::Kubernetes, "not synced");
        readiness.lost(Part::Pool, "EC2 is away");
        assert_eq!(impaired(), [false; 2], "pods that run do without");
        for part in [Part::Datapath, Part::Host] {
            readiness.lost(part, "refused by the kernel");
            assert_eq!(impaired(), [false, true], "a repair takes a moment");
            let later = Instant::now() + REPAIR;
            readiness.lost(part, "refused again");
            assert!(readiness.is_impaired(later), "since the first time");
            readiness.reached(part);
            assert_eq!(impaired(), [false; 2]);
        }
    }
}
