//! The parts behind the ports: pool, host networking, cluster and kernel as `endpoint` and `policy` need them.
//!
//! Only translation stands here: types of one part into those of another, errors into refusals.

mod cluster;
mod host;
mod kernel;
mod pool;

pub use cluster::ClusterPort;
pub use host::HostPort;
pub use kernel::KernelPort;
pub use pool::PoolPort;
