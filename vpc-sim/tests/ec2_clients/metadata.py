"""The metadata service: by hand, and as botocore finds credentials and region."""

import json
import os
import urllib.error
import urllib.request

import boto3
import botocore.session
from account import INSTANCE_A, SUBNET_A, VPC, client, control
from botocore.utils import IMDSRegionProvider, InstanceMetadataFetcher

BASE = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]


def request(path, method="GET", **headers):
    """Status, text and headers of one request."""
    asked = urllib.request.Request(BASE + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, "", error.headers


TTL = "X-aws-ec2-metadata-token-ttl-seconds"
assert request("/latest/meta-data/")[0] == 401
assert request("/latest/api/token", "PUT")[0] == 400
assert request("/latest/api/token", "PUT", **{TTL: "21601"})[0] == 400
assert request("/latest/api/token", "PUT", **{TTL: "60", "X-Forwarded-For": "1.2.3.4"})[0] == 403
assert request("/latest/api/token", "GET", **{TTL: "60"})[0] == 405
status, token, headers = request("/latest/api/token", "PUT", **{TTL: "60"})
assert status == 200 and headers[TTL] == "60"


def get(path, expected=200):
    """A key's text."""
    status, text, _ = request(path, **{"X-aws-ec2-metadata-token": token})
    assert status == expected, (path, status)
    return text


assert get("/").splitlines()[-1] == "latest"
assert get("/latest").splitlines() == ["dynamic", "meta-data"]
assert {"instance-id", "mac", "network/", "placement/", "iam/"} <= set(get("/latest/meta-data").splitlines())
assert get("/latest/meta-data/instance-id") == INSTANCE_A
assert get("/latest/meta-data/instance-type") == "m5.large"
assert get("/latest/meta-data/placement/availability-zone") == "us-west-2a"
assert get("/latest/meta-data/placement/region") == "us-west-2"
assert get("/latest/meta-data/nonsense", 404) == ""
assert get("/latest/meta-data/mac/nonsense", 404) == ""
assert get("/1999-01-01/meta-data/mac", 404) == ""
mac = get("/latest/meta-data/mac")
macs = "/latest/meta-data/network/interfaces/macs"
for spelling in (macs, macs + "/"):
    assert get(spelling) == mac + "/"
own = f"{macs}/{mac}"
listing = get(own + "/").splitlines()
assert {"local-ipv4s", "interface-id", "device-number", "security-group-ids"} <= set(listing)
assert get(f"{own}/device-number") == "0"
assert get(f"{own}/network-card") == "0"
assert get(f"{own}/subnet-id") == SUBNET_A
assert get(f"{own}/vpc-id") == VPC
assert get(f"{own}/subnet-ipv4-cidr-block") == "10.20.0.0/20"
assert get(f"{own}/vpc-ipv4-cidr-blocks") == "10.20.0.0/16"
assert get(f"{own}/local-ipv4s") == get("/latest/meta-data/local-ipv4")
for absent in ("ipv4-prefix", "ipv6s", "ipv6-prefix", "subnet-ipv6-cidr-blocks"):
    get(f"{own}/{absent}", 404)
document = json.loads(get("/latest/dynamic/instance-identity/document"))
assert document["region"] == "us-west-2" and document["instanceId"] == INSTANCE_A
assert document["privateIp"] == get("/latest/meta-data/local-ipv4")

# It follows EC2.
ec2 = client()
eni = get(f"{own}/interface-id")
ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=2)
ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, Ipv4PrefixCount=1)
assert len(get(f"{own}/local-ipv4s").splitlines()) == 3
assert get(f"{own}/ipv4-prefix").endswith("/28")
made = ec2.create_network_interface(SubnetId=SUBNET_A)["NetworkInterface"]
ec2.attach_network_interface(
    NetworkInterfaceId=made["NetworkInterfaceId"], InstanceId=INSTANCE_A, DeviceIndex=1
)
assert made["MacAddress"] + "/" in get(macs).splitlines()
assert get(f"{macs}/{made['MacAddress']}/device-number") == "1"
control("POST", "/settings", {"imds_lag": 3600_000})
ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)
assert len(get(f"{own}/local-ipv4s").splitlines()) == 3

# Faults.
control("POST", "/faults", {"operation": "IMDS", "kind": "server_error", "status": 503})
assert request("/latest/meta-data/mac", **{"X-aws-ec2-metadata-token": token})[0] == 503
assert get("/latest/meta-data/mac") == mac

# As the SDKs do it: no key anywhere but here.
assert IMDSRegionProvider(botocore.session.get_session()).provide() == "us-west-2"
credentials = InstanceMetadataFetcher(
    base_url=BASE, config={"ec2_metadata_v1_disabled": True}
).retrieve_iam_role_credentials()
assert credentials["role_name"] == "vpc-sim-node" and credentials["access_key"]
assert boto3.client("ec2").describe_instances()["Reservations"]
