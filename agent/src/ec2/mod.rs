//! EC2 and the instance metadata service, behind small ports in our words.
//!
//! [`Ec2`] is what the pool asks of EC2; nothing outside `client.rs` knows the
//! SDK. [`Guard`] stands between them: a client-side token bucket for each
//! call, a deadline, and an observer that counts. [`ImdsClient`] reads what an
//! instance knows about itself.

mod client;
mod error;
mod guard;
mod imds;
mod limits;
mod observer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::future::BoxFuture;
use ipam_core::{
    AttachmentId, ClientToken, EniId, EniRecord, InstanceId, InstanceLimits, SecurityGroupId, SubnetId,
    SubnetQuery, SubnetRecord, Want,
};
use ipnetwork::IpNetwork;

pub use client::{AwsEc2, ConnectError};
pub use error::Ec2Error;
pub use guard::{CallBudget, Guard};
pub use imds::{EniListing, ImdsClient, ImdsEni, ImdsError, ImdsFacts, Leaving};
pub use limits::{LimitsError, limits_of};
pub use observer::{CallObserver, CallReport, NoObserver};

/// The answer to one EC2 call.
pub type Ec2Result<T> = Result<T, Ec2Error>;

/// A new ENI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEni {
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its security groups.
    pub groups: BTreeSet<SecurityGroupId>,
    /// The addresses that it comes with.
    pub want: Want,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The same token again makes no second ENI.
    pub token: ClientToken,
}

/// What EC2 knows about an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// Its VPC.
    pub vpc: Option<String>,
    /// The subnet of its primary ENI.
    pub subnet: Option<SubnetId>,
    /// Its availability zone.
    pub zone: Option<String>,
    /// Whether it runs or is about to; false once it is going away.
    pub is_alive: bool,
}

/// Addresses that an assign added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assigned {
    /// Single addresses.
    pub singles: Vec<IpAddr>,
    /// Prefixes.
    pub prefixes: Vec<IpNetwork>,
}

/// What the agent asks of EC2. Every method is one call (or the pages of one)
/// and is never repeated inside: repeating is the pool's decision.
pub trait Ec2: Send + Sync {
    /// This instance. One DescribeInstances.
    fn describe_self<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<InstanceRecord>>;

    /// The ENIs attached to the instance, and unattached ones that carry its
    /// tag. Two DescribeNetworkInterfaces.
    fn describe_enis<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>>;

    /// Unattached ENIs in `vpc` with the tag of `cluster` and of any instance
    /// that made them. One DescribeNetworkInterfaces for each thousand.
    fn describe_unattached<'a>(
        &'a self,
        cluster: &'a str,
        vpc: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>>;

    /// Those of the instances that run or are about to; EC2 need not know the
    /// others. One DescribeInstances for each 190.
    fn living_instances<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>>;

    /// Blocks and free addresses of subnets. One DescribeSubnets.
    fn describe_subnets<'a>(&'a self, query: &'a SubnetQuery) -> BoxFuture<'a, Ec2Result<Vec<SubnetRecord>>>;

    /// The limits of an instance type. One DescribeInstanceTypes; `None` when
    /// EC2 does not know the type.
    fn instance_limits<'a>(
        &'a self,
        instance_type: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Option<InstanceLimits>>>;

    /// Creates an ENI with its addresses and tags. CreateNetworkInterface.
    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Ec2Result<EniRecord>>;

    /// Attaches an ENI. AttachNetworkInterface.
    fn attach<'a>(
        &'a self,
        eni: &'a EniId,
        instance: &'a InstanceId,
        device_index: u32,
        network_card: u32,
    ) -> BoxFuture<'a, Ec2Result<AttachmentId>>;

    /// Lets EC2 delete the ENI with the instance.
    /// ModifyNetworkInterfaceAttribute.
    fn set_delete_on_termination<'a>(
        &'a self,
        eni: &'a EniId,
        attachment: &'a AttachmentId,
    ) -> BoxFuture<'a, Ec2Result<()>>;

    /// Replaces the security groups. ModifyNetworkInterfaceAttribute.
    fn set_groups<'a>(
        &'a self,
        eni: &'a EniId,
        groups: &'a BTreeSet<SecurityGroupId>,
    ) -> BoxFuture<'a, Ec2Result<()>>;

    /// Adds addresses. AssignPrivateIpAddresses.
    fn assign<'a>(&'a self, eni: &'a EniId, want: Want) -> BoxFuture<'a, Ec2Result<Assigned>>;

    /// Gives addresses back. UnassignPrivateIpAddresses.
    fn unassign<'a>(
        &'a self,
        eni: &'a EniId,
        singles: &'a [IpAddr],
        prefixes: &'a [IpNetwork],
    ) -> BoxFuture<'a, Ec2Result<()>>;

    /// Starts a detach. DetachNetworkInterface.
    fn detach<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Ec2Result<()>>;

    /// Deletes a detached ENI. DeleteNetworkInterface.
    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>>;

    /// Adds tags. CreateTags.
    fn tag<'a>(&'a self, eni: &'a EniId, tags: &'a BTreeMap<String, String>) -> BoxFuture<'a, Ec2Result<()>>;
}
