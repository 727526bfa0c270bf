//! The EC2 side: what calls do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipam_core::{
    Action, AttachmentId, AttachmentRecord, AttachmentStatus, ClientToken, CreateSpec, EniId, EniKind,
    EniRecord, EniStatus, Failure, FailureClass, InstanceId, MacAddr, Now, Operation, Reply, SecurityGroupId,
    SubnetId, SubnetQuery, SubnetRecord, Want, tags,
};
use ipnetwork::IpNetwork;

use super::addresses::Subnet;

/// The node's VPC and zone.
pub(crate) const VPC: &str = "vpc-1";
/// Its zone.
pub(crate) const ZONE: &str = "zone-a";
/// "Not found" is believable of an ENI this young: EC2 is eventually
/// consistent.
const NEWNESS: Duration = Duration::from_secs(10);

/// What befalls the next calls of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with an error of this class; nothing was done.
    Fail(FailureClass),
    /// An error answer, although it was done.
    LostReply,
    /// An error answer that leaves open what was done; it was not.
    ServerError,
}

/// EC2, in one availability zone, for one instance.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) instance: InstanceId,
    pub(crate) eni_limit: usize,
    pub(crate) ipv4_per_eni: u32,
    pub(crate) calls: BTreeMap<Operation, u32>,
    /// Calls that EC2 refused for want of addresses.
    pub(crate) exhausted_calls: u32,
    pub(crate) faults: Vec<(Operation, Fault)>,
    /// How far a describe lags behind.
    pub(crate) lag: Duration,
    /// What the next describe leaves out, although it is there.
    pub(crate) omitted: Option<EniId>,
    /// Describes leave it out until it is shown again.
    pub(crate) hidden: Option<EniId>,
    pub(super) enis: BTreeMap<EniId, EniRecord>,
    pub(super) subnets: BTreeMap<SubnetId, Subnet>,
    tokens: BTreeMap<ClientToken, EniId>,
    born: BTreeMap<EniId, Now>,
    detaching: BTreeMap<EniId, Now>,
    past: Vec<(Now, BTreeMap<EniId, EniRecord>)>,
    next: u32,
}

impl Cloud {
    /// A cloud with one subnet of `size` addresses, `subnet-a`, and the
    /// instance's primary ENI in it.
    pub(crate) fn new(eni_limit: u32, ipv4_per_eni: u32, size: u32) -> Self {
        let mut cloud = Self {
            instance: InstanceId::new("i-1"),
            eni_limit: eni_limit as usize,
            ipv4_per_eni,
            calls: BTreeMap::new(),
            exhausted_calls: 0,
            faults: Vec::new(),
            lag: Duration::ZERO,
            omitted: None,
            hidden: None,
            enis: BTreeMap::new(),
            subnets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            born: BTreeMap::new(),
            detaching: BTreeMap::new(),
            past: Vec::new(),
            next: 1,
        };
        cloud.add_subnet("subnet-a", size, &[]);
        let mut primary = cloud.fresh_eni(&SubnetId::new("subnet-a")).expect("room for the primary ENI");
        primary.status = EniStatus::InUse;
        primary.groups = BTreeSet::from([SecurityGroupId::new("sg-1")]);
        primary.attachment = Some(cloud.attachment(0, 0, true));
        cloud.enis.insert(primary.id.clone(), primary);
        cloud.remember(Now::default());
        cloud
    }

    /// One more subnet in the same VPC and zone.
    pub(crate) fn add_subnet(&mut self, id: &str, size: u32, tags: &[(&str, &str)]) {
        let number = u8::try_from(self.subnets.len()).expect("few");
        let mut subnet = Subnet::new(Ipv4Addr::new(10, number, 0, 0), size);
        subnet.tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.subnets.insert(SubnetId::new(id), subnet);
    }

    /// Calls that changed something, or tried to.
    pub(crate) fn mutating_calls(&self) -> u32 {
        self.calls.iter().filter(|(operation, _)| operation.is_mutating()).map(|(_, count)| count).sum()
    }

    /// How often `operation` was called.
    pub(crate) fn calls_of(&self, operation: Operation) -> u32 {
        self.calls.get(&operation).copied().unwrap_or(0)
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

    pub(super) fn attachment(
        &mut self,
        device_index: u32,
        network_card: u32,
        delete_on_termination: bool,
    ) -> AttachmentRecord {
        self.next += 1;
        AttachmentRecord {
            id: AttachmentId::new(format!("eni-attach-{}", self.next)),
            instance: Some(self.instance.clone()),
            device_index,
            network_card,
            status: AttachmentStatus::Attached,
            delete_on_termination,
        }
    }

    pub(super) fn fresh_eni(&mut self, subnet: &SubnetId) -> Result<EniRecord, Failure> {
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

    pub(super) fn remember(&mut self, now: Now) {
        self.past.push((now, self.enis.clone()));
    }

    /// Finishes detaches that are due.
    pub(super) fn settle(&mut self, now: Now) {
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

    /// The fault that befalls this call, if any.
    fn fault(&mut self, action: &Action, now: Now) -> Option<Fault> {
        let operation = action.operation();
        let index = self.faults.iter().position(|(about, _)| *about == operation)?;
        let fault = self.faults.remove(index).1;
        let possible = match fault {
            Fault::Fail(FailureClass::NotFound) => action.eni().is_some_and(|eni| {
                let new = self.born.get(eni).is_some_and(|born| now.since(*born) < NEWNESS);
                new && !matches!(action, Action::Detach { .. } | Action::DeleteEni { .. })
            }),
            Fault::Fail(FailureClass::Exhausted) => action.addresses_asked() > 0,
            _ => true,
        };
        possible.then_some(fault)
    }

    /// One call. The effect, if any, is there when this returns.
    pub(crate) fn call(&mut self, action: &Action, now: Now) -> Result<Reply, Failure> {
        self.settle(now);
        let operation = action.operation();
        *self.calls.entry(operation).or_default() += 1;
        let fault = self.fault(action, now);
        let unknown = Failure { outcome_unknown: true, ..Failure::of(FailureClass::Retry) };
        match fault {
            Some(Fault::Fail(class)) => return Err(Failure::of(class)),
            Some(Fault::ServerError) => return Err(unknown),
            Some(Fault::LostReply) | None => {}
        }
        let reply = self.apply(action, now);
        if operation.is_mutating() && reply.is_ok() {
            self.remember(now);
        }
        if reply.as_ref().is_err_and(|failure| failure.class == FailureClass::Exhausted) {
            self.exhausted_calls += 1;
        }
        if fault == Some(Fault::LostReply) { Err(unknown) } else { reply }
    }

    fn apply(&mut self, action: &Action, now: Now) -> Result<Reply, Failure> {
        let not_found = Failure::of(FailureClass::NotFound);
        match action {
            Action::CreateEni { spec, token } => self.create(spec, token.as_ref().expect("a token"), now),
            Action::Attach { eni, device_index, network_card } => {
                self.attach(eni, *device_index, *network_card)
            }
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
            Action::Detach { eni, attachment } => {
                let known = |eni: &&mut EniRecord| {
                    eni.attachment.as_ref().is_some_and(|known| known.id == *attachment)
                };
                let eni = self.enis.get_mut(eni).filter(known).ok_or(not_found)?;
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
                self.remove(&eni.clone());
                Ok(Reply::Done)
            }
            Action::DescribeEnis => Ok(Reply::Enis(self.describe(now))),
            Action::DescribeSubnets { query } => Ok(Reply::Subnets(self.describe_subnets(query))),
        }
    }

    /// Away with an ENI; its addresses are the subnet's again.
    pub(super) fn remove(&mut self, id: &EniId) {
        let Some(gone) = self.enis.remove(id) else { return };
        let subnet = self.subnets.get_mut(&gone.subnet).expect("an ENI is in a subnet");
        subnet.give_back(&gone.singles, &gone.prefixes);
        subnet.give_back(&[gone.primary_ip], &[]);
    }

    fn describe_subnets(&self, query: &SubnetQuery) -> Vec<SubnetRecord> {
        let asked = |id: &SubnetId| match query {
            SubnetQuery::Ids(ids) => ids.contains(id),
            SubnetQuery::Discover { vpc, zone } => vpc == VPC && zone == ZONE,
        };
        let record = |(id, subnet): (&SubnetId, &Subnet)| SubnetRecord {
            id: id.clone(),
            cidr: Some(subnet.block()),
            available: subnet.free(),
            zone: Some(ZONE.to_owned()),
            vpc: Some(VPC.to_owned()),
            tags: subnet.tags.clone(),
        };
        self.subnets.iter().filter(|(id, _)| asked(id)).map(record).collect()
    }

    fn describe(&mut self, now: Now) -> Vec<EniRecord> {
        let seen = now.as_millis().saturating_sub(u64::try_from(self.lag.as_millis()).expect("short"));
        let enis = self
            .past
            .iter()
            .rev()
            .find(|(at, _)| at.as_millis() <= seen)
            .or(self.past.first())
            .map(|(_, enis)| enis)
            .expect("there was a beginning");
        let omitted = self.omitted.take();
        let shown =
            |eni: &&EniRecord| Some(&eni.id) != omitted.as_ref() && Some(&eni.id) != self.hidden.as_ref();
        enis.values().filter(shown).cloned().collect()
    }

    fn create(&mut self, spec: &CreateSpec, token: &ClientToken, now: Now) -> Result<Reply, Failure> {
        if let Some(made) = self.tokens.get(token).and_then(|id| self.enis.get(id)) {
            return Ok(Reply::Created(made.clone()));
        }
        assert!(
            spec.want.singles + spec.want.prefixes < self.ipv4_per_eni,
            "more than an ENI holds: {spec:?}"
        );
        let mut eni = self.fresh_eni(&spec.subnet)?;
        let subnet = self.subnets.get_mut(&spec.subnet).expect("just used");
        match subnet.take(spec.want) {
            Ok((singles, prefixes)) => {
                eni.singles = singles;
                eni.prefixes = prefixes;
            }
            Err(failure) => {
                subnet.give_back(&[eni.primary_ip], &[]);
                return Err(failure);
            }
        }
        eni.groups.clone_from(&spec.groups);
        eni.tags.insert(tags::INSTANCE_ID.to_owned(), self.instance.as_str().to_owned());
        eni.tags.insert(tags::INTENT.to_owned(), token.as_str().to_owned());
        self.tokens.insert(token.clone(), eni.id.clone());
        self.born.insert(eni.id.clone(), now);
        self.enis.insert(eni.id.clone(), eni.clone());
        Ok(Reply::Created(eni))
    }

    fn attach(&mut self, id: &EniId, device_index: u32, network_card: u32) -> Result<Reply, Failure> {
        let attached: Vec<u32> = self
            .enis
            .values()
            .filter_map(|eni| eni.attachment.as_ref())
            .filter(|at| at.network_card == network_card)
            .map(|at| at.device_index)
            .collect();
        let eni = self.enis.get(id).ok_or(Failure::of(FailureClass::NotFound))?;
        if attached.len() >= self.eni_limit || attached.contains(&device_index) || eni.attachment.is_some() {
            return Err(Failure::of(FailureClass::Limit));
        }
        let attachment = self.attachment(device_index, network_card, false);
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
        let subnet = self.subnets.get_mut(&eni.subnet).expect("an ENI is in a subnet");
        let (singles, prefixes) = subnet.take(want)?;
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
        let subnet = self.subnets.get_mut(&eni.subnet).expect("an ENI is in a subnet");
        subnet.give_back(singles, prefixes);
        Ok(Reply::Done)
    }
}
