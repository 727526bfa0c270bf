//! Giving back: single addresses and prefixes beyond the target, and ENIs.

use std::net::IpAddr;

use ipam_core::{Action, AttachmentId, EniId, Failure, FailureClass, Operation, Reply};
use ipnetwork::IpNetwork;

use super::agent::{Incumbent, Task};
use super::calls::Retries;
use super::datastore::shuffle;
use crate::engine::{Host, Request, secs};

/// The sleep between a detach and the first try to delete.
const AFTER_DETACH_S: f64 = 2.0;

/// An unassign under way and what is left to do.
#[derive(Clone, Debug)]
pub(crate) struct Return {
    eni: EniId,
    blocks: Vec<IpNetwork>,
    over: usize,
    next: Vec<EniId>,
}

/// An ENI on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Free {
    eni: EniId,
    attachment: Option<AttachmentId>,
    at: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Describe,
    Detach(Retries),
    Delete(Retries),
}

impl Free {
    /// One that is not attached.
    pub(crate) fn delete(eni: EniId) -> Self {
        Self { eni, attachment: None, at: Step::Delete(Incumbent::doubling(0.5)) }
    }

    /// One that is to be found, detached and deleted.
    pub(crate) fn whole(eni: EniId, attachment: Option<AttachmentId>) -> Self {
        Self { eni, attachment, at: Step::Describe }
    }
}

impl Incumbent {
    pub(super) fn decrease(&mut self, host: &mut Host<'_>) {
        let mut order = self.store.eni_ids();
        shuffle(&mut order, &mut || host.dice());
        let over = self.store.over();
        self.return_next(over, order, host);
    }

    fn return_next(&mut self, over: usize, mut order: Vec<EniId>, host: &mut Host<'_>) {
        while let Some(eni) = order.pop().filter(|_| over > 0) {
            let blocks = self.store.take_unused(&eni, over);
            if blocks.is_empty() {
                continue;
            }
            let (prefixes, singles): (Vec<IpNetwork>, Vec<IpNetwork>) =
                blocks.iter().partition(|block| block.prefix() < 32);
            let singles: Vec<IpAddr> = singles.iter().map(IpNetwork::ip).collect();
            let action = Action::Unassign { eni: eni.clone(), singles, prefixes };
            let rest = Return { eni, over: over - blocks.len(), blocks, next: order };
            return self.call(Request::Do(action), Task::Return(rest), host);
        }
        self.pass_on(host);
    }

    pub(super) fn return_answered(
        &mut self,
        rest: Return,
        answer: Result<Reply, Failure>,
        host: &mut Host<'_>,
    ) {
        if answer.is_ok() {
            self.last_action = Some(host.now());
        } else {
            self.store.restore_blocks(&rest.eni, rest.blocks);
        }
        self.return_next(rest.over, rest.next, host);
    }

    /// Begins to free one ENI, if one is too many.
    pub(super) fn free_extra(&mut self, host: &mut Host<'_>) -> bool {
        if !self.store.has_extra_eni() {
            return false;
        }
        let mut order = self.store.eni_ids();
        shuffle(&mut order, &mut || host.dice());
        let Some(eni) = self.store.removable(&order, host.now()) else {
            return false;
        };
        let free = Free::whole(eni.id.clone(), eni.attachment.clone());
        // Out of the datastore first: no pod gets an address of it any more.
        self.store.remove_eni(&free.eni);
        self.free_begins(free, host);
        true
    }

    pub(super) fn free_begins(&mut self, free: Free, host: &mut Host<'_>) {
        match free.at {
            Step::Describe => self.call(Request::Only(Operation::DescribeEnis), Task::Free(free), host),
            Step::Detach(_) | Step::Delete(_) => self.free_goes_on(free, host),
        }
    }

    pub(super) fn free_goes_on(&mut self, free: Free, host: &mut Host<'_>) {
        let request = match (free.at, free.attachment.clone()) {
            (Step::Detach(_), Some(attachment)) => Action::Detach { eni: free.eni.clone(), attachment },
            _ => Action::DeleteEni { eni: free.eni.clone() },
        };
        self.call(Request::Do(request), Task::Free(free), host);
    }

    pub(super) fn free_answered(
        &mut self,
        mut free: Free,
        answer: Result<Reply, Failure>,
        host: &mut Host<'_>,
    ) {
        let gone = answer.as_ref().is_err_and(|failure| failure.class == FailureClass::NotFound);
        match free.at {
            Step::Describe if answer.is_ok() && free.attachment.is_some() => {
                free.at = Step::Detach(Self::doubling(0.2));
                self.free_goes_on(free, host);
            }
            Step::Describe => self.pass_on(host),
            Step::Detach(_) if answer.is_ok() => {
                free.at = Step::Delete(Self::doubling(0.5));
                self.sleep(secs(AFTER_DETACH_S), Task::Free(free), host);
            }
            Step::Delete(_) if answer.is_ok() || gone => self.pass_on(host),
            Step::Detach(mut retries) | Step::Delete(mut retries) => match retries.next(host.dice()) {
                Some(pause) => {
                    free.at = match free.at {
                        Step::Detach(_) => Step::Detach(retries),
                        _ => Step::Delete(retries),
                    };
                    self.sleep(pause, Task::Free(free), host);
                }
                None => self.pass_on(host),
            },
        }
    }
}
