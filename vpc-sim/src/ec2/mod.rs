//! EC2: networks, instances, interfaces and their addresses, behind Amazon's
//! query API with its limits, latencies, throttling and refusals.
//!
//! [`Cloud`] is the whole of it; [`router`] serves it over HTTP. Inside, a pure
//! state machine takes time and chance as arguments: what depends on time is
//! computed from "now" when somebody looks, and one thread tells the fabric
//! ([`FabricPort`]) what becomes visible when.

mod address_space;
mod address_space6;
mod breakpoint;
mod calls;
mod clock;
mod cloud;
mod delay;
mod error;
mod fabric_queue;
mod fault;
mod filter;
pub mod ids;
mod instance_types;
mod metadata;
mod model;
mod operations;
mod paging;
mod params;
mod port;
mod server;
mod settings;
mod setup;
mod state;
mod tags;
#[cfg(test)]
mod tests;
mod throttle;
mod wanted_addresses;
mod xml;

pub use breakpoint::{BreakAt, BreakState, BreakpointError, BreakpointSpec, BreakpointView, HeldCall};
pub use calls::{CallRecord, Calls};
pub use clock::{Clock, HandClock, SimTime, SteadyClock};
pub use cloud::{Cloud, EniView, FabricPump, SettingsError};
pub use delay::Delay;
pub use error::ApiError;
pub use fault::{FaultError, FaultRule, IMDS_OPERATION};
pub use ids::{EniId, GroupId, InstanceId, Mac, SubnetId, VpcId};
pub use instance_types::InstanceType;
pub use model::{ACCOUNT, REGION};
pub use port::{EniLink, FabricPort, NoFabric};
pub use server::{NodeScope, router};
pub use settings::{Consistency, Latencies, Placement, Settings};
pub use setup::{InstanceFacts, NewInstance, SetupError};
pub use throttle::{Mode, Rate, Throttling};

pub(crate) use model::{Instance, InstanceState, private_dns_name, zone_id};
pub(crate) use server::dropped_connection;
pub(crate) use state::State;
