//! An EC2 for one instance, in memory, with the limits of the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use ipam_core::{
    AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord, EniStatus, InstanceId,
    InstanceLimits, MacAddr, Operation, SecurityGroupId, SubnetId, SubnetQuery, SubnetRecord, Want, tags,
};
use ipnetwork::IpNetwork;

use crate::ec2::{
    Assigned, Ec2, Ec2Error, Ec2Result, EniListing, ImdsEni, ImdsError, InstanceRecord, NewEni,
};

/// What befalls calls of an operation until it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// 403.
    Denied,
    /// 503, nothing done.
    Throttled,
    /// Nobody answers, nothing done.
    Away,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) enis: BTreeMap<EniId, EniRecord>,
    pub(super) calls: BTreeMap<Operation, u32>,
    pub(super) trouble: BTreeMap<Operation, Trouble>,
    /// The call of this number (from 0, changes only) is the last: it has its
    /// effect, and it and all later ones never answer.
    pub(super) silent_from: Option<u32>,
    tokens: BTreeMap<String, EniId>,
    next: u32,
}

impl Inner {
    pub(super) fn mutating_calls(&self) -> u32 {
        self.calls.iter().filter(|(operation, _)| operation.is_mutating()).map(|(_, count)| count).sum()
    }

    fn address(&mut self) -> IpAddr {
        self.next += 1;
        IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 3)) + self.next))
    }

    fn eni(&mut self) -> EniRecord {
        let primary_ip = self.address();
        let [.., c, d] = self.next.to_be_bytes();
        EniRecord {
            id: EniId::new(format!("eni-{}", self.next)),
            mac: MacAddr([2, 0, 0, 0, c, d]),
            subnet: SubnetId::new("subnet-a"),
            kind: EniKind::Interface,
            status: EniStatus::Available,
            attachment: None,
            primary_ip,
            singles: Vec::new(),
            prefixes: Vec::new(),
            groups: BTreeSet::from([SecurityGroupId::new("sg-1")]),
            tags: BTreeMap::new(),
            requester_managed: false,
        }
    }

    fn attachment(&mut self, device_index: u32, delete_on_termination: bool) -> AttachmentRecord {
        self.next += 1;
        AttachmentRecord {
            id: AttachmentId::new(format!("eni-attach-{}", self.next)),
            instance: Some(FakeEc2::instance()),
            device_index,
            network_card: 0,
            status: AttachmentStatus::Attached,
            delete_on_termination,
        }
    }
}

/// The fake; clones are the same cloud.
#[derive(Clone)]
pub(super) struct FakeEc2 {
    inner: Arc<Mutex<Inner>>,
    limits: InstanceLimits,
}

impl FakeEc2 {
    /// A cloud with the instance's primary ENI.
    pub(super) fn new(limits: InstanceLimits) -> Self {
        let mut inner = Inner::default();
        let mut primary = inner.eni();
        primary.status = EniStatus::InUse;
        primary.attachment = Some(inner.attachment(0, true));
        inner.enis.insert(primary.id.clone(), primary);
        Self { inner: Arc::new(Mutex::new(inner)), limits }
    }

    pub(super) fn instance() -> InstanceId {
        InstanceId::new("i-1")
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics inside")
    }

    async fn call<T>(
        &self,
        operation: Operation,
        effect: impl FnOnce(&mut Inner) -> Result<T, (u16, &'static str)> + Send,
    ) -> Ec2Result<T> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let (result, silent) = {
            let mut inner = self.lock();
            match inner.trouble.get(&operation) {
                Some(Trouble::Denied) => {
                    return Err(Ec2Error::answered(operation, 403, "UnauthorizedOperation", "no"));
                }
                Some(Trouble::Throttled) => {
                    *inner.calls.entry(operation).or_default() += 1;
                    return Err(Ec2Error::answered(operation, 503, "RequestLimitExceeded", "slow down"));
                }
                Some(Trouble::Away) => return Err(Ec2Error::unanswered(operation, "away", false, None)),
                None => {}
            }
            let number = inner.mutating_calls();
            let after = inner.silent_from.is_some_and(|last| number > last);
            let at = operation.is_mutating() && inner.silent_from.is_some_and(|last| number == last);
            if after {
                (None, true)
            } else {
                *inner.calls.entry(operation).or_default() += 1;
                (Some(effect(&mut inner)), at)
            }
        };
        if silent {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let result = result.expect("made unless silent");
        result.map_err(|(status, code)| Ec2Error::answered(operation, status, code, ""))
    }
}

const GONE: (u16, &str) = (400, "InvalidNetworkInterfaceID.NotFound");

impl Ec2 for FakeEc2 {
    fn describe_self<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Ec2Result<InstanceRecord>> {
        Box::pin(self.call(Operation::DescribeInstances, |_| Err((400, "InvalidInstanceID.NotFound"))))
    }

    fn describe_enis<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(self.call(Operation::DescribeEnis, |inner| Ok(inner.enis.values().cloned().collect())))
    }

    fn describe_unattached<'a>(
        &'a self,
        cluster: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(self.call(Operation::DescribeEnis, move |inner| {
            let theirs = |eni: &&EniRecord| {
                eni.attachment.is_none() && eni.tags.get(tags::CLUSTER).is_some_and(|name| name == cluster)
            };
            Ok(inner.enis.values().filter(theirs).cloned().collect())
        }))
    }

    fn living_instances<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>> {
        Box::pin(self.call(Operation::DescribeInstances, |_| {
            Ok(instances.iter().filter(|id| **id == Self::instance()).cloned().collect())
        }))
    }

    fn describe_subnets<'a>(&'a self, query: &'a SubnetQuery) -> BoxFuture<'a, Ec2Result<Vec<SubnetRecord>>> {
        Box::pin(self.call(Operation::DescribeSubnets, |_| {
            let cidr = "10.0.0.0/20".parse().ok();
            let ids = match query {
                SubnetQuery::Ids(ids) => ids.clone(),
                SubnetQuery::Discover { .. } => vec![SubnetId::new("subnet-a")],
            };
            let record =
                |id| SubnetRecord { id, cidr, available: 4000, zone: None, vpc: None, tags: BTreeMap::new() };
            Ok(ids.into_iter().map(record).collect())
        }))
    }

    fn instance_limits<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Ec2Result<Option<InstanceLimits>>> {
        Box::pin(self.call(Operation::DescribeInstanceTypes, |_| Ok(Some(self.limits.clone()))))
    }

    fn create_eni<'a>(&'a self, new: &'a NewEni) -> BoxFuture<'a, Ec2Result<EniRecord>> {
        Box::pin(self.call(Operation::CreateEni, |inner| {
            if let Some(made) = inner.tokens.get(new.token.as_str()).and_then(|id| inner.enis.get(id)) {
                return Ok(made.clone());
            }
            let mut eni = inner.eni();
            eni.singles = (0..new.want.singles).map(|_| inner.address()).collect();
            eni.groups.clone_from(&new.groups);
            eni.tags.clone_from(&new.tags);
            inner.tokens.insert(new.token.as_str().to_owned(), eni.id.clone());
            inner.enis.insert(eni.id.clone(), eni.clone());
            Ok(eni)
        }))
    }

    fn attach<'a>(
        &'a self,
        eni: &'a EniId,
        _: &'a InstanceId,
        device_index: u32,
        _: u32,
    ) -> BoxFuture<'a, Ec2Result<AttachmentId>> {
        Box::pin(self.call(Operation::Attach, move |inner| {
            let attached: Vec<u32> =
                inner.enis.values().filter_map(|eni| Some(eni.attachment.as_ref()?.device_index)).collect();
            if attached.len() >= self.limits.enis() as usize {
                return Err((400, "AttachmentLimitExceeded"));
            }
            if attached.contains(&device_index) {
                return Err((400, "InvalidParameterValue"));
            }
            let attachment = inner.attachment(device_index, false);
            let eni = inner.enis.get_mut(eni).ok_or(GONE)?;
            if eni.attachment.is_some() {
                return Err((400, "InvalidNetworkInterface.InUse"));
            }
            eni.status = EniStatus::InUse;
            Ok(eni.attachment.insert(attachment).id.clone())
        }))
    }

    fn set_delete_on_termination<'a>(
        &'a self,
        eni: &'a EniId,
        _: &'a AttachmentId,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Modify, |inner| {
            let attachment = inner.enis.get_mut(eni).and_then(|eni| eni.attachment.as_mut()).ok_or(GONE)?;
            attachment.delete_on_termination = true;
            Ok(())
        }))
    }

    fn set_groups<'a>(
        &'a self,
        eni: &'a EniId,
        groups: &'a BTreeSet<SecurityGroupId>,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Modify, |inner| {
            inner.enis.get_mut(eni).ok_or(GONE)?.groups.clone_from(groups);
            Ok(())
        }))
    }

    fn assign<'a>(&'a self, eni: &'a EniId, want: Want) -> BoxFuture<'a, Ec2Result<Assigned>> {
        Box::pin(self.call(Operation::Assign, move |inner| {
            let singles: Vec<IpAddr> = (0..want.singles).map(|_| inner.address()).collect();
            let eni = inner.enis.get_mut(eni).ok_or(GONE)?;
            if eni.singles.len() + singles.len() > self.limits.slots_per_eni() as usize {
                return Err((400, "PrivateIpAddressLimitExceeded"));
            }
            eni.singles.extend(&singles);
            Ok(Assigned { singles, prefixes: Vec::new() })
        }))
    }

    fn unassign<'a>(
        &'a self,
        eni: &'a EniId,
        singles: &'a [IpAddr],
        _: &'a [IpNetwork],
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Unassign, |inner| {
            inner.enis.get_mut(eni).ok_or(GONE)?.singles.retain(|single| !singles.contains(single));
            Ok(())
        }))
    }

    fn detach<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Detach, |inner| {
            let has = |eni: &&mut EniRecord| eni.attachment.as_ref().is_some_and(|at| at.id == *attachment);
            let eni = inner.enis.values_mut().find(has).ok_or((400, "InvalidAttachmentID.NotFound"))?;
            eni.attachment = None;
            eni.status = EniStatus::Available;
            Ok(())
        }))
    }

    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::DeleteEni, |inner| match inner.enis.get(eni) {
            None => Err(GONE),
            Some(found) if found.attachment.is_some() => Err((400, "InvalidNetworkInterface.InUse")),
            Some(_) => {
                inner.enis.remove(eni);
                Ok(())
            }
        }))
    }

    fn tag<'a>(&'a self, eni: &'a EniId, tags: &'a BTreeMap<String, String>) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::CreateTags, |inner| {
            inner.enis.get_mut(eni).ok_or(GONE)?.tags.extend(tags.clone());
            Ok(())
        }))
    }
}

impl EniListing for FakeEc2 {
    fn list_enis(&self) -> BoxFuture<'_, Result<Vec<ImdsEni>, ImdsError>> {
        let cloud = self.lock();
        let listed = cloud.enis.values().filter_map(|eni| {
            Some(ImdsEni {
                id: eni.id.clone(),
                mac: eni.mac,
                device_index: eni.attachment.as_ref()?.device_index,
                addresses: eni.singles.clone(),
                prefixes: eni.prefixes.clone(),
            })
        });
        let listed = listed.collect();
        drop(cloud);
        Box::pin(async move { Ok(listed) })
    }
}

/// The ENIs that this instance made carry these.
pub(super) const NEEDED_TAGS: [&str; 3] = [tags::INSTANCE_ID, tags::CREATED_AT, tags::INTENT];
