"""What ``doctor`` says of other firewalls, the reverse path filter and buffer limits, from files as a host has them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rsock_nf.core.types import PortRange
from rsock_nf.link.checks import Verdict
from rsock_nf.link.linux import surroundings
from rsock_nf.sockets.datagrams import SOCKET_BUFFER

PORTS = (PortRange(443, 443), PortRange(10001, 10010))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, place in (("_ETC", "etc"), ("_RUN", "run"), ("_SYSCTL", "net")):
        monkeypatch.setattr(surroundings, name, tmp_path / place)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_host_without_any_of_it(files: Path) -> None:
    assert not files.joinpath("etc").exists()
    assert [found for found in surroundings.examine("eth0", PORTS) if found.subject != "buffers"] == []


def test_firewalls_that_drop_udp_and_how_each_is_told_of_the_ports(files: Path) -> None:
    put(files / "etc/ufw/ufw.conf", "# comment\nENABLED=yes\nLOGLEVEL=low\n")
    put(files / "run/firewalld.pid", f"{os.getpid()}\n")
    ufw, firewalld = [found for found in surroundings.examine("", PORTS) if found.subject == "firewall"]
    assert str(ufw) == (
        "warn  firewall: ufw is active, and drops UDP that it was not told of (fake TCP it does not see): "
        "ufw allow 443/udp && ufw allow 10001:10010/udp"
    )
    assert "firewall-cmd --add-port=10001-10010/udp --permanent" in firewalld.remedy
    without_udp = [found for found in surroundings.examine("", ()) if found.subject == "firewall"]
    assert [(found.verdict, found.quiet) for found in without_udp] == [(Verdict.OK, True)] * 2


def test_firewalls_that_are_off(files: Path) -> None:
    put(files / "etc/ufw/ufw.conf", "ENABLED=no\n")
    put(files / "run/firewalld.pid", "4194305\n")  # above the largest pid
    assert [found for found in surroundings.examine("", PORTS) if found.subject == "firewall"] == []
    put(files / "run/firewalld.pid", "garbage")
    assert [found for found in surroundings.examine("", PORTS) if found.subject == "firewall"] == []


@pytest.mark.parametrize(("everywhere", "here", "told"), [(1, 0, True), (0, 1, True), (1, 2, False), (0, 0, False)])
def test_a_strict_reverse_path_filter(files: Path, everywhere: int, here: int, *, told: bool) -> None:
    """The larger value counts."""
    put(files / "net/ipv4/conf/all/rp_filter", f"{everywhere}\n")
    put(files / "net/ipv4/conf/eth0/rp_filter", f"{here}\n")
    found = [one for one in surroundings.examine("eth0", ()) if one.subject == "rp_filter"]
    assert [one.remedy for one in found] == (
        ["sysctl -w net.ipv4.conf.eth0.rp_filter=2, if UDP flows do not come up"] if told else []
    )
    assert [one for one in surroundings.examine("", ()) if one.subject == "rp_filter"] == []


def test_buffers_that_the_kernel_keeps_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(size, 100_000))

    monkeypatch.setattr(surroundings, "enlarge_receive", refuse)
    (found,) = [one for one in surroundings.examine("", ()) if one.subject == "buffers" and one.verdict is Verdict.WARN]
    assert found.remedy == "sysctl -w net.core.rmem_max=8388608"
    assert surroundings.BUFFER == SOCKET_BUFFER
