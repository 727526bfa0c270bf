"""Every documented error, as boto3 meets it."""

from account import GROUP, INSTANCE_A, INSTANCE_B, SUBNET_A, SUBNET_B, VPC, client, control, refused

ec2 = client()


def create(**options):
    """A new interface's description."""
    return ec2.create_network_interface(SubnetId=options.pop("SubnetId", SUBNET_A), **options)[
        "NetworkInterface"
    ]


def small_subnet(cidr):
    """A subnet of its own."""
    body = {"vpc_id": VPC, "cidr": cidr, "az": "us-west-2a"}
    return control("POST", "/subnets", body)["id"]


eni = create()["NetworkInterfaceId"]
absent = "eni-0123456789abcdef0"

# Ids.
with refused("InvalidNetworkInterfaceId.Malformed"):
    ec2.describe_network_interfaces(NetworkInterfaceIds=["nonsense"])
with refused("InvalidNetworkInterfaceID.NotFound"):
    ec2.describe_network_interfaces(NetworkInterfaceIds=[absent])
with refused("InvalidNetworkInterfaceID.NotFound"):
    ec2.delete_network_interface(NetworkInterfaceId=absent)
with refused("InvalidAttachmentID.NotFound"):
    ec2.detach_network_interface(AttachmentId="eni-attach-0123456789abcdef0")
with refused("InvalidSubnetID.NotFound"):
    create(SubnetId="subnet-0123456789abcdef0")
with refused("InvalidSubnetID.Malformed"):
    create(SubnetId="nonsense")
with refused("InvalidGroup.NotFound"):
    create(Groups=["sg-0123456789abcdef0"])
with refused("InvalidInstanceID.NotFound"):
    ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"])
with refused("InvalidInstanceType"):
    ec2.describe_instance_types(InstanceTypes=["m5.huge"])

# Limits.
with refused("PrivateIpAddressLimitExceeded"):
    create(SecondaryPrivateIpAddressCount=50)
first, second, third = (create()["NetworkInterfaceId"] for _ in range(3))
ec2.attach_network_interface(NetworkInterfaceId=first, InstanceId=INSTANCE_A, DeviceIndex=1)
with refused("InvalidParameterValue"):
    ec2.attach_network_interface(NetworkInterfaceId=second, InstanceId=INSTANCE_A, DeviceIndex=1)
with refused("InvalidNetworkInterface.InUse"):
    ec2.attach_network_interface(NetworkInterfaceId=first, InstanceId=INSTANCE_A, DeviceIndex=2)
ec2.attach_network_interface(NetworkInterfaceId=second, InstanceId=INSTANCE_A, DeviceIndex=2)
with refused("AttachmentLimitExceeded"):
    ec2.attach_network_interface(NetworkInterfaceId=third, InstanceId=INSTANCE_A, DeviceIndex=3)
with refused("InvalidParameterCombination"):
    ec2.attach_network_interface(NetworkInterfaceId=third, InstanceId=INSTANCE_B, DeviceIndex=1)
with refused("PrivateIpAddressLimitExceeded"):
    ec2.assign_private_ip_addresses(NetworkInterfaceId=first, SecondaryPrivateIpAddressCount=10)
heavy = create(SubnetId=SUBNET_B, SecondaryPrivateIpAddressCount=10)["NetworkInterfaceId"]
with refused("InvalidInterface.IpAddressLimitExceeded"):
    ec2.attach_network_interface(NetworkInterfaceId=heavy, InstanceId=INSTANCE_B, DeviceIndex=1)
with refused("InvalidParameterValue"):
    ec2.delete_network_interface(NetworkInterfaceId=first)
primary = ec2.describe_network_interfaces(
    Filters=[
        {"Name": "attachment.instance-id", "Values": [INSTANCE_A]},
        {"Name": "attachment.device-index", "Values": ["0"]},
    ]
)["NetworkInterfaces"][0]
with refused("OperationNotPermitted"):
    ec2.detach_network_interface(AttachmentId=primary["Attachment"]["AttachmentId"])

# Subnets.
full = small_subnet("10.20.32.0/28")
with refused("InsufficientFreeAddressesInSubnet"):
    create(SubnetId=full, SecondaryPrivateIpAddressCount=11)
with refused("InvalidParameterValue"):
    create(SubnetId=full, Ipv4PrefixCount=1)
last = create(SubnetId=full, SecondaryPrivateIpAddressCount=10)
with refused("InsufficientFreeAddressesInSubnet"):
    create(SubnetId=full)
with refused("InsufficientFreeAddressesInSubnet"):
    ec2.assign_private_ip_addresses(
        NetworkInterfaceId=last["NetworkInterfaceId"], SecondaryPrivateIpAddressCount=1
    )
fragmented = small_subnet("10.20.33.0/26")
create(
    SubnetId=fragmented,
    PrivateIpAddresses=[
        {"PrivateIpAddress": "10.20.33.20", "Primary": True},
        {"PrivateIpAddress": "10.20.33.40"},
    ],
)
with refused("InsufficientCidrBlocks"):
    create(SubnetId=fragmented, Ipv4PrefixCount=1)

# Addresses.
with refused("InvalidIPAddress.InUse"):
    create(PrivateIpAddress=primary["PrivateIpAddress"])
with refused("InvalidParameterValue"):
    create(PrivateIpAddress="192.168.9.9")
with refused("InvalidParameterValue"):
    create(PrivateIpAddress="10.20.0.1")
with refused("InvalidParameterValue"):
    ec2.unassign_private_ip_addresses(
        NetworkInterfaceId=primary["NetworkInterfaceId"],
        PrivateIpAddresses=[primary["PrivateIpAddress"]],
    )
with refused("InvalidParameterValue"):
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.20.0.99"])
with refused("InvalidParameterCombination"):
    ec2.assign_private_ip_addresses(
        NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1, Ipv4PrefixCount=1
    )

# Client tokens.
made = ec2.create_network_interface(SubnetId=SUBNET_A, ClientToken="t", Description="a")
again = ec2.create_network_interface(SubnetId=SUBNET_A, ClientToken="t", Description="a")
ids = [answer["NetworkInterface"]["NetworkInterfaceId"] for answer in (made, again)]
assert ids[0] == ids[1], ids
with refused("IdempotentParameterMismatch"):
    ec2.create_network_interface(SubnetId=SUBNET_A, ClientToken="t", Description="b")

# Dry run.
count = len(ec2.describe_network_interfaces()["NetworkInterfaces"])
with refused("DryRunOperation", 412):
    create(DryRun=True, Groups=[GROUP], Ipv4PrefixCount=1)
with refused("DryRunOperation", 412):
    ec2.delete_network_interface(NetworkInterfaceId=eni, DryRun=True)
assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == count

# Describe.
with refused("InvalidParameterValue"):
    ec2.describe_network_interfaces(Filters=[{"Name": "nonsense", "Values": ["x"]}])
with refused("InvalidParameterValue"):
    ec2.describe_subnets(MaxResults=1001)
with refused("InvalidParameterCombination"):
    ec2.describe_network_interfaces(NetworkInterfaceIds=[eni], MaxResults=5)
with refused("InvalidNextToken"):
    ec2.describe_network_interfaces(NextToken="nonsense")

# An operation that is not there.
with refused("InvalidAction"):
    ec2.describe_images()
