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

use crate::{conf::NetConf, environment::Environment, error::Error, output::Output, verb::Verb};

fn main() -> ExitCode {
    let output = Output::start(conf::DEFAULT_TIMEOUT);
    let mut version = version::Version::default();
    match run(&output, &mut version) {
        Ok(document) => output.finish(document.as_deref(), ExitCode::SUCCESS),
        Err(error) => output.finish(Some(&error.to_json(version)), ExitCode::FAILURE),
    }
}

/// Does what the runtime asks; returns what to print, if anything. `version` is
/// set as soon as it is known, for the error.
fn run(output: &Output, version: &mut version::Version) -> Result<Option<String>, Error> {
    let environment = Environment::read()?;
    let input = std::io::read_to_string(std::io::stdin()).map_err(Error::Stdin)?;
    if environment.verb == Verb::Version {
        return verb::version::report(&input).map(Some);
    }
    let conf = NetConf::parse(&input, version)?;
    let deadline = output.allow(conf.timeout);
    verb::run(&environment, &conf, deadline)
}
