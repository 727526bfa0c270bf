//! What both hooks see of connections that a service proxy translates, and what they decide: the first packet at each
//! hook is judged by the tuple that stands here, and every other packet of the connection meets its entry.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use ebpf_common::abi::{Direction, Event, Reason};
use kernel_test::NetNs;
use policy_core::model::Protocol;
use policy_core::{ClassId, Step, VipAddress, VipTarget};
use tidepool_agent::datapath::{EventReader, Listener};

use super::packets::{LATE, SOON};
use super::wire::{Who, Wire};
use super::world::{ip, sets};

/// As a proxy has it: Services lead to B (.10), to somebody beyond eth0 (.11) and to A (.12); of the node's ports 30081
/// keeps the client's address, and the others hide it behind the node's.
const PROXY: &str = "table ip proxy {
    chain from_outside { type nat hook prerouting priority -100; jump services; }
    chain from_here { type nat hook output priority -100; jump services; }
    chain services {
        ip daddr 172.20.0.10 tcp dport 8000 dnat to 10.0.0.2:80
        ip daddr 172.20.0.11 tcp dport 8000 dnat to 10.0.9.1:80
        ip daddr 172.20.0.12 tcp dport 8000 dnat to 10.0.0.1:80
        ip daddr { 10.0.0.100, 127.0.0.1 } tcp dport 30080 meta mark set 0x4000 dnat to 10.0.0.2:80
        ip daddr 10.0.0.100 tcp dport 30081 dnat to 10.0.0.2:80
        ip daddr 10.0.0.100 tcp dport 30082 meta mark set 0x4000 dnat to 10.0.9.1:80
        ip daddr 10.0.0.100 tcp dport 30083 dnat to 10.0.0.2:81
    }
    chain behind { type nat hook postrouting priority 100;
        meta mark & 0x4000 == 0x4000 masquerade fully-random
        ip saddr 10.0.0.1 ip daddr 10.0.0.1 masquerade fully-random
    }
}";

const A: u32 = 1;
const B: u32 = 2;
const NODE: &str = "10.0.0.100";
const OUTSIDE: &str = "10.0.9.1";

/// A port in a tuple.
#[derive(Clone, Copy, Debug)]
enum Port {
    /// This one.
    Is(u16),
    /// The one that the client has.
    Client,
    /// One that the node chose.
    Chosen,
}
use Port::{Chosen, Client, Is};

/// What a hook judges: the pod, the direction, the peer, the pod's port and the peer's, and the verdict.
type Seen = (u32, Direction, &'static str, Port, Port, Reason);

/// Who calls what, and what the hooks judge.
struct Case {
    what: &'static str,
    to: (&'static str, u16),
    seen: &'static [Seen],
}

use Direction::{In, Out};

const FROM_A: &[Case] = &[
    Case {
        what: "a cluster IP, to a pod of the node",
        to: ("172.20.0.10", 8000),
        seen: &[
            (A, Out, "172.20.0.10", Client, Is(8000), Reason::New),
            (B, In, "10.0.0.1", Is(80), Client, Reason::New),
        ],
    },
    Case {
        what: "a cluster IP, to a pod elsewhere",
        to: ("172.20.0.11", 8000),
        seen: &[(A, Out, "172.20.0.11", Client, Is(8000), Reason::New)],
    },
    Case {
        what: "a cluster IP, to itself",
        to: ("172.20.0.12", 8000),
        seen: &[
            (A, Out, "172.20.0.12", Client, Is(8000), Reason::New),
            (A, In, NODE, Is(80), Chosen, Reason::Hairpin),
        ],
    },
    Case {
        what: "a node port of its own node, to a pod of it",
        to: (NODE, 30080),
        seen: &[(A, Out, NODE, Client, Is(30080), Reason::New), (B, In, NODE, Is(80), Chosen, Reason::New)],
    },
    Case {
        what: "a node port of its own node, to a pod elsewhere",
        to: (NODE, 30082),
        seen: &[(A, Out, NODE, Client, Is(30082), Reason::New)],
    },
    Case {
        what: "a node port whose backends' port is denied",
        to: (NODE, 30083),
        seen: &[(A, Out, NODE, Client, Is(30083), Reason::Policy)],
    },
    Case {
        what: "a port of a cluster IP that is none",
        to: ("172.20.0.10", 80),
        seen: &[(A, Out, "172.20.0.10", Client, Is(80), Reason::NoService)],
    },
];

const FROM_OUTSIDE: &[Case] = &[
    Case {
        what: "a node port that keeps the client's address",
        to: (NODE, 30081),
        seen: &[(B, In, OUTSIDE, Is(80), Client, Reason::New)],
    },
    Case {
        what: "a node port that hides the client",
        to: (NODE, 30080),
        seen: &[(B, In, NODE, Is(80), Chosen, Reason::Policy)],
    },
];

const FROM_NODE: &[Case] = &[
    Case { what: "a pod", to: ("10.0.0.2", 80), seen: &[(B, In, NODE, Is(80), Client, Reason::LocalNode)] },
    Case {
        what: "a cluster IP",
        to: ("172.20.0.10", 8000),
        seen: &[(B, In, NODE, Is(80), Client, Reason::LocalNode)],
    },
    Case {
        what: "a node port by the loopback address",
        to: ("127.0.0.1", 30080),
        seen: &[(B, In, NODE, Is(80), Chosen, Reason::LocalNode)],
    },
];

pub(crate) fn tuples_and_verdicts() -> Result<()> {
    let wire = Wire::new()?;
    let node = &wire.pods.node.ns;
    node.input("nft", &["-f", "-"], PROXY)?;
    // What the node itself calls is routed before it is translated.
    node.ip("route add 172.20.0.0/16 dev eth0 src 10.0.0.100")?;
    node.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1"))?;
    let listen = |who: Who| anyhow::Ok(wire.ns(who).run(|| TcpListener::bind((who.v4(), 80)))?);
    let listeners = [listen(Who::A)?, listen(Who::B)?, listen(Who::Outside)?];
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    wire.with(|dp| {
        let vip = |address: &str, port, target| {
            let address = VipAddress { address: ip(address)?, port, protocol: Protocol::Tcp };
            anyhow::Ok((address, VipTarget { class: ClassId(5), port: target }))
        };
        dp.apply(&[
            Step::SetVips(vec![
                vip("172.20.0.11", 8000, 80)?,
                vip("172.20.0.12", 8000, 80)?,
                vip(NODE, 30080, 80)?,
                vip(NODE, 30082, 80)?,
                vip(NODE, 30083, 81)?,
            ]),
            // Nobody may come in to A.
            sets(1, 3, 1, 2),
            sets(2, 1, 0, 2),
        ])?;
        let mut events = dp.take_event_reader().context("the only one")?;
        events.listen(Listener::Sampled(1))?;
        for (from, cases) in [(&wire.pods.a, FROM_A), (&wire.outside, FROM_OUTSIDE), (node, FROM_NODE)] {
            for case in cases {
                let client = call(from, case, &listeners).with_context(|| case.what)?;
                check(case, client, &mut events).with_context(|| case.what)?;
            }
        }
        Ok(())
    })
}

/// Calls, and talks both ways where everybody lets it; the client's port.
fn call(from: &NetNs, case: &Case, listeners: &[TcpListener]) -> Result<u16> {
    let to = SocketAddr::new(ip(case.to.0)?, case.to.1);
    let allowed = case.seen.iter().all(|seen| seen.5.passes());
    let stream = from.run(|| TcpStream::connect_timeout(&to, if allowed { LATE } else { SOON }));
    if !allowed {
        let error = stream.err().context("it was answered")?;
        ensure!(error.kind() == ErrorKind::TimedOut, "{error}");
        return Ok(0);
    }
    let mut client = stream?;
    let found = kernel_test::wait_for("the connection", LATE, || {
        listeners.iter().find_map(|listener| listener.accept().ok())
    });
    let (mut server, _) = found?;
    for stream in [&client, &server] {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LATE))?;
    }
    let mut byte = [0];
    for _ in 0..3 {
        client.write_all(b"?")?;
        server.read_exact(&mut byte)?;
        server.write_all(b"!")?;
        client.read_exact(&mut byte)?;
    }
    Ok(client.local_addr()?.port())
}

fn check(case: &Case, client: u16, events: &mut EventReader) -> Result<()> {
    let mut found = Vec::new();
    while let Some(event) = events.next_event() {
        found.push(event);
    }
    let same = |event: &Event, seen: &Seen| -> Result<bool> {
        let port = |port, found| match port {
            Is(number) => number == found,
            // That of a connection that was refused is not known.
            Client => client == found || client == 0,
            Chosen => found != 0,
        };
        let IpAddr::V4(peer) = ip(seen.2)? else { bail!("IPv4 only") };
        Ok((event.slot, event.direction, event.reason) == (seen.0, seen.1 as u8, seen.5 as u8)
            && event.peer[..4] == peer.octets()
            && port(seen.3, event.pod_port)
            && port(seen.4, event.peer_port))
    };
    ensure!(found.len() == case.seen.len(), "judged: {found:#?}");
    for (event, seen) in found.iter().zip(case.seen) {
        ensure!(same(event, seen)?, "{event:?} instead of {seen:?}");
    }
    Ok(())
}
