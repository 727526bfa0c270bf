#!/usr/bin/env python3
"""Writes instance-types.csv: what the agent and vpc-sim know of EC2's instance types.

Source: the answers of DescribeInstanceTypes that PyPI's package moto carries
(Apache-2.0). Only figures are taken from it. To renew the table, name a newer
version of it in xtask/python-data.txt, and then:

    python3 -m venv /tmp/moto
    /tmp/moto/bin/pip install --no-deps --requirement xtask/python-data.txt
    /tmp/moto/bin/python instance-types/generate.py

Another copy of the data can be named as the first argument, and with --check
nothing is written: the exit code is 1 when the table differs.
"""

import gzip
import importlib.util
import json
import pathlib
import sys

OUTPUT = pathlib.Path(__file__).with_name("instance-types.csv")
HEADER = (
    "instance_type,max_enis,ipv4_per_eni,ipv6_per_eni,vcpus,hypervisor,"
    "bare_metal,default_card,enis_per_card"
)


def source_path(arguments):
    """The data file: the argument, or the one inside the installed package."""
    if arguments:
        return pathlib.Path(arguments[0])
    # Not `import moto.ec2`: that would need moto's own dependencies.
    spec = importlib.util.find_spec("moto")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package moto is missing; install it, or name the data file")
    root = pathlib.Path(spec.submodule_search_locations[0])
    return root / "ec2" / "resources" / "instance_types.json.gz"


def row(name, record):
    """One line of the table."""
    network = record["NetworkInfo"]
    cards = sorted(network["NetworkCards"], key=lambda card: card["NetworkCardIndex"])
    indices = [card["NetworkCardIndex"] for card in cards]
    if indices != list(range(len(cards))):
        sys.exit(f"{name}: the network cards are not numbered from 0: {indices}")
    fields = [
        name,
        network["MaximumNetworkInterfaces"],
        network["Ipv4AddressesPerInterface"],
        network["Ipv6AddressesPerInterface"] if network["Ipv6Supported"] else 0,
        record["VCpuInfo"]["DefaultVCpus"],
        # Bare metal has none.
        record.get("Hypervisor", "none"),
        int(record["BareMetal"]),
        network["DefaultNetworkCardIndex"],
        "/".join(str(card["MaximumNetworkInterfaces"]) for card in cards),
    ]
    return ",".join(str(field) for field in fields)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    with gzip.open(source_path(arguments), "rt", encoding="utf-8") as file:
        records = json.load(file)
    text = "\n".join([HEADER, *(row(name, records[name]) for name in sorted(records))]) + "\n"
    if "--check" in sys.argv[1:]:
        sys.exit(0 if OUTPUT.read_text(encoding="utf-8") == text else 1)
    OUTPUT.write_text(text, encoding="utf-8")
    print(f"{OUTPUT}: {len(records)} types")


if __name__ == "__main__":
    main()
