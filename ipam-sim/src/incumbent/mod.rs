//! A model of the incumbent's pool: amazon-vpc-cni-k8s v1.23.1, one network
//! card, secondary addresses and prefixes, subnet discovery on (its default).
//!
//! Decisions and the order of calls follow its source (`pkg/ipamd/ipamd.go`,
//! `pkg/ipamd/datastore/data_store.go`, `pkg/awsutils/awsutils.go`): one
//! goroutine that does everything in turn, one growth action in each pass of
//! the pool monitor. What takes time is drawn from the same world as ours.

mod agent;
mod calls;
mod datastore;
mod fleet;
mod freeing;
mod growing;

pub use agent::Incumbent;
pub use datastore::{Datastore, Settings};
pub use fleet::{FleetSpec, run as run_fleet};
