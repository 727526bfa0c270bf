//! Protocols and ports of ClusterNetworkPolicies.

use super::raw_cluster::{RawClusterProtocol, RawTransport};
use crate::model::{PortMatch, PortRange, Protocol};

pub(super) fn read_protocol(raw: &RawClusterProtocol) -> Result<Vec<PortMatch>, String> {
    let named = Some(raw.destination_named_port.as_str()).filter(|name| !name.is_empty());
    match (&raw.tcp, &raw.udp, &raw.sctp, named) {
        (Some(tcp), None, None, None) => transport(Protocol::Tcp, tcp),
        (None, Some(udp), None, None) => transport(Protocol::Udp, udp),
        (None, None, Some(sctp), None) => transport(Protocol::Sctp, sctp),
        // The name alone says which port, so it is asked for in every protocol.
        (None, None, None, Some(name)) => {
            Ok(Protocol::ALL.map(|protocol| PortMatch::Named { protocol, name: name.into() }).into())
        }
        (None, None, None, None) => {
            Err("it says nothing that is known here: tcp, udp, sctp or destinationNamedPort".to_owned())
        }
        _ => Err("it says more than one thing; split it".to_owned()),
    }
}

fn transport(protocol: Protocol, raw: &RawTransport) -> Result<Vec<PortMatch>, String> {
    let number = |value: i64| match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{value} is not a port, only 1 to 65535 are")),
    };
    let Some(port) = &raw.destination_port else {
        return Err("destinationPort is missing; leave protocols out for every packet".to_owned());
    };
    let range = match (port.number, port.range) {
        (Some(single), None) => PortRange::single(protocol, number(single)?),
        (None, Some((first, last))) => {
            let range = PortRange { protocol, first: number(first)?, last: number(last)? };
            if range.first > range.last {
                return Err(format!("a range ends at {last}, before its start {first}"));
            }
            range
        }
        _ => return Err("one of number and range must be set".to_owned()),
    };
    Ok(vec![PortMatch::Numbers(range)])
}
