//! Cases of policy, judged three ways: by the host's copy of the verdict code, by the kernel's
//! programs on the same maps, and by packets between namespaces behind the real filters.
//!
//! A file of cases is a JSON list. Each case is a row of steps, each step a small cluster
//! with a table of what must pass; [`format`] tells the fields. Cases follow one another in
//! the same maps, so that each is also a live change from the one before.
//!
//! Membership test: for tests and developers only, shipped by nothing.

#![forbid(unsafe_code)]

mod ask;
mod flow;
pub mod format;
mod host;
mod kernel;
mod objects;
mod packets;
mod places;
mod run;
mod scene;
mod translate;

pub use run::{Report, Via, read, run};
