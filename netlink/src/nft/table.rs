//! A table with its sets, chains and rules, as wanted.

use std::net::IpAddr;

use super::{Expression, Range};

/// The family of packets that a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TableFamily {
    /// IPv4 (`ip`).
    Ip = 2,
    /// IPv6 (`ip6`).
    Ip6 = 10,
}

impl TableFamily {
    /// The family of this address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ip } else { Self::Ip6 }
    }
}

/// Where in the kernel's path a base chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// Before leaving.
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Look at and mark all packets.
    Filter,
    /// Translate the first packet of a connection.
    Nat,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A base chain; its policy is to accept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub kind: ChainKind,
    /// Where it stands.
    pub hook: Hook,
    /// Its place among the chains of the same hook, lowest first.
    pub priority: i32,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Says what the rule is for; shown by `nft list`, and known again by
    /// [`super::observe`].
    pub comment: String,
    /// Its steps.
    pub expressions: Vec<Expression>,
}

/// A set of address ranges, constant for its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Ranges that neither overlap nor touch ([`super::merge`]), of the table's
    /// family.
    pub ranges: Vec<Range>,
}

/// A table as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}
