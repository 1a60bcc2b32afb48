"""The whole tunnel with simulated BSD hosts at one end or both, in network namespaces.  Needs root.

Everything is real but the kernel's bpf device and routing socket at the simulated ends: command line, daemon, core,
firewall rules (Linux's), link, UDP sockets without GSO.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.lab import traffic
from rsock_nf.lab.lab import DEVICE, Lab, Router
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role, Tunnel
from tests.netns.judges import wait_until

ROOT = Path(__file__).parents[3]


class MixedTunnel(Tunnel):
    """A tunnel whose ends run on the systems named; None = Linux."""

    def __init__(self, lab: Lab, directory: Path, systems: dict[Role, str | None], **options: Any) -> None:
        self._systems = systems
        super().__init__(lab, directory, **options)

    def environment(self, role: Role) -> dict[str, str]:
        found = super().environment(role)
        system = self._systems[role]
        if system is None:
            return found
        path = os.pathsep.join((str(ROOT / "tests/link/bsd/host"), str(ROOT), *sys.path))
        return {
            **found,
            "RSOCK_NF_SIMULATED": system,
            "RSOCK_NF_SIMULATED_LOG": str(self._opened(role)),
            "PYTHONPATH": path,
        }

    def opened(self, role: Role) -> list[str]:
        """System, interface and ioctls of each bpf device that this end has opened."""
        return self._opened(role).read_text().splitlines()

    def _opened(self, role: Role) -> Path:
        return self.directory / f"{role}.opened"


def carries(lab: Lab, count: int = 1500) -> None:
    with EchoTarget(lab) as target, Application(lab) as application:
        found = application.exchange(count)
    assert (found.lost, found.corrupted, target.corrupted) == (0, 0, 0)


def used_bpf(tunnel: MixedTunnel, role: Role, system: str) -> None:
    """Both directions went through the simulated device."""
    (opened,) = tunnel.opened(role)
    assert opened.startswith(f"{system} {DEVICE} ")
    assert ("BIOCLOCK" in opened) is (role == "client" and system != "macos")
    link = tunnel.status(role)["link"]
    counters = link["counters"]
    assert link["device"] == DEVICE
    assert counters["received_packets"] > 0
    assert counters["sent_segments"] >= counters["sent_packets"] > 0
    assert (counters["truncated"], counters["receive_drops"], counters["send_errors"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (None, "freebsd"),
        (None, "openbsd"),
        ("netbsd", None),
        ("macos", None),
        ("freebsd", "freebsd"),
        ("openbsd", "macos"),
    ],
)
def test_datagrams_come_and_go(tmp_path: Path, client: str | None, server: str | None) -> None:
    systems: dict[Role, str | None] = {"client": client, "server": server}
    version = 6 if client == "freebsd" else 4
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, systems, version=version) as tunnel:
        carries(lab)
        for role, system in systems.items():
            if system is not None:
                used_bpf(tunnel, role, system)


def test_a_strict_firewall_finds_nothing_to_object_to(tmp_path: Path) -> None:
    """Next hops are routers here, and the Linux client's bursts come merged and with checksums left to a NIC."""
    with Lab(Router()) as lab, MixedTunnel(lab, tmp_path, {"client": None, "server": "netbsd"}) as tunnel:
        carries(lab)
        used_bpf(tunnel, "server", "netbsd")
        counters = lab.counters()
        assert (counters["invalid"], counters["refused"], lab.rsts()) == (0, 0, 0)


@pytest.mark.parametrize("news", ["told", "lost"])
def test_an_interface_that_goes_and_comes_back(tmp_path: Path, news: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is opened anew: the lost bpf device wakes nobody.  The routing socket tells; or the link finds out that
    its message was lost."""
    monkeypatch.setenv("RSOCK_NF_SIMULATED_NEWS", news)
    systems: dict[Role, str | None] = {"client": "openbsd", "server": "freebsd"}
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, systems) as tunnel:
        carries(lab, 200)
        lab.server.ip(f"link del {DEVICE}")
        for role in systems:
            wait_until(lambda role=role: "is gone" in tunnel.log(role), f"the {role} to notice")  # type: ignore[misc]
        lab._wire_directly()
        for role in systems:
            wait_until(lambda role=role: len(tunnel.opened(role)) == 2, f"the {role} to open its link")  # type: ignore[misc]
        with EchoTarget(lab), Application(lab) as application:
            wait_until(lambda: application.exchange(20).lost == 0, "datagrams to come and go", 30)


@pytest.mark.parametrize(("client", "server"), [("freebsd", "freebsd"), ("netbsd", None)])
def test_datagrams_right_after_a_reconnect_are_not_lost(
    tmp_path: Path, client: str, server: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for the new flows, on the same bpf device with the same filter."""
    monkeypatch.setattr(traffic, "_PATIENCE", 5.0)  # it is about loss, not about time
    systems: dict[Role, str | None] = {"client": client, "server": server}
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, systems) as tunnel:
        with EchoTarget(lab) as target, Application(lab) as application:
            assert application.exchange(30).lost == 0
            for _ in range(5):
                tunnel.command("client", "reconnect")
                assert application.exchange(30).lost == 0
            assert len(target.seen) == 180
        used_bpf(tunnel, "client", client)


def test_an_interface_that_goes_down_and_up_is_logged_once_each(tmp_path: Path) -> None:
    """Datagrams flow, so that the routing socket and writes both tell."""
    systems: dict[Role, str | None] = {"client": None, "server": "netbsd"}
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, systems) as tunnel:
        with EchoTarget(lab), Application(lab) as application:
            for state in ("down", "up"):
                lab.server.ip(f"link set {DEVICE} {state}")
                wait_until(lambda word=f": {state}": word in tunnel.log("server"), f"the server to be {state}")  # type: ignore[misc]
                application.exchange(20)
            wait_until(lambda: application.exchange(20).lost == 0, "datagrams to come and go", 30)
        log = tunnel.log("server")
        assert (log.count(": down\n"), log.count(": up\n")) == (1, 1)


def test_datagrams_of_a_wildcard_listener_are_answered_from_the_address_that_was_asked(tmp_path: Path) -> None:
    """Where there is no GRO there is still ancillary data."""
    options = {"client": {"listen": "0.0.0.0:30000"}}
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, {"client": "netbsd", "server": None}, **options) as tunnel:
        carries(lab, 200)
        (conversation,) = tunnel.status("client")["sessions"][0]["conversation_list"]
        assert conversation["peer"].endswith("via 127.0.0.1")


def test_udp_carriers_and_fake_tcp_together(tmp_path: Path) -> None:
    """Carriers are plain UDP sockets at both ends; the server's listen on wildcards, and answer from the address
    asked."""
    both = {"type": "all"}
    systems: dict[Role, str | None] = {"client": "macos", "server": "freebsd"}
    with Lab(None) as lab, MixedTunnel(lab, tmp_path, systems, client=both, server=both) as tunnel:
        carries(lab)
        for role, system in systems.items():
            used_bpf(tunnel, role, str(system))
            (session,) = tunnel.status(role)["sessions"]
            assert {flow["type"] for flow in session["flows"] if flow["rx_frames"]} == {"tcp", "udp"}
