//! What the kernel programs and user space share.
//!
//! Membership test: a thing belongs here only if it is compiled for the kernel
//! *and* for the host. Map layouts stand in [`abi`], the packet parser, the
//! connection tracking steps and the verdict beside it. Nothing here touches a
//! map, a clock or a packet itself: all of that comes in by a trait, which the
//! kernel programs implement with helpers and the tests with tables.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod abi;
pub mod conntrack;
pub mod env;
#[cfg(not(target_arch = "bpf"))]
pub mod frame;
#[cfg(not(target_arch = "bpf"))]
pub mod host;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod verdict;
