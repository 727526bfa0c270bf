//! The daemon: everything that touches the world.
//!
//! `endpoint` stands above `ipam`, `hostnet` and `datapath`, which never call each other; `k8s` and `ec2` are
//! adapters that only their shells and [`app`] see.

#![deny(unsafe_code)]

pub mod app;
pub mod cause;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod ec2;
pub mod endpoint;
pub mod flows;
pub mod hostnet;
pub mod http;
pub mod install;
pub mod ipam;
pub mod k8s;
pub mod logging;
pub mod metrics;
pub mod policy;
pub mod ports;
pub mod readiness;
pub mod rfc3339;
pub mod server;
pub mod sweep;
pub mod takeover;
