//! Packets that seem to come from the node, and are not; and tags that hide what they carry.

use std::io::ErrorKind;
use std::net::TcpListener;

use anyhow::{Result, ensure};
use ebpf_common::abi::{PeerValue, Reason, proto};
use ebpf_common::frame::Frame;
use policy_core::Step;

use super::packets::count;
use super::wire::{Who, Wire};
use super::world::sets;

/// A node that tracks connections, as every node with a service proxy does: fragments are put together and cut anew.
const TRACKED: &str = "table inet tracked {
    chain forward { type filter hook forward priority 0; ct state established counter; }
}";

/// The kernel cuts a packet anew whose first fragment had a long hop-by-hop header, and forgets where it came from.
pub(crate) fn fragments_as_the_node() -> Result<()> {
    let wire = Wire::new()?;
    wire.pods.node.ns.input("nft", &["-f", "-"], TRACKED)?;
    wire.with(|dp| {
        // An option that is skipped where it is not known, so long that the header has 64 bytes.
        let mut hop_by_hop = vec![0, 7, 0x1e, 60];
        hop_by_hop.resize(64, 0);
        let cut = |from: Who, port: u16, id| {
            let mut whole = Frame::udp((from.v6(), 4000), (Who::B.v6(), port)).payload;
            whole.resize(160, 0xaa);
            whole[4..6].copy_from_slice(&160_u16.to_be_bytes());
            let sum = checksum(from, &whole);
            whole[6..8].copy_from_slice(&sum.to_be_bytes());
            let piece = |offset: u16, more, data: &[u8]| {
                let mut frame = Frame::new(from.v6(), Who::B.v6(), proto::UDP, data.to_vec());
                frame.extensions = vec![(0, hop_by_hop.clone()), Frame::fragment_header(offset, more, id)];
                frame
            };
            [piece(0, true, &whole[..80]), piece(80, false, &whole[80..])]
        };
        dp.apply(&[sets(1, 0, 0, 2)])?;
        for (id, from) in [(1, Who::A), (2, Who::Outside)] {
            let way = (from, Who::B);
            wire.carries(way, "allowed", &cut(from, 53, id))?;
            let node = count(dp, Reason::LocalNode)?;
            wire.refuses(dp, way, "denied", &cut(from, 54, id + 10), Reason::Policy)?;
            ensure!(count(dp, Reason::LocalNode)? == node, "taken for the node");
        }
        Ok(())
    })
}

/// The sum over the pseudo header and the packet.
fn checksum(from: Who, udp: &[u8]) -> u16 {
    let (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) = (from.v6(), Who::B.v6()) else { return 0 };
    let mut bytes = [a.octets(), b.octets()].concat();
    bytes.extend_from_slice(&u32::try_from(udp.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, proto::UDP]);
    bytes.extend_from_slice(udp);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A NodePort of a Service whose traffic policy is Cluster, and B behind it: what comes to B has the node's address.
pub(crate) fn node_ports_as_the_node() -> Result<()> {
    const RULES: &str = "table ip proxy {
        chain before { type nat hook prerouting priority dstnat; ip daddr 10.0.0.100 tcp dport 30080 dnat to 10.0.0.2:8080; }
        chain after { type nat hook postrouting priority srcnat; ip daddr 10.0.0.2 ct status dnat masquerade; }
    }";
    let wire = Wire::new()?;
    wire.pods.node.ns.input("nft", &["-f", "-"], RULES)?;
    let listener = wire.pods.b.run(|| TcpListener::bind(("10.0.0.2", 8080)))?;
    wire.with(|dp| {
        let call = |who| wire.pods.connect(wire.ns(who), "10.0.0.100", 30080);
        let denied = |dp: &_, who, what| {
            let before = count(dp, Reason::Policy)?;
            let answer = call(who);
            ensure!(
                answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut),
                "{what}: {answer:?}"
            );
            ensure!(count(dp, Reason::Policy)? > before, "{what}: {:?}", dp.counters()?);
            Ok(())
        };
        // A is not isolated; B takes nothing at 8080 from anybody.
        dp.apply(&[sets(1, 0, 0, 2), sets(2, 1, 0, 2)])?;
        denied(dp, Who::A, "the pod by its own node")?;
        denied(dp, Who::Outside, "somebody outside by the node")?;
        // Pod A may, by whichever address it comes; the node's address still tells nothing of who is outside.
        let a = Who::A.v4();
        dp.apply(&[Step::SetPeers(vec![(a, PeerValue::new(a, 6))]), sets(2, 1, 0, 3)])?;
        call(Who::A)?;
        let (_, from) = listener.accept()?;
        ensure!(from.ip() != a, "it came masqueraded: {from}");
        denied(dp, Who::Outside, "somebody outside by the node")?;
        ensure!(count(dp, Reason::LocalNode)? == 0, "{:?}", dp.counters()?);
        Ok(())
    })
}

/// The kernel takes tags of no VLAN off and delivers what they carry as if there were none.
pub(crate) fn stacked_tags() -> Result<()> {
    let wire = Wire::new()?;
    wire.with(|dp| {
        dp.apply(&[sets(1, 0, 0, 2), sets(2, 0, 0, 2)])?;
        let way = (Who::A, Who::B);
        for (me, to) in [(Who::A.v4(), Who::B.v4()), (Who::A.v6(), Who::B.v6())] {
            let plain = Frame::udp((me, 1), (to, 9));
            wire.carries(way, "untagged", std::slice::from_ref(&plain))?;
            for tags in
                [&[0x8100][..], &[0x8100, 0x8100], &[0x88a8], &[0x88a8, 0x8100], &[0x88a8, 0x8100, 0x8100]]
            {
                let mut frame = plain.bytes();
                let inner = frame.split_off(12);
                for tag in tags {
                    frame.extend_from_slice(&u16::to_be_bytes(*tag));
                    frame.extend_from_slice(&[0, 0]);
                }
                frame.extend_from_slice(&inner);
                wire.refuses_bytes(dp, way, &format!("{tags:04x?}"), &[frame], Reason::EtherType)?;
            }
        }
        Ok(())
    })
}
