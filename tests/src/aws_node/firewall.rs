//! aws-node's translation and marks, as it leaves them in the kernel.

use std::net::Ipv4Addr;

/// By which tools its rules were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Since 1.23 on a host whose iptables writes nf_tables: iptables rules, and a table of its own for the marks.
    Nftables,
    /// Before 1.23 on such a host: iptables rules for all.
    IptablesNft,
    /// On a host whose iptables writes x_tables.
    IptablesLegacy,
}

impl Firewall {
    /// The tools that wrote its iptables rules: `iptables-nft` or `iptables-legacy`, without a verb.
    pub fn tool(self) -> &'static str {
        if self == Self::IptablesLegacy { "iptables-legacy" } else { "iptables-nft" }
    }

    /// The commands that install it on a node whose primary interface is `eth0`. With `external` translation only
    /// the marks for NodePorts are there.
    pub(super) fn script(self, vpc_cidr: &str, primary: Ipv4Addr, external: bool) -> String {
        let nat = if external { String::new() } else { self.translation(vpc_cidr, primary) };
        let rules = format!(
            r#"*mangle
-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
{nat}"#
        );
        let mut script = format!("{}-restore --noflush <<'END'\n{rules}END\n", self.tool());
        if self == Self::Nftables && !external {
            script.push_str(&format!("nft -f - <<'END'\n{}END\n", table(vpc_cidr)));
        }
        script
    }

    fn translation(self, vpc_cidr: &str, primary: Ipv4Addr) -> String {
        let marks = if self == Self::Nftables { String::new() } else { connmark(vpc_cidr) };
        format!(
            r#"*nat
:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d {vpc_cidr} -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source {primary} --random-fully
{marks}COMMIT
"#
        )
    }
}

fn connmark(vpc_cidr: &str) -> String {
    format!(
        r#":AWS-CONNMARK-CHAIN-0 - [0:0]
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A AWS-CONNMARK-CHAIN-0 -d {vpc_cidr} -m comment --comment "AWS CONNMARK CHAIN" -j RETURN
-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
"#
    )
}

fn table(vpc_cidr: &str) -> String {
    format!(
        r#"table ip aws-cni {{
	chain snat-mark {{
		counter ip daddr {vpc_cidr} return
		counter ct mark set ct mark | 0x00000080
	}}
	chain nat-prerouting {{
		type nat hook prerouting priority -90; policy accept;
		fib daddr type local return
		iifname "eni*" counter jump snat-mark
		counter meta mark set ct mark & 0x00000080
	}}
}}
"#
    )
}
