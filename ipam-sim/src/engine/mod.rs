//! A discrete-event world: one VPC and one account's token buckets, many nodes
//! with an agent each, and a kubelet that starts pods and tries again.
//!
//! One heap of events, one clock in milliseconds, and every draw a function of
//! (seed, what it is for, its number): so a run repeats exactly, and two agents
//! on the same trace meet the same latencies and the same kubelet.

mod account;
mod agent;
mod clock;
mod cloud;
mod dice;
mod ec2;
mod eni;
mod kubelet;
mod latency;
mod ledger;
mod planner;
mod pods;
mod shell;
mod subnet;
mod world;

pub use account::{Account, Bucket};
pub use agent::{Agent, FoundEni, Host, Request, Ticket, Verdict};
pub use clock::{at_secs, millis, secs};
pub use cloud::{Cloud, SUBNET, VPC, ZONE};
pub use dice::Dice;
pub use latency::{Latencies, Spread};
pub use ledger::{Figures, Ledger, OpCount, Phase};
pub use planner::PlannerNode;
pub use pods::{Pod, PodId, PodState};
pub use shell::{News, NodeId, Shell};
pub use subnet::Subnet;
pub use world::{Driver, World};
