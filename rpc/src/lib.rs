//! The bytes on the agent's socket: frames, messages, versions, and a blocking
//! client.
//!
//! Membership test: what both ends of `/run/tidepool/agent.sock` must agree on
//! stands here, and nothing else. No runtime: the plugin uses [`Connection`],
//! the agent reads frames with its own runtime and [`frame_len`], [`accept`],
//! [`encode`].
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON, at most
//! [`MAX_FRAME`]. One connection carries one verb. The ADD connection carries
//! `Lease` and then `Attach`; the agent takes its closing before the answer to
//! `Attach` as the wish to undo the lease.
//!
//! Versions: see [`version`].

#![forbid(unsafe_code)]

mod client;
mod clock;
mod frame;
mod message;
mod name;
pub mod reason;
mod version;

pub use client::{ClientError, Connection, connect};
pub use clock::monotonic_ns;
pub use frame::{FrameError, HEADER_LEN, MAX_FRAME, decode, encode, frame_len};
pub use message::{Envelope, Leased, PodRef, Refusal, Reply, Request, Response, SandboxKey, code};
pub use name::{host_ifname, pod_name_hash};
pub use version::{OLDEST_VERSION, WIRE_VERSION, accept};

/// Where the agent listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tidepool/agent.sock";
