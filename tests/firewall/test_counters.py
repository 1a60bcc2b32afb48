"""The counters of rules, read from messages as the kernel sends them (encoded here by pyroute2)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import cast

import pytest

from rsock_firewall.nftables import messages as nf
from rsock_firewall.nftables import text
from rsock_firewall.nftables.counters import count
from rsock_firewall.nftables.sockets import NfSocket
from rsock_firewall.policy import Counters, Drop

HERE = Drop(None, None, ip_address("192.0.2.1"), "local_ports")
THERE = Drop(ip_address("2001:db8::1"), "local_ports", None, None)


class Kernel:
    """A netlink socket to a kernel with these rules."""

    def __init__(self, *rules: nf.Message) -> None:
        self._rules = rules

    def dump_undecoded(self, _request: nf.Message) -> list[bytes]:
        for rule in self._rules:
            rule.encode()
        return [bytes(rule.data) for rule in self._rules]


def counted(*rules: nf.Message) -> Counters | None:
    return count(cast("NfSocket", Kernel(*rules)), "rsock_nf_wg")


def rule(chain: str, drop: Drop, packets: int, octets: int, device: str | None = None) -> nf.Message:
    return nf.new_rule("rsock_nf_wg", chain, drop, device, text.COMMENTS[chain], (packets, octets))


@pytest.mark.parametrize("chain", text.INBOUND)
def test_packets_and_bytes_of_all_rules(chain: str) -> None:
    found = counted(
        rule(chain, HERE, 3, 5_000_000_000, device="eth0"),
        rule(chain, THERE, 2**40, 1),
        rule("output", HERE, 7, 280),
        rule("output", THERE, 0, 0),
    )
    assert found == Counters(3 + 2**40, 5_000_000_001, 7, 280)


def test_rules_that_are_not_there_are_told_from_rules_that_dropped_nothing() -> None:
    assert counted() is None
    assert counted(rule("output", HERE, 0, 0)) == Counters()
