//! Routing policy rules.

mod mirror;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{
    Batch, Error, Family, Socket,
    batch::{EXISTS, MISSING, kind},
    wire::{attributes, read_address, read_u32},
};

pub use mirror::Mirror;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
/// Bytes of `struct fib_rule_hdr`.
const HEADER_LEN: usize = 12;

/// A rule that names a table to look in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Its place: lower ones are asked first.
    pub priority: u32,
    /// The packets' sources; none for all. At least one of `from`, `to` names
    /// the family, else it is IPv4.
    pub from: Option<IpNetwork>,
    /// The packets' destinations; none for all.
    pub to: Option<IpNetwork>,
    /// The packets' mark and the mask it is compared under.
    pub mark: Option<(u32, u32)>,
    /// The table to look in.
    pub table: u32,
    /// Who made it ([`crate::PROTOCOL`] for us).
    pub protocol: u8,
    /// It asks for more than these fields say (an interface, ports, a user), so
    /// it is not the same as one that looks equal.
    pub more: bool,
}

impl Rule {
    /// A rule of ours for all packets, to be filled by struct update.
    pub fn new(priority: u32, table: u32) -> Self {
        Self { priority, from: None, to: None, mark: None, table, protocol: crate::PROTOCOL, more: false }
    }

    fn family(&self) -> Family {
        match self.from.or(self.to) {
            Some(IpNetwork::V6(_)) => Family::V6,
            Some(IpNetwork::V4(_)) | None => Family::V4,
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family().into();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Table(self.table));
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        if let Some(from) = self.from {
            message.header.src_len = from.prefix();
            attributes.push(RuleAttribute::Source(from.network()));
        }
        if let Some(to) = self.to {
            message.header.dst_len = to.prefix();
            attributes.push(RuleAttribute::Destination(to.network()));
        }
        if let Some((mark, mask)) = self.mark {
            attributes.push(RuleAttribute::FwMark(mark));
            attributes.push(RuleAttribute::FwMask(mask));
        }
        message
    }
}

/// Adds a rule; one that is there is left.
pub fn add(batch: &mut Batch, rule: &Rule) {
    batch.push("add a rule", kind::NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &rule.message(), EXISTS);
}

/// Removes a rule; one that is gone is success. The kernel compares the protocol
/// too, so that another one's rule stays.
pub fn delete(batch: &mut Batch, rule: &Rule) {
    batch.push("remove a rule", kind::DELRULE, 0, &rule.message(), MISSING);
}

/// All rules of a family that name a table.
pub fn list(socket: &mut Socket, family: Family) -> Result<Vec<Rule>, Error> {
    let mut request = RuleMessage::default();
    request.header.family = family.into();
    let messages = socket.dump("list rules", kind::GETRULE, &request)?;
    Ok(messages.iter().filter_map(|message| parse(&message.body)).collect())
}

/// A rule from the body of an `RTM_NEWRULE` or `RTM_DELRULE`; none for one that
/// names no table.
pub(crate) fn parse(body: &[u8]) -> Option<Rule> {
    let header = body.get(..HEADER_LEN)?;
    if header[7] != FR_ACT_TO_TBL {
        return None;
    }
    let unspecified = match header[0] {
        2 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        10 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut rule = Rule { protocol: 0, ..Rule::new(0, u32::from(header[4])) };
    // tos, and every flag (an inverted rule, for one), narrow the rule.
    rule.more = header[3] != 0 || header[8..].iter().any(|byte| *byte != 0);
    let (mut mark, mut mask) = (None, None);
    for (kind, value) in attributes(&body[HEADER_LEN..]) {
        match kind {
            FRA_DST => rule.to = Some(IpNetwork::new(read_address(value)?, header[1]).ok()?),
            FRA_SRC => rule.from = Some(IpNetwork::new(read_address(value)?, header[2]).ok()?),
            FRA_PRIORITY => rule.priority = read_u32(value)?,
            FRA_FWMARK => mark = read_u32(value),
            FRA_FWMASK => mask = read_u32(value),
            FRA_TABLE => rule.table = read_u32(value)?,
            FRA_PROTOCOL => rule.protocol = *value.first()?,
            // Always there; all ones says "not set".
            FRA_SUPPRESS_IFGROUP | FRA_SUPPRESS_PREFIXLEN => rule.more |= read_u32(value) != Some(u32::MAX),
            FRA_PAD => {}
            _ => rule.more = true,
        }
    }
    rule.mark = mark.map(|mark| (mark, mask.unwrap_or(u32::MAX))).or(mask.map(|mask| (0, mask)));
    // So that an IPv6 rule for all packets is known as one.
    if unspecified.is_ipv6() && rule.from.is_none() && rule.to.is_none() {
        rule.from = Some(crate::route::any(unspecified));
    }
    Some(rule)
}
