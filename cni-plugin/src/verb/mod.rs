//! The verbs.

mod add;
mod check;
mod collect;
mod delete;
mod status;
pub(crate) mod version;

use std::time::Instant;

use rpc::{Connection, Request, Response};

use crate::{conf::NetConf, environment::Environment, error::Error, version::Version};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Delete,
    Check,
    Status,
    Collect,
    Version,
}

impl Verb {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Delete,
            "CHECK" => Self::Check,
            "STATUS" => Self::Status,
            "GC" => Self::Collect,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Whether it is about one sandbox.
    pub(crate) fn has_sandbox(self) -> bool {
        matches!(self, Self::Add | Self::Delete | Self::Check)
    }
}

/// Does what the verb says; returns what to print, if anything.
pub(crate) fn run(
    environment: &Environment,
    conf: &NetConf,
    deadline: Instant,
) -> Result<Option<String>, Error> {
    match environment.verb {
        Verb::Add => add::run(environment, conf, deadline).map(Some),
        Verb::Delete => delete::run(environment, conf, deadline).map(|()| None),
        Verb::Check => check::run(environment, conf, deadline).map(|()| None),
        Verb::Status => status::run(conf, deadline).map(|()| None),
        Verb::Collect => collect::run(environment, conf, deadline).map(|()| None),
        // Answered before there is a configuration.
        Verb::Version => Ok(None),
    }
}

/// Refuses a verb that the configuration's version does not have.
fn require(conf: &NetConf, needed: Version, verb: &'static str) -> Result<(), Error> {
    if conf.version < needed { Err(Error::VerbVersion { verb, needed: needed.as_str() }) } else { Ok(()) }
}

/// Asks the agent one thing, again if it is restarted in between. `pick` takes
/// the answer that belongs to the question.
fn ask<T>(
    conf: &NetConf,
    deadline: Instant,
    request: &Request,
    pick: impl Fn(Response) -> Option<T>,
) -> Result<T, Error> {
    loop {
        let mut connection = rpc::connect(&conf.socket, deadline)?;
        match ask_on(&mut connection, request.clone(), &pick) {
            Err(Error::Agent(error)) if error.is_restart() => {}
            Err(Error::Refused(refusal)) if refusal.retryable && Instant::now() < deadline => pause(deadline),
            outcome => return outcome,
        }
    }
}

/// Asks once, on this connection.
fn ask_on<T>(
    connection: &mut Connection,
    request: Request,
    pick: impl Fn(Response) -> Option<T>,
) -> Result<T, Error> {
    let verb = request.verb();
    match connection.call(request)? {
        Response::Error(refusal) => Err(Error::Refused(refusal)),
        answer => pick(answer).ok_or(Error::Answer { verb }),
    }
}

/// Between two attempts that the agent asked for.
fn pause(deadline: Instant) {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
}
