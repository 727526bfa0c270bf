//! A transaction: the messages between the begin and the end of a batch.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use nix::errno::Errno;

use super::{Chain, Rule, Set, Table, TableFamily};
use crate::{Batch, Error, Socket, wire::Attributes};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(super) const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_SET_CONSTANT: u32 = 2;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
/// The `nft` tool's numbers for types of keys; the kernel only keeps them.
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
/// Elements in one message: an attribute cannot be longer than 64 KiB, and one
/// range is two elements of at most 36 bytes.
const RANGES_PER_MESSAGE: usize = 500;
/// The `nft` tool's tag of a comment in a rule's user data.
const UDATA_COMMENT: u8 = 0;

/// The message type of an nftables message.
pub(super) fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// `struct nfgenmsg`: family, version, resource in network order.
pub(super) fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// Changes that are made all together or not at all.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    family: TableFamily,
}

impl Transaction {
    pub(super) fn begin(family: TableFamily) -> Self {
        let mut batch = Batch::new();
        let body = header(0, NFNL_SUBSYS_NFTABLES);
        batch.push_raw("begin a change of nftables", NFNL_MSG_BATCH_BEGIN, 0, &body, &[]);
        Self { batch, family }
    }

    /// All that puts `table` in the place of one of its name. It is created
    /// first, so that there is one to delete.
    pub fn replace(table: &Table) -> Self {
        let mut transaction = Self::begin(table.family);
        transaction.new_table(&table.name);
        transaction.delete_table(&table.name);
        transaction.new_table(&table.name);
        for set in &table.sets {
            transaction.new_set(&table.name, set);
        }
        for chain in &table.chains {
            transaction.new_chain(&table.name, chain);
            for rule in &chain.rules {
                transaction.new_rule(&table.name, &chain.name, rule);
            }
        }
        transaction
    }

    /// All that removes the table of this name.
    pub fn remove(family: TableFamily, name: &str) -> Self {
        let mut transaction = Self::begin(family);
        transaction.new_table(name);
        transaction.delete_table(name);
        transaction
    }

    /// Number of bytes of all messages.
    pub fn len(&self) -> usize {
        self.batch.bytes.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.batch.len() <= 1
    }

    /// Carries the transaction out. Somebody else's change at the same moment
    /// makes the kernel refuse it with ERESTART, which it retries by itself.
    pub fn run(mut self, socket: &mut Socket) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let confirmed = self.batch.len().saturating_sub(1);
        let body = header(0, NFNL_SUBSYS_NFTABLES);
        self.batch.push_raw("end a change of nftables", NFNL_MSG_BATCH_END, 0, &body, &[]);
        socket.run_transaction(self.batch, confirmed)
    }

    pub(super) fn push(&mut self, what: &'static str, message: u16, flags: u16, attributes: &Attributes) {
        let mut body = header(self.family as u8, 0);
        body.extend_from_slice(attributes.as_bytes());
        let none: &[Errno] = &[];
        self.batch.push_raw(what, kind(message), flags | NLM_F_ACK, &body, none);
    }

    fn new_table(&mut self, name: &str) {
        // NFTA_TABLE_NAME.
        let attributes = Attributes::new().string(1, name);
        self.push("create an nftables table", NFT_MSG_NEWTABLE, NLM_F_CREATE, &attributes);
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, name: &str) {
        let attributes = Attributes::new().string(1, name);
        self.push("remove an nftables table", NFT_MSG_DELTABLE, 0, &attributes);
    }

    fn new_set(&mut self, table: &str, set: &Set) {
        let (key_type, key_len) = match self.family {
            TableFamily::Ip => (TYPE_IPADDR, 4),
            TableFamily::Ip6 => (TYPE_IP6ADDR, 16),
        };
        // NFTA_SET_TABLE, NAME, FLAGS, KEY_TYPE, KEY_LEN, ID.
        let attributes = Attributes::new()
            .string(1, table)
            .string(2, &set.name)
            .be32(3, NFT_SET_CONSTANT | NFT_SET_INTERVAL)
            .be32(4, key_type)
            .be32(5, key_len)
            .be32(10, 1);
        self.push("create an nftables set", NFT_MSG_NEWSET, NLM_F_CREATE, &attributes);
        for ranges in set.ranges.chunks(RANGES_PER_MESSAGE) {
            let mut elements = Attributes::new();
            for range in ranges {
                elements = elements.nested(NFTA_LIST_ELEM, &element(range.first, false));
                if let Some(end) = range.end() {
                    elements = elements.nested(NFTA_LIST_ELEM, &element(end, true));
                }
            }
            // NFTA_SET_ELEM_LIST_TABLE, SET, ELEMENTS.
            let attributes = Attributes::new().string(1, table).string(2, &set.name).nested(3, &elements);
            self.push("fill an nftables set", NFT_MSG_NEWSETELEM, NLM_F_CREATE, &attributes);
        }
    }

    fn new_chain(&mut self, table: &str, chain: &Chain) {
        // NFTA_HOOK_HOOKNUM, PRIORITY.
        let hook = Attributes::new().be32(1, chain.hook as u32).be32(2, chain.priority.cast_unsigned());
        // NFTA_CHAIN_TABLE, NAME, HOOK, TYPE.
        let attributes = Attributes::new()
            .string(1, table)
            .string(3, &chain.name)
            .nested(4, &hook)
            .string(7, chain.kind.name());
        self.push("create an nftables chain", NFT_MSG_NEWCHAIN, NLM_F_CREATE, &attributes);
    }

    fn new_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        // NFTA_RULE_TABLE, CHAIN, EXPRESSIONS, USERDATA.
        let attributes = Attributes::new()
            .string(1, table)
            .string(2, chain)
            .nested(4, &rule.expressions())
            .bytes(7, &user_data(&rule.comment));
        self.push("create an nftables rule", NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &attributes);
    }
}

impl Rule {
    /// Its expressions, as elements of a list.
    pub(super) fn expressions(&self) -> Attributes {
        self.expressions.iter().fold(Attributes::new(), |list, expression| {
            let list = match expression.operand() {
                Some(operand) => list.nested(NFTA_LIST_ELEM, &operand),
                None => list,
            };
            list.nested(NFTA_LIST_ELEM, &expression.encode())
        })
    }
}

/// One element of an interval set: the begin of a range, or what follows it.
fn element(address: IpAddr, end: bool) -> Attributes {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let key = Attributes::new().bytes(NFTA_DATA_VALUE, &octets);
    let flags = if end { NFT_SET_ELEM_INTERVAL_END } else { 0 };
    Attributes::new().be32(NFTA_SET_ELEM_FLAGS, flags).nested(NFTA_SET_ELEM_KEY, &key)
}

/// A comment as the `nft` tool writes it: tag, length, text with its NUL.
pub(super) fn user_data(comment: &str) -> Vec<u8> {
    let mut text = comment.as_bytes().to_vec();
    text.truncate(127);
    text.push(0);
    let mut data = vec![UDATA_COMMENT, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    data.extend_from_slice(&text);
    data
}
