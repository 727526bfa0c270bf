//! The instance metadata service, version 2: what an instance learns of itself,
//! later than EC2 knows it.

mod server;
mod token;
mod tree;

pub use server::{Resolver, router};
