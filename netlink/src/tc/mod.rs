//! Traffic control: the clsact qdisc and direct-action bpf filters on it.
//!
//! clsact is a qdisc that queues nothing: it only gives an interface two chains
//! of filters. Adding it and two filters takes 0.2 ms, and a filter is replaced
//! atomically by naming its priority and handle again.

mod filter;
mod message;
mod qdisc;

pub use filter::{BpfFilter, Filter, Hook, add_filter, delete_filter, filters};
pub use qdisc::{CLSACT, Qdisc, add_clsact, delete_clsact, qdiscs};
