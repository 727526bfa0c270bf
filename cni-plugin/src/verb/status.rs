//! STATUS.

use std::time::{Duration, Instant};

use rpc::{Refusal, Request, Response, code};

use super::{ask_on, require};
use crate::{conf::NetConf, error::Error, version::Version};

/// The runtime asks every few seconds and waits: it gets the answer of now, but
/// an agent that is just being replaced is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Could an ADD be served? 50 while the agent is away or not ready.
pub(super) fn run(conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    require(conf, Version::V1_1_0, "STATUS")?;
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let asked = rpc::connect(&conf.socket, deadline).map_err(Error::from).and_then(|mut connection| {
        ask_on(&mut connection, Request::Status, |answer| matches!(answer, Response::Ready).then_some(()))
    });
    asked.map_err(|error| match error {
        Error::Agent(error) => Error::Refused(Refusal::new(
            code::NOT_AVAILABLE,
            "agent-unreachable",
            Error::Agent(error).chain(),
        )),
        other => other,
    })
}
