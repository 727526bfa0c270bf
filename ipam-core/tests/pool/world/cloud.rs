//! The EC2 side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipam_core::{
    Action, AttachmentId, AttachmentRecord, AttachmentStatus, ClientToken, CreateSpec, EniId, EniKind,
    EniRecord, EniStatus, Failure, FailureClass, InstanceId, MacAddr, Now, Operation, Reply, SecurityGroupId,
    SubnetId, SubnetRecord, Want, tags,
};
use ipnetwork::{IpNetwork, Ipv4Network};

/// What befalls the next calls of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused by the token bucket.
    Throttle,
    /// Refused for want of a permission.
    Deny,
    /// An error answer, although it was done.
    LostReply,
    /// An error answer, and it was not done.
    ServerError,
}

#[derive(Clone, Debug)]
struct Subnet {
    first: u32,
    size: u32,
    used: BTreeSet<u32>,
}

impl Subnet {
    fn take_one(&mut self) -> Option<Ipv4Addr> {
        // The first four and the last address are the provider's.
        let free =
            (self.first + 4..self.first + self.size - 1).find(|address| !self.used.contains(address))?;
        self.used.insert(free);
        Some(Ipv4Addr::from(free))
    }

    fn take_block(&mut self) -> Option<Ipv4Network> {
        let last = self.first + self.size - 16;
        let block = (self.first + 16..last)
            .step_by(16)
            .find(|start| self.used.range(*start..start + 16).next().is_none())?;
        self.used.extend(block..block + 16);
        Some(Ipv4Network::new(Ipv4Addr::from(block), 28).expect("28 is a prefix length"))
    }

    fn free(&self) -> u32 {
        self.size - 5 - u32::try_from(self.used.len()).expect("small")
    }
}

/// EC2, in one availability zone, for one instance.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) instance: InstanceId,
    pub(crate) eni_limit: usize,
    pub(crate) ipv4_per_eni: u32,
    pub(crate) calls: BTreeMap<Operation, u32>,
    pub(crate) faults: Vec<(Operation, Fault)>,
    /// How far a describe lags behind.
    pub(crate) lag: Duration,
    enis: BTreeMap<EniId, EniRecord>,
    subnets: BTreeMap<SubnetId, Subnet>,
    tokens: BTreeMap<ClientToken, EniId>,
    detaching: BTreeMap<EniId, Now>,
    past: Vec<(Now, BTreeMap<EniId, EniRecord>)>,
    next: u32,
}

impl Cloud {
    /// A cloud with one subnet of `size` addresses and the instance's primary
    /// ENI in it.
    pub(crate) fn new(eni_limit: u32, ipv4_per_eni: u32, size: u32) -> Self {
        let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
        let mut cloud = Self {
            instance: InstanceId::new("i-1"),
            eni_limit: eni_limit as usize,
            ipv4_per_eni,
            calls: BTreeMap::new(),
            faults: Vec::new(),
            lag: Duration::ZERO,
            enis: BTreeMap::new(),
            subnets: BTreeMap::from([(
                SubnetId::new("subnet-a"),
                Subnet { first, size, used: BTreeSet::new() },
            )]),
            tokens: BTreeMap::new(),
            detaching: BTreeMap::new(),
            past: Vec::new(),
            next: 1,
        };
        let mut primary = cloud.fresh_eni(&SubnetId::new("subnet-a")).expect("room for the primary ENI");
        primary.status = EniStatus::InUse;
        primary.groups = BTreeSet::from([SecurityGroupId::new("sg-1")]);
        primary.attachment = Some(cloud.attachment(0, true));
        cloud.enis.insert(primary.id.clone(), primary);
        cloud.remember(Now::default());
        cloud
    }

    /// An ENI of somebody else's making, attached to the instance.
    pub(crate) fn add_foreign(
        &mut self,
        kind: EniKind,
        device_index: u32,
        tag: Option<(&str, &str)>,
        now: Now,
    ) -> EniId {
        let mut eni = self.fresh_eni(&SubnetId::new("subnet-a")).expect("room");
        eni.kind = kind;
        eni.status = EniStatus::InUse;
        eni.attachment = Some(self.attachment(device_index, true));
        eni.singles = (0..3).map(|_| IpAddr::V4(self.subnet().take_one().expect("room"))).collect();
        if let Some((key, value)) = tag {
            eni.tags.insert(key.to_owned(), value.to_owned());
        }
        let id = eni.id.clone();
        self.enis.insert(id.clone(), eni);
        self.remember(now);
        id
    }

    /// Calls that changed something, or tried to.
    pub(crate) fn mutating_calls(&self) -> u32 {
        self.calls.iter().filter(|(operation, _)| operation.is_mutating()).map(|(_, count)| count).sum()
    }

    /// The truth.
    pub(crate) fn enis(&self) -> impl Iterator<Item = &EniRecord> {
        self.enis.values()
    }

    /// Whether the address is on an ENI attached to the instance.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.enis.values().any(|eni| {
            eni.attachment.is_some()
                && (eni.singles.contains(&address)
                    || eni.prefixes.iter().any(|prefix| prefix.contains(address)))
        })
    }

    /// Addresses that others take from the subnet.
    pub(crate) fn occupy(&mut self, count: u32) {
        for _ in 0..count {
            let _ = self.subnet().take_one();
        }
    }

    /// Somebody in every block: no /28 is free any more.
    pub(crate) fn fragment(&mut self) {
        let subnet = self.subnet();
        for start in (subnet.first..subnet.first + subnet.size).step_by(16) {
            subnet.used.insert(start + 7);
        }
    }

    /// Free addresses in the subnet.
    pub(crate) fn free_addresses(&mut self) -> u32 {
        self.subnet().free()
    }

    fn subnet(&mut self) -> &mut Subnet {
        self.subnets.get_mut(&SubnetId::new("subnet-a")).expect("the only subnet")
    }

    fn attachment(&mut self, device_index: u32, delete_on_termination: bool) -> AttachmentRecord {
        self.next += 1;
        AttachmentRecord {
            id: AttachmentId::new(format!("eni-attach-{}", self.next)),
            instance: Some(self.instance.clone()),
            device_index,
            network_card: 0,
            status: AttachmentStatus::Attached,
            delete_on_termination,
        }
    }

    fn fresh_eni(&mut self, subnet: &SubnetId) -> Result<EniRecord, Failure> {
        let primary_ip = self.subnets.get_mut(subnet).ok_or(Failure::of(FailureClass::Config))?.take_one();
        let primary_ip = primary_ip.ok_or(Failure::of(FailureClass::Exhausted))?;
        self.next += 1;
        let [.., c, d] = self.next.to_be_bytes();
        Ok(EniRecord {
            id: EniId::new(format!("eni-{:04}", self.next)),
            mac: MacAddr([2, 0, 0, 0, c, d]),
            subnet: subnet.clone(),
            kind: EniKind::Interface,
            status: EniStatus::Available,
            attachment: None,
            primary_ip: IpAddr::V4(primary_ip),
            singles: Vec::new(),
            prefixes: Vec::new(),
            groups: BTreeSet::new(),
            tags: BTreeMap::new(),
            requester_managed: false,
        })
    }

    fn remember(&mut self, now: Now) {
        self.past.push((now, self.enis.clone()));
    }

    /// Finishes detaches that are due.
    fn settle(&mut self, now: Now) {
        let due: Vec<EniId> =
            self.detaching.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.detaching.remove(&id);
            if let Some(eni) = self.enis.get_mut(&id) {
                eni.attachment = None;
                eni.status = EniStatus::Available;
                self.remember(now);
            }
        }
    }

    /// One call. The effect, if any, is there when this returns.
    pub(crate) fn call(&mut self, action: &Action, now: Now) -> Result<Reply, Failure> {
        self.settle(now);
        let operation = action.operation();
        *self.calls.entry(operation).or_default() += 1;
        let fault = self.faults.iter().position(|(about, _)| *about == operation);
        let fault = fault.map(|index| self.faults.remove(index).1);
        let unknown = Failure { outcome_unknown: true, ..Failure::of(FailureClass::Retry) };
        match fault {
            Some(Fault::Throttle) => return Err(Failure::of(FailureClass::Throttled)),
            Some(Fault::Deny) => return Err(Failure::of(FailureClass::Permission)),
            Some(Fault::ServerError) => return Err(unknown),
            Some(Fault::LostReply) | None => {}
        }
        let reply = self.apply(action, now);
        if operation.is_mutating() && reply.is_ok() {
            self.remember(now);
        }
        if fault == Some(Fault::LostReply) { Err(unknown) } else { reply }
    }

    fn apply(&mut self, action: &Action, now: Now) -> Result<Reply, Failure> {
        let not_found = Failure::of(FailureClass::NotFound);
        match action {
            Action::CreateEni { spec, token } => self.create(spec, token.as_ref().expect("a token")),
            Action::Attach { eni, device_index, .. } => self.attach(eni, *device_index),
            Action::SetDeleteOnTermination { eni, .. } => {
                let attachment = self.enis.get_mut(eni).and_then(|eni| eni.attachment.as_mut());
                attachment.ok_or(not_found)?.delete_on_termination = true;
                Ok(Reply::Done)
            }
            Action::SetGroups { eni, groups } => {
                self.enis.get_mut(eni).ok_or(not_found)?.groups.clone_from(groups);
                Ok(Reply::Done)
            }
            Action::Assign { eni, want } => self.assign(eni, *want),
            Action::Unassign { eni, singles, prefixes } => self.unassign(eni, singles, prefixes),
            Action::Detach { eni, .. } => {
                let eni = self.enis.get_mut(eni).filter(|eni| eni.attachment.is_some()).ok_or(not_found)?;
                if let Some(attachment) = &mut eni.attachment {
                    attachment.status = AttachmentStatus::Detaching;
                }
                eni.status = EniStatus::Detaching;
                self.detaching.insert(eni.id.clone(), now + Duration::from_secs(2));
                Ok(Reply::Done)
            }
            Action::DeleteEni { eni } => {
                let found = self.enis.get(eni).ok_or(not_found)?;
                if found.attachment.is_some() {
                    return Err(Failure::of(FailureClass::Retry));
                }
                let found = self.enis.remove(eni).expect("just found");
                self.give_back(&found.singles, &found.prefixes);
                self.give_back(&[found.primary_ip], &[]);
                Ok(Reply::Done)
            }
            Action::DescribeEnis => Ok(Reply::Enis(self.describe(now))),
            Action::DescribeSubnets { subnets } => {
                let told = subnets.iter().filter_map(|id| {
                    let subnet = self.subnets.get(id)?;
                    let base = Ipv4Network::new(Ipv4Addr::from(subnet.first), 20).ok()?;
                    Some(SubnetRecord {
                        id: id.clone(),
                        cidr: Some(IpNetwork::V4(base)),
                        available: subnet.free(),
                    })
                });
                Ok(Reply::Subnets(told.collect()))
            }
        }
    }

    fn describe(&self, now: Now) -> Vec<EniRecord> {
        let seen = now.as_millis().saturating_sub(u64::try_from(self.lag.as_millis()).expect("short"));
        let enis = self
            .past
            .iter()
            .rev()
            .find(|(at, _)| at.as_millis() <= seen)
            .or(self.past.first())
            .map(|(_, enis)| enis)
            .expect("there was a beginning");
        enis.values().cloned().collect()
    }

    fn create(&mut self, spec: &CreateSpec, token: &ClientToken) -> Result<Reply, Failure> {
        if let Some(made) = self.tokens.get(token).and_then(|id| self.enis.get(id)) {
            return Ok(Reply::Created(made.clone()));
        }
        assert!(
            spec.want.singles + spec.want.prefixes < self.ipv4_per_eni,
            "more than an ENI holds: {spec:?}"
        );
        let mut eni = self.fresh_eni(&spec.subnet)?;
        match self.take(&spec.subnet, spec.want) {
            Ok((singles, prefixes)) => {
                eni.singles = singles;
                eni.prefixes = prefixes;
            }
            Err(failure) => {
                self.give_back(&[eni.primary_ip], &[]);
                return Err(failure);
            }
        }
        eni.groups.clone_from(&spec.groups);
        eni.tags.insert(tags::INSTANCE_ID.to_owned(), self.instance.as_str().to_owned());
        eni.tags.insert(tags::INTENT.to_owned(), token.as_str().to_owned());
        self.tokens.insert(token.clone(), eni.id.clone());
        self.enis.insert(eni.id.clone(), eni.clone());
        Ok(Reply::Created(eni))
    }

    fn attach(&mut self, id: &EniId, device_index: u32) -> Result<Reply, Failure> {
        let attached: Vec<u32> =
            self.enis.values().filter_map(|eni| Some(eni.attachment.as_ref()?.device_index)).collect();
        let eni = self.enis.get(id).ok_or(Failure::of(FailureClass::NotFound))?;
        if attached.len() >= self.eni_limit || attached.contains(&device_index) || eni.attachment.is_some() {
            return Err(Failure::of(FailureClass::Limit));
        }
        let attachment = self.attachment(device_index, false);
        let reply = Reply::Attached(attachment.id.clone());
        let eni = self.enis.get_mut(id).expect("just found");
        eni.attachment = Some(attachment);
        eni.status = EniStatus::InUse;
        Ok(reply)
    }

    fn assign(&mut self, id: &EniId, want: Want) -> Result<Reply, Failure> {
        assert!(want.singles == 0 || want.prefixes == 0, "one kind in a call: {want:?}");
        assert!(want.singles + want.prefixes > 0, "an assign of nothing");
        let eni = self.enis.get(id).ok_or(Failure::of(FailureClass::NotFound))?;
        let used = u32::try_from(eni.singles.len() + eni.prefixes.len()).expect("few");
        if used + want.singles + want.prefixes >= self.ipv4_per_eni {
            return Err(Failure::of(FailureClass::Limit));
        }
        let subnet = eni.subnet.clone();
        let (singles, prefixes) = self.take(&subnet, want)?;
        let eni = self.enis.get_mut(id).expect("just found");
        eni.singles.extend(&singles);
        eni.prefixes.extend(&prefixes);
        Ok(Reply::Assigned { singles, prefixes })
    }

    fn unassign(&mut self, id: &EniId, singles: &[IpAddr], prefixes: &[IpNetwork]) -> Result<Reply, Failure> {
        let eni = self.enis.get_mut(id).ok_or(Failure::of(FailureClass::NotFound))?;
        let all = singles.iter().all(|single| eni.singles.contains(single))
            && prefixes.iter().all(|prefix| eni.prefixes.contains(prefix));
        if !all {
            return Err(Failure::of(FailureClass::NotFound));
        }
        eni.singles.retain(|single| !singles.contains(single));
        eni.prefixes.retain(|prefix| !prefixes.contains(prefix));
        self.give_back(singles, prefixes);
        Ok(Reply::Done)
    }

    /// All or nothing.
    fn take(&mut self, subnet: &SubnetId, want: Want) -> Result<(Vec<IpAddr>, Vec<IpNetwork>), Failure> {
        let subnet = self.subnets.get_mut(subnet).ok_or(Failure::of(FailureClass::Config))?;
        let before = subnet.clone();
        let singles: Option<Vec<IpAddr>> =
            (0..want.singles).map(|_| subnet.take_one().map(IpAddr::V4)).collect();
        let prefixes: Option<Vec<IpNetwork>> =
            (0..want.prefixes).map(|_| subnet.take_block().map(IpNetwork::V4)).collect();
        match (singles, prefixes) {
            (Some(singles), Some(prefixes)) => Ok((singles, prefixes)),
            _ => {
                *subnet = before;
                let prefixes_only = want.prefixes > 0;
                Err(Failure { prefixes_only, ..Failure::of(FailureClass::Exhausted) })
            }
        }
    }

    fn give_back(&mut self, singles: &[IpAddr], prefixes: &[IpNetwork]) {
        let subnet = self.subnet();
        let blocks = prefixes.iter().flat_map(IpNetwork::iter);
        for address in singles.iter().copied().chain(blocks) {
            if let IpAddr::V4(address) = address {
                subnet.used.remove(&u32::from(address));
            }
        }
    }
}
