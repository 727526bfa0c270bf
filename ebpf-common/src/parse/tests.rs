//! Frames, right and wrong, and what is understood of them.

use core::net::IpAddr;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::frame::Frame;
use crate::packet::Facts;

struct Bytes<'a>(&'a [u8]);

impl Packet for Bytes<'_> {
    fn facts(&self) -> Facts {
        Facts::default()
    }

    fn head<const OFF: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.0.get(OFF..OFF + N)?.try_into().ok()
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = offset as usize;
        self.0.get(at..at + N)?.try_into().ok()
    }
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn v6(last: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])
}

fn parse(frame: &[u8]) -> Result<Ip, Reason> {
    let len = u32::try_from(frame.len()).expect("short");
    let mut ip = Ip::UNKNOWN;
    match frame.get(12..14) {
        Some([0x08, 0x00]) => parse_ipv4(&Bytes(frame), len, &mut ip)?,
        _ => parse_ipv6(&Bytes(frame), len, &mut ip)?,
    }
    Ok(ip)
}

#[test]
fn ports_flags_and_types() {
    let syn = parse(&Frame::tcp((v4(1), 1000), (v4(2), 80), 2).bytes()).expect("valid");
    assert_eq!((syn.src_port, syn.dst_port, syn.proto), (1000, 80, 6));
    assert!(syn.kind.any(Kind::CONNECT));
    let answer = parse(&Frame::tcp((v6(1), 1000), (v6(2), 80), 18).bytes()).expect("valid");
    assert_eq!(answer.kind, Kind(0));
    let fin = parse(&Frame::tcp((v6(1), 1), (v6(2), 2), 17).bytes()).expect("valid");
    assert!(fin.kind.any(Kind::CLOSE));
    let init = parse(&Frame::sctp((v4(1), 1), (v4(2), 2), 1).bytes()).expect("valid");
    assert!(init.kind.any(Kind::CONNECT));
    let echo = parse(&Frame::icmp(v4(1), v4(2), 8, 77, &[]).bytes()).expect("valid");
    assert_eq!((echo.src_port, echo.dst_port, echo.kind), (77, 0, Kind(Kind::ECHO)));
    let reply = parse(&Frame::icmp(v6(1), v6(2), 129, 77, &[]).bytes()).expect("valid");
    assert_eq!((reply.src_port, reply.dst_port, reply.kind), (0, 77, Kind(0)));
}

#[test]
fn options_are_stepped_over_and_source_routes_are_not() {
    let mut frame = Frame::tcp((v4(1), 1000), (v4(2), 22), 2);
    frame.options = vec![1, 1, 1, 0];
    let ip = parse(&frame.bytes()).expect("valid");
    assert_eq!((ip.dst_port, ip.payload), (22, 38));
    // Bytes of the option must not be taken for ports.
    frame.options = vec![7, 7, 4, 0x50, 0, 0x50, 0, 0];
    assert_eq!(parse(&frame.bytes()).expect("valid").dst_port, 22);
    for kind in [131, 137] {
        frame.options = vec![kind, 7, 4, 10, 0, 0, 9, 0];
        assert_eq!(parse(&frame.bytes()), Err(Reason::Malformed));
    }
    frame.options = vec![7, 1, 0, 0];
    assert_eq!(parse(&frame.bytes()), Err(Reason::Malformed));
    frame.options = vec![1; 40];
    assert_eq!(parse(&frame.bytes()), Err(Reason::Extension));
}

#[test]
fn extension_headers_are_walked_to_the_port() {
    let mut frame = Frame::tcp((v6(1), 1000), (v6(2), 22), 2);
    frame.extensions = vec![(0, vec![0; 8]), (60, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])];
    let ip = parse(&frame.bytes()).expect("valid");
    assert_eq!((ip.proto, ip.dst_port), (6, 22));
    assert!(ip.kind.any(Kind::EXTENDED));
    // Hop-by-hop only in front.
    frame.extensions.reverse();
    assert_eq!(parse(&frame.bytes()), Err(Reason::Malformed));
    // A routing header with segments left goes elsewhere.
    frame.extensions = vec![(43, vec![0, 0, 4, 1, 0, 0, 0, 0])];
    assert_eq!(parse(&frame.bytes()), Err(Reason::Malformed));
    frame.extensions = vec![(43, vec![0, 0, 4, 0, 0, 0, 0, 0])];
    assert!(parse(&frame.bytes()).is_ok());
    for unknown in [135, 139, 140] {
        frame.extensions = vec![(unknown, vec![0; 8])];
        assert_eq!(parse(&frame.bytes()), Err(Reason::Extension));
    }
    frame.extensions = vec![(60, vec![0; 8]); 7];
    assert_eq!(parse(&frame.bytes()), Err(Reason::Extension));
    frame.extensions = vec![(60, vec![0, 200, 0, 0, 0, 0, 0, 0])];
    assert_eq!(parse(&frame.bytes()), Err(Reason::Truncated));
}

#[test]
fn fragments_tell_which_they_are() {
    let mut frame = Frame::udp((v4(1), 1000), (v4(2), 53));
    frame.fragment = (0, true);
    let first = parse(&frame.bytes()).expect("valid");
    assert!(first.kind.any(Kind::FIRST_FRAGMENT));
    assert_eq!(first.dst_port, 53);
    frame.fragment = (8, false);
    let later = parse(&frame.bytes()).expect("valid");
    assert!(later.kind.any(Kind::LATER_FRAGMENT));
    assert_eq!((later.src_port, later.dst_port), (0, 0), "payload is not ports");

    // A second fragment inside the TCP header would rewrite its flags.
    let mut tcp = Frame::tcp((v4(1), 1), (v4(2), 2), 16);
    tcp.fragment = (16, true);
    assert_eq!(parse(&tcp.bytes()), Err(Reason::Fragment));
    // And a first one without the whole header hides them.
    tcp.fragment = (0, true);
    tcp.payload.truncate(8);
    assert_eq!(parse(&tcp.bytes()), Err(Reason::Truncated));

    let mut six = Frame::udp((v6(1), 1000), (v6(2), 53));
    six.extensions = vec![Frame::fragment_header(0, false, 9)];
    let whole = parse(&six.bytes()).expect("valid");
    assert_eq!(whole.kind, Kind(Kind::FRAGMENT_HEADER), "the only fragment");
    six.extensions = vec![Frame::fragment_header(0, true, 9), (60, vec![0; 8])];
    assert_eq!(parse(&six.bytes()), Err(Reason::Extension));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let good = Frame::tcp((v4(1), 1), (v4(2), 2), 2).bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        parse(&bytes)
    };
    assert_eq!(with(14, 0x65), Err(Reason::Malformed), "version");
    assert_eq!(with(14, 0x44), Err(Reason::Malformed), "header length");
    assert_eq!(with(17, 19), Err(Reason::Malformed), "total length below the header's");
    assert_eq!(with(17, 41), Err(Reason::Truncated), "total length beyond the frame");
    assert_eq!(with(17, 39), Err(Reason::Truncated), "TCP header beyond the packet");
    assert_eq!(with(46, 4 << 4), Err(Reason::Malformed), "TCP header length");
    assert_eq!(with(23, 58), Err(Reason::Malformed), "ICMPv6 in IPv4");
    let six = Frame::new(v6(1), v6(2), 1, vec![8, 0, 0, 0, 0, 0, 0, 0]).bytes();
    assert_eq!(parse(&six), Err(Reason::Malformed), "ICMPv4 in IPv6");
}

#[test]
fn every_cut_is_truncated_and_none_panics() {
    let mut six = Frame::sctp((v6(1), 1), (v6(2), 2), 1);
    six.extensions = vec![(0, vec![0; 8]), Frame::fragment_header(0, true, 9)];
    let mut options = Frame::tcp((v4(1), 1), (v4(2), 2), 2);
    options.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let frames: [Vec<u8>; 3] = [six.bytes(), options.bytes(), Frame::icmp(v4(1), v4(2), 8, 1, &[]).bytes()];
    for frame in frames {
        assert!(parse(&frame).is_ok());
        for len in 14..frame.len() {
            assert_eq!(parse(&frame[..len]), Err(Reason::Truncated), "{len} of {}", frame.len());
        }
    }
}

#[test]
fn an_error_names_the_flow_that_it_quotes() {
    let quoted = Frame::udp((v4(1), 1000), (v4(9), 53)).packet();
    let error = Frame::icmp(v4(7), v4(1), 3, 0, &quoted[..28]).bytes();
    let ip = parse(&error).expect("valid");
    let mut inner = Inner::UNKNOWN;
    assert!(inner_flow(&Bytes(&error), &ip, &mut inner));
    assert_eq!((inner.src_port, inner.dst_port, inner.proto), (1000, 53, 17));
    assert_eq!(IpAddr::from(inner.dst), v4(9));
    // A later fragment has no ports.
    let mut fragment = Frame::udp((v4(1), 1000), (v4(9), 53));
    fragment.fragment = (16, false);
    let error = Frame::icmp(v4(7), v4(1), 3, 0, &fragment.packet()).bytes();
    let ip = parse(&error).expect("valid");
    assert!(!inner_flow(&Bytes(&error), &ip, &mut inner));
    let short = Frame::icmp(v4(7), v4(1), 3, 0, &quoted[..27]).bytes();
    let ip = parse(&short).expect("valid");
    assert!(!inner_flow(&Bytes(&short), &ip, &mut inner));
}
