"""The AWS CLI, as a person types it."""

import json
import os
import subprocess
import sys

from account import GROUP, INSTANCE_A, SUBNET_A, VPC

KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_MAX_ATTEMPTS": "1"}


def run(*arguments):
    """Exit code, standard output and standard error of `aws ec2 …`."""
    done = subprocess.run(
        [sys.executable, "-m", "awscli", "ec2", *arguments],
        env={**os.environ, **KEYS},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def aws(*arguments):
    """What it prints, which must be JSON or nothing."""
    code, out, err = run(*arguments)
    assert code == 0, (arguments, code, err)
    return json.loads(out) if out.strip() else None


def refused(code, *arguments):
    """It must fail with that code."""
    status, _, err = run(*arguments)
    assert status != 0 and f"({code})" in err, (arguments, status, err)


eni = aws(
    "create-network-interface",
    "--subnet-id", SUBNET_A,
    "--groups", GROUP,
    "--secondary-private-ip-address-count", "2",
    "--tag-specifications", "ResourceType=network-interface,Tags=[{Key=a,Value=b c}]",
    "--client-token", "cli",
)["NetworkInterface"]
eni_id = eni["NetworkInterfaceId"]
attachment = aws(
    "attach-network-interface",
    "--network-interface-id", eni_id,
    "--instance-id", INSTANCE_A,
    "--device-index", "1",
)["AttachmentId"]
aws(
    "modify-network-interface-attribute",
    "--network-interface-id", eni_id,
    "--attachment", f"AttachmentId={attachment},DeleteOnTermination=true",
)
new = aws(
    "assign-private-ip-addresses",
    "--network-interface-id", eni_id,
    "--ipv4-prefix-count", "1",
)["AssignedIpv4Prefixes"]
described = aws(
    "describe-network-interfaces",
    "--filters", "Name=tag:a,Values=b*", f"Name=attachment.instance-id,Values={INSTANCE_A}",
    "--page-size", "5",
)["NetworkInterfaces"]
assert [found["NetworkInterfaceId"] for found in described] == [eni_id]
assert described[0]["Ipv4Prefixes"] == new
assert described[0]["Attachment"]["DeleteOnTermination"] is True
everything = aws("describe-network-interfaces", "--max-items", "1")
assert len(everything["NetworkInterfaces"]) == 1 and everything["NextToken"]
rest = aws("describe-network-interfaces", "--starting-token", everything["NextToken"])
assert len(rest["NetworkInterfaces"]) == 2
assert aws("describe-subnets", "--filters", f"Name=vpc-id,Values={VPC}", "--query", "length(Subnets)") == 2
table = run("describe-instances", "--output", "text", "--query", "Reservations[].Instances[].InstanceId")
assert INSTANCE_A in table[1]
aws("unassign-private-ip-addresses", "--network-interface-id", eni_id, "--ipv4-prefixes", new[0]["Ipv4Prefix"])
refused("DryRunOperation", "delete-network-interface", "--network-interface-id", eni_id, "--dry-run")
refused("InvalidParameterValue", "delete-network-interface", "--network-interface-id", eni_id)
aws("detach-network-interface", "--attachment-id", attachment)
aws("delete-network-interface", "--network-interface-id", eni_id)
refused("InvalidNetworkInterfaceID.NotFound", "delete-network-interface", "--network-interface-id", eni_id)
