"""The laboratory as a fixture that notices what is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.firewall.lab import ADDRESSES, Lab, build


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    names = {role: f"rsnf-fw-{os.getpid()}-{role}" for role in ADDRESSES}
    try:
        build(names)
        lab = Lab(names)
        lab.state()  # loads the tables, so that they are listed before and after
        yield lab
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The laboratory; afterwards the host's rules must be byte for byte what they were."""
    before = shared_lab.state()
    assert "rsock" not in str(before).lower(), "a test before this one left rules"
    try:
        yield shared_lab
        assert shared_lab.state() == before
    finally:
        shared_lab.run("nft flush ruleset")  # a failed test must not fail the next; this namespace is ours
        for command in ("iptables-legacy", "ip6tables-legacy"):
            for option in ("-F", "-X"):
                shared_lab.run(f"{command} -t raw {option}")
                shared_lab.run(f"{command} -t mangle {option}")
