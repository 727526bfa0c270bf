//! Every ENI's next step, and fresh knowledge.

use std::collections::BTreeSet;

use super::{Action, Operation, SubnetQuery};
use crate::eni::{Eni, Owner, Phase};
use crate::state::PoolState;
use crate::targets::Targets;
use crate::{Now, SecurityGroupId, SubnetId};

/// Reads what is due: the ENIs after a doubt or an interval, and with them the
/// subnets where those are to be discovered; a subnet's block once, and its
/// free addresses when more is wanted than it is known to have (`thirsty`).
pub(super) fn read_truth(
    state: &PoolState,
    targets: &Targets,
    thirsty: BTreeSet<SubnetId>,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let under_way = |operation| state.intents().any(|intent| intent.action.operation() == operation);
    if state.resync_at.is_some_and(|at| at <= now)
        && !under_way(Operation::DescribeEnis)
        && !state.rests(Operation::DescribeEnis, None, now)
    {
        actions.push(Action::DescribeEnis);
    }
    if under_way(Operation::DescribeSubnets) || state.rests(Operation::DescribeSubnets, None, now) {
        return;
    }
    let nameless = state.subnets.iter().filter(|(_, subnet)| subnet.is_nameless(now));
    let nameless: BTreeSet<SubnetId> = nameless.map(|(id, _)| id.clone()).collect();
    let query = match targets.subnet_choice.query() {
        Some(query) if !thirsty.is_empty() || state.is_discovery_due(targets, now) => query,
        _ if thirsty.is_empty() && nameless.is_empty() => return,
        _ => SubnetQuery::Ids(
            thirsty.into_iter().chain(nameless).collect::<BTreeSet<_>>().into_iter().collect(),
        ),
    };
    actions.push(Action::DescribeSubnets { query });
}

/// Attaches what was made to be attached, marks attachments, follows security
/// groups, deletes what was detached or given up, repeats creates in doubt.
pub(super) fn carry_on(state: &PoolState, targets: &Targets, now: Now, actions: &mut Vec<Action>) {
    for create in &state.unresolved {
        if !state.rests(Operation::CreateEni, None, now) {
            actions.push(Action::CreateEni { spec: create.spec.clone(), token: Some(create.token.clone()) });
        }
    }
    let mut taken = taken_devices(state, targets);
    for eni in state.enis() {
        if matches!(eni.owner, Owner::Foreign(_)) || state.is_untouchable(eni) {
            continue;
        }
        let action = match eni.phase {
            Phase::Unattached { wanted: true, .. } if state.serves(eni, targets) => {
                attach(eni, targets, &mut taken)
            }
            Phase::Unattached { since, .. }
                if eni.is_tagged && now.since(since) >= targets.timing.give_up_after =>
            {
                Some(Action::DeleteEni { eni: eni.id.clone() })
            }
            Phase::Detached { since } if eni.is_tagged && now.since(since) >= targets.timing.delete_delay => {
                Some(Action::DeleteEni { eni: eni.id.clone() })
            }
            Phase::Attached { .. } if eni.owner == Owner::Ours => keep(state, eni, targets),
            _ => None,
        };
        if let Some(action) = action
            && !state.rests(action.operation(), Some(&eni.id), now)
        {
            actions.push(action);
        }
    }
}

fn keep(state: &PoolState, eni: &Eni, targets: &Targets) -> Option<Action> {
    let attachment = eni.attachment.as_ref()?;
    if !attachment.delete_on_termination {
        return Some(Action::SetDeleteOnTermination {
            eni: eni.id.clone(),
            attachment: attachment.id.clone(),
        });
    }
    let groups = groups_for_ours(state, targets)?;
    (eni.groups != groups).then(|| Action::SetGroups { eni: eni.id.clone(), groups })
}

/// The security groups that our ENIs should have; `None` while the primary
/// ENI's are not known.
pub(super) fn groups_for_ours(state: &PoolState, targets: &Targets) -> Option<BTreeSet<SecurityGroupId>> {
    if !targets.security_groups.is_empty() {
        return Some(targets.security_groups.clone());
    }
    state
        .enis()
        .find(|eni| eni.owner == Owner::Primary)
        .map(|eni| eni.groups.clone())
        .filter(|groups| !groups.is_empty())
}

/// Device indexes in use on the default card, attaches under way included.
pub(super) fn taken_devices(state: &PoolState, targets: &Targets) -> BTreeSet<u32> {
    let card = targets.limits.default_card;
    let attached = state.enis().filter_map(|eni| {
        let at = eni.attachment.as_ref()?;
        (at.network_card == card).then_some(at.device_index)
    });
    let under_way = state.intents().filter_map(|intent| match &intent.action {
        Action::Attach { device_index, network_card, .. } if *network_card == card => Some(*device_index),
        _ => None,
    });
    attached.chain(under_way).collect()
}

/// An attach at the lowest free device index. Index 0 belongs to the primary
/// ENI, on whichever card.
pub(super) fn attach(eni: &Eni, targets: &Targets, taken: &mut BTreeSet<u32>) -> Option<Action> {
    let device_index = (1..).find(|index| !taken.contains(index))?;
    taken.insert(device_index);
    Some(Action::Attach { eni: eni.id.clone(), device_index, network_card: targets.limits.default_card })
}
