//! Law 9: what a node reads off the line, and what its pool makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipam_core::{
    AccountLimits, Action, AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord,
    EniStatus, Failure, FailureClass, Identity, InstanceId, InstanceTable, Lane, Line, Load, MacAddr, Now,
    Operation, PodRef, PoolState, Queue, Refusal, Reply, SandboxKey, SecurityGroupId, Shape, SubnetId,
    SubnetQuery, Targets, Waiter, plan, spread_of,
};
use proptest::prelude::*;

mod places;
mod pools;

const SHAPE: Shape = Shape { per_eni: 9, uses_primary: true, warm: 0 };
const NINE: Load = Load { waiting: 9, addressed: 0, booting: false };

fn line() -> Line<u32> {
    let mut line = Line::new(AccountLimits::default(), SHAPE);
    line.set_nodes(5000);
    line
}

fn at(seconds: f64) -> Now {
    Now::default() + Duration::from_secs_f64(seconds)
}

fn wait(queue: &Queue, lane: Lane) -> f64 {
    queue.turns[lane as usize].wait.as_secs_f64()
}
