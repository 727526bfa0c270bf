//! Every refusal with its code and status.

use super::*;
use crate::ec2::FaultRule;

/// What is refused whatever the state: `{eni}` etc. are filled in.
#[test]
fn requests_are_refused_with_their_code() {
    let bench = Bench::new("10.0.1.0/24");
    let eni = bench.create("");
    let other = bench.create("&SecondaryPrivateIpAddressCount=1");
    let attached = bench.create("");
    let attachment = bench.attach(&attached, 1);
    let primary = bench.node.eni_id.to_string();
    let primary_attachment = bench.describe(&primary).one("attachmentId");
    let other_secondary = bench.addresses(&other)[1];
    let absent = "eni-00000000000000000";
    let create = format!("Action=CreateNetworkInterface&SubnetId={}", bench.subnet);
    let assign = format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}");
    let unassign = format!("Action=UnassignPrivateIpAddresses&NetworkInterfaceId={other}");
    let modify = format!("Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}");
    let own = bench.addresses(&other)[0];
    for (form, code, status) in [
        ("".to_owned(), "MissingAction", 400),
        ("Action=Nonsense".to_owned(), "InvalidAction", 400),
        ("Action=DescribeSubnets&Version=2011-01-01".to_owned(), "NoSuchVersion", 400),
        ("Action=DescribeSubnets&Nonsense=1".to_owned(), "UnknownParameter", 400),
        ("Action=DescribeSubnets&DryRun=maybe".to_owned(), "InvalidParameterValue", 400),
        ("Action=DescribeSubnets&DryRun=true".to_owned(), "DryRunOperation", 412),
        (format!("{create}&DryRun=true"), "DryRunOperation", 412),
        (format!("{create}&DryRun=true&Nonsense=1"), "UnknownParameter", 400),
        // Ids.
        ("Action=CreateNetworkInterface".to_owned(), "MissingParameter", 400),
        ("Action=CreateNetworkInterface&SubnetId=subnet-x".to_owned(), "InvalidSubnetID.Malformed", 400),
        (
            "Action=CreateNetworkInterface&SubnetId=subnet-00000000".to_owned(),
            "InvalidSubnetID.NotFound",
            400,
        ),
        (format!("{create}&SecurityGroupId.1=sg-00000000"), "InvalidGroup.NotFound", 400),
        (format!("{create}&SecurityGroupId.1=nodes"), "InvalidGroupId.Malformed", 400),
        (
            "Action=DeleteNetworkInterface&NetworkInterfaceId=eni-x".to_owned(),
            "InvalidNetworkInterfaceId.Malformed",
            400,
        ),
        (
            format!("Action=DeleteNetworkInterface&NetworkInterfaceId={absent}"),
            "InvalidNetworkInterfaceID.NotFound",
            400,
        ),
        (
            format!("Action=DescribeNetworkInterfaces&NetworkInterfaceId.1={absent}"),
            "InvalidNetworkInterfaceID.NotFound",
            400,
        ),
        ("Action=DescribeInstances&InstanceId.1=i-00000000".to_owned(), "InvalidInstanceID.NotFound", 400),
        ("Action=DescribeInstances&InstanceId.1=x".to_owned(), "InvalidInstanceID.Malformed", 400),
        ("Action=DescribeSubnets&SubnetId.1=subnet-00000000".to_owned(), "InvalidSubnetID.NotFound", 400),
        ("Action=DescribeVpcs&VpcId.1=vpc-00000000".to_owned(), "InvalidVpcID.NotFound", 400),
        ("Action=DescribeSecurityGroups&GroupId.1=sg-00000000".to_owned(), "InvalidGroup.NotFound", 400),
        ("Action=DescribeInstanceTypes&InstanceType.1=m5.huge".to_owned(), "InvalidInstanceType", 400),
        (
            "Action=DetachNetworkInterface&AttachmentId=eni-attach-00000000".to_owned(),
            "InvalidAttachmentID.NotFound",
            400,
        ),
        // Filters and pages.
        (
            "Action=DescribeSubnets&Filter.1.Name=x&Filter.1.Value.1=y".to_owned(),
            "InvalidParameterValue",
            400,
        ),
        ("Action=DescribeSubnets&MaxResults=4".to_owned(), "InvalidParameterValue", 400),
        ("Action=DescribeSubnets&NextToken=x".to_owned(), "InvalidNextToken", 400),
        (
            format!("Action=DescribeNetworkInterfaces&MaxResults=5&NetworkInterfaceId.1={eni}"),
            "InvalidParameterCombination",
            400,
        ),
        // Create.
        (format!("{create}&SecondaryPrivateIpAddressCount=0"), "InvalidParameterValue", 400),
        (format!("{create}&SecondaryPrivateIpAddressCount=50"), "PrivateIpAddressLimitExceeded", 400),
        (
            format!("{create}&SecondaryPrivateIpAddressCount=1&Ipv4PrefixCount=1"),
            "InvalidParameterCombination",
            400,
        ),
        (format!("{create}&InterfaceType=nonsense"), "InvalidParameterValue", 400),
        (format!("{create}&PrivateIpAddress=10.0.2.9"), "InvalidParameterValue", 400),
        (format!("{create}&PrivateIpAddress=10.0.1.1"), "InvalidParameterValue", 400),
        (format!("{create}&PrivateIpAddress={own}"), "InvalidIPAddress.InUse", 400),
        (format!("{create}&PrivateIpAddress=nonsense"), "InvalidParameterValue", 400),
        (format!("{create}&Ipv6AddressCount=1"), "InvalidParameterValue", 400),
        (format!("{create}&ClientToken={}", "x".repeat(65)), "InvalidParameterValue", 400),
        (
            format!(
                "{create}&PrivateIpAddresses.1.PrivateIpAddress=10.0.1.200&PrivateIpAddresses.1.Primary=true\
                 &PrivateIpAddresses.2.PrivateIpAddress=10.0.1.201&PrivateIpAddresses.2.Primary=true"
            ),
            "InvalidParameterCombination",
            400,
        ),
        (
            format!(
                "{create}&TagSpecification.1.ResourceType=subnet&TagSpecification.1.Tag.1.Key=a\
                 &TagSpecification.1.Tag.1.Value=b"
            ),
            "InvalidParameterValue",
            400,
        ),
        // Attach and detach.
        (format!("{}&NetworkCardIndex=1", bench.attach_form(&eni, 2)), "InvalidParameterValue", 400),
        (bench.attach_form(&eni, 1), "InvalidParameterValue", 400),
        (bench.attach_form(&eni, 0), "InvalidParameterValue", 400),
        (bench.attach_form(&attached, 2), "InvalidNetworkInterface.InUse", 400),
        (bench.attach_form(absent, 2), "InvalidNetworkInterfaceID.NotFound", 400),
        (
            format!(
                "Action=AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId=i-00000000&DeviceIndex=1"
            ),
            "InvalidInstanceID.NotFound",
            400,
        ),
        (
            format!(
                "Action=AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId={}",
                bench.node.instance_id
            ),
            "MissingParameter",
            400,
        ),
        (
            format!("Action=DetachNetworkInterface&AttachmentId={primary_attachment}"),
            "OperationNotPermitted",
            400,
        ),
        (
            format!("Action=DeleteNetworkInterface&NetworkInterfaceId={attached}"),
            "InvalidParameterValue",
            400,
        ),
        // Assign and unassign.
        (assign.clone(), "MissingParameter", 400),
        (format!("{assign}&PrivateIpAddress.1=10.0.2.9"), "InvalidParameterValue", 400),
        (format!("{assign}&PrivateIpAddress.1={other_secondary}"), "InvalidIPAddress.InUse", 400),
        (format!("{assign}&PrivateIpAddress.1={own}&AllowReassignment=true"), "InvalidIPAddress.InUse", 400),
        (format!("{assign}&Ipv4Prefix.1=10.0.1.20/28"), "InvalidParameterValue", 400),
        (format!("{assign}&Ipv4Prefix.1=10.0.1.0/28"), "InvalidParameterValue", 400),
        (format!("{assign}&Ipv4PrefixCount=x"), "InvalidParameterValue", 400),
        (
            format!(
                "Action=AssignPrivateIpAddresses&NetworkInterfaceId={absent}&SecondaryPrivateIpAddressCount=1"
            ),
            "InvalidNetworkInterfaceID.NotFound",
            400,
        ),
        (
            format!(
                "Action=AssignPrivateIpAddresses&NetworkInterfaceId={attached}&SecondaryPrivateIpAddressCount=10"
            ),
            "PrivateIpAddressLimitExceeded",
            400,
        ),
        (unassign.clone(), "MissingParameter", 400),
        (format!("{unassign}&PrivateIpAddress.1={own}"), "InvalidParameterValue", 400),
        (format!("{unassign}&PrivateIpAddress.1=10.0.1.77"), "InvalidParameterValue", 400),
        (format!("{unassign}&Ipv4Prefix.1=10.0.1.16/28"), "InvalidParameterValue", 400),
        // Modify and tags.
        (modify.clone(), "InvalidParameterCombination", 400),
        (
            format!("{modify}&SourceDestCheck.Value=true&Description.Value=x"),
            "InvalidParameterCombination",
            400,
        ),
        (
            format!("{modify}&Attachment.AttachmentId={attachment}&Attachment.DeleteOnTermination=true"),
            "InvalidAttachmentID.NotFound",
            400,
        ),
        (format!("{modify}&Attachment.AttachmentId={attachment}"), "MissingParameter", 400),
        (format!("{modify}&SecurityGroupId.1=sg-00000000"), "InvalidGroup.NotFound", 400),
        (format!("{modify}&EnaSrdSpecification.EnaSrdEnabled=true"), "UnknownParameter", 400),
        (format!("Action=CreateTags&ResourceId.1={eni}"), "MissingParameter", 400),
        ("Action=CreateTags&Tag.1.Key=a".to_owned(), "MissingParameter", 400),
        ("Action=CreateTags&ResourceId.1=x&Tag.1.Key=a".to_owned(), "InvalidID", 400),
        (
            format!("Action=CreateTags&ResourceId.1={eni}&ResourceId.2={absent}&Tag.1.Key=a"),
            "InvalidNetworkInterfaceID.NotFound",
            400,
        ),
    ] {
        let before = bench.cloud.enis();
        let reply = bench.call(&form);
        assert_eq!((reply.code().as_str(), reply.status), (code, status), "{form}: {}", reply.body);
        assert_eq!(bench.cloud.enis(), before, "{form} changed something");
    }
}

#[test]
fn a_fault_hits_the_next_calls_only() {
    let bench = Bench::new("10.0.1.0/24");
    for (kind, status, code) in [
        ("throttle", 503, "RequestLimitExceeded"),
        ("server_error", 500, "InternalError"),
        ("unauthorized", 403, "UnauthorizedOperation"),
        ("InsufficientFreeAddressesInSubnet", 400, "InsufficientFreeAddressesInSubnet"),
    ] {
        bench.cloud.set_fault(FaultRule::new("DescribeSubnets", kind, 2)).expect(kind);
        for _ in 0..2 {
            let reply = bench.call("Action=DescribeSubnets");
            assert_eq!((reply.status, reply.code().as_str()), (status, code));
        }
        bench.ok("Action=DescribeSubnets");
    }
    assert_eq!(bench.cloud.faults(), []);
}

#[test]
fn a_lost_answer_has_its_effect() {
    let bench = Bench::new("10.0.1.0/24");
    let mut fault = FaultRule::new("CreateNetworkInterface", "timeout_after_effect", 1);
    fault.hold_ms = Some(0);
    bench.cloud.set_fault(fault).expect("a fault");
    let form = format!("Action=CreateNetworkInterface&SubnetId={}&ClientToken=t", bench.subnet);
    let lost = bench.cloud.answer("node-a", &form);
    assert_eq!(lost.hang, Some(Duration::ZERO));
    assert_eq!(bench.cloud.enis().len(), 2);
    // The second try with the same token finds what the first made.
    bench.ok(&form);
    assert_eq!(bench.cloud.enis().len(), 2);
}
