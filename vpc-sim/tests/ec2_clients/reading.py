"""Describe operations with filters and pages."""

from account import GROUP, INSTANCE_A, SUBNET_A, SUBNET_B, VPC, client

ec2 = client()

made = {
    ec2.create_network_interface(
        SubnetId=SUBNET_A if n % 2 else SUBNET_B,
        Description=f"number {n}",
        SecondaryPrivateIpAddressCount=1,
        TagSpecifications=[
            {"ResourceType": "network-interface", "Tags": [{"Key": "n", "Value": str(n)}]}
        ],
    )["NetworkInterface"]["NetworkInterfaceId"]: n
    for n in range(23)
}

paginator = ec2.get_paginator("describe_network_interfaces")
pages = list(
    paginator.paginate(
        Filters=[{"Name": "tag-key", "Values": ["n"]}, {"Name": "status", "Values": ["available"]}],
        PaginationConfig={"PageSize": 5},
    )
)
assert [len(page["NetworkInterfaces"]) for page in pages] == [5, 5, 5, 5, 3]
seen = [eni["NetworkInterfaceId"] for page in pages for eni in page["NetworkInterfaces"]]
assert len(set(seen)) == 23 and set(seen) == set(made)
assert "NextToken" not in pages[-1]


def found(name, *values):
    """How many interfaces pass a filter."""
    filters = [{"Name": name, "Values": list(values)}]
    return ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]


one = found("tag:n", "7")[0]
secondary = one["PrivateIpAddresses"][1]["PrivateIpAddress"]
assert found("addresses.private-ip-address", secondary)[0]["NetworkInterfaceId"] == one["NetworkInterfaceId"]
assert len(found("tag:n", "1", "2", "3")) == 3
assert len(found("tag:n", "1*")) == 11
assert len(found("description", "number ?")) == 10
assert len(found("subnet-id", SUBNET_A)) == 12
assert len(found("attachment.instance-id", INSTANCE_A)) == 1
assert len(found("attachment.status", "attached")) == 2
assert len(found("group-id", GROUP)) == 2
assert len(found("vpc-id", VPC)) == 25
assert not found("status", "attaching")

subnets = ec2.describe_subnets(
    Filters=[
        {"Name": "vpc-id", "Values": [VPC]},
        {"Name": "availability-zone", "Values": ["us-west-2a"]},
    ]
)["Subnets"]
assert [subnet["SubnetId"] for subnet in subnets] == [SUBNET_A]
assert subnets[0]["CidrBlock"] == "10.20.0.0/20" and subnets[0]["State"] == "available"
assert subnets[0]["AvailableIpAddressCount"] == 4096 - 5 - 1 - 22

kinds = ec2.describe_instance_types(InstanceTypes=["m5.large", "p4d.24xlarge"])["InstanceTypes"]
network = {kind["InstanceType"]: kind["NetworkInfo"] for kind in kinds}
assert network["m5.large"]["MaximumNetworkInterfaces"] == 3
assert network["m5.large"]["Ipv4AddressesPerInterface"] == 10
cards = network["p4d.24xlarge"]["NetworkCards"]
assert [card["MaximumNetworkInterfaces"] for card in cards] == [15, 15, 15, 15]
all_kinds = ec2.get_paginator("describe_instance_types").paginate()
names = [kind["InstanceType"] for page in all_kinds for kind in page["InstanceTypes"]]
assert len(names) > 1300 and len(set(names)) == len(names)
nitro = ec2.get_paginator("describe_instance_types").paginate(
    Filters=[{"Name": "hypervisor", "Values": ["xen"]}], PaginationConfig={"PageSize": 100}
)
assert any(kind["InstanceType"] == "m4.large" for page in nitro for kind in page["InstanceTypes"])

instances = ec2.get_paginator("describe_instances").paginate(
    Filters=[{"Name": "tag:Name", "Values": ["node-*"]}]
)
reservations = [r for page in instances for r in page["Reservations"]]
assert len(reservations) == 2
assert ec2.describe_vpcs()["Vpcs"][0]["CidrBlock"] == "10.20.0.0/16"
groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [VPC]}])
assert {group["GroupName"] for group in groups["SecurityGroups"]} == {"default", "nodes"}
