//! Describe operations: filters, pages, contents.

use super::*;

fn found(bench: &Bench, name: &str, value: &str) -> Vec<String> {
    let form = format!("Action=DescribeNetworkInterfaces&Filter.1.Name={name}&Filter.1.Value.1={value}");
    bench.ok(&form).all("networkInterfaceId")
}

#[test]
fn every_filter_finds_its_interface() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create(&format!(
        "&Description=mine&SecondaryPrivateIpAddressCount=1&SecurityGroupId.1={}\
         &TagSpecification.1.ResourceType=network-interface&TagSpecification.1.Tag.1.Key=owner\
         &TagSpecification.1.Tag.1.Value=me",
        bench.group
    ));
    let attachment = bench.attach(&eni, 1);
    let described = bench.describe(&eni);
    let secondary = bench.addresses(&eni)[1].to_string();
    let instance = bench.node.instance_id.to_string();
    for (name, value) in [
        ("addresses.private-ip-address", secondary.as_str()),
        ("attachment.attachment-id", &attachment),
        ("attachment.delete-on-termination", "false"),
        ("attachment.device-index", "1"),
        ("description", "mine"),
        ("description", "m*e"),
        ("mac-address", &described.one("macAddress")),
        ("network-interface-id", &eni),
        ("private-dns-name", &described.one("privateDnsName")),
        ("private-ip-address", &described.one("privateIpAddress")),
        ("tag:owner", "me"),
        ("tag-key", "owner"),
        ("tag-value", "m?"),
    ] {
        assert_eq!(found(&bench, name, value), [eni.as_str()], "{name}={value}");
    }
    for (name, value) in [
        ("addresses.primary", "true"),
        ("attachment.attach-time", "20*"),
        ("attachment.instance-id", &instance),
        ("attachment.instance-owner-id", "123456789012"),
        ("attachment.network-card-index", "0"),
        ("attachment.status", "attached"),
        ("availability-zone", "us-west-2a"),
        ("availability-zone-id", "usw2-az1"),
        ("group-id", bench.group.as_str()),
        ("group-name", "nodes"),
        ("interface-type", "interface"),
        ("owner-id", "123456789012"),
        ("requester-managed", "false"),
        ("source-dest-check", "true"),
        ("status", "in-use"),
        ("subnet-id", bench.subnet.as_str()),
        ("vpc-id", bench.vpc.as_str()),
    ] {
        assert_eq!(found(&bench, name, value).len(), 2, "{name}={value}");
        assert!(found(&bench, name, "nonsense").is_empty(), "{name}");
    }
    assert!(found(&bench, "association.public-ip", "*").is_empty());
}

#[test]
fn pages_have_everything_once() {
    let bench = Bench::new("10.0.1.0/24");
    let mut expected: Vec<String> = (0..22).map(|_| bench.create("")).collect();
    expected.push(bench.node.eni_id.to_string());
    expected.sort();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let reply = bench.ok(&format!("Action=DescribeNetworkInterfaces&MaxResults=5{token}"));
        let page = reply.all("networkInterfaceId");
        assert!(page.len() <= 5);
        seen.extend(page);
        match reply.all("nextToken").first() {
            Some(next) => token = format!("&NextToken={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected);
}

#[test]
fn an_instance_has_its_interfaces() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("");
    bench.attach(&eni, 1);
    let reply = bench.ok(&format!(
        "Action=DescribeInstances&Filter.1.Name=network-interface.network-interface-id&Filter.1.Value.1={eni}"
    ));
    assert_eq!(reply.all("networkInterfaceId"), [bench.node.eni_id.to_string(), eni]);
    assert_eq!(reply.all("deviceIndex"), ["0", "1"]);
    assert_eq!(reply.one("instanceType"), "m5.large");
    assert_eq!(reply.one("availabilityZone"), "us-west-2a");
    assert_eq!((reply.one("code"), reply.one("name")), ("16".to_owned(), "running".to_owned()));
}

#[test]
fn instance_types_have_their_limits() {
    let bench = Bench::new("10.0.1.0/24");
    let reply = bench.ok("Action=DescribeInstanceTypes&InstanceType.1=p4d.24xlarge");
    for (element, expected) in [
        ("maximumNetworkInterfaces", "60"),
        ("maximumNetworkCards", "4"),
        ("ipv4AddressesPerInterface", "50"),
        ("hypervisor", "nitro"),
        ("bareMetal", "false"),
        ("defaultVCpus", "96"),
    ] {
        assert_eq!(reply.one(element), expected, "{element}");
    }
    assert_eq!(reply.all("networkCardIndex"), ["0", "1", "2", "3"]);
    let first = bench.ok("Action=DescribeInstanceTypes&MaxResults=100");
    assert_eq!(first.all("instanceType").len(), 100);
    assert!(!first.one("nextToken").is_empty());
}

#[test]
fn networks_are_described() {
    let bench = Bench::new("10.0.1.0/24");
    let subnets = bench.ok(&format!(
        "Action=DescribeSubnets&Filter.1.Name=vpc-id&Filter.1.Value.1={}&Filter.2.Name=availability-zone\
         &Filter.2.Value.1=us-west-2a",
        bench.vpc
    ));
    assert_eq!(subnets.all("subnetId"), [bench.subnet.to_string()]);
    assert_eq!(subnets.one("availableIpAddressCount"), "250");
    let vpcs = bench.ok("Action=DescribeVpcs");
    assert_eq!((vpcs.one("vpcId"), vpcs.one("cidrBlock")), (bench.vpc.to_string(), "10.0.0.0/16".to_owned()));
    let groups = bench.ok("Action=DescribeSecurityGroups&Filter.1.Name=group-name&Filter.1.Value.1=nodes");
    assert_eq!(groups.all("groupId"), [bench.group.to_string()]);
}

#[test]
fn tags_come_and_go() {
    let bench = Bench::new("10.0.1.0/24");
    let (eni, subnet) = (bench.create(""), bench.subnet.to_string());
    bench.ok(&format!(
        "Action=CreateTags&ResourceId.1={eni}&ResourceId.2={subnet}&Tag.1.Key=a&Tag.1.Value=1&Tag.2.Key=b"
    ));
    assert_eq!(bench.describe(&eni).all("key"), ["a", "b"]);
    assert_eq!(found(&bench, "tag:a", "1"), [eni.as_str()]);
    bench.ok(&format!("Action=DeleteTags&ResourceId.1={eni}&Tag.1.Key=a&Tag.1.Value=other&Tag.2.Key=b"));
    assert_eq!(bench.describe(&eni).all("key"), ["a"]);
    bench.ok(&format!("Action=DeleteTags&ResourceId.1={eni}"));
    assert!(bench.describe(&eni).all("key").is_empty());
    let subnets = bench.ok("Action=DescribeSubnets&Filter.1.Name=tag:a&Filter.1.Value.1=1");
    assert_eq!(subnets.all("subnetId"), [subnet]);
}

#[test]
fn attributes_are_modified_one_at_a_time() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("");
    let modify = format!("Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}");
    for (change, element, expected) in [
        ("SourceDestCheck.Value=false".to_owned(), "sourceDestCheck", "false"),
        ("Description.Value=new".to_owned(), "description", "new"),
        (format!("SecurityGroupId.1={}", bench.group), "groupName", "nodes"),
    ] {
        bench.ok(&format!("{modify}&{change}"));
        assert_eq!(bench.describe(&eni).one(element), expected, "{change}");
    }
}
