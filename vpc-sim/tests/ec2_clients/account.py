"""What every script here needs: clients, and a check of refusals."""

import contextlib
import json
import os
import urllib.request

import boto3
import botocore.config
import botocore.exceptions

VPC = os.environ["VPC"]
GROUP = os.environ["GROUP"]
SUBNET_A = os.environ["SUBNET_A"]
SUBNET_B = os.environ["SUBNET_B"]
INSTANCE_A = os.environ["INSTANCE_A"]
INSTANCE_B = os.environ["INSTANCE_B"]


def client(**options):
    """An EC2 client; without retries, so that each call is one call."""
    config = botocore.config.Config(
        retries={"total_max_attempts": options.pop("attempts", 1)},
        read_timeout=options.pop("read_timeout", 30),
    )
    return boto3.client(
        "ec2",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=config,
        **options,
    )


@contextlib.contextmanager
def refused(code, status=400):
    """The block must be refused with this code and status."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        response = error.response
        found = (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"])
        assert found == (code, status), f"{found}, not {(code, status)}: {error}"
        assert response["Error"]["Message"], "a refusal has a message"
        assert response["ResponseMetadata"]["RequestId"], "a refusal has a request id"
    else:
        raise AssertionError(f"not refused with {code}")


def control(method, path, body=None):
    """One request to the control endpoint."""
    request = urllib.request.Request(
        os.environ["CONTROL_URL"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
