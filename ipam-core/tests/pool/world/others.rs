//! What others do in the same VPC and on the same instance.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam_core::{EniId, EniKind, EniRecord, EniStatus, Now, SecurityGroupId, SubnetId, tags};

use super::cloud::Cloud;

/// Somebody else's ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// Carries branch ENIs.
    Trunk,
    /// Has an Elastic Fabric Adapter.
    Efa,
    /// Tagged `no_manage`, although it carries our tag.
    NoManage,
    /// Without any tag.
    Untagged,
    /// Carries another node's tag.
    OtherNode,
    /// Managed by an AWS service.
    Managed,
    /// Carries our tag, on the second network card.
    OtherCard,
}

impl Cloud {
    /// An ENI of somebody else's making, attached at `device_index`.
    pub(crate) fn add_foreign(
        &mut self,
        kind: EniKind,
        device_index: u32,
        tag: Option<(&str, &str)>,
        now: Now,
    ) -> EniId {
        let mut eni = self.fresh_eni(&SubnetId::new("subnet-a")).expect("room");
        eni.kind = kind;
        if let Some((key, value)) = tag {
            eni.tags.insert(key.to_owned(), value.to_owned());
        }
        self.put_in(eni, device_index, 0, now)
    }

    /// A stranger appears, where the instance has a place for it.
    pub(crate) fn appear(&mut self, stranger: Stranger, now: Now) -> Option<EniId> {
        let card = u32::from(stranger == Stranger::OtherCard);
        let taken: Vec<u32> = self
            .enis
            .values()
            .filter_map(|eni| eni.attachment.as_ref())
            .filter(|at| at.network_card == card)
            .map(|at| at.device_index)
            .collect();
        if taken.len() >= self.eni_limit {
            return None;
        }
        let device_index = (0..).find(|index| !taken.contains(index))?;
        let mut eni = self.fresh_eni(&SubnetId::new("subnet-a")).ok()?;
        let ours = self.instance.as_str().to_owned();
        match stranger {
            Stranger::Trunk => eni.kind = EniKind::Trunk,
            Stranger::Efa => eni.kind = EniKind::Efa,
            Stranger::Untagged => {}
            Stranger::Managed => eni.requester_managed = true,
            Stranger::OtherNode => {
                eni.tags.insert(tags::INSTANCE_ID.to_owned(), "i-2".to_owned());
            }
            Stranger::NoManage => {
                eni.tags.insert(tags::INSTANCE_ID.to_owned(), ours);
                eni.tags.insert(tags::NO_MANAGE.to_owned(), "true".to_owned());
            }
            Stranger::OtherCard => {
                eni.tags.insert(tags::INSTANCE_ID.to_owned(), ours);
            }
        }
        Some(self.put_in(eni, device_index, card, now))
    }

    fn put_in(&mut self, mut eni: EniRecord, device_index: u32, card: u32, now: Now) -> EniId {
        eni.status = EniStatus::InUse;
        // Whether it goes with the instance is not ours to say.
        eni.attachment = Some(self.attachment(device_index, card, false));
        let subnet = self.subnets.get_mut(&eni.subnet).expect("just used");
        eni.singles = (0..3).filter_map(|_| subnet.take_one().map(IpAddr::V4)).collect();
        let id = eni.id.clone();
        self.enis.insert(id.clone(), eni);
        self.remember(now);
        id
    }

    /// Somebody detaches an ENI that is not the primary one, and perhaps
    /// deletes it.
    pub(crate) fn tear_off(&mut self, id: &EniId, delete: bool, now: Now) {
        if delete {
            self.remove(id);
        } else if let Some(eni) = self.enis.get_mut(id) {
            eni.attachment = None;
            eni.status = EniStatus::Available;
        }
        self.remember(now);
    }

    /// An operator gives the primary ENI other security groups.
    pub(crate) fn regroup(&mut self, groups: BTreeSet<SecurityGroupId>, now: Now) {
        let primary = |eni: &&mut EniRecord| {
            eni.attachment.as_ref().is_some_and(|at| at.device_index == 0 && at.network_card == 0)
        };
        self.enis.values_mut().find(primary).expect("it cannot be detached").groups = groups;
        self.remember(now);
    }

    /// Somebody takes a secondary address off an ENI.
    pub(crate) fn take_away(&mut self, id: &EniId, address: IpAddr, now: Now) {
        if let Some(eni) = self.enis.get_mut(id) {
            eni.singles.retain(|single| *single != address);
        }
        self.remember(now);
    }

    /// Sets a tag on an ENI.
    pub(crate) fn tag(&mut self, id: &EniId, key: &str, value: &str, now: Now) {
        if let Some(eni) = self.enis.get_mut(id) {
            eni.tags.insert(key.to_owned(), value.to_owned());
        }
        self.remember(now);
    }

    /// Sets or removes a tag of a subnet.
    pub(crate) fn tag_subnet(&mut self, id: &str, key: &str, value: Option<&str>) {
        let tags = &mut self.subnets.get_mut(&SubnetId::new(id)).expect("a subnet of this cloud").tags;
        match value {
            Some(value) => tags.insert(key.to_owned(), value.to_owned()),
            None => tags.remove(key),
        };
    }

    /// Addresses that others take from `subnet-a`.
    pub(crate) fn occupy(&mut self, count: u32) {
        self.occupy_in("subnet-a", count);
    }

    /// Addresses that others take from a subnet.
    pub(crate) fn occupy_in(&mut self, id: &str, count: u32) {
        self.subnets.get_mut(&SubnetId::new(id)).expect("a subnet of this cloud").occupy(count);
    }

    /// Addresses that others give back to a subnet.
    pub(crate) fn vacate(&mut self, id: &str, count: u32) {
        self.subnets.get_mut(&SubnetId::new(id)).expect("a subnet of this cloud").vacate(count);
    }

    /// Somebody in every block of `subnet-a`: no /28 is free any more.
    pub(crate) fn fragment(&mut self) {
        self.subnets.get_mut(&SubnetId::new("subnet-a")).expect("it is always there").fragment();
    }

    /// Free addresses in `subnet-a`.
    pub(crate) fn free_addresses(&self) -> u32 {
        self.free_in(&SubnetId::new("subnet-a"))
    }

    /// Free addresses in a subnet.
    pub(crate) fn free_in(&self, subnet: &SubnetId) -> u32 {
        self.subnets.get(subnet).map_or(0, |subnet| subnet.free())
    }
}
