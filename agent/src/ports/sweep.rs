//! The sweeper's cloud and its Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use ipam_core::{EniId, EniRecord, InstanceId, tags};

use crate::cause::chain;
use crate::ec2::{Ec2, Ec2Result};
use crate::k8s::{LeaseClient, LeaseState, LeaseWrite};
use crate::sweep::{LeaseRecord, LeaseStore, LeaseTerms, Leftovers, Reply, Request};

/// EC2 as the sweeper needs it.
#[derive(Clone)]
pub struct LeftoversPort(pub Arc<dyn Ec2>);

impl Leftovers for LeftoversPort {
    fn unattached<'a>(&'a self, cluster: &'a str, vpc: &'a str) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        self.0.describe_unattached(cluster, vpc)
    }

    fn living<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>> {
        self.0.living_instances(instances)
    }

    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>> {
        self.0.delete(eni)
    }

    fn date<'a>(&'a self, eni: &'a EniId, created_at: String) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            let tags = BTreeMap::from([(tags::CREATED_AT.to_owned(), created_at)]);
            self.0.tag(eni, &tags).await
        })
    }
}

/// A Lease of the Kubernetes API as the election needs it.
#[derive(Debug)]
pub struct LeasePort {
    lease: LeaseClient,
    /// Whether the last request failed: what stands is told once.
    failing: AtomicBool,
}

impl LeasePort {
    /// The Lease behind `lease`.
    pub fn new(lease: LeaseClient) -> Self {
        Self { lease, failing: AtomicBool::new(false) }
    }
}

impl LeaseStore for LeasePort {
    fn ask<'a>(&'a self, request: &'a Request, terms: &'a LeaseTerms) -> BoxFuture<'a, Reply> {
        Box::pin(async move {
            let LeaseTerms { holder, duration, patience } = terms;
            let outcome = match request {
                Request::Read => match self.lease.read(*patience).await {
                    Ok(Some(state)) => Ok(Reply::Found(record(state))),
                    Ok(None) => Ok(Reply::Absent),
                    Err(error) => Err(error),
                },
                Request::Create => self.lease.create(holder, *duration, *patience).await.map(written),
                Request::Write(seen) => {
                    let seen = state(seen.clone());
                    self.lease.write(&seen, holder, *duration, *patience).await.map(written)
                }
            };
            let failed_before = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
            match outcome {
                Ok(reply) => {
                    if failed_before {
                        tracing::info!("the leak sweeper's Lease can be asked for again");
                    }
                    reply
                }
                Err(error) => {
                    if !failed_before {
                        let (class, error) = (error.class().as_str(), chain(&error));
                        tracing::warn!(class, error, "the leak sweeper's Lease cannot be asked for");
                    }
                    Reply::Failed
                }
            }
        })
    }
}

fn written(outcome: LeaseWrite) -> Reply {
    match outcome {
        LeaseWrite::Done(state) => Reply::Written(record(state)),
        LeaseWrite::Conflict => Reply::Conflict,
        LeaseWrite::Absent => Reply::Absent,
    }
}

fn record(LeaseState { holder, duration, transitions, version }: LeaseState) -> LeaseRecord {
    LeaseRecord { holder, duration, transitions, version }
}

fn state(LeaseRecord { holder, duration, transitions, version }: LeaseRecord) -> LeaseState {
    LeaseState { holder, duration, transitions, version }
}
