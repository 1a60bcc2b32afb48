"""The door's promise: whatever the kernel refuses is a ``LinkError`` of one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, NoReturn

import pytest

from rsock_nf import link
from rsock_nf.core.types import PortRange
from rsock_nf.link import LinkError, Match, PortSide, Routing

HERE, THERE = ip_address("192.0.2.1"), ip_address("198.51.100.7")
MATCH = Match(PortSide.DESTINATION, (HERE,), (PortRange(443, 443),))


class Exhausted:
    """A system without a descriptor left."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def refuse(*_: Any) -> NoReturn:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        return refuse


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda: link.open_link(Routing("eth0"), MATCH), "eth0: the link cannot be opened"),
        (lambda: link.route_to(THERE), "the way to 198.51.100.7 cannot be asked for"),
        (link.default_device, "the default route cannot be asked for"),
        (lambda: link.device_addresses("eth0"), "eth0: its addresses cannot be asked for"),
    ],
)
def test_what_no_system_foresaw(ask: Callable[[], object], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "system", Exhausted)
    with pytest.raises(LinkError, match=f"^{what}: Too many open files$"):
        ask()
