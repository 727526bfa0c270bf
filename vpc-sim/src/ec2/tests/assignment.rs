//! Addresses: all or nothing, unique, exact.

use std::collections::BTreeSet;

use super::*;

fn assign(bench: &Bench, eni: &str, what: &str) -> Reply {
    bench.call(&format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}&{what}"))
}

#[test]
fn an_answer_has_the_new_addresses_only() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("&SecondaryPrivateIpAddressCount=3");
    let before = bench.addresses(&eni);
    let reply = assign(&bench, &eni, "SecondaryPrivateIpAddressCount=2");
    let new: Vec<Ipv4Addr> =
        reply.all("privateIpAddress").iter().map(|text| text.parse().expect(text)).collect();
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|address| !before.contains(address)));
    assert_eq!(bench.addresses(&eni), [before, new].concat());
    // The node's own, the interface's first, five more.
    assert_eq!(bench.free(), 251 - 7);
}

#[test]
fn addresses_are_had_once_and_given_back() {
    let bench = Bench::new("10.0.1.0/26");
    let mut seen = BTreeSet::from([bench.node.primary_ip]);
    let enis: Vec<String> = (0..4).map(|_| bench.create("&SecondaryPrivateIpAddressCount=10")).collect();
    for eni in &enis {
        for address in bench.addresses(eni) {
            assert!(seen.insert(address), "{address} twice");
            assert!(bench.subnet_contains(address), "{address} outside");
        }
    }
    assert_eq!(bench.free(), 59 - 45);
    for eni in &enis {
        bench.ok(&format!("Action=DeleteNetworkInterface&NetworkInterfaceId={eni}"));
    }
    assert_eq!(bench.free(), 58);
}

impl Bench {
    fn subnet_contains(&self, address: Ipv4Addr) -> bool {
        let reply = self.ok(&format!("Action=DescribeSubnets&SubnetId.1={}", self.subnet));
        let cidr: ipnetwork::Ipv4Network = reply.one("cidrBlock").parse().expect("a network");
        cidr.contains(address)
    }
}

#[test]
fn a_subnet_runs_out_exactly_and_changes_nothing_then() {
    let bench = Bench::new("10.0.1.0/28");
    let eni = bench.create("");
    assert_eq!(bench.free(), 9);
    for (what, code) in [
        ("SecondaryPrivateIpAddressCount=10", "InsufficientFreeAddressesInSubnet"),
        // Fewer than 16 addresses are free: not a question of blocks.
        ("Ipv4PrefixCount=1", "InvalidParameterValue"),
    ] {
        assert_eq!(assign(&bench, &eni, what).code(), code, "{what}");
        assert_eq!(bench.free(), 9, "{what}");
    }
    assert_eq!(assign(&bench, &eni, "SecondaryPrivateIpAddressCount=9").status, 200);
    assert_eq!(bench.free(), 0);
    let create = format!("Action=CreateNetworkInterface&SubnetId={}", bench.subnet);
    assert_eq!(bench.call(&create).code(), "InsufficientFreeAddressesInSubnet");
}

#[test]
fn one_bad_address_spoils_all() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("");
    let free = bench.free();
    let what = format!("PrivateIpAddress.1=10.0.1.200&PrivateIpAddress.2={}", bench.node.primary_ip);
    assert_eq!(assign(&bench, &eni, &what).code(), "InvalidIPAddress.InUse");
    assert_eq!((bench.free(), bench.addresses(&eni).len()), (free, 1));
    // So does a create that fails at its last step.
    let create = format!(
        "Action=CreateNetworkInterface&SubnetId={}&Ipv4Prefix.1.Ipv4Prefix=10.0.9.0/28",
        bench.subnet
    );
    assert_eq!(bench.call(&create).code(), "InvalidParameterValue");
    assert_eq!(bench.free(), free);
}

#[test]
fn prefixes_take_sixteen_and_one_place() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("&Ipv4PrefixCount=2");
    assert_eq!(bench.free(), 251 - 2 - 32);
    let described = bench.describe(&eni);
    let prefixes = described.all("ipv4Prefix");
    assert_eq!(prefixes.len(), 2);
    assert!(prefixes.iter().all(|prefix| prefix.ends_with("/28")));
    bench.attach(&eni, 1);
    // One primary and two prefixes leave seven places of ten on an m5.large.
    assert_eq!(assign(&bench, &eni, "Ipv4PrefixCount=8").code(), "PrivateIpAddressLimitExceeded");
    let reply = assign(&bench, &eni, "Ipv4PrefixCount=7");
    assert_eq!(reply.all("ipv4Prefix").len(), 7);
    bench.ok(&format!(
        "Action=UnassignPrivateIpAddresses&NetworkInterfaceId={eni}&Ipv4Prefix.1={}",
        prefixes[0]
    ));
    assert_eq!(bench.free(), 251 - 2 - 16 * 8);
}

#[test]
fn a_fragmented_subnet_has_addresses_but_no_block() {
    let bench = Bench::new("10.0.1.0/26");
    let eni = bench.create("");
    // 10.0.1.16/28 and 10.0.1.32/28 are the only blocks without reserved addresses.
    for address in ["10.0.1.20", "10.0.1.40"] {
        let _ = assign(&bench, &eni, &format!("PrivateIpAddress.1={address}"));
    }
    assert!(bench.free() > 32);
    assert_eq!(assign(&bench, &eni, "Ipv4PrefixCount=1").code(), "InsufficientCidrBlocks");
    let create = format!("Action=CreateNetworkInterface&SubnetId={}&Ipv4PrefixCount=1", bench.subnet);
    assert_eq!(bench.call(&create).code(), "InsufficientCidrBlocks");
}

#[test]
fn an_address_moves_only_when_allowed() {
    let bench = Bench::new("10.0.1.0/24");
    let (from, to) = (bench.create("&SecondaryPrivateIpAddressCount=2"), bench.create(""));
    let moved = bench.addresses(&from)[1];
    let what = format!("PrivateIpAddress.1={moved}");
    assert_eq!(assign(&bench, &to, &what).code(), "InvalidIPAddress.InUse");
    let free = bench.free();
    assert_eq!(assign(&bench, &to, &format!("{what}&AllowReassignment=true")).status, 200);
    assert!(!bench.addresses(&from).contains(&moved));
    assert!(bench.addresses(&to).contains(&moved));
    assert_eq!(bench.free(), free);
}

#[test]
fn ipv6_comes_and_goes() {
    let bench = Bench::new("10.0.1.0/24");
    let (cidr, cidr6) = ("10.0.2.0/24", "fd00:0:0:1::/64");
    let subnet = bench
        .cloud
        .add_dual_stack_subnet(
            &bench.vpc,
            cidr.parse().expect(cidr),
            cidr6.parse().expect(cidr6),
            "us-west-2a",
        )
        .expect("a subnet");
    let form =
        format!("Action=CreateNetworkInterface&SubnetId={subnet}&Ipv6AddressCount=1&Ipv6PrefixCount=1");
    assert_eq!(bench.call(&form).code(), "InvalidParameterCombination");
    let reply = bench.ok(&format!("Action=CreateNetworkInterface&SubnetId={subnet}&Ipv6AddressCount=1"));
    let eni = reply.one("networkInterfaceId");
    let base = format!("NetworkInterfaceId={eni}");
    let prefix = bench.ok(&format!("Action=AssignIpv6Addresses&{base}&Ipv6PrefixCount=1"));
    let prefix = prefix.one("assignedIpv6PrefixSet").replace("<item>", "").replace("</item>", "");
    assert!(prefix.ends_with("/80"), "{prefix}");
    assert_eq!(bench.describe(&eni).all("ipv6Address").len(), 1);
    let out = bench.ok(&format!("Action=UnassignIpv6Addresses&{base}&Ipv6Prefix.1={prefix}"));
    assert!(out.one("unassignedIpv6PrefixSet").contains(&prefix));
    let again = bench.call(&format!("Action=UnassignIpv6Addresses&{base}&Ipv6Prefix.1={prefix}"));
    assert_eq!(again.code(), "InvalidParameterValue");
}
