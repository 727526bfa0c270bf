//! What the kernel has under a table's name, as far as it takes to see that
//! somebody changed it.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_core::NLM_F_ACK;

use super::{
    Table, TableFamily,
    foreign::{ForeignExpression, parse_expressions},
    message::{header, kind, user_data},
};
use crate::{
    Batch, Error, Socket,
    batch::MISSING,
    wire::{Attributes, attribute, attributes, carries, read_address, read_be32, read_string},
};

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NF_ACCEPT: u32 = 1;
/// It counts as it goes.
const COUNTER: &str = "counter";

/// A table as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Observed {
    /// Its chains see no packet.
    pub dormant: bool,
    /// Number of chains, sets and other objects in it.
    pub objects: u32,
    /// Those of its chains that were looked for.
    pub chains: BTreeMap<String, ObservedChain>,
    /// Per set, its elements and whether each ends a range, in order.
    pub sets: BTreeMap<String, Vec<(IpAddr, bool)>>,
}

/// A base chain as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ObservedChain {
    /// Its kind's name.
    pub kind: String,
    /// Its hook's number and its priority there.
    pub hook: Option<(u32, i32)>,
    /// What no rule decides passes.
    pub accepts: bool,
    /// Its rules, in order.
    pub rules: Vec<ObservedRule>,
}

/// A rule as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ObservedRule {
    user_data: Vec<u8>,
    expressions: Vec<ForeignExpression>,
}

impl Observed {
    /// What is seen at least when `table` is in force unchanged.
    pub fn expected(table: &Table) -> Self {
        let chains = table.chains.iter().map(|chain| {
            let rules = chain.rules.iter().map(|rule| ObservedRule {
                user_data: user_data(&rule.comment),
                expressions: parse_expressions(rule.expressions().as_bytes()),
            });
            let expected = ObservedChain {
                kind: chain.kind.name().to_owned(),
                hook: Some((chain.hook as u32, chain.priority)),
                accepts: true,
                rules: rules.collect(),
            };
            (chain.name.clone(), expected)
        });
        let sets = table.sets.iter().map(|set| {
            let mut elements: Vec<_> = set
                .ranges
                .iter()
                .flat_map(|range| [Some((range.first, false)), range.end().map(|end| (end, true))])
                .flatten()
                .collect();
            elements.sort_unstable();
            (set.name.clone(), elements)
        });
        let objects = u32::try_from(table.chains.len() + table.sets.len()).unwrap_or(u32::MAX);
        Self { dormant: false, objects, chains: chains.collect(), sets: sets.collect() }
    }

    /// Whether this is `table`, unchanged. The kernel may show more of each step
    /// than it was told.
    pub fn is(&self, table: &Table) -> bool {
        let expected = Self::expected(table);
        self.dormant == expected.dormant
            && self.objects == expected.objects
            && self.sets == expected.sets
            && self.chains.len() == expected.chains.len()
            && self
                .chains
                .iter()
                .zip(&expected.chains)
                .all(|(one, other)| one.0 == other.0 && one.1.is(other.1))
    }
}

impl ObservedChain {
    fn is(&self, expected: &Self) -> bool {
        let properties = |chain: &Self| (chain.kind.clone(), chain.hook, chain.accepts);
        properties(self) == properties(expected)
            && self.rules.len() == expected.rules.len()
            && self.rules.iter().zip(&expected.rules).all(|(one, other)| one.is(other))
    }
}

impl ObservedRule {
    fn is(&self, expected: &Self) -> bool {
        let same = |one: &ForeignExpression, other: &ForeignExpression| {
            one.name == other.name && (one.name == COUNTER || carries(&one.data, &other.data))
        };
        self.user_data == expected.user_data
            && self.expressions.len() == expected.expressions.len()
            && self.expressions.iter().zip(&expected.expressions).all(|(one, other)| same(one, other))
    }
}

/// What is under `table`'s name; none if there is no such table. Of chains and
/// sets, those of `table` are looked at; others are only counted. The cost does
/// not depend on what other tables have.
pub fn observe(socket: &mut Socket, table: &Table) -> Result<Option<Observed>, Error> {
    let Some(mut observed) = properties(socket, table)? else { return Ok(None) };
    // NFTA_RULE_TABLE.
    let of_table = Attributes::new().string(1, &table.name);
    for body in dump(socket, "list nftables rules", NFT_MSG_GETRULE, table.family, &of_table)? {
        // NFTA_RULE_TABLE, CHAIN, EXPRESSIONS, USERDATA. Kernels before 4.x
        // ignored the filter by table, so it is looked at again.
        if attribute(&body, 1).map(read_string).as_deref() != Some(&table.name) {
            continue;
        }
        let Some(chain) = attribute(&body, 2).map(read_string) else { continue };
        if let Some(chain) = observed.chains.get_mut(&chain) {
            chain.rules.push(ObservedRule {
                user_data: attribute(&body, 7).unwrap_or_default().to_vec(),
                expressions: attribute(&body, 4).map(parse_expressions).unwrap_or_default(),
            });
        }
    }
    for set in &table.sets {
        // NFTA_SET_ELEM_LIST_TABLE, SET.
        let of_set = Attributes::new().string(1, &table.name).string(2, &set.name);
        match dump(socket, "list nftables elements", NFT_MSG_GETSETELEM, table.family, &of_set) {
            Ok(bodies) => {
                let mut elements: Vec<_> = bodies.iter().flat_map(|body| read_elements(body)).collect();
                elements.sort_unstable();
                observed.sets.insert(set.name.clone(), elements);
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(observed))
}

/// The table and its chains, all but their rules, each asked for by its name.
fn properties(socket: &mut Socket, table: &Table) -> Result<Option<Observed>, Error> {
    let mut batch = Batch::new();
    let mut ask = |what, message, attributes: &Attributes| {
        let mut body = header(table.family as u8, 0);
        body.extend_from_slice(attributes.as_bytes());
        batch.push_raw(what, kind(message), NLM_F_ACK, &body, MISSING);
    };
    // NFTA_TABLE_NAME; NFTA_CHAIN_TABLE, NAME.
    ask("look up an nftables table", NFT_MSG_GETTABLE, &Attributes::new().string(1, &table.name));
    for chain in &table.chains {
        let of_chain = Attributes::new().string(1, &table.name).string(3, &chain.name);
        ask("look up an nftables chain", NFT_MSG_GETCHAIN, &of_chain);
    }
    let mut found = None;
    let mut chains = BTreeMap::new();
    for answer in socket.run(batch)? {
        let body = answer.body.get(4..).unwrap_or_default();
        let number = |kind| attribute(body, kind).and_then(read_be32);
        if answer.kind == kind(NFT_MSG_NEWTABLE) {
            // NFTA_TABLE_FLAGS, USE.
            let dormant = number(2).unwrap_or(0) & NFT_TABLE_F_DORMANT != 0;
            found = Some(Observed { dormant, objects: number(3).unwrap_or(0), ..Observed::default() });
        } else if answer.kind == kind(NFT_MSG_NEWCHAIN)
            && let Some(name) = attribute(body, 3)
        {
            // NFTA_CHAIN_HOOK, POLICY, TYPE; NFTA_HOOK_HOOKNUM, PRIORITY.
            let hook = attribute(body, 4).and_then(|hook| {
                let number = |kind| attribute(hook, kind).and_then(read_be32);
                Some((number(1)?, number(2)?.cast_signed()))
            });
            let kind = attribute(body, 7).map(read_string).unwrap_or_default();
            let accepts = number(5).is_none_or(|policy| policy == NF_ACCEPT);
            chains.insert(read_string(name), ObservedChain { kind, hook, accepts, rules: Vec::new() });
        }
    }
    Ok(found.map(|table| Observed { chains, ..table }))
}

fn dump(
    socket: &mut Socket,
    what: &'static str,
    message: u16,
    family: TableFamily,
    attributes: &Attributes,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut body = header(family as u8, 0);
    body.extend_from_slice(attributes.as_bytes());
    let messages = socket.dump_raw(what, kind(message), &body)?;
    // The attributes follow a header of four bytes.
    Ok(messages.into_iter().map(|message| message.body.get(4..).unwrap_or_default().to_vec()).collect())
}

fn read_elements(body: &[u8]) -> Vec<(IpAddr, bool)> {
    // NFTA_SET_ELEM_LIST_ELEMENTS.
    let elements = attribute(body, 3).unwrap_or_default();
    attributes(elements)
        .filter_map(|(_, element)| {
            let key = attribute(element, NFTA_SET_ELEM_KEY)?;
            let address = read_address(attribute(key, NFTA_DATA_VALUE)?)?;
            let flags = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(|flags| flags.last().copied());
            Some((address, flags.unwrap_or(0) & 1 != 0))
        })
        .collect()
}
