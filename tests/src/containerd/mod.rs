//! A real container runtime in the nodes of a [`World`](crate::world::World), and the agent in a container of it.

pub mod agent_pod;
pub mod cri;
mod grpc;
pub mod image;
pub mod manifest;
pub mod message;
pub mod node;
pub mod pods;
pub mod proxy;
pub mod traces;

pub use grpc::Status;
