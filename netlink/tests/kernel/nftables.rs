//! nftables: our table as it is put and read, and single rules of others.

use anyhow::{Context, Result, ensure};
use kernel_test::NetNs;
use netlink::nft::{
    self, Chain, ChainKind, Compare, Expression, Hook, MarkSource, NatFlags, Set, Table, TableFamily,
    Transaction,
};

use super::{ip, network};

fn table() -> Result<Table> {
    let mark = 0x80;
    let outside = [
        Expression::LoadNetworkHeader { offset: 16, len: 4 },
        Expression::Lookup { set: "inside".into(), absent: true },
    ];
    let marking = nft::Rule {
        comment: "marks".into(),
        expressions: [
            &Expression::input_begins("eni")[..],
            &Expression::destination_local(nft::AddressType::OfArrival, Compare::Different),
            &outside,
            &Expression::set_mark(MarkSource::Connection, mark),
            &Expression::has_mark(MarkSource::Connection, mark),
            &Expression::set_mark(MarkSource::Packet, mark),
            &[Expression::Counter],
        ]
        .concat(),
    };
    let translating = nft::Rule {
        comment: "translates".into(),
        expressions: [
            &Expression::output_is("eth0")[..],
            &outside,
            &[
                Expression::Counter,
                Expression::SourceNat { to: ip("10.0.0.5")?, flags: NatFlags::FullyRandom },
            ],
        ]
        .concat(),
    };
    let masquerading = nft::Rule {
        comment: "masquerades".into(),
        expressions: vec![Expression::Masquerade { flags: NatFlags::Random }],
    };
    let returning = nft::Rule { comment: "returns".into(), expressions: vec![Expression::Return] };
    let accepting = nft::Rule { comment: "accepts".into(), expressions: vec![Expression::Accept] };
    Ok(Table {
        family: TableFamily::Ip,
        name: "test".into(),
        sets: vec![Set {
            name: "inside".into(),
            ranges: nft::merge(&[
                network("10.0.0.0/16")?,
                network("10.1.0.0/16")?,
                network("255.255.255.0/24")?,
            ]),
        }],
        chains: vec![
            Chain {
                name: "in".into(),
                kind: ChainKind::Filter,
                hook: Hook::Prerouting,
                priority: -90,
                rules: vec![marking, returning, accepting],
            },
            Chain {
                name: "out".into(),
                kind: ChainKind::Nat,
                hook: Hook::Postrouting,
                priority: 110,
                rules: vec![translating, masquerading],
            },
        ],
    })
}

pub(crate) fn table_is_replaced_at_once_and_read_by_nft() -> Result<()> {
    let ns = NetNs::new()?;
    let mut socket = ns.run(nft::open)?;
    let mut table = table()?;
    ensure!(nft::observe(&mut socket, &table)?.is_none());
    for _ in 0..2 {
        nft::replace(&mut socket, &table)?;
        let observed = nft::observe(&mut socket, &table)?.context("the table")?;
        ensure!(observed.is(&table), "{observed:?} is not {:?}", nft::Observed::expected(&table));
    }
    let shown = ns.output("nft", &["list", "ruleset"])?;
    for line in [
        "elements = { 10.0.0.0/15, 255.255.255.0/24 }",
        "type filter hook prerouting priority -90; policy accept;",
        "type nat hook postrouting priority 110; policy accept;",
        r#"iifname "eni*" fib daddr . iif type != local ip daddr != @inside ct mark set ct mark | 0x00000080 ct mark & 0x00000080 != 0x00000000 meta mark set meta mark | 0x00000080"#,
        r#"oifname "eth0" ip daddr != @inside counter packets 0 bytes 0 snat to 10.0.0.5 fully-random comment "translates""#,
        r#"masquerade random comment "masquerades""#,
        r#"return comment "returns""#,
        r#"accept comment "accepts""#,
    ] {
        let flat = |text: &str| {
            text.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .replace("dstnat + 10", "-90")
                .replace("srcnat + 10", "110")
        };
        ensure!(flat(&shown).contains(&flat(line)), "{line:?} is not in\n{shown}");
    }
    // A transaction that fails in its middle changes nothing.
    table.chains.push(Chain {
        name: "in".into(),
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: 1,
        rules: vec![],
    });
    let refused = nft::replace(&mut socket, &table).expect_err("two chains of one name and different kinds");
    ensure!(refused.errno().is_some(), "{refused}");
    ensure!(ns.output("nft", &["list", "ruleset"])? == shown);
    for _ in 0..2 {
        nft::remove(&mut socket, TableFamily::Ip, "test")?;
    }
    ensure!(ns.output("nft", &["list", "ruleset"])?.trim().is_empty());
    Ok(())
}

pub(crate) fn foreign_changes_of_the_table_are_seen() -> Result<()> {
    let ns = NetNs::new()?;
    let mut socket = ns.run(nft::open)?;
    let table = table()?;
    let unchanged = |socket: &mut netlink::Socket| -> Result<bool> {
        Ok(nft::observe(socket, &table)?.is_some_and(|observed| observed.is(&table)))
    };
    let changes = [
        "flush chain ip test out",
        "delete table ip test",
        "add rule ip test in drop",
        "insert rule ip test out accept",
        "add chain ip test more",
        "add set ip test more { type ipv4_addr; }",
        "flush ruleset",
        "add table ip test { flags dormant; }",
        "add chain ip test in { policy drop; }",
        // Of the same length, with the same comment.
        r#"replace rule ip test in handle RETURNS counter accept comment "returns""#,
        r#"replace rule ip test in handle ACCEPTS drop comment "accepts""#,
    ];
    for change in changes {
        nft::replace(&mut socket, &table)?;
        ensure!(unchanged(&mut socket)?);
        let rules = nft::rules(&mut socket, TableFamily::Ip, "test", Some("in"))?;
        let handle = |comment: &str| {
            let rule = rules.iter().find(|rule| rule.comment.as_deref() == Some(comment));
            rule.map_or(0, |rule| rule.handle).to_string()
        };
        ns.output(
            "nft",
            &[&change.replace("RETURNS", &handle("returns")).replace("ACCEPTS", &handle("accepts"))],
        )?;
        ensure!(!unchanged(&mut socket)?, "{change:?} was not seen");
    }
    // Another's table is none of our business.
    nft::replace(&mut socket, &table)?;
    ns.output("nft", &["add", "table", "ip", "other"])?;
    ensure!(unchanged(&mut socket)?);
    Ok(())
}

/// Rules as a CNI plugin and kube-proxy leave them, by `iptables-restore`.
const IPTABLES: &str = "*nat
:POSTROUTING ACCEPT [0:0]
:SNAT-CHAIN-0 - [0:0]
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment \"SNAT CHAIN\" -j SNAT-CHAIN-0
-A SNAT-CHAIN-0 -d 10.0.0.0/16 -j RETURN
-A SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.0.5 --random-fully
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth0 -m comment --comment \"primary\" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
";

pub(crate) fn rules_of_iptables_are_known_and_removed() -> Result<()> {
    let ns = NetNs::new()?;
    let restore = || ns.input("iptables-nft-restore", &[], IPTABLES);
    restore()?;
    let mut socket = ns.run(nft::open)?;
    let chains = nft::chains(&mut socket, TableFamily::Ip)?;
    let of = |name: &str| chains.iter().find(|chain| chain.name == name).with_context(|| name.to_owned());
    ensure!(of("POSTROUTING")?.hook == Some((4, 100)) && of("SNAT-CHAIN-0")?.hook.is_none(), "{chains:?}");

    let jumps = nft::rules(&mut socket, TableFamily::Ip, "nat", Some("POSTROUTING"))?;
    let told: Vec<_> = jumps.iter().map(|rule| (rule.jumps_to.clone(), rule.comment.clone())).collect();
    let said = |to: &str, comment: &str| (Some(to.to_owned()), Some(comment.to_owned()));
    ensure!(
        told == [
            said("KUBE-POSTROUTING", "kubernetes postrouting rules"),
            said("SNAT-CHAIN-0", "SNAT CHAIN")
        ],
        "{told:?}"
    );
    let marks = nft::rules(&mut socket, TableFamily::Ip, "mangle", None)?;
    let inputs: Vec<_> = marks.iter().map(|rule| rule.input().unwrap_or_default()).collect();
    ensure!(inputs == ["eth0", "eni"], "{inputs:?}");
    ensure!(
        marks.iter().all(|rule| rule.target("CONNMARK").is_some_and(|info| info.len() >= 12)),
        "{marks:?}"
    );
    ensure!(marks.iter().all(|rule| rule.target("MARK").is_none() && rule.output().is_none()));

    // The jump and its chain go in one transaction; what others made stays, counters and all.
    let mut removal = Transaction::new(TableFamily::Ip);
    ensure!(removal.is_empty());
    removal.delete_rule(&jumps[1]);
    removal.delete_chain("nat", "SNAT-CHAIN-0");
    removal.delete_rule(&marks[0]);
    removal.run(&mut socket)?;
    let left = ns.output("iptables-nft-save", &[])?;
    ensure!(!left.contains("SNAT-CHAIN-0") && !left.contains("primary"), "{left}");
    ensure!(left.contains("KUBE-POSTROUTING") && left.contains("eni+"), "{left}");
    // A chain that somebody jumps to is refused, and nothing of the transaction is done.
    restore()?;
    let mut removal = Transaction::new(TableFamily::Ip);
    let marks = nft::rules(&mut socket, TableFamily::Ip, "mangle", None)?;
    removal.delete_rule(&marks[0]);
    removal.delete_chain("nat", "SNAT-CHAIN-0");
    ensure!(removal.run(&mut socket).is_err_and(|error| error.errno().is_some()));
    ensure!(nft::rules(&mut socket, TableFamily::Ip, "mangle", None)?.len() == marks.len());
    Transaction::new(TableFamily::Ip).run(&mut socket)?;

    // Long lists whose counters move all the time are read all the same.
    let mut many = String::from("*filter\n");
    (0..2_000)
        .for_each(|number| many.push_str(&format!("-A FORWARD -m comment --comment \"rule {number}\"\n")));
    ns.input("iptables-nft-restore", &[], &(many + "COMMIT\n"))?;
    ensure!(nft::rules(&mut socket, TableFamily::Ip, "filter", Some("FORWARD"))?.len() == 2_000);
    ensure!(nft::rules(&mut socket, TableFamily::Ip, "absent", None)?.is_empty());
    Ok(())
}
