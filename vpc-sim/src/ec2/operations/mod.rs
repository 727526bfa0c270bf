//! The operations of the API: each parses its parameters, then acts on the state.

mod assign;
mod assign6;
mod attach;
mod create_eni;
mod delete_eni;
mod describe_enis;
mod describe_instance_types;
mod describe_instances;
mod describe_networks;
mod modify_eni;
mod tagging;
mod trunk;

use super::clock::SimTime;
use super::error::ApiError;
use super::params::Params;
use super::state::State;
use super::xml::Xml;

/// One operation, parsed.
trait Operation: Sized {
    /// Takes the parameters. What is left over is unknown and refused.
    fn parse(params: &mut Params) -> Result<Self, ApiError>;

    /// Acts, or changes nothing; the inside of the answer.
    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError>;
}

type Handler = fn(&mut State, SimTime, Params) -> Result<Xml, ApiError>;

/// All operations by name.
const OPERATIONS: &[(&str, Handler)] = &[
    ("AssignIpv6Addresses", handle::<assign6::Assign>),
    ("AssignPrivateIpAddresses", handle::<assign::Assign>),
    ("AssociateTrunkInterface", handle::<trunk::Associate>),
    ("AttachNetworkInterface", handle::<attach::Attach>),
    ("CreateNetworkInterface", handle::<create_eni::Create>),
    ("CreateTags", handle::<tagging::CreateTags>),
    ("DeleteNetworkInterface", handle::<delete_eni::Delete>),
    ("DeleteTags", handle::<tagging::DeleteTags>),
    ("DescribeInstanceTypes", handle::<describe_instance_types::Describe>),
    ("DescribeInstances", handle::<describe_instances::Describe>),
    ("DescribeNetworkInterfaces", handle::<describe_enis::Describe>),
    ("DescribeSecurityGroups", handle::<describe_networks::Groups>),
    ("DescribeSubnets", handle::<describe_networks::Subnets>),
    ("DescribeTrunkInterfaceAssociations", handle::<trunk::Describe>),
    ("DescribeVpcs", handle::<describe_networks::Vpcs>),
    ("DetachNetworkInterface", handle::<attach::Detach>),
    ("DisassociateTrunkInterface", handle::<trunk::Disassociate>),
    ("ModifyNetworkInterfaceAttribute", handle::<modify_eni::Modify>),
    ("UnassignIpv6Addresses", handle::<assign6::Unassign>),
    ("UnassignPrivateIpAddresses", handle::<assign::Unassign>),
];

/// Whether there is an operation of that name.
pub(crate) fn is_known(name: &str) -> bool {
    OPERATIONS.iter().any(|(known, _)| *known == name)
}

/// Whether a Describe is narrowed down by filters or pages: it then draws from
/// a larger bucket.
pub(crate) fn is_narrowed(params: &Params) -> bool {
    ["Filter", "MaxResults", "NextToken"].iter().any(|name| params.has(name))
}

/// Runs the operation that the parameters name.
pub(crate) fn run(state: &mut State, now: SimTime, params: Params) -> Result<Xml, ApiError> {
    let found = OPERATIONS.iter().find(|(name, _)| *name == params.action());
    let (_, handler) = found.ok_or_else(|| ApiError::unknown_action(params.action()))?;
    handler(state, now, params)
}

fn handle<T: Operation>(state: &mut State, now: SimTime, mut params: Params) -> Result<Xml, ApiError> {
    let is_dry_run = params.flag("DryRun")?.unwrap_or(false);
    let operation = T::parse(&mut params)?;
    params.finish()?;
    if is_dry_run {
        return Err(ApiError::dry_run());
    }
    operation.execute(state, now)
}

/// The answer of operations that have nothing to say.
fn done() -> Xml {
    let mut xml = Xml::default();
    xml.text("return", true);
    xml
}

/// A count: 1 or more where it is given.
fn count(params: &mut Params, name: &str) -> Result<u32, ApiError> {
    match params.parsed::<u32>(name)? {
        Some(0) => Err(ApiError::invalid_value(name, "0")),
        given => Ok(given.unwrap_or(0)),
    }
}
