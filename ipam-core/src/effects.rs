//! Actions under way, and what their outcomes change.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::backoff::{Backoff, Failure, FailureClass};
use crate::discovery::Discovery;
use crate::eni::{Attachment, Eni, Owner, Phase};
use crate::observe::Observation;
use crate::plan::{Action, Operation, SubnetQuery};
use crate::record::{EniRecord, SubnetRecord};
use crate::sizing::PREFIX_SIZE;
use crate::state::{PoolState, UnresolvedCreate};
use crate::targets::Targets;
use crate::{AttachmentId, ClientToken, EniId, Now};

/// The number of an action under way, unique in this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(pub u64);

/// An action under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// Its number.
    pub id: IntentId,
    /// What is done.
    pub action: Action,
    /// When it began.
    pub started: Now,
}

/// What EC2 answered to an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The ENI that a create made.
    Created(EniRecord),
    /// The attachment that an attach made.
    Attached(AttachmentId),
    /// The addresses that an assign added.
    Assigned {
        /// Single addresses.
        singles: Vec<IpAddr>,
        /// Prefixes.
        prefixes: Vec<IpNetwork>,
    },
    /// Every ENI of the instance, and unattached ones that carry its tag.
    Enis(Vec<EniRecord>),
    /// The subnets asked for.
    Subnets(Vec<SubnetRecord>),
    /// Done; nothing to tell.
    Done,
}

impl PoolState {
    /// Notes that `action` is about to be executed. The intent that it returns
    /// carries the client token of a create; it is to be journaled first.
    pub fn begin(&mut self, mut action: Action, targets: &Targets, now: Now) -> Intent {
        let id = IntentId(self.next_intent);
        self.next_intent += 1;
        match &mut action {
            Action::CreateEni { token, .. } => match token {
                Some(token) => self.unresolved.retain(|create| create.token != *token),
                None => *token = Some(ClientToken::new(format!("{}-{}", self.token_seed, id.0))),
            },
            Action::Detach { eni, .. } => {
                if let Some(eni) = self.enis.get_mut(eni) {
                    eni.phase = Phase::Draining { since: now };
                    // A describe of the next process could show it attached.
                    let (singles, prefixes) = blocks_of(eni);
                    self.doubt(&singles, &prefixes, targets, now);
                }
            }
            Action::Unassign { eni, singles, prefixes } => {
                // From here on they are not ours to lease.
                if let Some(eni) = self.enis.get_mut(eni) {
                    eni.singles.retain(|address, _| !singles.contains(address));
                    eni.prefixes.retain(|prefix, _| !prefixes.contains(prefix));
                }
            }
            _ => {}
        }
        let intent = Intent { id, action, started: now };
        self.intents.insert(id, intent.clone());
        intent
    }

    /// An intent of an earlier process that had not ended when it died. Its
    /// outcome is read back by the next describe; only a create is repeated,
    /// with its token, unless the describe shows what it made.
    pub fn recover(&mut self, action: Action, targets: &Targets, now: Now) {
        match action {
            Action::CreateEni { spec, token: Some(token) } => {
                self.unresolved.push(UnresolvedCreate { token, spec })
            }
            Action::Unassign { eni, singles, prefixes } => {
                // The checkpoint may be older than the call.
                if let Some(eni) = self.enis.get_mut(&eni) {
                    eni.singles.retain(|address, _| !singles.contains(address));
                    eni.prefixes.retain(|prefix, _| !prefixes.contains(prefix));
                }
                self.doubt(&singles, &prefixes, targets, now);
            }
            Action::Detach { eni, .. } => {
                if let Some(eni) = self.enis.get_mut(&eni) {
                    if eni.is_attached() {
                        eni.phase = Phase::Draining { since: now };
                    }
                    let (singles, prefixes) = blocks_of(eni);
                    self.doubt(&singles, &prefixes, targets, now);
                } else {
                    self.leaving.insert(eni, now);
                }
            }
            _ => {}
        }
        // EC2's describe lags behind a call that was made just before.
        self.resync_at(now + targets.timing.lag);
    }

    /// Takes in how an action ended. `dice` in `[0, 1)` spreads the pauses.
    pub fn complete(
        &mut self,
        id: IntentId,
        outcome: Result<Reply, Failure>,
        targets: &Targets,
        now: Now,
        dice: f64,
    ) -> Option<Observation> {
        let intent = self.intents.remove(&id)?;
        let operation = intent.action.operation();
        match outcome {
            Ok(reply) => {
                self.backoffs.remove(&(operation, None));
                if let Some(eni) = intent.action.eni() {
                    self.backoffs.remove(&(operation, Some(eni.clone())));
                }
                self.succeeded(intent, reply, targets, now, dice)
            }
            Err(failure) => {
                if failure.class == FailureClass::Throttled && intent.action.is_growth() {
                    self.throttled_at = Some((operation, now));
                }
                self.failed(intent, failure, targets, now, dice);
                None
            }
        }
    }

    fn succeeded(
        &mut self,
        intent: Intent,
        reply: Reply,
        targets: &Targets,
        now: Now,
        dice: f64,
    ) -> Option<Observation> {
        match (intent.action, reply) {
            (Action::DescribeEnis, Reply::Enis(records)) => {
                let spread = self.reconcile_every(&targets.timing).mul_f64(0.75 + 0.5 * dice);
                if self.resync_at.is_some_and(|at| at <= intent.started) {
                    self.resync_at = None;
                }
                match self.resync_until.filter(|until| *until > intent.started) {
                    Some(until) => self.look_at(until),
                    None => self.resync_until = None,
                }
                self.look_at(now + spread);
                return Some(self.observe(&records, intent.started, targets, now));
            }
            (Action::DescribeSubnets { query }, Reply::Subnets(records)) => {
                self.subnets_read(&query, records, now, dice);
            }
            (Action::CreateEni { spec, .. }, Reply::Created(record)) => {
                self.subnets.entry(spec.subnet).or_default().gave(spec.want, 1);
                self.insert_created(&record, now);
            }
            (Action::Attach { eni, device_index, network_card }, Reply::Attached(id)) => {
                if let Some(eni) = self.enis.get_mut(&eni) {
                    eni.phase = Phase::Attached { since: now };
                    eni.attachment =
                        Some(Attachment { id, device_index, network_card, delete_on_termination: false });
                }
            }
            (Action::SetDeleteOnTermination { eni, .. }, _) => {
                if let Some(attachment) = self.enis.get_mut(&eni).and_then(|eni| eni.attachment.as_mut()) {
                    attachment.delete_on_termination = true;
                }
            }
            (Action::SetGroups { eni, groups }, _) => {
                if let Some(eni) = self.enis.get_mut(&eni) {
                    eni.groups = groups;
                }
            }
            (Action::Assign { eni, want }, Reply::Assigned { singles, prefixes }) => {
                for single in &singles {
                    self.gone.remove(&IpNetwork::from(*single));
                }
                for prefix in &prefixes {
                    self.gone.remove(prefix);
                }
                if let Some(eni) = self.enis.get_mut(&eni) {
                    if let Some(subnet) = self.subnets.get_mut(&eni.subnet) {
                        subnet.gave(want, 0);
                    }
                    let blocks = singles.iter().copied().map(IpNetwork::from).chain(prefixes.iter().copied());
                    for block in blocks {
                        eni.suspect.remove(&block);
                        // What an earlier describe listed says nothing about
                        // this time.
                        eni.listed.remove(&block);
                        eni.doubtful.remove(&block);
                    }
                    eni.singles.extend(singles.into_iter().map(|address| (address, now)));
                    eni.prefixes.extend(prefixes.into_iter().map(|prefix| (prefix, now)));
                }
            }
            (Action::Unassign { eni, singles, prefixes }, _) => {
                let subnet = self.enis.get(&eni).map(|eni| eni.subnet.clone());
                self.put_back(subnet, &singles, &prefixes, 0);
                self.doubt(&singles, &prefixes, targets, now);
            }
            (Action::Detach { eni, .. }, _) => self.detached(&eni, now),
            (Action::DeleteEni { eni }, _) => {
                if let Some((singles, prefixes)) = self.enis.get(&eni).map(blocks_of) {
                    let subnet = self.enis.get(&eni).map(|eni| eni.subnet.clone());
                    self.put_back(subnet, &singles, &prefixes, 1);
                }
                self.bury(&eni, targets, now);
            }
            // A reply that does not belong to its action changes nothing that
            // we can name: ask EC2.
            _ => self.resync_at(now),
        }
        None
    }

    fn failed(&mut self, intent: Intent, failure: Failure, targets: &Targets, now: Now, dice: f64) {
        let operation = intent.action.operation();
        let class = failure.class;
        // What belongs to one ENI or one subnet must not hold up the others.
        let about_one_eni = match class {
            FailureClass::NotFound => true,
            // No place for this ENI is no place for any other.
            FailureClass::Limit => operation != Operation::Attach,
            FailureClass::Retry => matches!(operation, Operation::DeleteEni | Operation::Modify),
            // What may be changed may hang on the ENI's tags.
            FailureClass::Permission => {
                matches!(operation, Operation::Detach | Operation::DeleteEni | Operation::Modify)
            }
            FailureClass::Throttled => false,
            // A wrong security group says nothing about another ENI's mark.
            _ => operation == Operation::Modify,
        };
        let exhausted_subnet = (class == FailureClass::Exhausted && intent.action.addresses_asked() > 0)
            .then(|| self.subnet_of(&intent.action))
            .flatten();
        if let Some(subnet) = exhausted_subnet {
            let subnet = self.subnets.entry(subnet).or_default();
            subnet.refused(intent.action.want(), now, dice);
        } else {
            let scope = intent.action.eni().filter(|_| about_one_eni).cloned();
            let key = (operation, scope);
            let previous = self.backoffs.get(&key);
            let backoff = match self.retry_after(operation).filter(|_| class == FailureClass::Throttled) {
                Some(retry) => Backoff::in_line(previous, retry, now, dice),
                None => Backoff::after(previous, class, now, dice),
            };
            // Of two that were under way together the milder failure does not
            // shorten the pause of the other.
            let longer = previous.filter(|known| known.class != class && known.until > backoff.until);
            let backoff = longer.copied().unwrap_or(backoff);
            self.backoffs.insert(key, backoff);
        }
        if failure.outcome_unknown || class == FailureClass::Limit {
            // Whether it happened is EC2's to say.
            self.resync_at(now);
            if operation.is_mutating() {
                self.doubt_since = Some(now);
            }
        }
        if class == FailureClass::NotFound
            && matches!(operation, Operation::Assign | Operation::Modify)
            && let Some(known) = intent.action.eni().and_then(|eni| self.enis.get(eni))
            && now.since(known.first_seen) >= targets.timing.lag
        {
            // Not lag any more: somebody else has taken it away.
            self.resync_at(now);
        }
        match intent.action {
            Action::CreateEni { spec, token: Some(token) } if failure.outcome_unknown => {
                self.unresolved.push(UnresolvedCreate { token, spec });
            }
            Action::Attach { eni, .. } => match class {
                FailureClass::Limit | FailureClass::Bug | FailureClass::Config => {
                    if let Some(eni) = self.enis.get_mut(&eni) {
                        eni.phase = Phase::Unattached { since: now, wanted: false };
                    }
                }
                FailureClass::NotFound => self.forget_unless_young(&eni, targets, now),
                _ => {}
            },
            Action::Unassign { eni, singles, prefixes } => {
                if failure.outcome_unknown || class == FailureClass::NotFound {
                    self.doubt(&singles, &prefixes, targets, now);
                    self.resync_at(now + targets.timing.lag);
                } else if let Some(eni) = self.enis.get_mut(&eni) {
                    // Still ours. What the next describe says of them holds.
                    let unconfirmed = Now::default();
                    eni.singles.extend(singles.into_iter().map(|a| (a, unconfirmed)));
                    eni.prefixes.extend(prefixes.into_iter().map(|p| (p, unconfirmed)));
                }
            }
            Action::Detach { eni, .. } => {
                if class == FailureClass::NotFound {
                    self.detached(&eni, now);
                } else if !failure.outcome_unknown
                    && let Some(eni) = self.enis.get_mut(&eni)
                {
                    eni.phase = Phase::Attached { since: now };
                    let (singles, prefixes) = blocks_of(eni);
                    self.gone.retain(|block, _| {
                        !prefixes.contains(block)
                            && !singles.iter().any(|single| IpNetwork::from(*single) == *block)
                    });
                }
            }
            Action::DeleteEni { eni } if class == FailureClass::NotFound => self.bury(&eni, targets, now),
            Action::DescribeSubnets { query } => self.subnets_unread(&query, class, now, dice),
            _ => {}
        }
    }

    fn subnets_read(&mut self, query: &SubnetQuery, records: Vec<SubnetRecord>, now: Now, dice: f64) {
        let told: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        for record in records {
            let subnet = self.subnets.entry(record.id.clone()).or_default();
            subnet.told(record, now, dice);
            if matches!(query, SubnetQuery::Discover { .. }) {
                subnet.listed(now);
            }
        }
        match query {
            SubnetQuery::Discover { .. } => {
                self.discovery = Discovery { read_at: Some(now), failed: false };
            }
            SubnetQuery::Ids(ids) => {
                for id in ids.iter().filter(|id| !told.contains(id)) {
                    if let Some(subnet) = self.subnets.get_mut(id) {
                        subnet.unlisted(now, dice);
                    }
                }
            }
        }
    }

    /// The addresses are the subnet's again, and `overhead` beside them.
    fn put_back(
        &mut self,
        subnet: Option<crate::SubnetId>,
        singles: &[IpAddr],
        prefixes: &[IpNetwork],
        overhead: u32,
    ) {
        if let Some(subnet) = subnet.and_then(|subnet| self.subnets.get_mut(&subnet)) {
            let blocks = u32::try_from(prefixes.len()).unwrap_or(u32::MAX).saturating_mul(PREFIX_SIZE);
            subnet
                .returned(u32::try_from(singles.len()).unwrap_or(u32::MAX).saturating_add(blocks) + overhead);
        }
    }

    /// Where it may not be read how much is left, one at a time is asked for.
    fn subnets_unread(&mut self, query: &SubnetQuery, class: FailureClass, now: Now, dice: f64) {
        if matches!(query, SubnetQuery::Discover { .. }) {
            self.discovery.failed = true;
        }
        if class == FailureClass::Throttled {
            return;
        }
        for (id, subnet) in &mut self.subnets {
            let asked = match query {
                SubnetQuery::Ids(ids) => ids.contains(id),
                SubnetQuery::Discover { .. } => true,
            };
            if asked {
                subnet.not_told(now, dice);
            }
        }
    }

    fn insert_created(&mut self, record: &EniRecord, now: Now) {
        if let Some(known) = self.enis.get_mut(&record.id) {
            // A repeated create whose first reply was lost, and a describe
            // that showed the ENI meanwhile.
            if let Phase::Unattached { wanted, .. } = &mut known.phase {
                *wanted = true;
            }
            return;
        }
        let mut eni = crate::observe::eni_from(record, Owner::Ours, now);
        eni.phase = Phase::Unattached { since: now, wanted: true };
        eni.attachment = None;
        // A create puts the tag on in the same step.
        eni.is_tagged = true;
        self.enis.insert(eni.id.clone(), eni);
    }

    fn subnet_of(&self, action: &Action) -> Option<crate::SubnetId> {
        match action {
            Action::CreateEni { spec, .. } => Some(spec.subnet.clone()),
            _ => self.enis.get(action.eni()?).map(|eni| eni.subnet.clone()),
        }
    }

    /// The addresses are not leased until the describe has caught up.
    fn doubt(&mut self, singles: &[IpAddr], prefixes: &[IpNetwork], targets: &Targets, now: Now) {
        let until = now + targets.timing.lag;
        for single in singles {
            self.gone.insert(IpNetwork::from(*single), until);
        }
        for prefix in prefixes {
            self.gone.insert(*prefix, until);
        }
    }

    fn detached(&mut self, eni: &EniId, now: Now) {
        if let Some(eni) = self.enis.get_mut(eni) {
            eni.phase = Phase::Detached { since: now };
            eni.attachment = None;
            self.links.remove(&eni.mac);
        }
    }

    fn bury(&mut self, eni: &EniId, targets: &Targets, now: Now) {
        self.forget(eni);
        self.buried.insert(eni.clone(), now + targets.timing.lag);
    }

    pub(crate) fn forget(&mut self, eni: &EniId) {
        if let Some(eni) = self.enis.remove(eni) {
            self.links.remove(&eni.mac);
        }
        self.backoffs.retain(|(_, about), _| about.as_ref() != Some(eni));
    }

    /// "Not found" right after a create is only EC2's lag.
    fn forget_unless_young(&mut self, id: &EniId, targets: &Targets, now: Now) {
        let young = self.enis.get(id).is_some_and(|eni| now.since(eni.first_seen) < targets.timing.lag);
        if !young {
            self.forget(id);
        }
    }
}

fn blocks_of(eni: &Eni) -> (Vec<IpAddr>, Vec<IpNetwork>) {
    (eni.singles.keys().copied().collect(), eni.prefixes.keys().copied().collect())
}
