//! The verbs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc::{Leased, PodRef, Refusal, SandboxKey, code, reason};
use tokio_util::sync::CancellationToken;

use super::orphans::Orphans;
use super::registry::{EndpointView, Entry, Named, Phase, Registry, Sandbox};
use super::{Addresses, Endpoint, Enforcement, HostEnd, Ports, Wiring};

/// How long a GC waits for the turn of a sandbox that is looked at, or deleted.
const TURN_PATIENCE: Duration = Duration::from_secs(2);
/// The ADD of a sandbox that ran before this agent; ours begin with 1.
pub(super) const RESTORED: u64 = 0;

/// What names and sizes the plugin is told.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Prefix of host ends' names.
    pub veth_prefix: String,
    /// MTU of both ends, in bytes.
    pub pod_mtu: u32,
}

/// All endpoints of the node.
pub struct Endpoints<A, W, E> {
    pub(super) ports: Ports<A, W, E>,
    pub(super) shape: Shape,
    pub(super) registry: Registry,
    pub(super) orphans: Orphans,
    next_add: AtomicU64,
    /// The last observed state of every sandbox, for people; the truth is behind each entry's turn.
    views: Mutex<std::collections::BTreeMap<SandboxKey, EndpointView>>,
}

/// What an ADD asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The pod, where the runtime names one.
    pub pod: Option<PodRef>,
    /// As in [`Endpoint`].
    pub egress_shaped: bool,
    /// When the plugin was started ([`rpc::monotonic_ns`]); 0 where it does not tell.
    pub begun_ns: u64,
    /// Until when it waits.
    pub deadline: Instant,
}

/// An ADD that was leased and is not yet attached: its connection holds this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisional {
    key: SandboxKey,
    add: u64,
}

impl<A: Addresses, W: Wiring, E: Enforcement> Endpoints<A, W, E> {
    /// No endpoints yet; see [`Self::restore`].
    pub fn new(ports: Ports<A, W, E>, shape: Shape) -> Self {
        Self {
            ports,
            shape,
            registry: Registry::default(),
            orphans: Orphans::default(),
            next_add: AtomicU64::new(1),
            views: Mutex::default(),
        }
    }

    /// The first half of ADD: an address, and what the plugin shall build. `gone` ends the wait when the plugin
    /// is no longer there to hear the answer.
    ///
    /// # Errors
    ///
    /// The pool's refusal; or that the sandbox was deleted, before or meanwhile.
    pub async fn lease(
        &self,
        key: &SandboxKey,
        asked: Asked,
        gone: &CancellationToken,
    ) -> Result<(Leased, Provisional), Refusal> {
        let entry = self.registry.entry(key);
        let leased = self.lease_in_turn(&entry, key, asked, gone).await;
        if leased.is_err() {
            self.registry.forget(key, entry);
        }
        leased
    }

    async fn lease_in_turn(
        &self,
        entry: &Entry,
        key: &SandboxKey,
        asked: Asked,
        gone: &CancellationToken,
    ) -> Result<(Leased, Provisional), Refusal> {
        let Asked { pod, egress_shaped, begun_ns, deadline } = asked;
        let (cancelled, _adding) = entry.begin_add();
        if self.registry.is_buried(key, begun_ns) {
            return Err(deleted(key));
        }
        // One that does not tell began now, at the latest.
        let tells = begun_ns != 0;
        let begun_ns = if tells { begun_ns } else { rpc::monotonic_ns() };
        let host_ifname = rpc::host_ifname(&self.shape.veth_prefix, key, pod.as_ref());
        self.not_succeeded(key, &host_ifname, begun_ns)?;
        let mut turn = tokio::select! {
            turn = entry.turn.lock() => turn,
            () = cancelled.cancelled() => return Err(deleted(key)),
            () = gone.cancelled() => return Err(plugin_gone(key)),
        };
        let add = self.next_add.fetch_add(1, Ordering::Relaxed);
        if turn.is_none() {
            let grant = tokio::select! {
                grant = self.ports.addresses.lease(key, pod.as_ref(), deadline) => grant?,
                // The DEL that cancelled waits for its turn and then releases whatever was given.
                () = cancelled.cancelled() => return Err(deleted(key)),
                () = gone.cancelled() => {
                    // The pool may have given in the very moment that we stopped listening.
                    self.ports.addresses.release(key).await?;
                    return Err(plugin_gone(key));
                }
            };
            let (host_mac, pod_mac) = macs(key);
            *turn = Some(Sandbox {
                host_ifname,
                pod,
                grant,
                host_mac,
                pod_mac,
                add,
                adopted: false,
                egress_shaped,
                begun_ns,
                endpoint: None,
            });
        }
        let Some(sandbox) = turn.as_mut() else { return Err(deleted(key)) };
        if sandbox.endpoint.is_none() {
            sandbox.add = add;
        }
        // Of an endpoint that stands it takes effect when its link is made anew.
        sandbox.egress_shaped = egress_shaped;
        sandbox.begun_ns = if tells { sandbox.begun_ns.max(begun_ns) } else { sandbox.begun_ns };
        self.show(key, sandbox);
        let leased = Leased {
            addresses: vec![sandbox.grant.address],
            gateways: vec![gateway(sandbox.grant.address)],
            mtu: self.shape.pod_mtu,
            host_ifname: sandbox.host_ifname.clone(),
            host_mac: sandbox.host_mac,
            pod_mac: sandbox.pod_mac,
        };
        Ok((leased, Provisional { key: key.clone(), add }))
    }

    /// The second half of ADD: host routes, filters, policy. Only after it may the pod's end come up.
    ///
    /// # Errors
    ///
    /// [`reason::UNKNOWN_LEASE`] where there is no lease; else what the step that failed says, with every
    /// earlier step undone.
    pub async fn attach(
        &self,
        key: &SandboxKey,
        host_ifname: &str,
        host_ifindex: u32,
    ) -> Result<(), Refusal> {
        let entry = self.registry.entry(key);
        let (cancelled, _adding) = entry.begin_add();
        let mut turn = entry.turn.lock().await;
        let begun_ns = turn.as_ref().map_or(u64::MAX, |sandbox| sandbox.begun_ns);
        if cancelled.is_cancelled() || self.registry.is_buried(key, begun_ns) {
            return Err(deleted(key));
        }
        let Some(sandbox) = turn.as_mut() else {
            return Err(Refusal::retryable(
                code::TRY_AGAIN_LATER,
                reason::UNKNOWN_LEASE,
                format!("no address is leased to {key}"),
            ));
        };
        self.not_succeeded(key, &sandbox.host_ifname, sandbox.begun_ns)?;
        if let Some(present) = sandbox.endpoint.clone() {
            let same = present.end.ifindex == host_ifindex;
            if same && self.ports.enforcement.slot_of(host_ifindex).await == Some(present.slot) {
                return Ok(());
            }
            // The plugin made the pair anew, or the filters were lost: everything is put in force again.
            sandbox.endpoint = None;
            self.ports.enforcement.detach(&present).await;
            self.registry.give_back_slot(present.slot);
        }
        let Some(slot) = self.registry.take_slot(None) else {
            return Err(Refusal::new(
                code::PLUGIN_SPECIFIC,
                "endpoints-full",
                "every endpoint slot is taken",
            ));
        };
        let endpoint = Endpoint {
            key: key.clone(),
            slot,
            pod: sandbox.pod.clone(),
            address: sandbox.grant.address,
            end: HostEnd {
                ifname: host_ifname.to_owned(),
                ifindex: host_ifindex,
                host_mac: sandbox.host_mac,
                pod_mac: sandbox.pod_mac,
            },
            egress_shaped: sandbox.egress_shaped,
        };
        match self.put_in_force(sandbox, &endpoint).await {
            Ok(()) => {
                if let Some(pod) = &endpoint.pod {
                    self.ports.addresses.announce(pod, endpoint.address);
                }
                sandbox.endpoint = Some(endpoint);
                self.show(key, sandbox);
                Ok(())
            }
            Err(refusal) => {
                self.registry.give_back_slot(slot);
                Err(refusal)
            }
        }
    }

    /// Pods of a StatefulSet, and the sandboxes of one pod, share the name of their host end, and the last of them to
    /// begin has it: the plugin of an older one, when it is late, would take a running pod's link out of its way.
    fn not_succeeded(&self, key: &SandboxKey, host_ifname: &str, begun_ns: u64) -> Result<(), Refusal> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let successor = views.values().find(|other| {
            other.key != *key && other.named.host_ifname == host_ifname && other.named.begun_ns > begun_ns
        });
        let Some(other) = successor else { return Ok(()) };
        let message = format!("{} has the link {host_ifname} and is newer than {key}", other.key);
        // One that ran before this agent may be older all the same; then its DEL is on its way.
        Err(match other.named.restored {
            true => Refusal::retryable(code::TRY_AGAIN_LATER, "link-taken", message),
            false => Refusal::new(code::PLUGIN_SPECIFIC, reason::SANDBOX_DELETED, message),
        })
    }

    /// Policy before routes: a route is what lets the first packet in, and the filters must stand by then.
    async fn put_in_force(&self, sandbox: &Sandbox, endpoint: &Endpoint) -> Result<(), Refusal> {
        self.ports.enforcement.attach(endpoint.clone()).await?;
        let routed = self.ports.wiring.add_pod(&sandbox.grant, &endpoint.end).await;
        let committed = match routed {
            Ok(()) => self.ports.addresses.commit(&endpoint.key, &endpoint.end.ifname).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = committed {
            if let Err(undo) = self.ports.wiring.remove_pod(&sandbox.grant, &endpoint.end).await {
                tracing::warn!(sandbox = %endpoint.key, error = %undo, "routes of a refused ADD were left");
            }
            self.ports.enforcement.detach(endpoint).await;
            return Err(refusal);
        }
        Ok(())
    }

    /// DEL: everything of `key` goes, whatever its state; an ADD that waits or works is ended first, and one
    /// that arrives later is refused. Its link goes first, where the plugin could not find it; once that is gone errors
    /// do not stop it: all steps are tried, the first error is returned.
    ///
    /// # Errors
    ///
    /// What could not be undone; the runtime then repeats the DEL.
    pub async fn release(&self, key: &SandboxKey) -> Result<(), Refusal> {
        let (known, outcome) = self.release_by_key(key).await;
        if !known {
            // It may be the sandbox of an adopted lease; the plugin has taken its link away before it asked us.
            self.give_back_vanished().await;
        }
        outcome
    }

    /// Releases what has this very key; also tells whether there was anything.
    pub(super) async fn release_by_key(&self, key: &SandboxKey) -> (bool, Result<(), Refusal>) {
        let entry = self.registry.entry(key);
        self.registry.bury(key);
        entry.cancel_add();
        let mut turn = entry.turn.lock().await;
        let known = turn.is_some();
        let outcome = self.undo(key, &mut turn).await;
        drop(turn);
        self.registry.forget(key, entry);
        (known, outcome)
    }

    /// Takes everything of `key` away, whose turn it is: its link first, for an address is never free while a link may
    /// still send from it. Errors after that do not stop it.
    pub(super) async fn undo(&self, key: &SandboxKey, turn: &mut Option<Sandbox>) -> Result<(), Refusal> {
        let mut first_error = None;
        if let Some(Sandbox { grant, endpoint: Some(endpoint), .. }) = turn.as_ref() {
            self.ports.wiring.unlink(&endpoint.end).await?;
            first_error = self.ports.wiring.remove_pod(grant, &endpoint.end).await.err();
            self.ports.enforcement.detach(endpoint).await;
            self.registry.give_back_slot(endpoint.slot);
            if let Some(pod) = &endpoint.pod {
                self.ports.addresses.withdraw(pod, endpoint.address);
            }
        }
        match self.ports.addresses.release(key).await {
            Ok(()) => *turn = None,
            Err(refusal) => {
                // The lease stays known, so that the repeated DEL finds it.
                if let Some(sandbox) = turn.as_mut() {
                    sandbox.endpoint = None;
                }
                first_error.get_or_insert(refusal);
            }
        }
        self.hide(key);
        first_error.map_or(Ok(()), Err)
    }

    /// The connection of an ADD ended before its attach was answered.
    pub async fn abandon(&self, provisional: &Provisional) {
        let key = &provisional.key;
        let entry = self.registry.entry(key);
        let mut turn = entry.turn.lock().await;
        let ours =
            turn.as_ref().is_some_and(|sandbox| sandbox.add == provisional.add && sandbox.endpoint.is_none());
        if ours {
            if let Err(refusal) = self.ports.addresses.release(key).await {
                tracing::warn!(sandbox = %key, error = %refusal, "a provisional lease could not be given back");
            }
            *turn = None;
            self.hide(key);
        }
        drop(turn);
        self.registry.forget(key, entry);
    }

    /// CHECK: wired, with its filters in place.
    ///
    /// # Errors
    ///
    /// What is not as it should be.
    pub async fn check(&self, key: &SandboxKey) -> Result<(), Refusal> {
        let entry = self.registry.entry(key);
        let turn = entry.turn.lock().await;
        let Some(Sandbox { endpoint: Some(endpoint), .. }) = turn.as_ref() else {
            drop(turn);
            self.registry.forget(key, entry);
            let message = format!("{key} is not attached");
            return Err(Refusal::new(code::UNKNOWN_CONTAINER, "not-attached", message));
        };
        if !self.ports.wiring.lives(&endpoint.end).await? {
            let message = format!("{} is gone from the node", endpoint.end.ifname);
            return Err(Refusal::new(code::PLUGIN_SPECIFIC, "link-gone", message));
        }
        if self.ports.enforcement.slot_of(endpoint.end.ifindex).await != Some(endpoint.slot) {
            let message = format!("the filters of {} are not in place", endpoint.end.ifname);
            return Err(Refusal::new(code::PLUGIN_SPECIFIC, "filters-gone", message));
        }
        Ok(())
    }

    /// GC: releases every sandbox of `network` that is not in `valid`, but for those whose ADD began after the GC
    /// did, and takes their links away: such a sandbox may still run. Returns how many.
    ///
    /// # Errors
    ///
    /// The first release that failed; the others were tried all the same.
    pub async fn collect(
        &self,
        network: &str,
        valid: &[(String, String)],
        begun_ns: u64,
    ) -> Result<u32, Refusal> {
        self.orphans.collected(network, valid);
        let (mut released, mut first_error) = (0, None);
        for (key, entry) in self.registry.entries() {
            let lives = valid.iter().any(|(id, ifname)| *id == key.container_id && *ifname == key.ifname);
            if key.network == network && !lives {
                match self.collect_one(&key, &entry, begun_ns).await {
                    Ok(collected) => released += u32::from(collected),
                    Err(refusal) => {
                        first_error.get_or_insert(refusal);
                    }
                }
            }
            self.registry.forget(&key, entry);
        }
        first_error.map_or(Ok(released), Err)
    }

    async fn collect_one(&self, key: &SandboxKey, entry: &Entry, begun_ns: u64) -> Result<bool, Refusal> {
        // No sandbox that was forgotten; and its turn may be minutes away.
        if entry.is_adding() {
            return Ok(false);
        }
        // Whoever else has its turn does not keep it for long, and the next GC comes by again.
        let Ok(mut turn) = tokio::time::timeout(TURN_PATIENCE, entry.turn.lock()).await else {
            return Ok(false);
        };
        if turn.as_ref().is_none_or(|sandbox| begun_ns != 0 && sandbox.begun_ns > begun_ns) {
            return Ok(false);
        }
        self.registry.bury(key);
        tracing::info!(sandbox = %key, "the runtime does not know it any more; it is released");
        self.undo(key, &mut turn).await.map(|()| true)
    }

    /// Every sandbox as it was last seen.
    pub fn view(&self) -> Vec<EndpointView> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn registry_len(&self) -> usize {
        self.registry.entries().len()
    }

    pub(super) fn show(&self, key: &SandboxKey, sandbox: &Sandbox) {
        let view = EndpointView {
            key: key.clone(),
            pod: sandbox.pod.clone(),
            grant: sandbox.grant.clone(),
            endpoint: sandbox.endpoint.clone(),
            phase: if sandbox.endpoint.is_some() { Phase::Attached } else { Phase::Leased },
            adopted: sandbox.adopted,
            named: Named {
                host_ifname: sandbox.host_ifname.clone(),
                begun_ns: sandbox.begun_ns,
                restored: sandbox.add == RESTORED,
            },
        };
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), view);
    }

    fn hide(&self, key: &SandboxKey) {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn deleted(key: &SandboxKey) -> Refusal {
    Refusal::new(
        code::PLUGIN_SPECIFIC,
        reason::SANDBOX_DELETED,
        format!("{key} was deleted; a new sandbox needs a new container id"),
    )
}

fn plugin_gone(key: &SandboxKey) -> Refusal {
    Refusal::new(code::PLUGIN_SPECIFIC, "plugin-gone", format!("the plugin that asked for {key} is gone"))
}

/// The gateway that a pod sends to; no interface has it.
fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::new(169, 254, 1, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// MACs of both ends, locally administered and unicast, the same for the same sandbox in every version: by the
/// host end's, a restarted agent knows whose link it is. Each link is a segment of its own, so that two sandboxes
/// may share a MAC without harm.
pub(super) fn macs(key: &SandboxKey) -> ([u8; 6], [u8; 6]) {
    let mac = |end: u8| {
        // FNV-1a, 64 bits (RFC 9923).
        let parts =
            [key.network.as_bytes(), &[0], key.container_id.as_bytes(), &[0], key.ifname.as_bytes(), &[end]];
        let hash = parts.concat().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let bytes = hash.to_be_bytes();
        [(bytes[0] & 0xfc) | 0x02, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
    };
    (mac(0), mac(1))
}

/// Shared by the server's connections.
pub type SharedEndpoints<A, W, E> = Arc<Endpoints<A, W, E>>;
