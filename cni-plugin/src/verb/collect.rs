//! GC.

use std::time::Instant;

use rpc::{Request, Response};

use super::{ask, require};
use crate::{conf::NetConf, environment::Environment, error::Error, version::Version};

/// Lets the agent release what belongs to attachments that the runtime no longer has, and delete their links. The
/// specification demands the list; one that is missing is no empty list, which would release everything. It is no error
/// either: `cnitool gc` gives none, after a DEL of all that it knows.
pub(super) fn run(environment: &Environment, conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    require(conf, Version::V1_1_0, "GC")?;
    let Some(valid) = conf.valid_attachments.clone() else {
        return Ok(());
    };
    let request = Request::Gc { network: conf.name.clone(), valid, begun_ns: environment.begun_ns };
    ask(conf, deadline, &request, |answer| matches!(answer, Response::Collected { .. }).then_some(()))
}
