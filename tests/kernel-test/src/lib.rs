//! What tests that touch the kernel share: a front that says what a test
//! needs, network namespaces of their own, and waiting for a state.
//!
//! A test target with `harness = false` lists its trials:
//!
//! ```no_run
//! use kernel_test::{Need, NetNs, trial};
//!
//! fn main() {
//!     kernel_test::run(vec![trial("loopback_is_down_at_first", &[Need::Root, Need::NetNs], || {
//!         let ns = NetNs::new()?;
//!         let links = ns.output("ip", &["link", "show", "lo"])?;
//!         anyhow::ensure!(links.contains("DOWN"), "{links}");
//!         Ok(())
//!     })]);
//! }
//! ```
//!
//! A need that this machine does not meet reports the trial as *ignored* with
//! the reason. `REQUIRE_KERNEL=1` turns that into a failure for every need that
//! `cargo xtask setup` checks or provides ([`Need::is_required`]).
//!
//! Membership test of this crate: used by tests and by setup, shipped by nothing.

pub mod bpf;
pub mod bpf_map;
pub mod bpf_run;
mod feature;
mod need;
mod netns;
mod stall;
mod trial;
mod wait;

pub use feature::{Feature, REQUIRED};
pub use need::{Need, find_in_path};
pub use netns::NetNs;
pub use stall::within;
pub use trial::{run, run_one_at_a_time, run_one_at_a_time_then, trial};
pub use wait::wait_for;

/// A trial as [`run`] takes it.
pub use libtest_mimic::Trial;
