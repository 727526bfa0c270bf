//! One VPC's network interfaces, as the EC2 API keeps them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipam_core::{
    Action, AttachmentStatus, ClientToken, CreateSpec, EniId, EniRecord, EniStatus, Failure, FailureClass,
    InstanceId, InstanceLimits, Now, Reply, SecurityGroupId, SubnetId, SubnetRecord, Want, tags,
};
use ipnetwork::IpNetwork;

use super::eni::CloudEni;
use super::shell::NodeId;
use super::subnet::Subnet;

/// The subnet in which every node stands.
pub const SUBNET: &str = "subnet-a";
/// Its VPC.
pub const VPC: &str = "vpc-1";
/// Its availability zone.
pub const ZONE: &str = "zone-a";

type Answer = Result<Reply, Failure>;

struct Instance {
    id: InstanceId,
    limits: InstanceLimits,
    enis: BTreeSet<EniId>,
    /// What describes saw, oldest first; the first is what is seen now or will be.
    past: VecDeque<(Now, Arc<Vec<EniRecord>>)>,
}

/// The VPC.
pub struct Cloud {
    subnets: BTreeMap<SubnetId, Subnet>,
    enis: BTreeMap<EniId, CloudEni>,
    instances: Vec<Instance>,
    tokens: HashMap<ClientToken, EniId>,
    lag: Duration,
    next: u32,
}

impl Cloud {
    /// A VPC with the one subnet of `size` addresses; describes lag by `lag`.
    pub(crate) fn new(size: u32, lag: Duration) -> Self {
        let subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), size);
        Self {
            subnets: BTreeMap::from([(SubnetId::from(SUBNET), subnet)]),
            enis: BTreeMap::new(),
            instances: Vec::new(),
            tokens: HashMap::new(),
            lag,
            next: 0,
        }
    }

    /// The nodes' subnet, for neighbours that come and go.
    pub fn subnet_mut(&mut self) -> Option<&mut Subnet> {
        self.subnets.get_mut(&SubnetId::from(SUBNET))
    }

    /// The subnets' free addresses.
    pub fn free_addresses(&self) -> u32 {
        self.subnets.values().map(Subnet::free).sum()
    }

    /// An instance starts, with its primary ENI.
    pub(crate) fn launch(&mut self, limits: InstanceLimits, now: Now) -> Result<InstanceId, Failure> {
        let node = NodeId(self.instances.len());
        let id = InstanceId::new(format!("i-{:08x}", node.0));
        let mut primary = self.fresh_eni(node, &SubnetId::from(SUBNET))?;
        self.next += 1;
        primary.attach(self.next, id.clone(), 0);
        primary.record.groups = BTreeSet::from([SecurityGroupId::from("sg-nodes")]);
        primary.listed_at = Some(now);
        self.instances.push(Instance {
            id: id.clone(),
            limits,
            enis: BTreeSet::from([primary.record.id.clone()]),
            past: VecDeque::new(),
        });
        self.enis.insert(primary.record.id.clone(), primary);
        self.remember(node, now);
        Ok(id)
    }

    /// The ENIs of a node, attached or made for it.
    pub fn enis_of(&self, node: NodeId) -> impl Iterator<Item = &EniRecord> {
        self.eni_of(node).map(|eni| &eni.record)
    }

    /// Addresses that EC2 holds for pods of `node`, on ENIs attached or not.
    pub fn addresses_of(&self, node: NodeId) -> usize {
        self.eni_of(node).map(|eni| eni.record.singles.len() + 16 * eni.record.prefixes.len()).sum()
    }

    /// Every address of one ENI.
    pub(crate) fn addresses_on(&self, eni: &EniId) -> Vec<IpAddr> {
        self.enis.get(eni).map(|eni| eni.addresses().collect()).unwrap_or_default()
    }

    /// Whether `address` is on an ENI attached to `node`.
    pub(crate) fn has(&self, node: NodeId, address: IpAddr) -> bool {
        self.eni_of(node).any(|eni| eni.record.attachment.is_some() && eni.carries(address))
    }

    /// Whether the metadata service lists `eni`.
    pub(crate) fn is_listed(&self, eni: &EniId, now: Now) -> bool {
        self.enis.get(eni).and_then(|eni| eni.listed_at).is_some_and(|at| at <= now)
    }

    pub(crate) fn list_at(&mut self, eni: &EniId, at: Now) {
        if let Some(eni) = self.enis.get_mut(eni) {
            eni.listed_at = Some(at);
        }
    }

    pub(crate) fn detached_by(&mut self, eni: &EniId, at: Now) {
        if let Some(eni) = self.enis.get_mut(eni) {
            eni.detached_at = Some(at);
        }
    }

    fn eni_of(&self, node: NodeId) -> impl Iterator<Item = &CloudEni> {
        self.instances
            .get(node.0)
            .into_iter()
            .flat_map(|instance| &instance.enis)
            .filter_map(|id| self.enis.get(id))
    }

    /// One call by `node`, which the account's buckets have let pass.
    pub(crate) fn call(&mut self, node: NodeId, action: &Action, now: Now) -> Answer {
        self.settle(node, now);
        let answer = self.apply(node, action, now);
        if action.operation().is_mutating() && answer.is_ok() {
            self.remember(node, now);
        }
        answer
    }

    fn apply(&mut self, node: NodeId, action: &Action, now: Now) -> Answer {
        let not_found = Failure::of(FailureClass::NotFound);
        match action {
            Action::CreateEni { spec, token } => self.create(node, spec, token.as_ref()),
            Action::Attach { eni, device_index, .. } => self.attach(node, eni, *device_index),
            Action::SetDeleteOnTermination { eni, .. } => {
                let attachment = self.enis.get_mut(eni).and_then(|eni| eni.record.attachment.as_mut());
                attachment.ok_or(not_found)?.delete_on_termination = true;
                Ok(Reply::Done)
            }
            Action::SetGroups { eni, groups } => {
                self.enis.get_mut(eni).ok_or(not_found)?.record.groups.clone_from(groups);
                Ok(Reply::Done)
            }
            Action::Assign { eni, want } => self.assign(node, eni, *want),
            Action::Unassign { eni, singles, prefixes } => self.unassign(eni, singles, prefixes),
            Action::Detach { eni, .. } => {
                let record = &mut self.enis.get_mut(eni).ok_or(not_found)?.record;
                record.attachment.as_mut().ok_or(not_found)?.status = AttachmentStatus::Detaching;
                record.status = EniStatus::Detaching;
                Ok(Reply::Done)
            }
            Action::DeleteEni { eni } => {
                let found = self.enis.get(eni).ok_or(not_found)?;
                if found.record.attachment.is_some() {
                    return Err(Failure::of(FailureClass::Retry));
                }
                self.delete(eni);
                Ok(Reply::Done)
            }
            Action::DescribeEnis => Ok(Reply::Enis(self.describe(node, now))),
            Action::DescribeSubnets { .. } => Ok(Reply::Subnets(self.describe_subnets())),
        }
    }

    fn describe_subnets(&self) -> Vec<SubnetRecord> {
        self.subnets
            .iter()
            .map(|(id, subnet)| SubnetRecord {
                id: id.clone(),
                cidr: subnet.cidr(),
                available: subnet.free(),
                zone: Some(ZONE.to_owned()),
                vpc: Some(VPC.to_owned()),
                tags: BTreeMap::new(),
            })
            .collect()
    }

    /// Finishes detaches that are due.
    fn settle(&mut self, node: NodeId, now: Now) {
        let due: Vec<EniId> = self
            .eni_of(node)
            .filter(|eni| eni.detached_at.is_some_and(|at| at <= now))
            .map(|eni| eni.record.id.clone())
            .collect();
        for id in &due {
            if let Some(eni) = self.enis.get_mut(id) {
                eni.detached_at = None;
                eni.listed_at = None;
                eni.record.attachment = None;
                eni.record.status = EniStatus::Available;
            }
        }
        if !due.is_empty() {
            self.remember(node, now);
        }
    }

    fn remember(&mut self, node: NodeId, now: Now) {
        let records: Vec<EniRecord> = self.enis_of(node).cloned().collect();
        let lag = self.lag;
        if let Some(instance) = self.instances.get_mut(node.0) {
            instance.past.push_back((now, Arc::new(records)));
            while instance.past.get(1).is_some_and(|(at, _)| *at + lag <= now) {
                instance.past.pop_front();
            }
        }
    }

    fn describe(&self, node: NodeId, now: Now) -> Vec<EniRecord> {
        let Some(instance) = self.instances.get(node.0) else {
            return Vec::new();
        };
        let seen = instance.past.iter().rev().find(|(at, _)| *at + self.lag <= now);
        seen.or(instance.past.front()).map(|(_, records)| records.as_ref().clone()).unwrap_or_default()
    }

    fn fresh_eni(&mut self, node: NodeId, subnet: &SubnetId) -> Result<CloudEni, Failure> {
        let taken = self.subnets.get_mut(subnet).ok_or(Failure::of(FailureClass::Config))?.take(1);
        let primary = taken.and_then(|taken| taken.first().copied());
        let primary = primary.ok_or(Failure::of(FailureClass::Exhausted))?;
        self.next += 1;
        Ok(CloudEni::new(self.next, node, subnet.clone(), primary))
    }

    fn create(&mut self, node: NodeId, spec: &CreateSpec, token: Option<&ClientToken>) -> Answer {
        let made = token.and_then(|token| self.tokens.get(token)).and_then(|id| self.enis.get(id));
        if let Some(made) = made {
            return Ok(Reply::Created(made.record.clone()));
        }
        let mut eni = self.fresh_eni(node, &spec.subnet)?;
        match self.take(&spec.subnet, spec.want) {
            Ok((singles, prefixes)) => {
                eni.record.singles = singles;
                eni.record.prefixes = prefixes;
            }
            Err(failure) => {
                self.give_back(&spec.subnet, std::iter::once(eni.record.primary_ip));
                return Err(failure);
            }
        }
        let instance = self.instances.get_mut(node.0).ok_or(Failure::of(FailureClass::Bug))?;
        instance.enis.insert(eni.record.id.clone());
        eni.record.groups.clone_from(&spec.groups);
        eni.record.tags.insert(tags::INSTANCE_ID.to_owned(), instance.id.as_str().to_owned());
        if let Some(token) = token {
            eni.record.tags.insert(tags::INTENT.to_owned(), token.as_str().to_owned());
            self.tokens.insert(token.clone(), eni.record.id.clone());
        }
        let record = eni.record.clone();
        self.enis.insert(record.id.clone(), eni);
        Ok(Reply::Created(record))
    }

    fn attach(&mut self, node: NodeId, id: &EniId, device_index: u32) -> Answer {
        let taken: Vec<u32> =
            self.enis_of(node).filter_map(|eni| Some(eni.attachment.as_ref()?.device_index)).collect();
        let instance = self.instances.get(node.0).ok_or(Failure::of(FailureClass::Bug))?;
        let eni = self.enis.get_mut(id).ok_or(Failure::of(FailureClass::NotFound))?;
        if taken.len() >= instance.limits.enis() as usize
            || taken.contains(&device_index)
            || eni.record.attachment.is_some()
        {
            return Err(Failure::of(FailureClass::Limit));
        }
        self.next += 1;
        Ok(Reply::Attached(eni.attach(self.next, instance.id.clone(), device_index)))
    }

    fn assign(&mut self, node: NodeId, id: &EniId, want: Want) -> Answer {
        let instance = self.instances.get(node.0).ok_or(Failure::of(FailureClass::Bug))?;
        let eni = self.enis.get(id).ok_or(Failure::of(FailureClass::NotFound))?;
        if eni.slots() + want.singles + want.prefixes > instance.limits.slots_per_eni() {
            return Err(Failure::of(FailureClass::Limit));
        }
        let subnet = eni.record.subnet.clone();
        let (singles, prefixes) = self.take(&subnet, want)?;
        if let Some(eni) = self.enis.get_mut(id) {
            eni.record.singles.extend(&singles);
            eni.record.prefixes.extend(&prefixes);
        }
        Ok(Reply::Assigned { singles, prefixes })
    }

    fn unassign(&mut self, id: &EniId, singles: &[IpAddr], prefixes: &[IpNetwork]) -> Answer {
        let record = &mut self.enis.get_mut(id).ok_or(Failure::of(FailureClass::NotFound))?.record;
        let all = singles.iter().all(|single| record.singles.contains(single))
            && prefixes.iter().all(|prefix| record.prefixes.contains(prefix));
        if !all {
            return Err(Failure::of(FailureClass::NotFound));
        }
        record.singles.retain(|single| !singles.contains(single));
        record.prefixes.retain(|prefix| !prefixes.contains(prefix));
        let subnet = record.subnet.clone();
        self.give_back(&subnet, singles.iter().copied().chain(prefixes.iter().flat_map(IpNetwork::iter)));
        Ok(Reply::Done)
    }

    fn delete(&mut self, id: &EniId) {
        if let Some(eni) = self.enis.remove(id) {
            let addresses: Vec<IpAddr> = eni.addresses().chain([eni.record.primary_ip]).collect();
            self.give_back(&eni.record.subnet, addresses.into_iter());
            if let Some(instance) = self.instances.get_mut(eni.node.0) {
                instance.enis.remove(id);
            }
        }
    }

    /// All or nothing. A lack of /28s alone leaves single addresses.
    fn take(&mut self, id: &SubnetId, want: Want) -> Result<(Vec<IpAddr>, Vec<IpNetwork>), Failure> {
        let subnet = self.subnets.get_mut(id).ok_or(Failure::of(FailureClass::Config))?;
        let exhausted = Failure { prefixes_only: want.prefixes > 0, ..Failure::of(FailureClass::Exhausted) };
        let prefixes = subnet.take_blocks(want.prefixes).ok_or(exhausted)?;
        match subnet.take(want.singles) {
            Some(singles) => Ok((singles.into_iter().map(IpAddr::V4).collect(), prefixes)),
            None => {
                self.give_back(id, prefixes.iter().flat_map(IpNetwork::iter));
                Err(exhausted)
            }
        }
    }

    fn give_back(&mut self, id: &SubnetId, addresses: impl Iterator<Item = IpAddr>) {
        if let Some(subnet) = self.subnets.get_mut(id) {
            for address in addresses {
                if let IpAddr::V4(address) = address {
                    subnet.give_back(address);
                }
            }
        }
    }
}
