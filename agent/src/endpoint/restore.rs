//! After a start: pods that run get back what they had.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use rpc::{PodRef, Refusal, host_ifname};

use super::claim::{Claims, Record, claims, is_made_up};
use super::registry::{EndpointView, Sandbox};
use super::transaction::{Endpoints, RESTORED, macs};
use super::{Addresses, Adopted, Endpoint, Enforcement, HostEnd, Slot, Standing, Surviving, Wiring};

/// A link that cannot be read is asked for this often, with this pause.
const FIND_TRIES: u32 = 20;
const FIND_PAUSE: Duration = Duration::from_millis(250);
/// Of a pod that has not told it; nothing that is sent has it.
const UNKNOWN_MAC: [u8; 6] = [0; 6];

/// How many leases were made of what stood on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Leases that EC2 confirms.
    pub confirmed: usize,
    /// Leases whose address EC2 does not have on an ENI of ours.
    pub unconfirmed: usize,
    /// Of all these, with a made-up key.
    pub made_up: usize,
    /// Links of which nobody knows the address.
    pub nameless: usize,
}

impl<A: Addresses, W: Wiring, E: Enforcement> Endpoints<A, W, E> {
    /// Makes leases of pods that run and have none: the checkpoint was lost, or another agent was here before.
    /// `records` say who they are. To be called before [`Self::restore`], and after EC2's truth is known.
    ///
    /// # Errors
    ///
    /// Where the links cannot be read, or a lease cannot be written down.
    pub async fn recover(&self, records: &[Record]) -> Result<Recovered, Refusal> {
        let prefix = self.shape.veth_prefix.as_str();
        let mut standing = patiently("links", || self.ports.wiring.standing(prefix)).await?;
        for one in standing.iter_mut().filter(|one| one.addresses.is_empty()) {
            // Its route was lost, too; the filters know what they let in.
            one.addresses = self.ports.enforcement.addresses_of(one.end.ifindex).await;
        }
        let surviving = self.ports.addresses.surviving().await;
        let leased: BTreeSet<IpAddr> = surviving.iter().map(|lease| lease.grant.address).collect();
        let Claims { claims, nameless } = claims(prefix, &standing, records, &leased);
        let mut recovered = Recovered { nameless: nameless.len(), ..Recovered::default() };
        for link in nameless {
            tracing::warn!(link, "a pod's link without a lease, and nobody knows its address");
        }
        for claim in claims {
            let (sandbox, address, link) = (&claim.key, claim.address, &claim.end.ifname);
            match self.ports.addresses.adopt(&claim).await? {
                Adopted::Confirmed => {
                    recovered.confirmed += 1;
                    tracing::info!(%sandbox, %address, link, pod = ?claim.pod, "a pod that runs was adopted");
                }
                Adopted::Unconfirmed => {
                    recovered.unconfirmed += 1;
                    tracing::warn!(
                        %sandbox, %address, link, pod = ?claim.pod,
                        "a pod runs with an address that EC2 does not have on an ENI of ours"
                    );
                }
                Adopted::Taken => {
                    tracing::warn!(%sandbox, %address, link, "a second link claims what is leased");
                    continue;
                }
            }
            recovered.made_up += usize::from(is_made_up(sandbox));
        }
        self.ports.addresses.adopted().await?;
        Ok(recovered)
    }

    /// Addresses that lead to a pod's link of another name than ours have, without a lease: of those that `records`
    /// name or `is_ours` says are on our ENIs. Their pods would lose them to others. With the links' names.
    ///
    /// # Errors
    ///
    /// Where the links cannot be read.
    pub async fn strays(
        &self,
        records: &[Record],
        is_ours: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<(IpAddr, String)>, Refusal> {
        let standing = patiently("links", || self.ports.wiring.standing("")).await?;
        let surviving = self.ports.addresses.surviving().await;
        let leased: BTreeSet<IpAddr> = surviving.iter().map(|lease| lease.grant.address).collect();
        let recorded: BTreeSet<IpAddr> =
            records.iter().flat_map(|record| record.addresses.iter().copied()).collect();
        let others = standing.iter().filter(|one| !one.end.ifname.starts_with(&self.shape.veth_prefix));
        let led = others
            .flat_map(|one| one.addresses.iter().map(move |address| (*address, one.end.ifname.clone())));
        let at_stake = |address: &IpAddr| recorded.contains(address) || is_ours(*address);
        Ok(led.filter(|(address, _)| !leased.contains(address) && at_stake(address)).collect())
    }

    /// After a start: leases whose link is there are attached again, in place; others are given back, with
    /// their cooldown.
    ///
    /// # Errors
    ///
    /// Where the links cannot be read: nothing may be given back or taken away then.
    pub async fn restore(&self) -> Result<(), Refusal> {
        let mut living = Vec::new();
        let standing = patiently("links", || self.ports.wiring.standing("")).await?;
        let surviving = self.ports.addresses.surviving().await;
        for lease in &surviving {
            let end = link_of(lease, &standing, &surviving).map(|one| one.end.clone());
            match (end, &lease.host_ifname) {
                (Some(end), Some(_)) => living.push((lease.clone(), end)),
                (end, _) => {
                    if let Some(end) = end {
                        // An ADD that the former agent did not live to finish: its plugin begins again, with a new lease.
                        self.ports.enforcement.discard(end.ifindex).await;
                    }
                    self.give_back(lease).await;
                }
            }
        }
        let mut slotted = Vec::new();
        for (lease, end) in living {
            slotted.push((self.ports.enforcement.slot_of(end.ifindex).await, lease, end));
        }
        // Known slots first, so that none of them is given to another.
        slotted.sort_by_key(|(slot, ..)| slot.is_none());
        // All at once: each may take seconds to say nothing.
        let asked = join_all(slotted.iter().map(|(_, lease, end)| self.pod_mac(lease, end))).await;
        for ((slot, lease, end), pod_mac) in slotted.into_iter().zip(asked) {
            self.take_up(slot, lease, HostEnd { pod_mac, ..end }).await;
        }
        Ok(())
    }

    /// Without a neighbour entry of ours: where we made the link the MAC follows from the key, else the pod is asked.
    /// Of one that says nothing it stays unknown: what is sent to it asks by ARP, as before, and [`Self::ask_again`]
    /// does. A guess would lead that astray.
    async fn pod_mac(&self, lease: &Surviving, end: &HostEnd) -> [u8; 6] {
        if end.pod_mac != UNKNOWN_MAC {
            return end.pod_mac;
        }
        let (ours, derived) = macs(&lease.key);
        if end.host_mac == ours {
            return derived;
        }
        let told = self.ports.wiring.ask_pod_mac(end, lease.grant.address).await;
        if told.is_none() {
            tracing::error!(
                sandbox = %lease.key, link = end.ifname,
                "the pod does not tell its Ethernet address; what it sends will be taken for forged until it does"
            );
        }
        told.unwrap_or(UNKNOWN_MAC)
    }

    /// Asks pods again that did not tell their Ethernet address. To be called when policy is in force.
    pub async fn ask_again(&self) {
        let silent = self.view().into_iter().filter_map(|view| Some((view.key, view.endpoint?)));
        let asked = silent.filter(|(_, endpoint)| endpoint.end.pod_mac == UNKNOWN_MAC).map(
            |(key, endpoint)| async move {
                let told = self.ports.wiring.ask_pod_mac(&endpoint.end, endpoint.address).await;
                (key, endpoint, told)
            },
        );
        for (key, endpoint, told) in join_all(asked).await {
            let Some(pod_mac) = told else { continue };
            let entry = self.registry.entry(&key);
            let mut turn = entry.turn.lock().await;
            if let Some(sandbox) = turn.as_mut()
                && sandbox.endpoint.as_ref() == Some(&endpoint)
            {
                let end = HostEnd { pod_mac, ..endpoint.end.clone() };
                let endpoint = Endpoint { end, ..endpoint };
                match self.ports.enforcement.attach(endpoint.clone()).await {
                    Ok(()) => {
                        tracing::info!(sandbox = %key, link = endpoint.end.ifname, "the pod told its Ethernet address");
                        self.ports.wiring.adopt_pod(&sandbox.grant, &endpoint.end).await;
                        sandbox.pod_mac = pod_mac;
                        sandbox.endpoint = Some(endpoint);
                        self.show(&key, sandbox);
                    }
                    Err(refusal) => {
                        tracing::warn!(sandbox = %key, error = %refusal, "its Ethernet address is not in force yet");
                    }
                }
            }
            drop(turn);
            self.registry.forget(&key, entry);
        }
    }

    async fn give_back(&self, lease: &Surviving) {
        let (sandbox, address) = (&lease.key, lease.grant.address);
        tracing::info!(%sandbox, %address, "its link is gone; the address is given back");
        if let Err(refusal) = self.ports.addresses.release(sandbox).await {
            tracing::warn!(%sandbox, error = %refusal, "the address could not be given back");
        }
    }

    /// One that runs since before this agent: whatever fails now is tried again by those who keep it.
    async fn take_up(&self, slot: Option<Slot>, lease: Surviving, end: HostEnd) {
        let Surviving { key, pod, mut grant, host_mac, .. } = lease;
        let Some(slot) = self.registry.take_slot(slot) else {
            tracing::error!(sandbox = %key, "every endpoint slot is taken; its filters stay as they were");
            return;
        };
        let endpoint = Endpoint {
            key: key.clone(),
            slot,
            pod: pod.clone(),
            address: grant.address,
            end,
            egress_shaped: false,
        };
        grant.table = self.ports.wiring.adopt_pod(&grant, &endpoint.end).await;
        if grant.table.is_none() {
            tracing::warn!(sandbox = %key, address = %grant.address, "nobody knows its ENI; its rules are left alone");
        }
        if let Err(refusal) = self.ports.enforcement.attach(endpoint.clone()).await {
            tracing::error!(sandbox = %key, error = %refusal, "its filters stay as they were");
        }
        let sandbox = Sandbox {
            pod,
            grant,
            host_ifname: endpoint.end.ifname.clone(),
            host_mac: endpoint.end.host_mac,
            pod_mac: endpoint.end.pod_mac,
            add: RESTORED,
            adopted: host_mac.is_some(),
            egress_shaped: false,
            // A GC whose list is older than this agent does not know it; the next one does.
            begun_ns: rpc::monotonic_ns(),
            endpoint: Some(endpoint),
        };
        self.show(&key, &sandbox);
        *self.registry.entry(&key).turn.lock().await = Some(sandbox);
    }

    /// Pods whose ENI is another than it was taken for, or known only now: what they send leaves by it. To be called
    /// when the pool's view of ENIs has changed.
    pub async fn follow_enis(&self) {
        for Surviving { key, grant, .. } in self.ports.addresses.surviving().await {
            let entry = self.registry.entry(&key);
            let mut turn = entry.turn.lock().await;
            if let (Some(sandbox), Some(table)) = (turn.as_mut(), grant.table)
                && sandbox.grant.address == grant.address
                && sandbox.grant != grant
            {
                let wired = sandbox.endpoint.is_some() && sandbox.grant.table != Some(table);
                let followed = match wired {
                    true => self.ports.wiring.set_table(grant.address, table).await,
                    false => Ok(()),
                };
                match followed {
                    Ok(()) => {
                        tracing::info!(sandbox = %key, address = %grant.address, eni = grant.eni, table, "its ENI is known");
                        sandbox.grant = grant;
                        self.show(&key, sandbox);
                    }
                    Err(refusal) => {
                        tracing::warn!(sandbox = %key, error = %refusal, "its rules do not follow its ENI yet");
                    }
                }
            }
            drop(turn);
            self.registry.forget(&key, entry);
        }
    }

    /// Names the pods of adopted leases that nobody has named yet, by `pods`: those of this node, with the addresses
    /// that the API knows. To be called before policy is compiled for the first time. One that stays unknown lets
    /// nothing pass then: without a name no policy would select it, and it might have had one before.
    pub async fn name(&self, pods: &[(PodRef, Vec<IpAddr>)]) {
        // A sandbox whose own key is known and that has no pod is not Kubernetes's.
        let unnamed = |view: &EndpointView| is_made_up(&view.key) && view.pod.is_none();
        for view in self.view().into_iter().filter(unnamed) {
            let Some(Endpoint { address, end, .. }) = view.endpoint else { continue };
            let is_it = |pod: &PodRef, told: &[IpAddr]| {
                let named = host_ifname(&self.shape.veth_prefix, &view.key, Some(pod)) == end.ifname;
                // A successor of the same name has another address.
                named && (told.is_empty() || told.contains(&address))
            };
            let known = pods.iter().find(|(pod, told)| is_it(pod, told)).map(|(pod, _)| pod.clone());
            let pod = known.unwrap_or_else(|| {
                tracing::warn!(%address, link = end.ifname, "nobody knows this pod: nothing passes");
                PodRef { namespace: String::new(), name: end.ifname.clone(), uid: None }
            });
            let entry = self.registry.entry(&view.key);
            let mut turn = entry.turn.lock().await;
            if let Some(sandbox) = turn.as_mut()
                && let Some(present) = sandbox.endpoint.as_mut()
            {
                present.pod = Some(pod.clone());
                if let Err(refusal) = self.ports.enforcement.attach(present.clone()).await {
                    tracing::error!(sandbox = %view.key, error = %refusal, "its filters stay as they were");
                }
                sandbox.pod = Some(pod);
                self.show(&view.key, sandbox);
            }
            drop(turn);
            self.registry.forget(&view.key, entry);
        }
    }

    /// Adopted leases whose link went away are given back: the DEL that took it may have come by a key that we do not
    /// know. Any other lease waits for its own DEL, or [`Self::give_back_orphans`].
    pub async fn give_back_vanished(&self) {
        for view in self.view().into_iter().filter(|view| view.adopted) {
            let Some(end) = view.endpoint.map(|endpoint| endpoint.end) else { continue };
            if !self.is_gone(&end).await {
                continue;
            }
            tracing::info!(sandbox = %view.key, link = end.ifname, "an adopted pod's link is gone");
            if let (_, Err(refusal)) = self.release_by_key(&view.key).await {
                tracing::warn!(sandbox = %view.key, error = %refusal, "the address could not be given back");
            }
        }
    }
}

/// The MAC that a lease's host end was given.
fn host_mac(lease: &Surviving) -> [u8; 6] {
    lease.host_mac.unwrap_or_else(|| macs(&lease.key).0)
}

/// The link of a lease: that with its MAC, whatever its name is by now, or that with its name which the kernel leads its
/// address to, whatever its MAC is. A link with the name alone is that of a successor: a pod of the same name.
fn link_of<'a>(lease: &Surviving, standing: &'a [Standing], leases: &[Surviving]) -> Option<&'a Standing> {
    let mac = host_mac(lease);
    let named = |one: &&Standing| lease.host_ifname.as_deref() == Some(one.end.ifname.as_str());
    let mut of_mac = standing.iter().filter(|one| one.end.host_mac == mac && mac != UNKNOWN_MAC);
    let own = of_mac.clone().find(named).or_else(|| of_mac.next());
    own.or_else(|| {
        let leads = |one: &&Standing| one.addresses.contains(&lease.grant.address);
        let another_s = |one: &&Standing| leases.iter().any(|other| host_mac(other) == one.end.host_mac);
        standing.iter().find(|one| named(one) && leads(one) && (one.end.host_mac == mac || !another_s(one)))
    })
}

/// Asks the kernel again while it refuses, for five seconds in all.
async fn patiently<T, F: Future<Output = Result<T, Refusal>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, Refusal> {
    let mut tries = 0;
    loop {
        match ask().await {
            Err(refusal) if tries < FIND_TRIES => {
                tracing::warn!(what, error = %refusal, "it cannot be read");
                tries += 1;
                tokio::time::sleep(FIND_PAUSE).await;
            }
            other => return other,
        }
    }
}
