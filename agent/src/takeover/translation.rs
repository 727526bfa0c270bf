//! aws-node's rules for packets that leave the VPC: those in nf_tables are removed when ours stand.
//!
//! It writes them by iptables, whose nft variant keeps them in the tables `nat`, `mangle` and `filter` beside
//! everybody else's, and (since its version 1.23) into a table of its own. They are known by their comments and by the
//! names of their chains. What iptables-legacy keeps is not nf_tables' and is only named.

use std::path::Path;

use netlink::nft::{self, ForeignChain, ForeignRule, TableFamily, Transaction};
use netlink::{Error, Socket};

/// Its own table.
const TABLE: &str = "aws-cni";
/// iptables' tables that it writes to.
const SHARED: [&str; 3] = ["nat", "mangle", "filter"];
/// What names of its chains begin with.
const CHAINS: [&str; 2] = ["AWS-SNAT-CHAIN-", "AWS-CONNMARK-CHAIN-"];
/// What comments of its rules begin with.
const COMMENTS: [&str; 8] = [
    "AWS SNAT CHAIN",
    "AWS CONNMARK CHAIN",
    "AWS, SNAT",
    "AWS, CONNMARK",
    "AWS, connmark",
    "AWS, primary ENI",
    "AWS, outbound connections",
    "Block Node Local Pod access via IP",
];
/// Names of the legacy tables that stand in this network namespace.
const LEGACY: &str = "/proc/net/ip_tables_names";

/// Removes its rules, in one transaction for each family. Returns how many there were.
pub(super) fn remove(socket: &mut Socket) -> Result<usize, Error> {
    Ok(remove_of(socket, TableFamily::Ip)? + remove_of(socket, TableFamily::Ip6)?)
}

fn remove_of(socket: &mut Socket, family: TableFamily) -> Result<usize, Error> {
    let chains = nft::chains(socket, family)?;
    let mut transaction = Transaction::new(family);
    let mut count = 0;
    if chains.iter().any(|chain| chain.table == TABLE) {
        transaction.delete_table(TABLE);
        count += 1;
    }
    for table in SHARED {
        if !chains.iter().any(|chain| chain.table == table) {
            continue;
        }
        // All rules before all chains: its chains may lead to one another.
        for rule in nft::rules(socket, family, table, None)?.iter().filter(|rule| is_theirs(rule)) {
            transaction.delete_rule(rule);
            count += 1;
        }
        for chain in chains.iter().filter(|chain| chain.table == table && is_their_chain(&chain.name)) {
            let ForeignChain { table, name, .. } = chain;
            transaction.delete_chain(table, name);
            count += 1;
        }
    }
    transaction.run(socket)?;
    Ok(count)
}

fn is_their_chain(name: &str) -> bool {
    CHAINS.iter().any(|prefix| name.starts_with(prefix))
}

fn is_theirs(rule: &ForeignRule) -> bool {
    let by_comment =
        rule.comment.as_deref().is_some_and(|said| COMMENTS.iter().any(|prefix| said.starts_with(prefix)));
    by_comment || is_their_chain(&rule.chain) || rule.jumps_to.as_deref().is_some_and(is_their_chain)
}

/// Names of legacy tables in which its rules may stand; none where nobody used iptables-legacy.
pub(super) fn legacy_tables() -> Vec<String> {
    legacy_tables_at(Path::new(LEGACY))
}

fn legacy_tables_at(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|name| SHARED.contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(chain: &str, comment: Option<&str>) -> ForeignRule {
        ForeignRule {
            table: "nat".into(),
            chain: chain.into(),
            handle: 7,
            comment: comment.map(Into::into),
            ..ForeignRule::default()
        }
    }

    #[test]
    fn only_its_own_rules_are_theirs() {
        for (chain, comment) in [
            ("POSTROUTING", Some("AWS SNAT CHAIN")),
            ("AWS-SNAT-CHAIN-0", None),
            ("AWS-SNAT-CHAIN-0", Some("AWS SNAT CHAIN EXCLUSION")),
            ("AWS-CONNMARK-CHAIN-0", Some("AWS, CONNMARK")),
            ("PREROUTING", Some("AWS, primary ENI")),
            ("FORWARD", Some("Block Node Local Pod access via IPv4")),
        ] {
            assert!(is_theirs(&rule(chain, comment)), "{chain} {comment:?}");
        }
        for (chain, comment) in [
            ("POSTROUTING", Some("kubernetes postrouting rules")),
            ("KUBE-SERVICES", Some("default/AWS SNAT CHAIN cluster IP")),
            ("PREROUTING", None),
            ("FORWARD", Some("AWS, something of an operator's")),
        ] {
            assert!(!is_theirs(&rule(chain, comment)), "{chain} {comment:?}");
        }
    }

    #[test]
    fn legacy_tables_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ip_tables_names");
        assert!(legacy_tables_at(&path).is_empty(), "no such module");
        std::fs::write(&path, "nat\nmangle\nraw\n").expect("written");
        assert_eq!(legacy_tables_at(&path), ["nat", "mangle"]);
    }
}
