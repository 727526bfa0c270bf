//! One action, one EC2 call, one reply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ipam_core::{Action, CreateSpec, InstanceId, Intent, IntentId, Operation, Reply, tags};
use tracing::{debug, info, warn};

use super::journal::Journal;
use crate::ec2::{Assigned, Ec2, Ec2Error, NewEni};

/// What the executor needs to know beside the action.
#[derive(Clone)]
pub(super) struct Executor {
    pub(super) ec2: Arc<dyn Ec2>,
    pub(super) journal: Journal,
    pub(super) instance: InstanceId,
    pub(super) cluster: Option<String>,
    pub(super) extra_tags: BTreeMap<String, String>,
}

/// How an action ended.
pub(super) struct Ended {
    pub(super) id: IntentId,
    pub(super) operation: Operation,
    pub(super) outcome: Result<Reply, Ec2Error>,
}

impl Executor {
    /// Executes an intent. A change is journaled before it is asked for.
    pub(super) async fn run(self, intent: Intent) -> Ended {
        let operation = intent.action.operation();
        let outcome = if operation.is_mutating() {
            self.journaled(&intent).await
        } else {
            self.call(&intent.action).await
        };
        match &outcome {
            Ok(_) if operation.is_mutating() => {
                info!(%operation, eni = intent.action.eni().map(tracing::field::display), "EC2 call done")
            }
            Ok(_) => debug!(%operation, "EC2 call done"),
            Err(error) => {
                warn!(%operation, class = error.class.as_str(), error = %chain(error), "EC2 call failed")
            }
        }
        Ended { id: intent.id, operation, outcome }
    }

    async fn journaled(&self, intent: &Intent) -> Result<Reply, Ec2Error> {
        let operation = intent.action.operation();
        let line = self.journal.begin(intent.action.clone()).await.map_err(|error| {
            // Nothing was asked for: without a journal nothing may be changed.
            let message = "the change could not be journaled";
            Ec2Error::unanswered(operation, message, false, Some(Box::new(error)))
        })?;
        let outcome = self.call(&intent.action).await;
        // A change of unknown outcome stays open in memory and is settled by a
        // describe; after a crash the next process does that anyway.
        if let Err(error) = self.journal.end(line).await {
            warn!(error = %chain(&error), "the end of a change could not be journaled");
        }
        outcome
    }

    async fn call(&self, action: &Action) -> Result<Reply, Ec2Error> {
        match action {
            Action::CreateEni { spec, token } => {
                let Some(token) = token else {
                    return Err(Ec2Error::nonsense(Operation::CreateEni, "a create without a token"));
                };
                let eni = self.new_eni(spec, token.clone());
                self.ec2.create_eni(&eni).await.map(Reply::Created)
            }
            Action::Attach { eni, device_index, network_card } => {
                let attached = self.ec2.attach(eni, &self.instance, *device_index, *network_card).await;
                attached.map(Reply::Attached)
            }
            Action::SetDeleteOnTermination { eni, attachment } => {
                self.ec2.set_delete_on_termination(eni, attachment).await.map(|()| Reply::Done)
            }
            Action::SetGroups { eni, groups } => self.ec2.set_groups(eni, groups).await.map(|()| Reply::Done),
            Action::Assign { eni, want } => {
                let assigned = self.ec2.assign(eni, *want).await;
                assigned.map(|Assigned { singles, prefixes }| Reply::Assigned { singles, prefixes })
            }
            Action::Unassign { eni, singles, prefixes } => {
                self.ec2.unassign(eni, singles, prefixes).await.map(|()| Reply::Done)
            }
            Action::Detach { attachment, .. } => self.ec2.detach(attachment).await.map(|()| Reply::Done),
            Action::DeleteEni { eni } => self.ec2.delete(eni).await.map(|()| Reply::Done),
            Action::DescribeEnis => self.ec2.describe_enis(&self.instance).await.map(Reply::Enis),
            Action::DescribeSubnets { query } => self.ec2.describe_subnets(query).await.map(Reply::Subnets),
        }
    }

    fn new_eni(&self, spec: &CreateSpec, token: ipam_core::ClientToken) -> NewEni {
        // The incumbent's reserved names cannot be set by an operator.
        let mut all = self.extra_tags.clone();
        all.retain(|key, _| !key.contains("k8s.amazonaws.com"));
        all.insert(tags::INSTANCE_ID.to_owned(), self.instance.as_str().to_owned());
        all.insert(tags::CREATED_AT.to_owned(), crate::rfc3339::write(SystemTime::now()));
        all.insert(tags::INTENT.to_owned(), token.as_str().to_owned());
        if let Some(cluster) = &self.cluster {
            all.insert(tags::CLUSTER.to_owned(), cluster.clone());
            all.insert(tags::OWNER.to_owned(), tags::OWNER_VALUE.to_owned());
        }
        NewEni {
            subnet: spec.subnet.clone(),
            groups: spec.groups.clone(),
            want: spec.want,
            description: format!("aws-K8S-{}", self.instance),
            tags: all,
            token,
        }
    }
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
