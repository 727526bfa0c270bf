//! Two agents must not serve one node: nothing is touched while aws-node is alive, and nothing new begins when it
//! comes back.

use std::time::Duration;

use tokio::sync::watch;

use super::Presence;
use crate::ports::Teller;
use crate::readiness::{Part, Readiness};

/// Between two looks at its socket.
const PERIOD: Duration = Duration::from_secs(2);
/// The reason of the Event.
const ALIVE: &str = "IncumbentAlive";

/// Waits until aws-node is known not to be alive on this node. `is_ours` says that the node was ours before in this
/// boot: then its pods need not wait for the word of the Kubernetes API.
pub async fn wait_until_gone(mut presence: Presence, is_ours: bool, readiness: &Readiness, teller: &Teller) {
    loop {
        match presence.sign().await {
            Some(sign) => {
                let reason = format!(
                    "aws-node is alive on this node: {sign}; nothing is touched until it has left (see the \
                     migration guide)"
                );
                readiness.lost(Part::Incumbent, reason.clone());
                teller.node(ALIVE, &reason);
            }
            None if is_ours || presence.knows_pods() => {
                readiness.reached(Part::Incumbent);
                return;
            }
            None => {
                let unknown =
                    "whether aws-node is on this node: the Kubernetes API has not listed the pods yet";
                readiness.lost(Part::Incumbent, unknown);
            }
        }
        presence.changed(PERIOD).await;
    }
}

/// Looks whether aws-node comes back; meanwhile `alive` is true and no pod is added. Ends when it has left again: what
/// it did is found by a start, as at the first time.
pub async fn watch_for_return(
    mut presence: Presence,
    alive: watch::Sender<bool>,
    readiness: Readiness,
    teller: Teller,
) -> &'static str {
    loop {
        match presence.sign().await {
            Some(sign) => {
                let reason = format!(
                    "aws-node is alive on this node again: {sign}; pods run on, none is added and EC2 is not changed \
                     until it has left"
                );
                readiness.lost(Part::Incumbent, reason.clone());
                // At the start it may have been told of, too: this is another matter.
                teller.node_about(ALIVE, "again", &reason);
                alive.send_if_modified(|known| !std::mem::replace(known, true));
            }
            None if *alive.borrow() => {
                return "aws-node came and left; its traces are looked for by a new start";
            }
            None => {}
        }
        presence.changed(PERIOD).await;
    }
}
