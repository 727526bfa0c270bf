//! The cloud's state, and what changes by itself as time goes on. Pure: time
//! comes as an argument, chance from a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::clock::SimTime;
use super::delay::{Delay, Draw};
use super::error::{ApiError, IdKind};
use super::fabric_queue::{Event, FabricQueue};
use super::fault::Faults;
use super::ids::{AttachmentId, EniId, GroupId, InstanceId, SubnetId, TrunkAssociationId, VpcId};
use super::model::{
    Attachment, Eni, EniRecord, Group, Instance, InstanceState, Subnet, TrunkAssociation, Vpc,
};
use super::port::EniLink;
use super::settings::Settings;
use super::throttle::Buckets;

/// Everything the cloud knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) vpcs: BTreeMap<VpcId, Vpc>,
    pub(crate) subnets: BTreeMap<SubnetId, Subnet>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) enis: BTreeMap<EniId, EniRecord>,
    pub(crate) trunk_associations: BTreeMap<TrunkAssociationId, TrunkAssociation>,
    /// Answers to calls with a client token, by operation and token.
    pub(crate) tokens: HashMap<(&'static str, String), TokenUse>,
    /// Deleted interfaces that Describe still shows, and until when.
    pub(crate) ghosts: Vec<(SimTime, Eni)>,
    pub(crate) buckets: Buckets,
    pub(crate) faults: Faults,
    pub(crate) fabric: FabricQueue,
    /// What will happen by itself.
    transitions: BTreeMap<(SimTime, u64), Transition>,
    next_transition: u64,
    /// How often each delay was drawn, by what and whom.
    draws: HashMap<(String, String), u64>,
}

/// What a client token was used for.
#[derive(Debug, Clone)]
pub(crate) struct TokenUse {
    pub(crate) fingerprint: String,
    pub(crate) made: Made,
}

/// What a call with a client token made.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    Eni(Box<Eni>),
    TrunkAssociation(TrunkAssociation),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Transition {
    Detach(EniId, AttachmentId),
    Terminate(InstanceId),
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            settings,
            vpcs: BTreeMap::new(),
            subnets: BTreeMap::new(),
            groups: BTreeMap::new(),
            instances: BTreeMap::new(),
            enis: BTreeMap::new(),
            trunk_associations: BTreeMap::new(),
            tokens: HashMap::new(),
            ghosts: Vec::new(),
            buckets: Buckets::default(),
            faults: Faults::default(),
            fabric: FabricQueue::default(),
            transitions: BTreeMap::new(),
            next_transition: 0,
            draws: HashMap::new(),
        }
    }

    /// Lets everything happen that is due.
    pub(crate) fn advance(&mut self, now: SimTime) {
        while let Some(entry) = self.transitions.first_entry() {
            let at = entry.key().0;
            if at > now {
                break;
            }
            match entry.remove() {
                Transition::Detach(eni, attachment) => self.complete_detach(at, &eni, &attachment),
                Transition::Terminate(instance) => self.complete_termination(at, &instance),
            }
        }
        self.ghosts.retain(|(until, _)| now < *until);
    }

    /// A number no id had before.
    pub(crate) fn fresh_number(&mut self) -> u128 {
        self.rng.random()
    }

    /// One delay of a kind; `what` and `whom` name the series it is drawn from.
    pub(crate) fn delay(&mut self, delay: Delay, what: &str, whom: &str) -> Duration {
        let drawn = self.draws.entry((what.to_owned(), whom.to_owned())).or_default();
        let draw = Draw { seed: self.settings.seed, what, whom, number: *drawn };
        *drawn += 1;
        delay.sample(&draw)
    }

    /// An interface, once it can be found.
    pub(crate) fn eni(&self, id: &EniId, now: SimTime) -> Result<&Eni, ApiError> {
        match self.enis.get(id) {
            Some(record) if record.found_from <= now => Ok(&record.eni),
            _ => Err(ApiError::not_found(IdKind::Interface, id)),
        }
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Result<&Instance, ApiError> {
        self.instances.get(id).ok_or_else(|| ApiError::not_found(IdKind::Instance, id))
    }

    pub(crate) fn subnet(&self, id: &SubnetId) -> Result<&Subnet, ApiError> {
        self.subnets.get(id).ok_or_else(|| ApiError::not_found(IdKind::Subnet, id))
    }

    /// The node an interface is attached to; "" for none. Delays are drawn by
    /// node, not by interface: ids depend on the order in which nodes call.
    pub(crate) fn node_of(&self, id: &EniId) -> String {
        let held = self.enis.get(id).and_then(|record| record.eni.attachment.as_ref());
        let instance = held.and_then(|held| self.instances.get(&held.instance));
        instance.map(|instance| instance.node.clone()).unwrap_or_default()
    }

    /// Changes an interface, and keeps how it was for those who see it late.
    pub(crate) fn change_eni(&mut self, id: &EniId, now: SimTime, change: impl FnOnce(&mut Eni)) {
        let node = self.node_of(id);
        let stale = self.settings.consistency.stale;
        let stale = self.delay(stale, "stale", &node);
        let lag = self.settings.imds_lag;
        let lag = self.delay(lag, "imds", &node);
        let Some(record) = self.enis.get_mut(id) else {
            return;
        };
        record.shown.retain(|(until, _)| now < *until);
        if !stale.is_zero() {
            let last = record.shown.back().map_or(now, |(until, _)| *until);
            record.shown.push_back((last.max(now + stale), record.eni.clone()));
        }
        change(&mut record.eni);
        if let Some(attachment) = &record.eni.attachment
            && let Some(instance) = self.instances.get_mut(&attachment.instance)
        {
            instance.metadata.changes(&record.eni, now, now + lag);
        }
    }

    /// Tells the fabric the addresses of an interface, if it is attached.
    pub(crate) fn tell_addresses(&mut self, id: &EniId, now: SimTime) {
        let Some(EniRecord { eni, .. }) = self.enis.get(id) else {
            return;
        };
        if let Some(attachment) = &eni.attachment {
            let due = attachment.attached_at.max(now);
            self.fabric.push(due, Event::Addresses(id.clone(), eni.networks()));
        }
    }

    /// Puts a new interface into the cloud.
    pub(crate) fn insert_eni(&mut self, eni: Eni, found_from: SimTime) {
        let record = EniRecord { eni, found_from, shown: VecDeque::new() };
        self.enis.insert(record.eni.id.clone(), record);
    }

    /// Attaches an interface, of which all is checked. The metadata shows it
    /// `imds_lag` after the device is there.
    pub(crate) fn attach(&mut self, id: &EniId, now: SimTime, attachment: Attachment, imds_lag: Duration) {
        let attached_at = attachment.attached_at;
        let instance_id = attachment.instance.clone();
        self.change_eni(id, now, |eni| eni.attachment = Some(attachment.clone()));
        let link = self.link(id, &attachment);
        let Some(EniRecord { eni, .. }) = self.enis.get(id) else {
            return;
        };
        if let Some(link) = link {
            self.fabric.push(attached_at, Event::Attached(Box::new(link), eni.networks()));
        }
        if let Some(instance) = self.instances.get_mut(&instance_id) {
            instance.enis.insert(id.clone());
            instance.metadata.appears(eni, attached_at + imds_lag);
        }
    }

    /// The link that the fabric makes of an attachment; none without an address.
    fn link(&self, id: &EniId, attachment: &Attachment) -> Option<EniLink> {
        let eni = &self.enis.get(id)?.eni;
        let subnet = self.subnets.get(&eni.subnet)?;
        Some(EniLink {
            eni_id: id.clone(),
            instance_id: attachment.instance.clone(),
            node: self.instances.get(&attachment.instance)?.node.clone(),
            device_index: attachment.device_index,
            network_card: attachment.network_card,
            mac: eni.mac,
            primary_ip: eni.primary?.into(),
            subnet_id: eni.subnet.clone(),
            subnet_cidr: subnet.space.cidr().into(),
            gateway: subnet.gateway().into(),
            source_dest_check: eni.source_dest_check,
        })
    }

    /// Begins to detach an interface; it is gone after `takes`, counted from
    /// when the device was there.
    pub(crate) fn begin_detach(&mut self, id: &EniId, now: SimTime, takes: Duration) {
        let Some(attachment) = self.enis.get(id).and_then(|r| r.eni.attachment.clone()) else {
            return;
        };
        let gone_at = attachment.attached_at.max(now) + takes;
        let node = self.node_of(id);
        let imds_lag = self.settings.imds_lag;
        let imds_lag = self.delay(imds_lag, "imds", &node);
        self.change_eni(id, now, |eni| {
            if let Some(attachment) = &mut eni.attachment {
                attachment.gone_at = Some(gone_at);
            }
        });
        if let Some(instance) = self.instances.get_mut(&attachment.instance) {
            instance.metadata.vanishes(id, now, gone_at + imds_lag);
        }
        if self.enis.get(id).is_some_and(|record| record.eni.primary.is_some()) {
            self.fabric.push(gone_at, Event::Detached(id.clone()));
        }
        self.schedule(gone_at, Transition::Detach(id.clone(), attachment.id));
        self.advance(now);
    }

    /// Begins to terminate an instance: gone after `takes`, its interfaces freed
    /// or deleted as their attachment says.
    pub(crate) fn begin_termination(
        &mut self,
        id: &InstanceId,
        now: SimTime,
        takes: Duration,
    ) -> Result<(), ApiError> {
        let instance = self.instances.get_mut(id).ok_or_else(|| ApiError::not_found(IdKind::Instance, id))?;
        if instance.state != InstanceState::Running {
            return Ok(());
        }
        instance.state = InstanceState::ShuttingDown;
        let gone_at = now + takes;
        for eni in instance.enis.clone() {
            self.fabric.push(gone_at, Event::Detached(eni));
        }
        self.schedule(gone_at, Transition::Terminate(id.clone()));
        self.advance(now);
        Ok(())
    }

    fn schedule(&mut self, at: SimTime, transition: Transition) {
        self.transitions.insert((at, self.next_transition), transition);
        self.next_transition += 1;
    }

    fn complete_detach(&mut self, at: SimTime, id: &EniId, attachment: &AttachmentId) {
        let held = self.enis.get(id).and_then(|record| record.eni.attachment.as_ref());
        let Some(held) = held.filter(|held| held.id == *attachment) else {
            return;
        };
        let instance = held.instance.clone();
        self.change_eni(id, at, |eni| eni.attachment = None);
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.enis.remove(id);
        }
    }

    fn complete_termination(&mut self, at: SimTime, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.state = InstanceState::Terminated;
        instance.metadata = super::metadata::Metadata::default();
        let enis: BTreeSet<EniId> = std::mem::take(&mut instance.enis);
        for eni in enis {
            let held = self.enis.get(&eni).and_then(|record| record.eni.attachment.as_ref());
            let deletes = held.is_some_and(|held| held.delete_on_termination);
            self.change_eni(&eni, at, |eni| eni.attachment = None);
            if deletes {
                self.remove_eni(&eni, at);
            }
        }
    }

    /// Removes an interface and gives its addresses back to the subnet.
    pub(crate) fn remove_eni(&mut self, id: &EniId, now: SimTime) {
        let stale = self.settings.consistency.stale;
        let stale = self.delay(stale, "stale", "");
        let Some(EniRecord { eni, .. }) = self.enis.remove(id) else {
            return;
        };
        if let Some(subnet) = self.subnets.get_mut(&eni.subnet) {
            eni.primary.iter().chain(&eni.secondaries).for_each(|a| subnet.space.give(*a));
            eni.prefixes.iter().for_each(|block| subnet.space.give_block(*block));
            if let Some(space6) = &mut subnet.space6 {
                eni.ipv6.iter().for_each(|address| space6.give(*address));
                eni.ipv6_prefixes.iter().for_each(|block| space6.give_block(*block));
            }
        }
        self.trunk_associations.retain(|_, held| held.trunk != *id && held.branch != *id);
        if !stale.is_zero() {
            self.ghosts.push((now + stale, eni));
        }
    }
}
