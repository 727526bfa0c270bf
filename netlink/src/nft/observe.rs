//! What the kernel has under a table's name, as far as it takes to see that
//! somebody changed it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Table, TableFamily,
    message::{header, kind, user_data},
};
use crate::{
    Error, Socket,
    wire::{Attributes, attribute, attributes, read_address, read_string},
};

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;

/// Chains with the comments of their rules in order, and sets with the bounds
/// of their ranges. A rule that somebody rewrites loses its comment or changes
/// its expressions' number, a removed one is missing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Observed {
    /// Per chain, the user data of each rule and the number of its expressions.
    pub chains: BTreeMap<String, Vec<(Vec<u8>, usize)>>,
    /// Per set, its elements and whether each ends a range, in order.
    pub sets: BTreeMap<String, Vec<(IpAddr, bool)>>,
}

impl Observed {
    /// What is seen when `table` is in force unchanged.
    pub fn expected(table: &Table) -> Self {
        let chains = table.chains.iter().map(|chain| {
            let rules = chain.rules.iter().map(|rule| {
                let operands = rule.expressions.iter().filter(|one| one.operand().is_some()).count();
                (user_data(&rule.comment), rule.expressions.len() + operands)
            });
            (chain.name.clone(), rules.collect())
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
        Self { chains: chains.collect(), sets: sets.collect() }
    }
}

/// What is under `table`'s name; none if there is no such table. Sets other
/// than those of `table` are not looked for.
pub fn observe(socket: &mut Socket, table: &Table) -> Result<Option<Observed>, Error> {
    let mut observed = Observed::default();
    for body in dump(socket, "list nftables chains", NFT_MSG_GETCHAIN, table.family, &Attributes::new())? {
        // NFTA_CHAIN_TABLE, NAME.
        if attribute(&body, 1).map(read_string).as_deref() == Some(&table.name)
            && let Some(name) = attribute(&body, 3)
        {
            observed.chains.insert(read_string(name), Vec::new());
        }
    }
    if observed.chains.is_empty() {
        return Ok(None);
    }
    // NFTA_RULE_TABLE.
    let of_table = Attributes::new().string(1, &table.name);
    for body in dump(socket, "list nftables rules", NFT_MSG_GETRULE, table.family, &of_table)? {
        // NFTA_RULE_TABLE, CHAIN, EXPRESSIONS, USERDATA. Kernels before 4.x
        // ignored the filter by table, so it is looked at again.
        if attribute(&body, 1).map(read_string).as_deref() != Some(&table.name) {
            continue;
        }
        let Some(chain) = attribute(&body, 2).map(read_string) else { continue };
        let data = attribute(&body, 7).unwrap_or_default().to_vec();
        let expressions = attribute(&body, 4).map_or(0, |list| attributes(list).count());
        observed.chains.entry(chain).or_default().push((data, expressions));
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
