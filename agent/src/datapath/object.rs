//! The compiled programs inside the agent's own file.

/// The object that `build.rs` was given, or nothing. Aligned as the loader needs it.
pub static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));
