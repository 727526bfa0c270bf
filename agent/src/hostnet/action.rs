//! Steps towards what is wanted.

use std::fmt;

use netlink::{
    address::Address, link::LinkChange, neighbour::Neighbour, nft::Table, route::Route, rule::Rule,
};

/// One step. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Bring a link up, set its MTU or its IPv4 sysctls.
    ChangeLink(LinkChange),
    /// Give a link an address.
    AddAddress(Address),
    /// Put a route in the place of one with the same table, destination and metric.
    PutRoute(Route),
    /// Put a neighbour entry in the place of one for the same address.
    PutNeighbour(Neighbour),
    /// Add a rule.
    AddRule(Rule),
    /// Put our nftables table in the place of what has its name.
    PutTable(Table),
    /// Remove our nftables table.
    RemoveTable,
    /// Remove a rule of ours.
    RemoveRule(Rule),
    /// Remove a route of ours, or the kernel's for a secondary ENI's subnet.
    RemoveRoute(Route),
    /// Remove a neighbour entry of ours.
    RemoveNeighbour(Neighbour),
}

/// What an action changes: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKind {
    /// A link or its sysctls.
    Link,
    /// An address.
    Address,
    /// A route.
    Route,
    /// A neighbour entry.
    Neighbour,
    /// A rule.
    Rule,
    /// The nftables table.
    Nftables,
}

impl ActionKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Link, Self::Address, Self::Route, Self::Neighbour, Self::Rule, Self::Nftables];

    /// The kind in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Neighbour => "neighbour",
            Self::Rule => "rule",
            Self::Nftables => "nftables",
        }
    }
}

impl Action {
    /// What it changes.
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::ChangeLink(_) => ActionKind::Link,
            Self::AddAddress(_) => ActionKind::Address,
            Self::PutRoute(_) | Self::RemoveRoute(_) => ActionKind::Route,
            Self::PutNeighbour(_) | Self::RemoveNeighbour(_) => ActionKind::Neighbour,
            Self::AddRule(_) | Self::RemoveRule(_) => ActionKind::Rule,
            Self::PutTable(_) | Self::RemoveTable => ActionKind::Nftables,
        }
    }

    /// Whether it takes something away that is no longer wanted.
    pub fn removes(&self) -> bool {
        matches!(
            self,
            Self::RemoveTable | Self::RemoveRule(_) | Self::RemoveRoute(_) | Self::RemoveNeighbour(_)
        )
    }
}

/// What it is about, in the words of `ip`.
impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangeLink(change) => write!(out, "link {}", change.index),
            Self::AddAddress(address) => write!(out, "address {} dev {}", address.network, address.link),
            Self::PutRoute(route) | Self::RemoveRoute(route) => {
                write!(out, "route {} table {}", route.destination, route.table)
            }
            Self::PutNeighbour(one) | Self::RemoveNeighbour(one) => {
                write!(out, "neigh {} dev {}", one.address, one.link)
            }
            Self::AddRule(rule) | Self::RemoveRule(rule) => out.write_str(&rule_in_words(rule)),
            Self::PutTable(table) => write!(out, "nftables table {}", table.name),
            Self::RemoveTable => out.write_str("the nftables table"),
        }
    }
}

/// A rule in the words of `ip rule`.
pub(crate) fn rule_in_words(rule: &Rule) -> String {
    let from = rule.from.map_or("all".to_owned(), |from| from.to_string());
    let to = rule.to.map(|to| format!(" to {to}")).unwrap_or_default();
    let mark = rule.mark.map(|(mark, mask)| format!(" fwmark {mark:#x}/{mask:#x}")).unwrap_or_default();
    format!("rule {}: from {from}{to}{mark} lookup {}", rule.priority, rule.table)
}
