//! Calls on their way to EC2 and back, and what they set off.

use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{Action, EniId, Failure, FailureClass, MacAddr, Now, Operation, Reply};
use ipnetwork::IpNetwork;

use super::agent::{FoundEni, Request, Ticket};
use super::clock::millis;
use super::ledger::Phase;
use super::shell::{Call, Event, NodeId, Shell, draws};

/// A refused call is answered sooner than one that does something.
const THROTTLED_ANSWER: Duration = millis(100);

impl Shell {
    pub(crate) fn call(&mut self, node: NodeId, request: Request, periodic: bool) -> Ticket {
        let operation = request.operation();
        let count = &mut self.nodes[node.0].calls[operation as usize];
        *count += 1;
        let names = [draws::CALL, operation as u64, node.0 as u64, *count];
        let latency = self.latencies.of(operation).draw(&self.dice, &names);
        self.ledger.called(operation, periodic, self.now);
        match &request {
            Request::Do(Action::Unassign { singles, prefixes, .. }) => {
                let blocks = prefixes.iter().flat_map(IpNetwork::iter);
                let addresses: Vec<IpAddr> = singles.iter().copied().chain(blocks).collect();
                self.ledger.given_back(&addresses, self.now);
            }
            Request::Do(Action::Detach { eni, .. }) => {
                let addresses = self.cloud.addresses_on(eni);
                self.ledger.given_back(&addresses, self.now);
            }
            _ => {}
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let answer = Ok(Reply::Done);
        self.calls.insert(ticket, Box::new(Call { node, request, begun: self.now, latency, answer }));
        self.queue.push(self.now + latency / 2, Event::Effect { ticket });
        ticket
    }

    /// The call reaches EC2.
    pub(crate) fn take_effect(&mut self, ticket: Ticket) {
        let Some(mut call) = self.calls.remove(&ticket) else {
            return;
        };
        let (operation, now) = (call.request.operation(), self.now);
        let mut reply_at = call.begun + call.latency;
        if !self.account.admit(operation, now) {
            self.ledger.throttled(operation, now);
            call.answer = Err(Failure::of(FailureClass::Throttled));
            reply_at = reply_at.min(now + THROTTLED_ANSWER);
        } else if let Request::Do(action) = &call.request {
            call.answer = self.cloud.call(call.node, action, now);
            if call.answer.is_ok() {
                self.follow_up(&call, action.clone(), reply_at);
            }
            if operation == Operation::Assign && call.answer.is_ok() {
                self.ledger.lasted(Phase::Assign, call.latency, now);
            }
        }
        self.calls.insert(ticket, call);
        self.queue.push(reply_at, Event::Reply { ticket });
    }

    /// What a successful call sets off.
    fn follow_up(&mut self, call: &Call, action: Action, reply_at: Now) {
        let (node, now) = (call.node, self.now);
        match action {
            Action::CreateEni { .. } => {
                if let Ok(Reply::Created(record)) = &call.answer {
                    self.nodes[node.0].creates.entry(record.id.clone()).or_insert(call.begun);
                }
            }
            Action::Attach { eni, .. } => {
                let record = self.cloud.enis_of(node).find(|record| record.id == eni);
                let Some(mac) = record.map(|record| record.mac) else {
                    return;
                };
                let names = |what| [what, node.0 as u64, u64::from(mac.0[4]) << 8 | u64::from(mac.0[5])];
                let device = self.latencies.device.draw(&self.dice, &names(draws::LINK));
                let imds = self.latencies.imds.draw(&self.dice, &names(draws::IMDS));
                self.queue.push(now + device, Event::Link { node, mac });
                self.cloud.list_at(&eni, now + device.max(imds));
                if let Some(created) = self.nodes[node.0].creates.remove(&eni) {
                    // The link can be there before the reply is.
                    let usable = reply_at.max(now + device);
                    self.ledger.lasted(Phase::Attach, usable.since(created), now);
                }
            }
            Action::Detach { eni, .. } => {
                let names = [draws::DETACH, node.0 as u64, self.next_ticket];
                let done = self.latencies.detached.draw(&self.dice, &names);
                self.cloud.detached_by(&eni, now + done);
                let mac = self.cloud.enis_of(node).find(|record| record.id == eni).map(|record| record.mac);
                self.nodes[node.0].linked.retain(|linked| Some(*linked) != mac);
            }
            _ => {}
        }
    }

    pub(crate) fn linked(&mut self, node: NodeId, mac: MacAddr) {
        self.nodes[node.0].linked.push(mac);
    }

    pub(crate) fn links(&self, node: NodeId) -> Vec<MacAddr> {
        self.nodes[node.0].linked.clone()
    }

    pub(crate) fn free_device_index(&self, node: NodeId) -> u32 {
        let taken: Vec<u32> =
            self.cloud.enis_of(node).filter_map(|eni| Some(eni.attachment.as_ref()?.device_index)).collect();
        (1..).find(|index| !taken.contains(index)).unwrap_or(u32::MAX)
    }

    pub(crate) fn imds_enis(&self, node: NodeId) -> Vec<FoundEni> {
        let listed = self.cloud.enis_of(node).filter(|eni| self.cloud.is_listed(&eni.id, self.now));
        listed
            .filter_map(|eni| {
                let singles = eni.singles.iter().copied().map(IpNetwork::from);
                Some(FoundEni {
                    id: eni.id.clone(),
                    attachment: eni.attachment.as_ref()?.id.clone(),
                    blocks: singles.chain(eni.prefixes.iter().copied()).collect(),
                })
            })
            .collect()
    }

    pub(crate) fn imds_lists(&self, eni: &EniId) -> bool {
        self.cloud.is_listed(eni, self.now)
    }
}
