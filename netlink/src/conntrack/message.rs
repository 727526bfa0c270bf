//! One flow from its bytes.

use std::time::Duration;

use super::{Flow, Icmp, Tcp, Tuple};
use crate::wire::{attribute, read_address};

/// `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ZONE: u16 = 18;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_DYING: u32 = 1 << 9;

/// Values of `enum tcp_conntrack`.
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
const TCP_CONNTRACK_CLOSE: u8 = 8;

/// The flow in a message's body; none where the message has no addresses, the
/// flow is being removed, or it is tracked in a zone of its own: there the same
/// addresses are somebody else's.
pub(super) fn parse(body: &[u8]) -> Option<Flow> {
    let attributes = body.get(HEADER_LEN..)?;
    let status = attribute(attributes, CTA_STATUS).and_then(be32).unwrap_or(0);
    let (original, reply) = (attribute(attributes, CTA_TUPLE_ORIG)?, attribute(attributes, CTA_TUPLE_REPLY)?);
    let zones = [(attributes, CTA_ZONE), (original, CTA_TUPLE_ZONE), (reply, CTA_TUPLE_ZONE)];
    let zoned =
        zones.into_iter().any(|(place, zone)| attribute(place, zone).and_then(be16).unwrap_or(0) != 0);
    if status & IPS_DYING != 0 || zoned {
        return None;
    }
    let state = attribute(attributes, CTA_PROTOINFO)
        .and_then(|info| attribute(info, CTA_PROTOINFO_TCP))
        .and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE))
        .and_then(|state| state.first().copied());
    Some(Flow {
        original: tuple(original)?,
        reply: tuple(reply)?,
        seen_reply: status & IPS_SEEN_REPLY != 0,
        assured: status & IPS_ASSURED != 0,
        remaining: attribute(attributes, CTA_TIMEOUT)
            .and_then(be32)
            .map(|seconds| Duration::from_secs(seconds.into())),
        tcp: state.map(|state| match state {
            TCP_CONNTRACK_ESTABLISHED => Tcp::Established,
            state if state > TCP_CONNTRACK_ESTABLISHED && state <= TCP_CONNTRACK_CLOSE => Tcp::Closing,
            _ => Tcp::Opening,
        }),
    })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let ip = attribute(bytes, CTA_TUPLE_IP)?;
    let either = |v4, v6| attribute(ip, v4).or_else(|| attribute(ip, v6)).and_then(read_address);
    let proto = attribute(bytes, CTA_TUPLE_PROTO)?;
    let number = |which| attribute(proto, which);
    let icmp = |kind, id| Some(Icmp { kind: *number(kind)?.first()?, id: number(id).and_then(be16)? });
    Some(Tuple {
        src: either(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        dst: either(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        proto: *number(CTA_PROTO_NUM)?.first()?,
        src_port: number(CTA_PROTO_SRC_PORT).and_then(be16).unwrap_or(0),
        dst_port: number(CTA_PROTO_DST_PORT).and_then(be16).unwrap_or(0),
        icmp: icmp(CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_ID)
            .or_else(|| icmp(CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_ID)),
    })
}

fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Attributes;

    fn written(src: [u8; 4], dst: [u8; 4], proto: &Attributes) -> Attributes {
        let ip = Attributes::new().bytes(CTA_IP_V4_SRC, &src).bytes(CTA_IP_V4_DST, &dst);
        Attributes::new().nested(CTA_TUPLE_IP, &ip).nested(CTA_TUPLE_PROTO, proto)
    }

    fn ports(proto: u8, src: u16, dst: u16) -> Attributes {
        Attributes::new()
            .bytes(CTA_PROTO_NUM, &[proto])
            .bytes(CTA_PROTO_SRC_PORT, &src.to_be_bytes())
            .bytes(CTA_PROTO_DST_PORT, &dst.to_be_bytes())
    }

    fn body(status: u32, original: &Attributes, reply: &Attributes, state: Option<u8>) -> Vec<u8> {
        let mut all = Attributes::new()
            .nested(CTA_TUPLE_ORIG, original)
            .nested(CTA_TUPLE_REPLY, reply)
            .be32(CTA_STATUS, status);
        if let Some(state) = state {
            let tcp = Attributes::new().bytes(CTA_PROTOINFO_TCP_STATE, &[state]);
            all = all.nested(CTA_PROTOINFO, &Attributes::new().nested(CTA_PROTOINFO_TCP, &tcp));
        }
        [&[2, 0, 0, 0], all.as_bytes()].concat()
    }

    #[test]
    fn a_translated_connection_keeps_both_tuples() {
        let original = written([10, 0, 0, 1], [172, 20, 0, 10], &ports(6, 4000, 80));
        let reply = written([10, 0, 0, 2], [10, 0, 0, 1], &ports(6, 8080, 4000));
        let flow = parse(&body(IPS_SEEN_REPLY | 4 | 8, &original, &reply, Some(3))).expect("whole");
        assert_eq!((flow.original.src, flow.original.dst_port), ("10.0.0.1".parse().unwrap(), 80));
        assert_eq!((flow.reply.src, flow.reply.src_port), ("10.0.0.2".parse().unwrap(), 8080));
        assert!(flow.seen_reply && flow.tcp == Some(Tcp::Established));
        for (state, tcp) in [(1, Tcp::Opening), (2, Tcp::Opening), (4, Tcp::Closing), (8, Tcp::Closing)] {
            assert_eq!(parse(&body(0, &original, &reply, Some(state))).expect("whole").tcp, Some(tcp));
        }
        assert_eq!(parse(&body(IPS_SEEN_REPLY | IPS_DYING, &original, &reply, Some(3))), None, "it ends");
    }

    #[test]
    fn what_is_left_of_its_time_is_told_and_zones_are_not_ours() {
        let tuple = written([10, 0, 0, 1], [10, 0, 0, 2], &ports(17, 4000, 53));
        let plain = body(IPS_SEEN_REPLY | IPS_ASSURED, &tuple, &tuple, None);
        let and = |more: Attributes| parse(&[&plain, more.as_bytes()].concat());
        let flow = and(Attributes::new().be32(CTA_TIMEOUT, 77)).expect("whole");
        assert_eq!((flow.assured, flow.remaining), (true, Some(Duration::from_secs(77))));
        assert!(and(Attributes::new().bytes(CTA_ZONE, &[0, 0])).is_some(), "the default zone");
        assert_eq!(and(Attributes::new().bytes(CTA_ZONE, &[0, 9])), None);
        let zoned =
            written([10, 0, 0, 2], [10, 0, 0, 1], &ports(17, 53, 4000)).bytes(CTA_TUPLE_ZONE, &[0, 9]);
        assert_eq!(parse(&body(IPS_SEEN_REPLY, &tuple, &zoned, None)), None, "in one direction");
    }

    #[test]
    fn an_echo_has_its_identifier() {
        let echo = Attributes::new()
            .bytes(CTA_PROTO_NUM, &[1])
            .bytes(CTA_PROTO_ICMP_ID, &77_u16.to_be_bytes())
            .bytes(CTA_PROTO_ICMP_TYPE, &[8]);
        let tuple = written([10, 0, 0, 1], [10, 0, 0, 2], &echo);
        let flow = parse(&body(0, &tuple, &tuple, None)).expect("whole");
        assert_eq!(flow.original.icmp, Some(Icmp { kind: 8, id: 77 }));
        assert_eq!((flow.original.src_port, flow.tcp, flow.seen_reply), (0, None, false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_flow_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
