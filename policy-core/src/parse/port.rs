//! Ports of rules.

use super::raw::{RawPort, RawPortValue};
use crate::model::{PortMatch, PortRange, Protocol};

/// What is wrong with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortFault {
    #[error("protocol {0:?} is not known, only TCP, UDP and SCTP are")]
    Protocol(String),
    #[error("{0} is not a port, only 1 to 65535 are")]
    Number(i32),
    #[error("a port's name is empty: leave port out for all ports of the protocol")]
    EmptyName,
    #[error("endPort without port: give the first port, too")]
    EndWithoutPort,
    #[error("endPort with the named port {0:?}: give its number, or leave endPort out")]
    EndWithName(String),
    #[error("endPort {last} is below port {first}")]
    EndBeforePort { first: i32, last: i32 },
}

pub(super) fn parse_port(raw: &RawPort) -> Result<PortMatch, PortFault> {
    let protocol = match raw.protocol.as_deref() {
        None => Protocol::Tcp,
        Some(name) => Protocol::from_name(name).ok_or_else(|| PortFault::Protocol(name.to_owned()))?,
    };
    let number = |value: i32| match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(PortFault::Number(value)),
    };
    match (&raw.port, raw.end_port) {
        (None, None) => Ok(PortMatch::Numbers(PortRange::all_of(protocol))),
        (None, Some(_)) => Err(PortFault::EndWithoutPort),
        (Some(RawPortValue::Name(name)), Some(_)) => Err(PortFault::EndWithName(name.clone())),
        (Some(RawPortValue::Name(name)), None) if name.is_empty() => Err(PortFault::EmptyName),
        (Some(RawPortValue::Name(name)), None) => {
            Ok(PortMatch::Named { protocol, name: name.as_str().into() })
        }
        (Some(RawPortValue::Number(first)), None) => {
            Ok(PortMatch::Numbers(PortRange::single(protocol, number(*first)?)))
        }
        (Some(RawPortValue::Number(first)), Some(last)) => {
            let range = PortRange { protocol, first: number(*first)?, last: number(last)? };
            if range.first > range.last {
                return Err(PortFault::EndBeforePort { first: *first, last });
            }
            Ok(PortMatch::Numbers(range))
        }
    }
}
