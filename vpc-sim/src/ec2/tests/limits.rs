//! What instance types take.

use super::*;

#[test]
fn an_instance_takes_so_many_interfaces() {
    let bench = Bench::new("10.0.1.0/24");
    let enis: Vec<String> = (0..3).map(|_| bench.create("")).collect();
    bench.attach(&enis[0], 1);
    bench.attach(&enis[1], 2);
    let reply = bench.call(&bench.attach_form(&enis[2], 3));
    assert_eq!(reply.code(), "AttachmentLimitExceeded");
    assert!(reply.body.contains("Interface count 4 exceeds the limit for m5.large"));
}

#[test]
fn an_interface_brings_no_more_addresses_than_the_type_takes() {
    let bench = Bench::with(Settings::calm(), "10.0.1.0/24", "t3.medium");
    let eni = bench.create("&SecondaryPrivateIpAddressCount=6");
    let reply = bench.call(&bench.attach_form(&eni, 1));
    assert_eq!(reply.code(), "InvalidInterface.IpAddressLimitExceeded");
    assert!(reply.body.contains("Address count 7 on interface-"), "{}", reply.body);
    let fits = bench.create("&SecondaryPrivateIpAddressCount=5");
    bench.attach(&fits, 1);
}

#[test]
fn a_network_card_takes_so_many_interfaces() {
    let bench = Bench::with(Settings::calm(), "10.0.1.0/24", "p5.48xlarge");
    let enis: Vec<String> = (0..3).map(|_| bench.create("")).collect();
    let on_card = |eni: &str, device: u32, card: u32| {
        bench.call(&format!("{}&NetworkCardIndex={card}", bench.attach_form(eni, device)))
    };
    assert_eq!(on_card(&enis[0], 1, 0).one("networkCardIndex"), "0");
    assert_eq!(on_card(&enis[1], 2, 0).code(), "AttachmentLimitExceeded");
    // The same device index is free on another card.
    assert_eq!(on_card(&enis[1], 1, 1).one("networkCardIndex"), "1");
    assert_eq!(on_card(&enis[2], 1, 1).code(), "InvalidParameterValue");
    assert_eq!(on_card(&enis[2], 1, 32).code(), "InvalidParameterValue");
}

#[test]
fn xen_takes_no_prefixes() {
    let bench = Bench::with(Settings::calm(), "10.0.1.0/24", "m4.large");
    let form =
        format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={}&Ipv4PrefixCount=1", bench.node.eni_id);
    assert_eq!(bench.call(&form).code(), "InvalidParameterValue");
    let eni = bench.create("&Ipv4PrefixCount=1");
    assert_eq!(bench.call(&bench.attach_form(&eni, 1)).code(), "InvalidParameterValue");
}

#[test]
fn zones_do_not_mix() {
    let bench = Bench::new("10.0.1.0/24");
    let cidr = "10.0.2.0/24".parse().expect("a network");
    let far = bench.cloud.add_subnet(&bench.vpc, cidr, "us-west-2b").expect("a subnet");
    let eni = bench.ok(&format!("Action=CreateNetworkInterface&SubnetId={far}"));
    let reply = bench.call(&bench.attach_form(&eni.one("networkInterfaceId"), 1));
    assert_eq!(reply.code(), "InvalidParameterCombination");
}

#[test]
fn groups_are_of_the_vpc_and_no_more_than_five() {
    let bench = Bench::new("10.0.1.0/24");
    let groups: Vec<_> = (0..6)
        .map(|n| bench.cloud.add_security_group(&bench.vpc, &format!("g{n}")).expect("a group"))
        .collect();
    let list = |count: usize| {
        let numbered = groups.iter().take(count).enumerate();
        numbered.map(|(n, id)| format!("&SecurityGroupId.{}={id}", n + 1)).collect::<String>()
    };
    let eni = bench.create(&list(5));
    assert_eq!(bench.describe(&eni).all("groupName"), ["g0", "g1", "g2", "g3", "g4"]);
    let modify = format!("Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}{}", list(6));
    assert_eq!(bench.call(&modify).code(), "SecurityGroupsPerInterfaceLimitExceeded");
    assert_eq!(bench.describe(&bench.create("")).all("groupName"), ["default"]);
    let other = bench.cloud.add_vpc("10.9.0.0/16".parse().expect("a network")).expect("a VPC");
    let foreign = bench.cloud.default_group(&other).expect("a group");
    let form = format!("Action=CreateNetworkInterface&SubnetId={}&SecurityGroupId.1={foreign}", bench.subnet);
    assert_eq!(bench.call(&form).code(), "InvalidGroup.NotFound");
}

#[test]
fn trunks_have_branches() {
    let bench = Bench::with(Settings::calm(), "10.0.1.0/24", "m5.xlarge");
    let (trunk, branch) = (bench.create("&InterfaceType=trunk"), bench.create("&InterfaceType=branch"));
    let plain = bench.create("");
    let associate = |trunk: &str, branch: &str, vlan: &str| {
        bench.call(&format!(
            "Action=AssociateTrunkInterface&TrunkInterfaceId={trunk}&BranchInterfaceId={branch}&VlanId={vlan}"
        ))
    };
    assert_eq!(bench.call(&bench.attach_form(&branch, 1)).code(), "OperationNotPermitted");
    assert_eq!(associate(&plain, &branch, "1").code(), "InvalidParameterValue");
    assert_eq!(associate(&trunk, &branch, "4095").code(), "InvalidParameterValue");
    let made = associate(&trunk, &branch, "7");
    assert_eq!(made.status, 200, "{}", made.body);
    assert_eq!(associate(&trunk, &branch, "8").code(), "InvalidParameterValue");
    assert_eq!(bench.status(&branch), "associated");
    let delete = format!("Action=DeleteNetworkInterface&NetworkInterfaceId={branch}");
    assert_eq!(bench.call(&delete).code(), "InvalidParameterValue");
    let listed = bench.ok("Action=DescribeTrunkInterfaceAssociations");
    assert_eq!(listed.all("vlanId"), ["7"]);
    let id = made.one("associationId");
    bench.ok(&format!("Action=DisassociateTrunkInterface&AssociationId={id}"));
    bench.ok(&delete);
}

#[test]
fn an_efa_only_interface_has_no_address() {
    let bench = Bench::with(Settings::calm(), "10.0.1.0/24", "p4d.24xlarge");
    let eni = bench.create("&InterfaceType=efa-only");
    assert!(!bench.describe(&eni).body.contains("<privateIpAddress>"));
    let form =
        format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}&SecondaryPrivateIpAddressCount=1");
    assert_eq!(bench.call(&form).code(), "InvalidParameterValue");
    bench.attach(&eni, 1);
}
