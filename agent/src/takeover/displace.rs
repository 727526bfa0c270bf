//! What goes of aws-node's once ours stands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{conflist, translation};
use crate::cause::chain;
use crate::hostnet::HostNet;
use crate::ports::Teller;

/// Between two attempts at what could not be done.
const PAUSE: Duration = Duration::from_secs(5);
/// The reason of the Event on what stays for an operator to remove.
const LEGACY: &str = "LegacyIptables";

/// Sets its conflist aside, removes its translation rules and its twins of our routing rules, and tells of what is not
/// ours to remove. To be called when ours stands: host networking reconciled, the conflist written. Each step is
/// repeated until it succeeds; the future then never ends.
pub async fn displace(hostnet: HostNet, conf_dir: PathBuf, teller: Teller) -> &'static str {
    loop {
        let (hostnet, conf_dir) = (hostnet.clone(), conf_dir.clone());
        let done = tokio::task::spawn_blocking(move || work(&hostnet, &conf_dir)).await;
        match done {
            Ok(Ok(legacy)) => {
                if let Some(warning) = legacy {
                    tracing::warn!("{warning}");
                    teller.node(LEGACY, &warning);
                }
                return std::future::pending().await;
            }
            Ok(Err(error)) => tracing::warn!(error, "what aws-node left is not removed yet"),
            Err(error) => tracing::warn!(%error, "what aws-node left is not removed yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Everything once; returns what an operator has to know.
fn work(hostnet: &HostNet, conf_dir: &Path) -> Result<Option<String>, String> {
    let lists = conflist::set_aside(conf_dir)
        .map_err(|error| format!("its conflist in {}: {error}", conf_dir.display()))?;
    if !lists.is_empty() {
        tracing::info!(?lists, "aws-node's network lists are set aside");
    }
    let mut socket = netlink::nft::open().map_err(|error| chain(&error))?;
    let rules = translation::remove(&mut socket).map_err(|error| chain(&error))?;
    let twins = hostnet.displace().map_err(|error| chain(&error))?;
    if rules + twins > 0 {
        tracing::info!(translation = rules, routing = twins, "aws-node's rules are removed, ours stand");
    }
    let legacy = translation::legacy_tables();
    // Without a list of its it was never here, and such tables are others'.
    Ok((!legacy.is_empty() && !conflist::aside(conf_dir).is_empty()).then(|| {
        format!(
            "iptables-legacy is in use on this node (tables {}): rules that aws-node left there still translate \
             and mark packets, and are not removed; see «Legacy iptables» in the migration guide",
            legacy.join(", ")
        )
    }))
}
