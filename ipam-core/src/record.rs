//! What EC2 says, in our own words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{AttachmentId, EniId, InstanceId, MacAddr, SecurityGroupId, SubnetId};

/// Tag keys that carry meaning for us; the incumbent's names, so that a node
/// can be taken over with its ENIs.
pub mod tags {
    /// The instance that created an ENI.
    pub const INSTANCE_ID: &str = "node.k8s.amazonaws.com/instance_id";
    /// When it was created, RFC 3339.
    pub const CREATED_AT: &str = "node.k8s.amazonaws.com/createdAt";
    /// Set to "true" by an operator on an ENI to be left alone.
    pub const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
    /// The cluster's name.
    pub const CLUSTER: &str = "cluster.k8s.amazonaws.com/name";
    /// Set beside the cluster's name; the value names the owner.
    pub const OWNER: &str = "eks:eni:owner";
    /// The value of [`OWNER`].
    pub const OWNER_VALUE: &str = "amazon-vpc-cni";
    /// The client token of the create call, so that a replay after a crash
    /// finds what it made without creating again.
    pub const INTENT: &str = "tidepool.dev/intent";
    /// On a subnet: "0" keeps pods out of it; any other value lets them in,
    /// where it is not the node's own subnet, which needs no tag.
    pub const SUBNET_ROLE: &str = "kubernetes.io/role/cni";
    /// The beginning of a subnet tag's key; a cluster's name follows. A
    /// subnet with such tags serves the clusters that they name.
    pub const SUBNET_CLUSTER_PREFIX: &str = "cni.networking.k8s.aws/cluster/";
}

/// The kind of an ENI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EniKind {
    /// An ordinary one.
    Interface,
    /// Carries branch ENIs for security groups per pod.
    Trunk,
    /// Has an Elastic Fabric Adapter.
    Efa,
    /// Branch, load balancer, NAT gateway, …
    Other,
}

/// The status of an ENI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EniStatus {
    /// Being created.
    Pending,
    /// Not attached.
    Available,
    /// An attach is under way.
    Attaching,
    /// Attached.
    InUse,
    /// A detach is under way.
    Detaching,
}

/// The status of an attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachmentStatus {
    /// Under way.
    Attaching,
    /// In place.
    Attached,
    /// Being undone, or undone.
    Detaching,
}

/// One attachment as EC2 describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentRecord {
    /// Its id.
    pub id: AttachmentId,
    /// The instance; EC2 leaves it out for some managed interfaces.
    pub instance: Option<InstanceId>,
    /// The device index on the network card.
    pub device_index: u32,
    /// The network card.
    pub network_card: u32,
    /// Its status.
    pub status: AttachmentStatus,
    /// Whether EC2 deletes the ENI with the instance.
    pub delete_on_termination: bool,
}

/// One subnet as EC2 describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubnetRecord {
    /// Its id.
    pub id: SubnetId,
    /// Its IPv4 block.
    pub cidr: Option<IpNetwork>,
    /// Addresses that EC2 says are free.
    pub available: u32,
    /// Its availability zone's name.
    pub zone: Option<String>,
    /// Its VPC's id.
    pub vpc: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// One ENI as EC2 describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EniRecord {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its kind.
    pub kind: EniKind,
    /// Its status.
    pub status: EniStatus,
    /// Its attachment, if any.
    pub attachment: Option<AttachmentRecord>,
    /// Its primary private address.
    pub primary_ip: IpAddr,
    /// Its secondary private addresses.
    pub singles: Vec<IpAddr>,
    /// Its delegated prefixes.
    pub prefixes: Vec<IpNetwork>,
    /// Its security groups.
    pub groups: BTreeSet<SecurityGroupId>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether an AWS service manages it.
    pub requester_managed: bool,
}
