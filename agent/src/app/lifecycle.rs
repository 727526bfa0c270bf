//! Whether the instance is about to go away, by its metadata service.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cause::chain;
use crate::ec2::{ImdsClient, Leaving};

/// As often as AWS recommends to look for the notice of a Spot interruption, which comes two minutes ahead.
const PERIOD: Duration = Duration::from_secs(5);

/// Why the instance goes away; `None` while it stays.
pub(super) type Notice = watch::Receiver<Option<Leaving>>;

/// Asks once, so that nothing is changed at a start before it is known. A metadata service that does not answer
/// says nothing.
pub(super) async fn read(imds: &ImdsClient) -> (watch::Sender<Option<Leaving>>, Notice) {
    let first = imds.leaving().await.unwrap_or_default();
    if let Some(leaving) = first {
        tracing::warn!(%leaving, "the instance goes away: nothing is created or given back");
    }
    watch::channel(first)
}

/// Asks again and again. A failure changes nothing.
pub(super) async fn follow(imds: Arc<ImdsClient>, shown: watch::Sender<Option<Leaving>>) -> &'static str {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_failing = false;
    loop {
        period.tick().await;
        let answer = imds.leaving().await;
        let failing = answer.is_err();
        match answer {
            Ok(now) => {
                shown.send_if_modified(|before| {
                    let changed = *before != now;
                    match now {
                        Some(leaving) if changed => {
                            tracing::warn!(%leaving, "the instance goes away: nothing is created or given back");
                        }
                        None if changed => tracing::info!("the instance stays after all"),
                        _ => {}
                    }
                    *before = now;
                    changed
                });
            }
            Err(error) if !was_failing => {
                tracing::warn!(error = chain(&error), "whether the instance goes away cannot be read");
            }
            Err(_) => {}
        }
        was_failing = failing;
        if shown.is_closed() {
            return "lifecycle";
        }
    }
}
