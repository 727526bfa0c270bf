"""An interface's life, as an agent leads it."""

from account import GROUP, INSTANCE_A, SUBNET_A, VPC, client, refused

ec2 = client()

created = ec2.create_network_interface(
    SubnetId=SUBNET_A,
    Groups=[GROUP],
    Description="made by boto3 <&> 'quoted'",
    SecondaryPrivateIpAddressCount=3,
    TagSpecifications=[
        {
            "ResourceType": "network-interface",
            "Tags": [{"Key": "node.k8s.amazonaws.com/instance_id", "Value": INSTANCE_A}],
        }
    ],
    ClientToken="one",
)
eni = created["NetworkInterface"]
eni_id = eni["NetworkInterfaceId"]
assert created["ClientToken"] == "one"
assert eni["Status"] == "pending", eni["Status"]
assert eni["Description"] == "made by boto3 <&> 'quoted'"
assert eni["VpcId"] == VPC and eni["SubnetId"] == SUBNET_A
assert eni["Groups"] == [{"GroupId": GROUP, "GroupName": "nodes"}]
assert eni["TagSet"] == [{"Key": "node.k8s.amazonaws.com/instance_id", "Value": INSTANCE_A}]
assert [a["Primary"] for a in eni["PrivateIpAddresses"]] == [True, False, False, False]
assert eni["PrivateIpAddresses"][0]["PrivateIpAddress"] == eni["PrivateIpAddress"]
assert eni["SourceDestCheck"] is True and eni["InterfaceType"] == "interface"

ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[eni_id])

attached = ec2.attach_network_interface(
    NetworkInterfaceId=eni_id, InstanceId=INSTANCE_A, DeviceIndex=1, NetworkCardIndex=0
)
attachment = attached["AttachmentId"]
assert attached["NetworkCardIndex"] == 0
ec2.modify_network_interface_attribute(
    NetworkInterfaceId=eni_id,
    Attachment={"AttachmentId": attachment, "DeleteOnTermination": True},
)


def described():
    """The interface as it is now."""
    answer = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])
    (only,) = answer["NetworkInterfaces"]
    return only


now = described()
assert now["Status"] == "in-use"
assert now["Attachment"]["Status"] == "attached"
assert now["Attachment"]["InstanceId"] == INSTANCE_A
assert now["Attachment"]["DeviceIndex"] == 1
assert now["Attachment"]["DeleteOnTermination"] is True
assert now["Attachment"]["AttachTime"].year >= 2020

assigned = ec2.assign_private_ip_addresses(
    NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=2
)
new = [a["PrivateIpAddress"] for a in assigned["AssignedPrivateIpAddresses"]]
assert assigned["NetworkInterfaceId"] == eni_id and len(new) == 2
assert [a["PrivateIpAddress"] for a in described()["PrivateIpAddresses"]][-2:] == new

assigned = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4PrefixCount=2)
prefixes = [p["Ipv4Prefix"] for p in assigned["AssignedIpv4Prefixes"]]
assert len(prefixes) == 2 and all(p.endswith("/28") for p in prefixes)
assert [p["Ipv4Prefix"] for p in described()["Ipv4Prefixes"]] == prefixes

ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, PrivateIpAddresses=new)
ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4Prefixes=prefixes)
now = described()
assert len(now["PrivateIpAddresses"]) == 4 and not now.get("Ipv4Prefixes")

ec2.create_tags(Resources=[eni_id], Tags=[{"Key": "k", "Value": "v"}, {"Key": "empty", "Value": ""}])
assert {"Key": "empty", "Value": ""} in described()["TagSet"]
ec2.delete_tags(Resources=[eni_id], Tags=[{"Key": "k"}, {"Key": "empty"}])
assert len(described()["TagSet"]) == 1

instance = ec2.describe_instances(InstanceIds=[INSTANCE_A])["Reservations"][0]["Instances"][0]
assert [i["Attachment"]["DeviceIndex"] for i in instance["NetworkInterfaces"]] == [0, 1]
assert instance["State"] == {"Code": 16, "Name": "running"}
assert instance["InstanceType"] == "m5.large" and instance["Placement"]["AvailabilityZone"] == "us-west-2a"

ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, SourceDestCheck={"Value": False})
ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Description={"Value": "other"})
ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Groups=[GROUP])
now = described()
assert now["SourceDestCheck"] is False and now["Description"] == "other"

with refused("InvalidParameterValue"):
    ec2.delete_network_interface(NetworkInterfaceId=eni_id)
ec2.detach_network_interface(AttachmentId=attachment)
now = described()
assert now["Status"] == "available" and "Attachment" not in now
ec2.delete_network_interface(NetworkInterfaceId=eni_id)
with refused("InvalidNetworkInterfaceID.NotFound"):
    described()

# The subnet has everything back: all but the five reserved and the node's own.
subnet = ec2.describe_subnets(SubnetIds=[SUBNET_A])["Subnets"][0]
assert subnet["AvailableIpAddressCount"] == 4096 - 5 - 1, subnet
