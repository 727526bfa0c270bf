//! Chains and rules of others' tables, to know single ones and to remove them.
//!
//! Rules are shown as the kernel keeps them; those that `iptables-nft` made have
//! expressions of the names `match` and `target`, which hold xtables' own
//! structures.

use super::{
    TableFamily, Transaction,
    message::{header, kind},
};
use crate::{
    Error, Socket,
    wire::{Attributes, attribute, attributes, read_be32, read_be64, read_string},
};

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
/// The `nft` tool's tag of a comment in a rule's user data, which iptables-nft
/// uses too.
const UDATA_COMMENT: u8 = 0;
/// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`.
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;

/// A chain of somebody's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChain {
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it stands in the kernel's path (`NF_INET_*`), and its priority there;
    /// none for one that others jump to.
    pub hook: Option<(u32, i32)>,
}

/// A rule of somebody's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ForeignRule {
    /// Its table's name.
    pub table: String,
    /// Its chain's name.
    pub chain: String,
    /// The kernel's number for it, unique in the table.
    pub handle: u64,
    /// What it says of itself: `nft`'s and iptables' comments.
    pub comment: Option<String>,
    /// The chain that it jumps or goes to.
    pub jumps_to: Option<String>,
    /// Its steps, in order.
    pub expressions: Vec<ForeignExpression>,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignExpression {
    /// Its name: `meta`, `cmp`, `immediate`, `match`, `target`, …
    pub name: String,
    /// Its attributes as bytes.
    pub(super) data: Vec<u8>,
}

impl ForeignExpression {
    /// An xtables match or target: its name and its structure's bytes.
    pub fn xtables(&self) -> Option<(String, &[u8])> {
        if !matches!(self.name.as_str(), "match" | "target") {
            return None;
        }
        // NFTA_MATCH_NAME, INFO; NFTA_TARGET_* have the same numbers.
        Some((read_string(attribute(&self.data, 1)?), attribute(&self.data, 3)?))
    }

    /// The bytes that a `cmp` compares with, where it asks whether they are equal.
    fn equal(&self) -> Option<&[u8]> {
        // NFTA_CMP_OP, DATA; NFTA_DATA_VALUE.
        let equal = self.name == "cmp" && attribute(&self.data, 2).and_then(read_be32) == Some(0);
        attribute(attribute(&self.data, 3).filter(|_| equal)?, 1)
    }

    fn loads_meta(&self, key: u32) -> bool {
        // NFTA_META_KEY.
        self.name == "meta" && attribute(&self.data, 2).and_then(read_be32) == Some(key)
    }

    fn jump(&self) -> Option<String> {
        // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT; NFTA_VERDICT_CODE, CHAIN.
        let data = attribute(&self.data, 2).filter(|_| self.name == "immediate")?;
        let verdict = attribute(data, 2)?;
        let code = attribute(verdict, 1).and_then(read_be32)?.cast_signed();
        matches!(code, NFT_JUMP | NFT_GOTO).then(|| attribute(verdict, 2).map(read_string))?
    }
}

impl ForeignRule {
    /// The xtables target of this name: its structure's bytes.
    pub fn target(&self, name: &str) -> Option<&[u8]> {
        let targets = self.expressions.iter().filter(|one| one.name == "target");
        targets.filter_map(ForeignExpression::xtables).find(|(found, _)| found == name).map(|(_, info)| info)
    }

    /// The interface that packets come in by, or what its name begins with, as
    /// iptables-nft and `nft` write it.
    pub fn input(&self) -> Option<String> {
        self.interface(META_IIFNAME)
    }

    /// The interface that packets leave by, or what its name begins with.
    pub fn output(&self) -> Option<String> {
        self.interface(META_OIFNAME)
    }

    fn interface(&self, key: u32) -> Option<String> {
        let mut pairs = self.expressions.windows(2).filter(|pair| pair[0].loads_meta(key));
        pairs.find_map(|pair| pair[1].equal().map(read_string))
    }
}

/// All chains of all tables of a family.
pub fn chains(socket: &mut Socket, family: TableFamily) -> Result<Vec<ForeignChain>, Error> {
    let messages =
        socket.dump_raw("list nftables chains", kind(NFT_MSG_GETCHAIN), &header(family as u8, 0))?;
    Ok(messages.iter().filter_map(|message| parse_chain(message.body.get(4..)?)).collect())
}

/// All rules of a table, or of one of its chains, in order; none where there is
/// no such table.
pub fn rules(
    socket: &mut Socket,
    family: TableFamily,
    table: &str,
    chain: Option<&str>,
) -> Result<Vec<ForeignRule>, Error> {
    // NFTA_RULE_TABLE, CHAIN.
    let mut wanted = Attributes::new().string(1, table);
    if let Some(chain) = chain {
        wanted = wanted.string(2, chain);
    }
    let mut body = header(family as u8, 0);
    body.extend_from_slice(wanted.as_bytes());
    let messages = socket.dump_raw("list nftables rules", kind(NFT_MSG_GETRULE), &body)?;
    let rules = messages.iter().filter_map(|message| parse_rule(message.body.get(4..)?));
    Ok(rules.filter(|rule| rule.table == table && chain.is_none_or(|chain| rule.chain == chain)).collect())
}

fn parse_chain(body: &[u8]) -> Option<ForeignChain> {
    // NFTA_CHAIN_TABLE, NAME, HOOK; NFTA_HOOK_HOOKNUM, PRIORITY.
    let hook = attribute(body, 4).and_then(|hook| {
        let number = attribute(hook, 1).and_then(read_be32)?;
        Some((number, attribute(hook, 2).and_then(read_be32)?.cast_signed()))
    });
    Some(ForeignChain {
        table: read_string(attribute(body, 1)?),
        name: read_string(attribute(body, 3)?),
        hook,
    })
}

/// A rule from the attributes of an `NFT_MSG_NEWRULE`.
fn parse_rule(body: &[u8]) -> Option<ForeignRule> {
    // NFTA_RULE_TABLE, CHAIN, HANDLE, EXPRESSIONS, USERDATA.
    let expressions = attribute(body, 4).map(parse_expressions).unwrap_or_default();
    let said = attribute(body, 7).and_then(comment);
    let matched = || {
        let mut matches = expressions.iter().filter(|one| one.name == "match");
        matches.find_map(|one| one.xtables().filter(|(name, _)| name == "comment"))
    };
    let comment = said.or_else(|| matched().map(|(_, info)| read_string(info)));
    Some(ForeignRule {
        table: read_string(attribute(body, 1)?),
        chain: read_string(attribute(body, 2)?),
        handle: read_be64(attribute(body, 3)?)?,
        comment,
        jumps_to: expressions.iter().find_map(ForeignExpression::jump),
        expressions,
    })
}

/// The elements of an `NFTA_RULE_EXPRESSIONS`.
pub(super) fn parse_expressions(list: &[u8]) -> Vec<ForeignExpression> {
    let parse = |element: &[u8]| {
        // NFTA_EXPR_NAME, DATA.
        let data = attribute(element, 2).unwrap_or_default().to_vec();
        Some(ForeignExpression { name: read_string(attribute(element, 1)?), data })
    };
    attributes(list).filter_map(|(_, element)| parse(element)).collect()
}

/// The comment in a rule's user data: a list of tag, length, value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [tag, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *tag == UDATA_COMMENT {
            return Some(read_string(value));
        }
        data = &rest[usize::from(*len)..];
    }
    None
}

impl Transaction {
    /// Nothing yet, to be filled with removals.
    pub fn new(family: TableFamily) -> Self {
        Self::begin(family)
    }

    /// Removes one rule.
    pub fn delete_rule(&mut self, rule: &ForeignRule) {
        // NFTA_RULE_TABLE, CHAIN, HANDLE.
        let attributes = Attributes::new()
            .string(1, &rule.table)
            .string(2, &rule.chain)
            .bytes(3, &rule.handle.to_be_bytes());
        self.push("remove an nftables rule", NFT_MSG_DELRULE, 0, &attributes);
    }

    /// Removes a chain with its rules. The kernel refuses the whole transaction
    /// with EBUSY where a rule that stays jumps to it.
    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        // NFTA_RULE_TABLE, CHAIN.
        let rules = Attributes::new().string(1, table).string(2, chain);
        self.push("empty an nftables chain", NFT_MSG_DELRULE, 0, &rules);
        // NFTA_CHAIN_TABLE, NAME.
        let chain = Attributes::new().string(1, table).string(3, chain);
        self.push("remove an nftables chain", NFT_MSG_DELCHAIN, 0, &chain);
    }
}
