"""Faults, throttling, and what the control endpoint says."""

import os
import time
import urllib.error

import botocore.exceptions
from account import SUBNET_A, client, control, refused

ec2 = client()
node = client(endpoint_url=os.environ["NODE_URL"])


def fault(operation, kind, **more):
    """Sets a fault."""
    control("POST", "/faults", {"operation": operation, "kind": kind, **more})


fault("DescribeSubnets", "throttle", count=2)
for _ in range(2):
    with refused("RequestLimitExceeded", 503):
        ec2.describe_subnets()
ec2.describe_subnets()

fault("DescribeSubnets", "server_error")
with refused("InternalError", 500):
    ec2.describe_subnets()
fault("DescribeSubnets", "server_error", status=503)
with refused("Unavailable", 503):
    ec2.describe_subnets()
fault("*", "unauthorized")
with refused("UnauthorizedOperation", 403):
    ec2.create_network_interface(SubnetId=SUBNET_A)
fault("CreateNetworkInterface", "InsufficientCidrBlocks")
with refused("InsufficientCidrBlocks"):
    ec2.create_network_interface(SubnetId=SUBNET_A)

# A fault of one node leaves the others alone.
fault("DescribeSubnets", "throttle", node="node-a")
ec2.describe_subnets()
with refused("RequestLimitExceeded", 503):
    node.describe_subnets()

# The effect is there, the answer is lost: at once, and by the client's own time-out.
before = len(control("GET", "/enis"))
fault("CreateNetworkInterface", "timeout_after_effect", hold_ms=0)
try:
    ec2.create_network_interface(SubnetId=SUBNET_A)
    raise AssertionError("answered")
except botocore.exceptions.ConnectionClosedError:
    pass
fault("CreateNetworkInterface", "timeout_after_effect")
try:
    client(read_timeout=1).create_network_interface(SubnetId=SUBNET_A)
    raise AssertionError("answered")
except botocore.exceptions.ReadTimeoutError:
    pass
assert len(control("GET", "/enis")) == before + 2

# boto3's own retries get through a throttle, with one interface only: it sends
# the same client token each time.
fault("CreateNetworkInterface", "timeout_after_effect", hold_ms=0)
client(attempts=3).create_network_interface(SubnetId=SUBNET_A)
assert len(control("GET", "/enis")) == before + 3

# Buckets.
rates = {"DescribeSubnets": {"capacity": 2, "refill_per_s": 0.001}}
control("POST", "/settings", {"throttling": {"enabled": True, "rates": rates}})
for _ in range(2):
    ec2.describe_subnets()
with refused("RequestLimitExceeded", 503):
    ec2.describe_subnets()
control("POST", "/settings", {"throttling": {"enabled": False}})

# Latency.
control("POST", "/settings", {"latency": {"describe": 300}})
began = time.monotonic()
ec2.describe_subnets()
assert time.monotonic() - began >= 0.3
control("POST", "/settings", {"latency": {"describe": 0}})

# Counting.
control("POST", "/calls/reset")
ec2.describe_subnets()
node.describe_subnets()
node.describe_vpcs()
calls = control("GET", "/calls")
assert calls == {"": {"DescribeSubnets": 1}, "node-a": {"DescribeSubnets": 1, "DescribeVpcs": 1}}, calls
log = control("GET", "/calls/log")
assert [entry["operation"] for entry in log] == ["DescribeSubnets", "DescribeSubnets", "DescribeVpcs"]

# What means nothing is refused.
for path, body in [
    ("/faults", {"operation": "Nonsense", "kind": "throttle"}),
    ("/faults", {"operation": "DescribeSubnets", "kind": "nonsense"}),
    ("/faults", {"operation": "DescribeSubnets", "kind": "throttle", "extra": 1}),
    ("/settings", {"nonsense": 1}),
    ("/instances/terminate", {"node": "nonsense"}),
    ("/subnets", {"vpc_id": "vpc-0", "cidr": "10.20.40.0/24", "az": "a"}),
]:
    try:
        control("POST", path, body)
        raise AssertionError(f"{path} took {body}")
    except urllib.error.HTTPError as error:
        assert error.code == 400, (path, error.code)
