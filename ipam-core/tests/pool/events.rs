//! What can happen to a pool, and random histories of it.

use std::collections::BTreeSet;

use ipam_core::{AllocationMode, FailureClass, Growth, Operation, SecurityGroupId, SubnetChoice, SubnetId};
use proptest::prelude::*;

use crate::world::{Fault, Node, Remains, Stranger, discover, millis, secs};

/// Where pods' addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The node's own subnet.
    Own,
    /// By the subnets' tags.
    Discover,
    /// Custom networking: another subnet, nothing on the primary ENI.
    Custom,
    /// Custom networking without an ENIConfig.
    Unconfigured,
}

/// One event of a history.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Add(u32),
    Burst(u32, u32),
    Commit(u32),
    Del(u32),
    DelAll,
    Pass(u64),
    Restart(Remains),
    Fault(Operation, Fault),
    Lag(u64),
    MaxPods(u32),
    MaxEni(Option<u32>),
    Cooldown(u64),
    Warm(u32, Option<u32>, Option<u32>),
    Prefixes(bool),
    WarmPrefix(u32),
    Choice(Choice),
    Growth(Growth),
    Groups(Option<u8>),
    PrimaryGroups(u8),
    Announce(u32),
    Occupy(&'static str, u32),
    Vacate(&'static str, u32),
    Tag(&'static str, Option<&'static str>),
    Appear(Stranger),
    TearOff(usize, bool),
    Disown(usize),
    Omit(usize),
}

pub(crate) const CALLS: [Operation; 9] = [
    Operation::CreateEni,
    Operation::Attach,
    Operation::Modify,
    Operation::Assign,
    Operation::Unassign,
    Operation::Detach,
    Operation::DeleteEni,
    Operation::DescribeEnis,
    Operation::DescribeSubnets,
];

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::LostReply),
        2 => Just(Fault::ServerError),
        6 => prop::sample::select(vec![
            FailureClass::Retry,
            FailureClass::Throttled,
            FailureClass::Exhausted,
            FailureClass::Limit,
            FailureClass::Permission,
            FailureClass::Config,
            FailureClass::NotFound,
            FailureClass::Bug,
        ])
        .prop_map(Fault::Fail),
    ]
}

fn subnet() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["subnet-a", "subnet-b"])
}

fn stranger() -> impl Strategy<Value = Stranger> {
    prop::sample::select(vec![
        Stranger::Trunk,
        Stranger::Efa,
        Stranger::NoManage,
        Stranger::Untagged,
        Stranger::OtherNode,
        Stranger::Managed,
        Stranger::OtherCard,
    ])
}

/// Pods come and go, time passes.
fn life() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..40_u32).prop_map(Event::Add),
        2 => (0..40_u32, 1..20_u32).prop_map(|(first, count)| Event::Burst(first, count)),
        6 => (0..40_u32).prop_map(Event::Commit),
        5 => (0..40_u32).prop_map(Event::Del),
        1 => Just(Event::DelAll),
        6 => (1..5_000_u64).prop_map(Event::Pass),
        3 => (5_000..180_000_u64).prop_map(Event::Pass),
    ]
}

/// The agent dies, EC2 fails and lags.
fn trouble() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Restart(Remains::Everything)),
        1 => Just(Event::Restart(Remains::NoCheckpoint)),
        1 => Just(Event::Restart(Remains::Rebooted)),
        6 => (prop::sample::select(CALLS.to_vec()), fault())
            .prop_map(|(operation, fault)| Event::Fault(operation, fault)),
        2 => (0..25_u64).prop_map(Event::Lag),
        1 => (0..8_usize).prop_map(Event::Omit),
    ]
}

/// The operator changes the configuration, or what the node may do.
fn change() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (4..40_u32).prop_map(Event::MaxPods),
        1 => prop::option::of(1..5_u32).prop_map(Event::MaxEni),
        1 => (0..45_u64).prop_map(Event::Cooldown),
        2 => (0..3_u32, prop::option::of(0..8_u32), prop::option::of(0..12_u32))
            .prop_map(|(eni, ip, minimum)| Event::Warm(eni, ip, minimum)),
        2 => any::<bool>().prop_map(Event::Prefixes),
        1 => (1..3_u32).prop_map(Event::WarmPrefix),
        2 => prop::sample::select(vec![
            Choice::Own, Choice::Discover, Choice::Custom, Choice::Unconfigured
        ]).prop_map(Event::Choice),
        2 => prop::sample::select(vec![Growth::Normal, Growth::DemandOnly, Growth::None])
            .prop_map(Event::Growth),
        1 => prop::option::of(1..4_u8).prop_map(Event::Groups),
        1 => (1..4_u8).prop_map(Event::PrimaryGroups),
        1 => (0..20_u32).prop_map(Event::Announce),
    ]
}

/// Others use the VPC and the instance.
fn others() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (subnet(), 1..30_u32).prop_map(|(subnet, count)| Event::Occupy(subnet, count)),
        2 => (subnet(), 1..30_u32).prop_map(|(subnet, count)| Event::Vacate(subnet, count)),
        2 => (subnet(), prop::sample::select(vec![None, Some("0"), Some("1")]))
            .prop_map(|(subnet, role)| Event::Tag(subnet, role)),
        2 => stranger().prop_map(Event::Appear),
        1 => (0..8_usize, any::<bool>()).prop_map(|(number, delete)| Event::TearOff(number, delete)),
        1 => (0..8_usize).prop_map(Event::Disown),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![14 => life(), 4 => trouble(), 3 => change(), 2 => others()]
}

fn group(number: u8) -> BTreeSet<SecurityGroupId> {
    BTreeSet::from([SecurityGroupId::new(format!("sg-{number}"))])
}

/// Lets `event` happen to `node`.
pub(crate) fn live(node: &mut Node, event: &Event) {
    match event {
        Event::Add(pod) => node.burst(std::iter::once(*pod)),
        Event::Burst(first, count) => node.burst(*first..first + count),
        Event::Commit(pod) => node.commit(*pod),
        Event::Del(pod) => node.del(*pod),
        Event::DelAll => (0..60).for_each(|pod| node.del(pod)),
        Event::Pass(span) => node.pass(millis(*span)),
        Event::Restart(remains) => node.restart(*remains),
        Event::Fault(operation, fault) => node.cloud.faults.push((*operation, *fault)),
        Event::Lag(seconds) => node.cloud.lag = secs(*seconds),
        Event::MaxPods(max_pods) => node.targets.max_pods = *max_pods,
        Event::MaxEni(max) => node.targets.max_eni = *max,
        Event::Cooldown(seconds) => node.targets.cooldown = node.targets.cooldown.max(secs(*seconds)),
        Event::Warm(eni, ip, minimum) => {
            (node.targets.warm_eni, node.targets.warm_ip, node.targets.minimum_ip) = (*eni, *ip, *minimum);
        }
        Event::Prefixes(on) => {
            node.targets.mode = if *on { AllocationMode::Prefix } else { AllocationMode::Secondary };
        }
        Event::WarmPrefix(count) => node.targets.warm_prefix = *count,
        Event::Choice(choice) => {
            node.targets.use_primary = matches!(choice, Choice::Own | Choice::Discover);
            node.targets.subnet_choice = match choice {
                Choice::Own => SubnetChoice::Fixed(vec![SubnetId::new("subnet-a")]),
                Choice::Discover => discover(),
                Choice::Custom => SubnetChoice::Fixed(vec![SubnetId::new("subnet-b")]),
                Choice::Unconfigured => SubnetChoice::Fixed(Vec::new()),
            };
        }
        Event::Growth(growth) => node.targets.growth = *growth,
        Event::Groups(number) => {
            node.targets.security_groups = number.map_or_else(BTreeSet::new, group);
        }
        Event::PrimaryGroups(number) => node.cloud.regroup(group(*number), node.now),
        Event::Announce(pods) => node.state.announce(*pods),
        Event::Occupy(subnet, count) => node.cloud.occupy_in(subnet, *count),
        Event::Vacate(subnet, count) => node.cloud.vacate(subnet, *count),
        Event::Tag(subnet, role) => node.cloud.tag_subnet(subnet, ipam_core::tags::SUBNET_ROLE, *role),
        Event::Appear(stranger) => node.appear(*stranger),
        Event::TearOff(number, delete) => node.tear_off(*number, *delete),
        Event::Disown(number) => node.disown(*number),
        Event::Omit(number) => node.omit(*number),
    }
}
