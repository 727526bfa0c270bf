//! A simulated Kubernetes API: what the agent, kubectl and other clients need
//! of it, over HTTP, kept in memory.
//!
//! [`Store`] holds the objects, their history and the rules of each kind;
//! [`router`] puts HTTP around it. There is no scheduler, no controller and no
//! authorisation: whoever uses it creates pods, binds them and acts as their
//! kubelet. Namespaces alone are emptied and removed by the store itself.
//!
//! What a client meets follows the real library: versions are one counter of
//! the whole store, a watch starts from any version that the bounded history
//! still reaches, an older one is answered by HTTP 200 and an `ERROR` event
//! with code 410, and lists are chunked consistently at one version.
//! Server-side apply is refused with 415.

mod clock;
mod discovery;
mod error;
mod fault_router;
mod faults;
mod http;
mod kinds;
mod lookup;
mod openapi;
mod patch;
mod protobuf;
mod selector;
mod store;
mod table;

pub use error::ApiError;
pub use fault_router::fault_router;
pub use faults::{Closing, FailRule, OpenWatch};
pub use http::router;
pub use store::Store;
