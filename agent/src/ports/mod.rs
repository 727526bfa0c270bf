//! The parts behind the ports: pool, host networking, cluster and kernel as `endpoint` and `policy` need them.
//!
//! Only translation stands here: types of one part into those of another, errors into refusals.

mod calls;
mod cluster;
mod flows;
mod host;
mod kernel;
mod pool;
mod sweep;
mod teller;

pub use calls::CallPort;
pub use cluster::ClusterPort;
pub use flows::{KnownPort, RingPort};
pub use host::HostPort;
pub use kernel::KernelPort;
pub use pool::PoolPort;
pub use sweep::{LeasePort, LeftoversPort};
pub use teller::Teller;
