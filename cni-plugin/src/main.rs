//! `tidepool-cni`: one CNI verb per run, without a runtime.
//!
//! It asks the agent for an address, creates the veth pair with the pod's end
//! down, lets the agent put routes, filters and policy in force, and only then
//! brings the pod's end up. Standard output carries CNI JSON and nothing else.

#![forbid(unsafe_code)]

mod conf;
mod environment;
mod error;
mod namespace;
mod output;
mod pod;
mod result;
mod verb;
mod version;
mod veth;

use std::process::ExitCode;

use crate::{conf::NetConf, environment::Environment, error::Error, output::Clock, verb::Verb};

fn main() -> ExitCode {
    let clock = Clock::start(conf::DEFAULT_TIMEOUT);
    let mut version = version::Version::default();
    let (document, code) = match run(clock, &mut version) {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(version)), ExitCode::FAILURE),
    };
    match document {
        Some(document) if !output::print(&document) => ExitCode::FAILURE,
        _ => code,
    }
}

/// Does what the runtime asks; returns what to print, if anything. `version` is
/// set as soon as it is known, for the error.
fn run(clock: Clock, version: &mut version::Version) -> Result<Option<String>, Error> {
    let environment = Environment::read()?;
    let input = output::read_input(clock.allow(conf::DEFAULT_TIMEOUT))?;
    if environment.verb == Verb::Version {
        return verb::version::report(&input).map(Some);
    }
    let conf = NetConf::parse(&input, version)?;
    let deadline = clock.allow(conf.timeout);
    verb::run(&environment, &conf, deadline)
}
