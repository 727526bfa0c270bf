//! Rows of the table → single questions.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::Direction;
use ebpf_common::frame::Frame;
use system_tests::probe::Protocol;

use crate::host::MAC;
use crate::scene::{Kind, Party, Scene};

const SYN: u8 = 2;
const ACK: u8 = 16;
const DATA: u8 = 0;
const INIT: u8 = 1;

/// The interface of what is behind no filter of ours.
pub(crate) const OUTSIDE: u32 = 9000;

/// One question: a packet from one party to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The source's column.
    pub(crate) from: usize,
    /// The destination's column.
    pub(crate) to: usize,
    pub(crate) from_address: IpAddr,
    pub(crate) to_address: IpAddr,
    pub(crate) protocol: Protocol,
    /// 0 for ICMP.
    pub(crate) port: u16,
    pub(crate) source_port: u16,
    /// The first packet of its flow.
    pub(crate) opening: bool,
}

/// What the packet meets at one end.
#[derive(Clone, Debug)]
pub(crate) struct Crossing {
    pub(crate) direction: Direction,
    /// The column of the pod whose link it crosses.
    pub(crate) party: usize,
    /// The column of who sent it, if that is another pod here.
    pub(crate) by: By,
}

/// By which interface a packet came to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A local pod's, by its column.
    Pod(usize),
    /// None: the node made it.
    Node,
    /// One without filters.
    Outside,
}

/// A question with the answer that the table gives.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) ask: Ask,
    /// The table's character.
    pub(crate) mark: char,
}

/// What passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// At the source and at the destination.
    Ends { egress: bool, ingress: bool },
    /// All in all.
    Whole(bool),
    /// Something came back for a packet that did not arrive.
    Refused,
}

/// Whether egress and ingress pass by a character of the table.
pub(crate) fn meaning(mark: char) -> Option<(bool, bool)> {
    match mark {
        '.' => Some((true, true)),
        'e' => Some((false, true)),
        'i' => Some((true, false)),
        'X' => Some((false, false)),
        _ => None,
    }
}

impl Heard {
    /// Whether this is what the character says.
    pub(crate) fn agrees(self, (egress, ingress): (bool, bool)) -> bool {
        match self {
            Self::Ends { egress: a, ingress: b } => (a, b) == (egress, ingress),
            Self::Whole(passes) => passes == (egress && ingress),
            Self::Refused => false,
        }
    }

    /// In the table's words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Ends { egress: true, ingress: true } => ".",
            Self::Ends { egress: false, ingress: true } => "e",
            Self::Ends { egress: true, ingress: false } => "i",
            Self::Ends { egress: false, ingress: false } => "X",
            Self::Whole(true) => "allowed",
            Self::Whole(false) => "denied",
            Self::Refused => "refused, not dropped",
        }
    }
}

/// The number of the IP header.
pub(crate) fn number(protocol: Protocol, ipv4: bool) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Icmp => {
            if ipv4 {
                1
            } else {
                58
            }
        }
    }
}

/// `TCP/80` or `ICMP`.
pub(crate) fn service(word: &str) -> Result<(Protocol, u16)> {
    let (name, port) = word.split_once('/').unwrap_or((word, "0"));
    let protocol = Protocol::from_name(name).with_context(|| format!("no protocol in {word}"))?;
    Ok((protocol, port.parse().with_context(|| format!("no port in {word}"))?))
}

impl Ask {
    /// The first packet from one column to another.
    pub(crate) fn new(
        scene: &Scene,
        (from, to): (usize, usize),
        (protocol, port): (Protocol, u16),
        ipv4: Option<bool>,
        round: u32,
    ) -> Result<Self> {
        let (source, target) = (&scene.parties[from], &scene.parties[to]);
        let ipv4 = match ipv4 {
            Some(ipv4) => ipv4,
            None => source.addresses.first().context("a source without an address")?.is_ipv4(),
        };
        let address = |party: &Party| {
            party.address(ipv4).with_context(|| format!("{} has no address of the family", party.name))
        };
        let (from_address, to_address) = (address(source)?, address(target)?);
        // A new flow in every round; and an echo is not that of the other way.
        let other_way = if from > to { 25_000 } else { 0 };
        let source_port = u16::try_from(10_000 + round % 25_000 + other_way)?;
        Ok(Self { from, to, from_address, to_address, protocol, port, source_port, opening: true })
    }

    /// The same as a flow of its own, to be asked why.
    pub(crate) fn anew(&self, round: u32) -> Result<Self> {
        Ok(Self { source_port: u16::try_from(1_024 + round % 8_000)?, ..self.clone() })
    }

    /// A packet in the middle of the flow; of an echo, one more request.
    pub(crate) fn later(&self) -> Self {
        Self { opening: self.protocol == Protocol::Icmp, ..self.clone() }
    }

    /// A packet in the middle of the flow, the other way.
    pub(crate) fn back(&self) -> Self {
        let (port, source_port) = match self.protocol {
            Protocol::Icmp => (0, self.source_port),
            _ => (self.source_port, self.port),
        };
        Self {
            from: self.to,
            to: self.from,
            from_address: self.to_address,
            to_address: self.from_address,
            protocol: self.protocol,
            port,
            source_port,
            opening: false,
        }
    }

    /// The frame as it crosses a link.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let (from, to) = ((self.from_address, self.source_port), (self.to_address, self.port));
        let mut frame = match self.protocol {
            Protocol::Tcp => Frame::tcp(from, to, if self.opening { SYN } else { ACK }),
            Protocol::Udp => Frame::udp(from, to),
            Protocol::Sctp => Frame::sctp(from, to, if self.opening { INIT } else { DATA }),
            Protocol::Icmp => {
                let echo = match (from.0.is_ipv4(), self.opening) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                Frame::icmp(from.0, to.0, echo, self.source_port, &[])
            }
        };
        frame.src_mac = MAC;
        frame.bytes()
    }

    /// The links with filters that it crosses, in its order. A pod's packet to itself is
    /// asked as if it left and came back by an interface of nobody's.
    pub(crate) fn crossings(&self, scene: &Scene) -> Vec<Crossing> {
        let kind = |party: usize| scene.parties[party].kind;
        let mut list = Vec::new();
        if kind(self.from) == Kind::Local {
            list.push(Crossing { direction: Direction::Out, party: self.from, by: By::Pod(self.from) });
        }
        if kind(self.to) == Kind::Local {
            let by = match kind(self.from) {
                Kind::Local if self.from != self.to => By::Pod(self.from),
                Kind::Node => By::Node,
                _ => By::Outside,
            };
            list.push(Crossing { direction: Direction::In, party: self.to, by });
        }
        list
    }

    pub(crate) fn describe(&self, scene: &Scene) -> String {
        let (from, to) = (&scene.parties[self.from].name, &scene.parties[self.to].name);
        let family = if self.from_address.is_ipv4() { "" } else { " over IPv6" };
        match self.protocol {
            Protocol::Icmp => format!("ICMP{family} {from} to {to}"),
            protocol => format!("{protocol}/{}{family} {from} to {to}", self.port),
        }
    }
}

/// The questions of a row.
pub(crate) fn row(scene: &Scene, line: &str, round: u32) -> Result<Vec<Expectation>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (what, ipv4, from, marks) = match words[..] {
        [what, from, marks] => (what, None, from, marks),
        [what, "IPv4", from, marks] => (what, Some(true), from, marks),
        [what, "IPv6", from, marks] => (what, Some(false), from, marks),
        _ => anyhow::bail!("a row has a protocol, perhaps a family, a source and its marks: {line}"),
    };
    let what = service(what)?;
    let from = scene.party(from)?;
    let columns = scene.parties.len();
    ensure!(marks.chars().count() == columns, "{columns} columns, other than in: {line}");
    let mut list = Vec::new();
    for (to, mark) in marks.chars().enumerate().filter(|(_, mark)| *mark != '-') {
        meaning(mark).with_context(|| format!("{mark} means nothing: {line}"))?;
        let ask = Ask::new(scene, (from, to), what, ipv4, round).with_context(|| line.to_owned())?;
        list.push(Expectation { ask, mark });
    }
    Ok(list)
}
