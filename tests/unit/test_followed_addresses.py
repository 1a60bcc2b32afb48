"""A server whose addresses change: rules and filter name the new ones, if not at once then soon.

Device, rules and link are stand-ins.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_firewall import FirewallError, Policy
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.link import LinkEvent, Match
from rsock_nf.runtime import ServerTunnel, server
from rsock_nf.settings import Settings

OLD, NEW = (ip_address("192.0.2.1"),), (ip_address("192.0.2.2"),)


def test_rules_that_are_locked_follow_later(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parameters = ServerParameters()
    tunnel = ServerTunnel(Settings("test", Path("/test.json"), "", parameters), parameters, logging.getLogger("test"))
    tunnel.device, tunnel.addresses = "v0", OLD
    policies: list[Policy] = []
    matches: list[Match] = []
    busy = [True, True, False]

    def update(policy: Policy) -> None:
        if busy.pop(0):
            raise FirewallError("another iptables command is at work")
        policies.append(policy)

    tunnel._held = cast("Any", SimpleNamespace(update=update, fileno=lambda: 0))
    tunnel._link = cast("Any", SimpleNamespace(rematch=matches.append, tick=lambda _: None, events=lambda: ()))
    monkeypatch.setattr(tunnel, "_settle", lambda: None)
    monkeypatch.setattr(tunnel, "_journal", SimpleNamespace(tick=lambda *_: None))
    monkeypatch.setattr(server, "device_addresses", lambda _: NEW)
    tunnel._link_event(LinkEvent.ADDRESSES)
    assert (policies, matches) == ([], [])
    for now in (1.0, 2.0, 3.0):
        tunnel._tick(now)
    (policy,), (match,) = policies, matches
    assert policy.local_addresses == match.addresses == NEW
    assert [record.getMessage() for record in caplog.records] == [
        "addresses are now 192.0.2.2",
        "rules and filter keep the old addresses: another iptables command is at work",
        "rules and filter name the present addresses",
    ]
