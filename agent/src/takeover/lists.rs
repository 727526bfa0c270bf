//! Network lists of others that take new pods away from us, or did something for pods that is lost with aws-node's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::conflist;
use crate::ports::Teller;
use crate::readiness::{Part, Readiness};

/// Between two looks at the directory: others come when they like.
const PERIOD: Duration = Duration::from_secs(2);
/// The reason of the Event.
const FOREIGN: &str = "ForeignNetworkList";

/// Looks for lists of others as long as the agent lives. Does not end.
pub async fn watch_lists(conf_dir: PathBuf, readiness: Readiness, teller: Teller) -> &'static str {
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let dir = conf_dir.clone();
        let Ok(foreign) = tokio::task::spawn_blocking(move || conflist::foreign(&dir)).await else {
            // The runtime is shutting down.
            return "network lists";
        };
        let now: BTreeMap<String, bool> = foreign.iter().map(|list| (list.told(), list.wins)).collect();
        for message in now.keys().filter(|message| !known.contains_key(*message)) {
            tracing::warn!("{message}");
            teller.node_about(FOREIGN, message, message);
        }
        let said = |wins: bool| -> Option<String> {
            let told: Vec<&str> =
                now.iter().filter(|(_, won)| **won == wins).map(|(message, _)| message.as_str()).collect();
            (!told.is_empty()).then(|| told.join("; "))
        };
        match said(true) {
            Some(reason) => readiness.lost(Part::Network, reason),
            None => readiness.reached(Part::Network),
        }
        readiness.note(Part::Network, said(false));
        known = now;
        tokio::time::sleep(PERIOD).await;
    }
}
