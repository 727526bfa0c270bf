//! Building a cloud: what AWS has an account make once, before agents come.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::address_space::AddressSpace;
use super::address_space6::AddressSpace6;
use super::clock::SimTime;
use super::ids::{AttachmentId, EniId, GroupId, InstanceId, Mac, ReservationId, SubnetId, VpcId};
use super::instance_types::InstanceType;
use super::metadata::Metadata;
use super::model::{Attachment, Eni, EniKind, Group, Instance, InstanceState, Subnet, Vpc, private_dns_name};
use super::state::State;
use super::tags::Tags;

/// Why something cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A VPC is between /16 and /28.
    #[error("{0} is no network between /16 and /28")]
    VpcCidr(Ipv4Network),
    /// A subnet is inside its VPC, between /16 and /28, and overlaps no other.
    #[error("{cidr} is no free network between /16 and /28 of {vpc}")]
    SubnetCidr {
        /// What was asked for.
        cidr: Ipv4Network,
        /// Where.
        vpc: VpcId,
    },
    /// A subnet's IPv6 network is a /64 of its VPC's.
    #[error("{cidr} is no free /64 of {vpc}")]
    SubnetCidr6 {
        /// What was asked for.
        cidr: Ipv6Network,
        /// Where.
        vpc: VpcId,
    },
    /// No such VPC.
    #[error("there is no VPC {0}")]
    NoVpc(VpcId),
    /// No such subnet.
    #[error("there is no subnet {0}")]
    NoSubnet(SubnetId),
    /// No such group in the subnet's VPC.
    #[error("there is no security group {0} in that VPC")]
    NoGroup(GroupId),
    /// The table has no such type.
    #[error("there is no instance type {0}")]
    NoInstanceType(String),
    /// Every name is given once.
    #[error("there is an instance called {0} already")]
    NameTaken(String),
    /// The subnet has no free address.
    #[error("subnet {0} has no free address")]
    SubnetFull(SubnetId),
}

/// An instance to start.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// The node's name; by it the fabric knows where links belong.
    pub name: String,
    /// For example `m5.large`.
    pub instance_type: String,
    /// Where its primary interface is.
    pub subnet: SubnetId,
    /// Security groups; the VPC's default group when empty.
    pub groups: Vec<GroupId>,
    /// Tags of the instance.
    pub tags: Vec<(String, String)>,
}

/// An instance that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub instance_id: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// Where it is.
    pub subnet_id: SubnetId,
    /// Where that is.
    pub vpc_id: VpcId,
    /// Availability zone.
    pub az: String,
    /// The primary interface.
    pub eni_id: EniId,
    /// Its link address.
    pub mac: Mac,
    /// Its first address.
    pub primary_ip: Ipv4Addr,
    /// The name the VPC's resolver has for that address.
    pub private_dns_name: String,
    /// Interfaces the type takes.
    pub max_enis: u32,
    /// IPv4 addresses each of them takes.
    pub ipv4_per_eni: u32,
    /// Pods EKS lets run on the type, each with a secondary address.
    pub max_pods: u32,
}

impl State {
    pub(crate) fn add_vpc(&mut self, cidr: Ipv4Network) -> Result<VpcId, SetupError> {
        if AddressSpace::new(cidr).is_none() {
            return Err(SetupError::VpcCidr(cidr));
        }
        let id = VpcId::from_number(self.fresh_number());
        let group = self.insert_group(&id, "default", "default VPC security group");
        let vpc = Vpc { id: id.clone(), cidr, ipv6_cidr: None, default_group: group, tags: Tags::new() };
        self.vpcs.insert(id.clone(), vpc);
        Ok(id)
    }

    pub(crate) fn add_subnet(
        &mut self,
        vpc: &VpcId,
        cidr: Ipv4Network,
        ipv6_cidr: Option<Ipv6Network>,
        zone: &str,
    ) -> Result<SubnetId, SetupError> {
        let held = self.vpcs.get_mut(vpc).ok_or_else(|| SetupError::NoVpc(vpc.clone()))?;
        let space = AddressSpace::new(cidr).filter(|_| {
            held.cidr.contains(cidr.network())
                && held.cidr.contains(cidr.broadcast())
                && !self.subnets.values().any(|other| other.vpc == *vpc && other.space.cidr().overlaps(cidr))
        });
        let space = space.ok_or_else(|| SetupError::SubnetCidr { cidr, vpc: vpc.clone() })?;
        let space6 = match ipv6_cidr {
            None => None,
            Some(cidr6) => {
                let refused = || SetupError::SubnetCidr6 { cidr: cidr6, vpc: vpc.clone() };
                let used = self
                    .subnets
                    .values()
                    .any(|other| other.space6.as_ref().is_some_and(|space| space.cidr().overlaps(cidr6)));
                let around = Ipv6Network::new(cidr6.network(), 56).map_err(|_| refused())?;
                let around = Ipv6Network::new(around.network(), 56).map_err(|_| refused())?;
                if used || held.ipv6_cidr.is_some_and(|known| known != around) {
                    return Err(refused());
                }
                let space6 = AddressSpace6::new(cidr6).ok_or_else(refused)?;
                held.ipv6_cidr = Some(around);
                Some(space6)
            }
        };
        let id = SubnetId::from_number(self.fresh_number());
        let subnet = Subnet {
            id: id.clone(),
            vpc: vpc.clone(),
            zone: zone.to_owned(),
            space,
            space6,
            tags: Tags::new(),
        };
        self.subnets.insert(id.clone(), subnet);
        Ok(id)
    }

    pub(crate) fn add_security_group(&mut self, vpc: &VpcId, name: &str) -> Result<GroupId, SetupError> {
        if !self.vpcs.contains_key(vpc) {
            return Err(SetupError::NoVpc(vpc.clone()));
        }
        Ok(self.insert_group(vpc, name, name))
    }

    fn insert_group(&mut self, vpc: &VpcId, name: &str, description: &str) -> GroupId {
        let id = GroupId::from_number(self.fresh_number());
        let group = Group {
            id: id.clone(),
            vpc: vpc.clone(),
            name: name.to_owned(),
            description: description.to_owned(),
            tags: Tags::new(),
        };
        self.groups.insert(id.clone(), group);
        id
    }

    pub(crate) fn add_instance(
        &mut self,
        now: SimTime,
        new: NewInstance,
    ) -> Result<InstanceFacts, SetupError> {
        let kind = InstanceType::find(&new.instance_type)
            .ok_or_else(|| SetupError::NoInstanceType(new.instance_type.clone()))?;
        if self
            .instances
            .values()
            .any(|instance| instance.node == new.name && instance.state == InstanceState::Running)
        {
            return Err(SetupError::NameTaken(new.name));
        }
        let subnet = self.subnets.get_mut(&new.subnet).ok_or(SetupError::NoSubnet(new.subnet.clone()))?;
        let unknown =
            new.groups.iter().find(|group| self.groups.get(*group).is_none_or(|held| held.vpc != subnet.vpc));
        if let Some(group) = unknown {
            return Err(SetupError::NoGroup(group.clone()));
        }
        let vpc = self.vpcs.get(&subnet.vpc).ok_or_else(|| SetupError::NoVpc(subnet.vpc.clone()))?;
        let groups = match new.groups.as_slice() {
            [] => vec![vpc.default_group.clone()],
            groups => groups.to_vec(),
        };
        let taken = subnet.space.take_any(1, self.settings.placement, &mut self.rng);
        let Some(primary) = taken.ok().and_then(|taken| taken.first().copied()) else {
            return Err(SetupError::SubnetFull(new.subnet));
        };
        let (vpc, zone) = (subnet.vpc.clone(), subnet.zone.clone());
        let eni_id = EniId::from_number(self.fresh_number());
        let mac = self.fresh_mac();
        let eni = Eni {
            id: eni_id.clone(),
            vpc: vpc.clone(),
            subnet: new.subnet.clone(),
            zone: zone.clone(),
            mac,
            description: String::new(),
            kind: EniKind::Interface,
            groups,
            primary: Some(primary),
            secondaries: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            primary_ipv6: false,
            source_dest_check: true,
            pending_until: now,
            attachment: None,
            trunk: None,
            tags: Tags::new(),
        };
        self.insert_eni(eni, now);
        let instance_id = InstanceId::from_number(self.fresh_number());
        let instance = Instance {
            id: instance_id.clone(),
            reservation: ReservationId::from_number(self.fresh_number()),
            node: new.name.clone(),
            kind,
            subnet: new.subnet.clone(),
            vpc: vpc.clone(),
            zone: zone.clone(),
            launched: now,
            state: InstanceState::Running,
            primary_eni: eni_id.clone(),
            enis: BTreeSet::new(),
            tags: new.tags.into_iter().collect(),
            metadata: Metadata::default(),
        };
        self.instances.insert(instance_id.clone(), instance);
        let attachment = Attachment {
            id: AttachmentId::from_number(self.fresh_number()),
            instance: instance_id.clone(),
            device_index: 0,
            network_card: 0,
            delete_on_termination: true,
            began: now,
            attached_at: now,
            gone_at: None,
        };
        // An instance boots with its metadata in place.
        self.attach(&eni_id, now, attachment, Duration::ZERO);
        Ok(InstanceFacts {
            name: new.name,
            instance_id,
            instance_type: kind.name.to_owned(),
            subnet_id: new.subnet,
            vpc_id: vpc,
            az: zone,
            eni_id,
            mac,
            primary_ip: primary,
            private_dns_name: private_dns_name(primary),
            max_enis: kind.max_enis,
            ipv4_per_eni: kind.ipv4_per_eni,
            max_pods: kind.max_pods(),
        })
    }

    /// A link address that no interface has: locally administered, beginning as
    /// those of EC2 do.
    pub(crate) fn fresh_mac(&mut self) -> Mac {
        loop {
            let [.., b, c, d, e, f] = self.fresh_number().to_be_bytes();
            let mac = Mac([0x02, b, c, d, e, f]);
            if !self.enis.values().any(|record| record.eni.mac == mac) {
                return mac;
            }
        }
    }
}
