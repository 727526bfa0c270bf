//! The pool against a small EC2 in simulated time.

mod events;
mod laws;
mod missing;
mod modes;
mod past;
mod sizing;
mod stories;
mod thrift;
mod untagged;
mod world;
