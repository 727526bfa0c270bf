//! Which versions understand each other.
//!
//! Plugin and agent are replaced one after the other, so each side knows its
//! own version N and the one before it:
//!
//! - the plugin writes its newest version first;
//! - an agent that knows it answers in the same version;
//! - an agent that does not refuses with [`reason::UNKNOWN_VERSION`] in a
//!   [`Reply`] that carries the newest version it knows, a shape that no version
//!   may change; the plugin asks again on the same connection in that version
//!   if it knows it.
//!
//! Within a version only optional fields are added. A field that is removed, or
//! one that changes its meaning, is a new version.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Envelope, Refusal, Reply, Request, Response, code, reason};

/// The version that this code writes.
pub const WIRE_VERSION: u16 = 1;

/// The oldest version that this code understands: N-1, and never 0.
pub const OLDEST_VERSION: u16 = if WIRE_VERSION > 1 { WIRE_VERSION - 1 } else { 1 };

/// What every version's envelope has in common.
#[derive(Deserialize)]
struct AnyEnvelope<'a> {
    version: u16,
    deadline_ms: u64,
    #[serde(borrow)]
    request: &'a RawValue,
}

/// Reads a request (the body of a frame). The error is the reply to send.
pub fn accept(body: &[u8]) -> Result<Envelope, Reply> {
    let refuse = |version, reason, message: String| Reply {
        version,
        response: Response::Error(Refusal::new(code::DECODING_FAILURE, reason, message)),
    };
    let any: AnyEnvelope<'_> = serde_json::from_slice(body).map_err(|error| {
        refuse(WIRE_VERSION, reason::MALFORMED, format!("the request cannot be read: {error}"))
    })?;
    if !(OLDEST_VERSION..=WIRE_VERSION).contains(&any.version) {
        return Err(refuse(
            WIRE_VERSION,
            reason::UNKNOWN_VERSION,
            format!(
                "the plugin speaks version {}, the agent {OLDEST_VERSION} to {WIRE_VERSION}",
                any.version
            ),
        ));
    }
    let request: Request = serde_json::from_str(any.request.get()).map_err(|error| {
        refuse(any.version, reason::MALFORMED, format!("the request cannot be read: {error}"))
    })?;
    Ok(Envelope { version: any.version, deadline_ms: any.deadline_ms, request })
}

/// The version to ask in after `refused`, when the answer to a request in
/// version `asked` was a refusal for its version.
pub(crate) fn step_down(asked: u16, reply: &Reply) -> Option<u16> {
    let Response::Error(refusal) = &reply.response else {
        return None;
    };
    let known = (OLDEST_VERSION..=WIRE_VERSION).contains(&reply.version);
    (refusal.reason == reason::UNKNOWN_VERSION && known && reply.version < asked).then_some(reply.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (u16, String) {
        let reply = accept(body.as_bytes()).expect_err("must be refused");
        let Response::Error(refusal) = reply.response else {
            panic!("not a refusal: {reply:?}");
        };
        (reply.version, refusal.reason)
    }

    #[test]
    fn own_version_is_accepted_with_unknown_fields() {
        let body = r#"{"version":1,"deadline_ms":500,"later":true,"request":{"release":{"key":{"network":"n","container_id":"c","ifname":"eth0","x":1},"y":2}}}"#;
        let envelope = accept(body.as_bytes()).expect("version 1");
        assert_eq!(envelope.deadline_ms, 500);
        assert_eq!(envelope.request.verb(), "release");
    }

    #[test]
    fn a_lease_without_optional_fields_is_accepted() {
        let body = r#"{"version":1,"deadline_ms":1,"request":{"lease":{"key":{"network":"n","container_id":"c","ifname":"eth0"},"netns":"/n"}}}"#;
        let envelope = accept(body.as_bytes()).expect("version 1");
        assert!(matches!(envelope.request, Request::Lease { pod: None, egress_shaped: false, .. }));
    }

    #[test]
    fn other_versions_are_refused_with_ours() {
        for version in ["0", "2", "900"] {
            let body =
                format!(r#"{{"version":{version},"deadline_ms":1,"request":{{"shape":["of","another"]}}}}"#);
            assert_eq!(refused(&body), (WIRE_VERSION, reason::UNKNOWN_VERSION.to_owned()));
        }
    }

    #[test]
    fn unknown_verbs_and_garbage_are_refused() {
        for body in [r#"{"version":1,"deadline_ms":1,"request":"dance"}"#, "{}", "", "[1]", "\u{1}"] {
            assert_eq!(refused(body).1, reason::MALFORMED, "{body}");
        }
    }

    #[test]
    fn step_down_only_to_a_version_that_is_known_and_older() {
        let reply =
            |version, reason| Reply { version, response: Response::Error(Refusal::new(6, reason, "")) };
        assert_eq!(step_down(2, &reply(1, reason::UNKNOWN_VERSION)), Some(1));
        assert_eq!(step_down(1, &reply(1, reason::UNKNOWN_VERSION)), None);
        assert_eq!(step_down(2, &reply(0, reason::UNKNOWN_VERSION)), None);
        assert_eq!(step_down(2, &reply(1, reason::NOT_SYNCED)), None);
    }
}
