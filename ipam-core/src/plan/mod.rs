//! What is to be done at EC2 now.
//!
//! `grow` asks for what is missing, `shrink` gives back what has been surplus
//! for a while, `upkeep` carries every ENI on to its next step and keeps the
//! knowledge fresh. All are pure: state in, actions out. Applied to the state
//! that their success would lead to, they end in an empty plan.

mod grow;
mod place;
mod shrink;
mod upkeep;
mod wake;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::sizing::PREFIX_SIZE;
use crate::state::PoolState;
use crate::targets::{Growth, Targets};
use crate::{AttachmentId, ClientToken, EniId, Now, SecurityGroupId, SubnetId};

/// How many addresses a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Want {
    /// Single addresses.
    pub singles: u32,
    /// /28 prefixes; EC2 takes only one of the two in a call.
    pub prefixes: u32,
}

impl Want {
    /// Addresses that the call would add.
    pub const fn addresses(self) -> u32 {
        self.singles + self.prefixes * PREFIX_SIZE
    }
}

/// A new ENI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CreateSpec {
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its security groups.
    pub groups: BTreeSet<SecurityGroupId>,
    /// The addresses that it comes with.
    pub want: Want,
}

/// The kind of an EC2 call, as operators know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// CreateNetworkInterface
    CreateEni,
    /// AttachNetworkInterface
    Attach,
    /// ModifyNetworkInterfaceAttribute
    Modify,
    /// AssignPrivateIpAddresses
    Assign,
    /// UnassignPrivateIpAddresses
    Unassign,
    /// DetachNetworkInterface
    Detach,
    /// DeleteNetworkInterface
    DeleteEni,
    /// CreateTags
    CreateTags,
    /// DescribeNetworkInterfaces
    DescribeEnis,
    /// DescribeSubnets
    DescribeSubnets,
    /// DescribeInstances
    DescribeInstances,
    /// DescribeInstanceTypes
    DescribeInstanceTypes,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 12] = [
        Self::CreateEni,
        Self::Attach,
        Self::Modify,
        Self::Assign,
        Self::Unassign,
        Self::Detach,
        Self::DeleteEni,
        Self::CreateTags,
        Self::DescribeEnis,
        Self::DescribeSubnets,
        Self::DescribeInstances,
        Self::DescribeInstanceTypes,
    ];

    /// EC2's name of the call.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateEni => "CreateNetworkInterface",
            Self::Attach => "AttachNetworkInterface",
            Self::Modify => "ModifyNetworkInterfaceAttribute",
            Self::Assign => "AssignPrivateIpAddresses",
            Self::Unassign => "UnassignPrivateIpAddresses",
            Self::Detach => "DetachNetworkInterface",
            Self::DeleteEni => "DeleteNetworkInterface",
            Self::CreateTags => "CreateTags",
            Self::DescribeEnis => "DescribeNetworkInterfaces",
            Self::DescribeSubnets => "DescribeSubnets",
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeInstanceTypes => "DescribeInstanceTypes",
        }
    }

    /// Whether the call changes anything at EC2.
    pub const fn is_mutating(self) -> bool {
        !matches!(
            self,
            Self::DescribeEnis
                | Self::DescribeSubnets
                | Self::DescribeInstances
                | Self::DescribeInstanceTypes
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which subnets are to be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubnetQuery {
    /// These.
    Ids(Vec<SubnetId>),
    /// All of a VPC in one availability zone.
    Discover {
        /// The VPC.
        vpc: String,
        /// The zone's name.
        zone: String,
    },
}

/// One EC2 call to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Create an ENI with its addresses and tags.
    CreateEni {
        /// What it is to be.
        spec: CreateSpec,
        /// The client token; `None` in a plan for a new create.
        token: Option<ClientToken>,
    },
    /// Attach it to this instance.
    Attach {
        /// The ENI.
        eni: EniId,
        /// A device index that is free on the card.
        device_index: u32,
        /// The network card.
        network_card: u32,
    },
    /// Let EC2 delete it with the instance.
    SetDeleteOnTermination {
        /// The ENI.
        eni: EniId,
        /// Its attachment.
        attachment: AttachmentId,
    },
    /// Give it other security groups.
    SetGroups {
        /// The ENI.
        eni: EniId,
        /// All its groups.
        groups: BTreeSet<SecurityGroupId>,
    },
    /// Add addresses.
    Assign {
        /// The ENI.
        eni: EniId,
        /// How many.
        want: Want,
    },
    /// Give addresses back.
    Unassign {
        /// The ENI.
        eni: EniId,
        /// Single addresses.
        singles: Vec<IpAddr>,
        /// Prefixes.
        prefixes: Vec<IpNetwork>,
    },
    /// Detach it from the instance; it is deleted afterwards.
    Detach {
        /// The ENI.
        eni: EniId,
        /// Its attachment.
        attachment: AttachmentId,
    },
    /// Delete it.
    DeleteEni {
        /// The ENI.
        eni: EniId,
    },
    /// Read the truth: this instance's ENIs and unattached ones of its making.
    DescribeEnis,
    /// Read the blocks and the free addresses of subnets.
    DescribeSubnets {
        /// Which.
        query: SubnetQuery,
    },
}

impl Action {
    /// The call that it makes.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::CreateEni { .. } => Operation::CreateEni,
            Self::Attach { .. } => Operation::Attach,
            Self::SetDeleteOnTermination { .. } | Self::SetGroups { .. } => Operation::Modify,
            Self::Assign { .. } => Operation::Assign,
            Self::Unassign { .. } => Operation::Unassign,
            Self::Detach { .. } => Operation::Detach,
            Self::DeleteEni { .. } => Operation::DeleteEni,
            Self::DescribeEnis => Operation::DescribeEnis,
            Self::DescribeSubnets { .. } => Operation::DescribeSubnets,
        }
    }

    /// The ENI that it is about.
    pub const fn eni(&self) -> Option<&EniId> {
        match self {
            Self::Attach { eni, .. }
            | Self::SetDeleteOnTermination { eni, .. }
            | Self::SetGroups { eni, .. }
            | Self::Assign { eni, .. }
            | Self::Unassign { eni, .. }
            | Self::Detach { eni, .. }
            | Self::DeleteEni { eni } => Some(eni),
            Self::CreateEni { .. } | Self::DescribeEnis | Self::DescribeSubnets { .. } => None,
        }
    }

    /// Whether it brings addresses, or an ENI to the instance.
    pub const fn is_growth(&self) -> bool {
        matches!(self, Self::CreateEni { .. } | Self::Attach { .. } | Self::Assign { .. })
    }

    /// What it asks for.
    pub const fn want(&self) -> Want {
        match self {
            Self::CreateEni { spec, .. } => spec.want,
            Self::Assign { want, .. } => *want,
            _ => Want { singles: 0, prefixes: 0 },
        }
    }

    /// Addresses that it would add.
    pub const fn addresses_asked(&self) -> u32 {
        self.want().addresses()
    }
}

/// What to do now, and when to look again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Calls to be made now, all at once.
    pub actions: Vec<Action>,
    /// When the passing of time alone could change the plan or serve a pod.
    pub wake_at: Option<Now>,
}

/// Plans the next calls. Call [`PoolState::settle`] with the same `now` first.
pub fn plan(state: &PoolState, targets: &Targets, now: Now) -> Plan {
    let mut actions = Vec::new();
    let mut thirsty = BTreeSet::new();
    if matches!(state.truth(), crate::Truth::Ec2 { .. }) && targets.growth != Growth::None {
        upkeep::carry_on(state, targets, now, &mut actions);
        shrink::drain(state, targets, now, &mut actions);
        let sizing = state.sizing(targets, now);
        if sizing.missing > 0 {
            thirsty = grow::grow(state, targets, sizing, now, &mut actions);
        } else {
            shrink::shrink(state, targets, now, &mut actions);
        }
    }
    upkeep::read_truth(state, targets, thirsty, now, &mut actions);
    Plan { actions, wake_at: wake::next(state, targets, now) }
}
