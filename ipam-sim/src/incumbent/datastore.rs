//! What it holds, and what it decides from that.

use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{AttachmentId, EniId, Now};
use ipnetwork::IpNetwork;

use crate::engine::PodId;

/// The youngest ENI that it gives back.
const MIN_ENI_LIFETIME: Duration = Duration::from_secs(60);
/// Addresses in a delegated prefix.
const PREFIX: usize = 16;

/// Its knobs and the instance's limits.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// ENIs that the instance can carry, `MAX_ENI` applied.
    pub max_eni: usize,
    /// Addresses or prefixes on one ENI beside its primary address.
    pub per_eni: usize,
    /// Pods that the node accepts.
    pub max_pods: usize,
    /// `ENABLE_PREFIX_DELEGATION`
    pub prefixes: bool,
    /// `WARM_ENI_TARGET`
    pub warm_eni: usize,
    /// `WARM_IP_TARGET`, 0 where unset.
    pub warm_ip: usize,
    /// `MINIMUM_IP_TARGET`, 0 where unset.
    pub minimum_ip: usize,
    /// `WARM_PREFIX_TARGET`
    pub warm_prefix: usize,
    /// `IP_COOLDOWN_PERIOD`
    pub cooldown: Duration,
}

impl Settings {
    /// Addresses in one slot of an ENI.
    pub(crate) fn slot(&self) -> usize {
        if self.prefixes { PREFIX } else { 1 }
    }

    fn max_ips_per_eni(&self) -> usize {
        self.per_eni * self.slot()
    }

    fn counts_addresses(&self) -> bool {
        self.warm_ip > 0 || self.minimum_ip > 0
    }
}

/// One address.
#[derive(Clone, Copy, Debug)]
struct Address {
    ip: IpAddr,
    pod: Option<PodId>,
    freed: Option<Now>,
}

impl Address {
    fn cools(&self, now: Now, cooldown: Duration) -> bool {
        self.freed.is_some_and(|freed| now.since(freed) <= cooldown)
    }
}

/// A secondary address or a prefix.
#[derive(Clone, Debug)]
struct Block {
    block: IpNetwork,
    addresses: Vec<Address>,
}

impl Block {
    fn assigned(&self) -> usize {
        self.addresses.iter().filter(|address| address.pod.is_some()).count()
    }
}

/// One ENI.
#[derive(Clone, Debug)]
pub(crate) struct Eni {
    pub(crate) id: EniId,
    pub(crate) attachment: Option<AttachmentId>,
    primary: bool,
    born: Now,
    blocks: Vec<Block>,
}

impl Eni {
    fn assigned(&self) -> usize {
        self.blocks.iter().map(Block::assigned).sum()
    }
}

/// What the targets say.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    short: usize,
    over: usize,
    defined: bool,
}

/// Its ENIs and addresses.
#[derive(Clone, Debug)]
pub struct Datastore {
    pub(crate) settings: Settings,
    enis: Vec<Eni>,
}

impl Datastore {
    /// One with the primary ENI alone.
    pub fn new(settings: Settings, primary: EniId) -> Self {
        let primary =
            Eni { id: primary, attachment: None, primary: true, born: Now::default(), blocks: Vec::new() };
        Self { settings, enis: vec![primary] }
    }

    /// ENIs.
    pub fn eni_count(&self) -> usize {
        self.enis.len()
    }

    /// Slots in use on all ENIs: addresses, or prefixes.
    pub fn block_count(&self) -> usize {
        self.blocks().count()
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.enis.iter().flat_map(|eni| &eni.blocks)
    }

    fn total(&self) -> usize {
        self.block_count() * self.settings.slot()
    }

    fn assigned(&self) -> usize {
        self.enis.iter().map(Eni::assigned).sum()
    }

    fn free_prefixes(&self) -> usize {
        self.blocks().filter(|block| block.assigned() == 0).count()
    }

    /// Addresses that cool down count as available, as they do there.
    fn available(&self) -> usize {
        self.total() - self.assigned()
    }

    fn target(&self) -> Target {
        let Settings { warm_ip, minimum_ip, prefixes, .. } = self.settings;
        if !self.settings.counts_addresses() {
            return Target::default();
        }
        let (total, available) = (self.total(), self.available());
        let short = warm_ip.saturating_sub(available).max(minimum_ip.saturating_sub(total));
        if prefixes {
            let all = self.block_count();
            let over = self
                .free_prefixes()
                .min(all.saturating_sub((self.assigned() + warm_ip).div_ceil(PREFIX)))
                .min(all.saturating_sub(minimum_ip.div_ceil(PREFIX)));
            return Target { short: short.div_ceil(PREFIX), over, defined: true };
        }
        let over = available.saturating_sub(warm_ip).min(total.saturating_sub(minimum_ip));
        Target { short, over, defined: true }
    }

    /// Whether the pool is too small.
    pub fn is_low(&self) -> bool {
        if self.total() >= self.settings.max_pods {
            return false;
        }
        let target = self.target();
        if target.defined {
            return target.short > 0;
        }
        let (warm, unit) = if self.settings.prefixes {
            (self.settings.warm_prefix, PREFIX)
        } else {
            (self.settings.warm_eni, self.settings.max_ips_per_eni())
        };
        self.available() < unit * warm || (warm == 0 && self.available() == 0)
    }

    /// Whether it gives addresses back. By ENI it never gives back single ones.
    pub fn is_high(&self) -> bool {
        let target = self.target();
        if target.defined {
            return target.over > 0;
        }
        self.settings.prefixes && self.free_prefixes() > self.settings.warm_prefix
    }

    /// Whether a growth step on the ENIs that are there is ruled out.
    pub(crate) fn skips_assign(&self) -> bool {
        let target = self.target();
        !self.settings.prefixes && target.defined && target.short == 0
    }

    /// How many slots a growth step asks for.
    pub(crate) fn needed(&self) -> usize {
        let target = self.target();
        if self.settings.prefixes {
            let short = if target.defined {
                target.short
            } else {
                self.settings.warm_prefix.saturating_sub(self.free_prefixes())
            };
            return short.max(1);
        }
        if target.defined { target.short } else { self.settings.max_ips_per_eni() }
    }

    /// ENIs that can take more, each with its room.
    pub(crate) fn rooms(&self) -> Vec<(EniId, usize)> {
        let per_eni = self.settings.per_eni;
        self.enis
            .iter()
            .filter(|eni| eni.blocks.len() < per_eni)
            .map(|eni| (eni.id.clone(), per_eni - eni.blocks.len()))
            .collect()
    }

    pub(crate) fn has_room_for_eni(&self) -> bool {
        self.enis.len() < self.settings.max_eni
    }

    pub(crate) fn add_eni(&mut self, id: EniId, attachment: Option<AttachmentId>, now: Now) {
        self.enis.push(Eni { id, attachment, primary: false, born: now, blocks: Vec::new() });
    }

    pub(crate) fn add_blocks(&mut self, eni: &EniId, blocks: impl Iterator<Item = IpNetwork>) {
        if let Some(eni) = self.enis.iter_mut().find(|known| known.id == *eni) {
            eni.blocks.extend(blocks.map(|block| Block {
                block,
                addresses: block.iter().map(|ip| Address { ip, pod: None, freed: None }).collect(),
            }));
        }
    }

    pub(crate) fn remove_eni(&mut self, id: &EniId) {
        self.enis.retain(|eni| eni.id != *id);
    }

    pub(crate) fn eni_ids(&self) -> Vec<EniId> {
        self.enis.iter().map(|eni| eni.id.clone()).collect()
    }

    /// How many blocks beyond its targets it holds.
    pub(crate) fn over(&self) -> usize {
        let target = self.target();
        if target.defined {
            target.over
        } else if self.settings.prefixes {
            self.free_prefixes().saturating_sub(self.settings.warm_prefix)
        } else {
            0
        }
    }

    /// Takes up to `count` unused blocks of an ENI out, cooling ones included.
    pub(crate) fn take_unused(&mut self, id: &EniId, count: usize) -> Vec<IpNetwork> {
        let Some(eni) = self.enis.iter_mut().find(|eni| eni.id == *id) else {
            return Vec::new();
        };
        let unused: Vec<IpNetwork> = eni
            .blocks
            .iter()
            .filter(|block| block.assigned() == 0)
            .take(count)
            .map(|block| block.block)
            .collect();
        eni.blocks.retain(|block| !unused.contains(&block.block));
        unused
    }

    /// Puts blocks back whose return failed.
    pub(crate) fn restore_blocks(&mut self, eni: &EniId, blocks: Vec<IpNetwork>) {
        self.add_blocks(eni, blocks.into_iter());
    }

    /// Whether an ENI may be too many.
    pub(crate) fn has_extra_eni(&self) -> bool {
        let settings = &self.settings;
        if settings.counts_addresses() {
            return true;
        }
        let warm = if settings.prefixes { settings.warm_prefix } else { settings.warm_eni };
        let unused = || self.enis.iter().any(|eni| !eni.primary && eni.assigned() == 0);
        self.available() >= (warm + 1) * settings.max_ips_per_eni() || (settings.prefixes && unused())
    }

    /// The first ENI of `order` that could go.
    pub(crate) fn removable(&self, order: &[EniId], now: Now) -> Option<&Eni> {
        order.iter().filter_map(|id| self.enis.iter().find(|eni| eni.id == *id)).find(|eni| {
            let cooldown = self.settings.cooldown;
            let mut addresses = eni.blocks.iter().flat_map(|block| &block.addresses);
            !eni.primary
                && now.since(eni.born) >= MIN_ENI_LIFETIME
                && !addresses.any(|address| address.pod.is_some() || address.cools(now, cooldown))
                && self.others_suffice(eni)
        })
    }

    /// Whether the other ENIs meet the targets.
    fn others_suffice(&self, eni: &Eni) -> bool {
        let settings = &self.settings;
        let others = || self.enis.iter().filter(|other| other.id != eni.id);
        let total = others().map(|other| other.blocks.len()).sum::<usize>() * settings.slot();
        let warm = total - others().map(Eni::assigned).sum::<usize>();
        let whole = |target: usize| if settings.prefixes { target.div_ceil(PREFIX) * PREFIX } else { target };
        let free_prefixes =
            others().flat_map(|other| &other.blocks).filter(|block| block.assigned() == 0).count();
        !(settings.warm_ip > 0 && warm < whole(settings.warm_ip)
            || settings.minimum_ip > 0 && total < whole(settings.minimum_ip)
            || settings.prefixes && settings.warm_prefix > 0 && free_prefixes < settings.warm_prefix)
    }

    /// Gives a pod the first free address in the order that `dice` makes of
    /// ENIs and blocks, as iteration over maps does there.
    pub(crate) fn assign(&mut self, pod: PodId, now: Now, mut dice: impl FnMut() -> f64) -> Option<IpAddr> {
        // Thousands of nodes ask this every few seconds.
        if self.available() == 0 {
            return None;
        }
        let cooldown = self.settings.cooldown;
        let mut order: Vec<usize> = (0..self.enis.len()).collect();
        shuffle(&mut order, &mut dice);
        for index in order {
            let eni = &mut self.enis[index];
            let mut blocks: Vec<usize> = (0..eni.blocks.len()).collect();
            shuffle(&mut blocks, &mut dice);
            for index in blocks {
                let free = eni.blocks[index]
                    .addresses
                    .iter_mut()
                    .find(|address| address.pod.is_none() && !address.cools(now, cooldown));
                if let Some(address) = free {
                    address.pod = Some(pod);
                    return Some(address.ip);
                }
            }
        }
        None
    }

    /// A pod is gone; its address cools down from now.
    pub(crate) fn unassign(&mut self, pod: PodId, now: Now) {
        let addresses =
            self.enis.iter_mut().flat_map(|eni| &mut eni.blocks).flat_map(|block| &mut block.addresses);
        for address in addresses.filter(|address| address.pod == Some(pod)) {
            address.pod = None;
            address.freed = Some(now);
        }
    }

    /// After a restart: cooldowns are not written down there.
    pub(crate) fn forget_cooldowns(&mut self) {
        let addresses =
            self.enis.iter_mut().flat_map(|eni| &mut eni.blocks).flat_map(|block| &mut block.addresses);
        addresses.for_each(|address| address.freed = None);
    }
}

/// Fisher and Yates.
pub(crate) fn shuffle<T>(items: &mut [T], dice: &mut impl FnMut() -> f64) {
    for last in (1..items.len()).rev() {
        let other = (dice() * (last + 1) as f64) as usize;
        items.swap(last, other.min(last));
    }
}
