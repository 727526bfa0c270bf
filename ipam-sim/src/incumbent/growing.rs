//! One growth step: more addresses on an ENI that has room, else a new ENI.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use ipam_core::{
    Action, AttachmentId, ClientToken, CreateSpec, EniId, Failure, FailureClass, Operation, Reply,
    SecurityGroupId, SubnetId, Want,
};
use ipnetwork::IpNetwork;

use super::agent::{Incumbent, Task};
use super::calls::Retries;
use super::datastore::shuffle;
use super::freeing::Free;
use crate::engine::{Host, Request, SUBNET};

/// No growth for so long after a subnet was found full.
const INSUFFICIENT_COOLDOWN: Duration = Duration::from_secs(120);

/// An assign, with the ENIs to try after this one.
#[derive(Clone, Debug)]
pub(crate) struct Assign {
    eni: EniId,
    want: usize,
    /// The second call for this ENI, for one address only.
    is_fallback: bool,
    next: VecDeque<(EniId, usize)>,
}

/// Where a new ENI stands.
#[derive(Clone, Debug)]
pub(crate) struct NewEni {
    want: usize,
    eni: Option<EniId>,
    attachment: Option<AttachmentId>,
    blocks: Vec<IpNetwork>,
    at: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    SubnetsBefore,
    Create,
    DeviceIndex,
    Attach,
    Mark,
    /// Polling the metadata service.
    Imds(Retries),
    SubnetsAfter,
}

impl Incumbent {
    fn wanted(&self, count: usize) -> Want {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if self.store.settings.prefixes {
            Want { singles: 0, prefixes: count }
        } else {
            Want { singles: count, prefixes: 0 }
        }
    }

    pub(super) fn increase(&mut self, host: &mut Host<'_>) {
        let now = host.now();
        if self.last_insufficient.is_some_and(|at| now.since(at) < INSUFFICIENT_COOLDOWN) {
            return self.pass_on(host);
        }
        if self.store.skips_assign() {
            return self.new_eni(host);
        }
        let mut rooms = self.store.rooms();
        shuffle(&mut rooms, &mut || host.dice());
        self.assign_next(rooms.into(), host);
    }

    fn assign_next(&mut self, mut rooms: VecDeque<(EniId, usize)>, host: &mut Host<'_>) {
        match rooms.pop_front() {
            Some((eni, room)) => {
                let want = room.min(self.store.needed());
                self.assign(Assign { eni, want, is_fallback: false, next: rooms }, host);
            }
            None => self.new_eni(host),
        }
    }

    fn assign(&mut self, assign: Assign, host: &mut Host<'_>) {
        let action = Action::Assign { eni: assign.eni.clone(), want: self.wanted(assign.want) };
        self.call(Request::Do(action), Task::Assign(assign), host);
    }

    pub(super) fn assign_answered(
        &mut self,
        assign: Assign,
        answer: Result<Reply, Failure>,
        host: &mut Host<'_>,
    ) {
        match answer {
            Ok(Reply::Assigned { singles, prefixes }) => {
                let blocks = singles.into_iter().map(IpNetwork::from).chain(prefixes);
                self.store.add_blocks(&assign.eni, blocks);
                self.last_action = Some(host.now());
                self.pass_on(host);
            }
            Ok(_) => self.pass_on(host),
            Err(_) if !assign.is_fallback => {
                self.assign(Assign { want: 1, is_fallback: true, ..assign }, host);
            }
            Err(failure) if failure.class == FailureClass::Exhausted => self.assign_next(assign.next, host),
            Err(_) => self.pass_on(host),
        }
    }

    fn new_eni(&mut self, host: &mut Host<'_>) {
        let want = self.store.needed().min(self.store.settings.per_eni);
        if !self.store.has_room_for_eni() || want == 0 {
            return self.pass_on(host);
        }
        let eni = NewEni { want, eni: None, attachment: None, blocks: Vec::new(), at: Step::SubnetsBefore };
        self.call(Request::Only(Operation::DescribeSubnets), Task::Eni(eni), host);
    }

    pub(super) fn eni_answered(
        &mut self,
        mut new: NewEni,
        answer: Result<Reply, Failure>,
        host: &mut Host<'_>,
    ) {
        match (new.at, answer) {
            // Without the list of subnets it goes on with the node's own.
            (Step::SubnetsBefore, _) => {
                self.creates += 1;
                let spec = CreateSpec {
                    subnet: SubnetId::from(SUBNET),
                    groups: BTreeSet::from([SecurityGroupId::from("sg-nodes")]),
                    want: self.wanted(new.want),
                };
                let token = ClientToken::new(format!("incumbent-{}-{}", host.node.0, self.creates));
                new.at = Step::Create;
                self.call(Request::Do(Action::CreateEni { spec, token: Some(token) }), Task::Eni(new), host);
            }
            (Step::Create, Ok(Reply::Created(record))) => {
                let singles = record.singles.iter().copied().map(IpNetwork::from);
                new.blocks = singles.chain(record.prefixes.iter().copied()).collect();
                new.eni = Some(record.id);
                new.at = Step::DeviceIndex;
                self.call(Request::Only(Operation::DescribeInstances), Task::Eni(new), host);
            }
            (Step::Create, Err(failure)) => {
                if failure.class == FailureClass::Exhausted {
                    self.last_insufficient = Some(host.now());
                }
                self.pass_on(host);
            }
            (Step::DeviceIndex, Ok(_)) => self.attach(new, host),
            (Step::Attach, Ok(Reply::Attached(id))) => {
                new.attachment = Some(id.clone());
                new.at = Step::Mark;
                let Some(eni) = new.eni.clone() else {
                    return self.pass_on(host);
                };
                let action = Action::SetDeleteOnTermination { eni, attachment: id };
                self.call(Request::Do(action), Task::Eni(new), host);
            }
            (Step::Mark, Ok(_)) => {
                new.at = Step::Imds(Self::doubling(0.1));
                self.eni_goes_on(new, host);
            }
            // It is set up whatever the subnet's tags say in this world.
            (Step::SubnetsAfter, _) => {
                self.last_action = Some(host.now());
                if let Some(eni) = new.eni {
                    self.store.add_eni(eni.clone(), new.attachment, host.now());
                    self.store.add_blocks(&eni, new.blocks.into_iter());
                }
                self.pass_on(host);
            }
            // An ENI that cannot be attached is deleted, one that cannot be
            // marked is freed.
            (Step::DeviceIndex | Step::Attach, _) => match new.eni {
                Some(eni) => self.free_begins(Free::delete(eni), host),
                None => self.pass_on(host),
            },
            (Step::Mark, Err(_)) => match new.eni {
                Some(eni) => self.free_begins(Free::whole(eni, new.attachment), host),
                None => self.pass_on(host),
            },
            _ => self.pass_on(host),
        }
    }

    fn attach(&mut self, mut new: NewEni, host: &mut Host<'_>) {
        let Some(eni) = new.eni.clone() else {
            return self.pass_on(host);
        };
        let device_index = host.free_device_index();
        new.at = Step::Attach;
        let action = Action::Attach { eni, device_index, network_card: 0 };
        self.call(Request::Do(action), Task::Eni(new), host);
    }

    /// Looks whether the metadata service lists the ENI with its addresses.
    pub(super) fn eni_goes_on(&mut self, mut new: NewEni, host: &mut Host<'_>) {
        let (Step::Imds(mut retries), Some(eni)) = (new.at, new.eni.clone()) else {
            return self.pass_on(host);
        };
        if host.imds_lists(&eni) {
            new.at = Step::SubnetsAfter;
            return self.call(Request::Only(Operation::DescribeSubnets), Task::Eni(new), host);
        }
        match retries.next(host.dice()) {
            Some(pause) => {
                new.at = Step::Imds(retries);
                self.sleep(pause, Task::Eni(new), host);
            }
            // A reconciliation finds it.
            None => self.pass_on(host),
        }
    }
}
