//! The pool against a small EC2 in simulated time.

mod laws;
mod sizing;
mod stories;
mod world;
