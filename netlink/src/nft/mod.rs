//! nftables: one table of our own, replaced as a whole in one transaction.
//!
//! Encoded here byte by byte: the crates that do it need the `nft` binary, C
//! libraries, or a licence that does not go with ours. All numbers of nftables
//! are in network order, but the contents of registers are as the expression
//! that loads them says: marks in host order, packet bytes as they are.

mod expression;
mod foreign;
mod message;
mod observe;
mod ranges;
mod table;

pub use expression::{AddressType, Compare, Expression, MarkSource, NatFlags};
pub use foreign::{ForeignChain, ForeignExpression, ForeignRule, chains, rules};
pub use message::Transaction;
pub use observe::{Observed, ObservedChain, ObservedRule, observe};
pub use ranges::{Range, merge};
pub use table::{Chain, ChainKind, Hook, Rule, Set, Table, TableFamily};

use crate::{Error, Socket};

/// Netlink protocol number of netfilter.
const NETLINK_NETFILTER: isize = 12;

/// Opens a socket to nftables in the calling thread's network namespace.
pub fn open() -> Result<Socket, Error> {
    Socket::open_protocol(NETLINK_NETFILTER)
}

/// Puts `table` in the place of whatever has its name, or creates it: one
/// transaction, during which no packet sees neither or both.
pub fn replace(socket: &mut Socket, table: &Table) -> Result<(), Error> {
    Transaction::replace(table).run(socket)
}

/// Removes the table of this name; one that does not exist is success.
pub fn remove(socket: &mut Socket, family: TableFamily, name: &str) -> Result<(), Error> {
    Transaction::remove(family, name).run(socket)
}
