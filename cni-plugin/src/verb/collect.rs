//! GC.

use std::time::Instant;

use rpc::{Request, Response};

use super::{ask, require};
use crate::{conf::NetConf, error::Error, version::Version};

/// Releases what belongs to attachments that the runtime no longer has. A list
/// that is missing is no empty list: that would release everything.
pub(super) fn run(conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    require(conf, Version::V1_1_0, "GC")?;
    let valid = conf
        .valid_attachments
        .clone()
        .ok_or_else(|| Error::Field { field: "cni.dev/valid-attachments", problem: "is missing".into() })?;
    let request = Request::Gc { network: conf.name.clone(), valid };
    ask(conf, deadline, &request, |answer| matches!(answer, Response::Collected { .. }).then_some(()))
}
