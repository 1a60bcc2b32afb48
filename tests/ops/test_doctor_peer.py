"""What ``doctor`` says of a server, from what a tunnel has seen."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.ops.doctor import peer
from rsock_nf.ops.doctor.dial import Look
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import NativeParameters

SERVER = "192.0.2.2"
SETTINGS = Settings(
    "edge", Path("/edge.json"), "digest", ClientParameters(server=(ip_address(SERVER),)), NativeParameters(bytes(32))
)


def port(
    number: int, outcome: str, *, kind: str = "tcp", took: float | None = None, remote: str = SERVER
) -> dict[str, Any]:
    return {"remote": remote, "port": number, "type": kind, "outcome": outcome, "took_ms": took}


def flow(kind: str = "tcp", *, out: int = 1460, into: int = 1460, known: bool = True) -> dict[str, Any]:
    return {
        "local": "10.0.0.1:40001",
        "type": kind,
        "max_payload": out,
        "largest_in": into,
        "path_known": known,
        "headers": 40,
    }


def seen(*dialled: dict[str, Any], flows: list[dict[str, Any]] | None = None, reason: str = "") -> dict[str, Any]:
    sessions = [{"wire": "native", "cipher": "none", "flows": flows}] if flows else []
    return {
        "dialled": list(dialled),
        "remote": SERVER,
        "reason": reason,
        "sessions": sessions,
        "link": {"mtu": 1500},
        "mtu": 1452,
    }


def said(snapshot: dict[str, Any], **look: Any) -> list[str]:
    return [str(finding) for finding in peer.examine(SETTINGS, Look(snapshot, **look))]


def test_ports_of_each_kind_and_outcome_have_a_line() -> None:
    ports = [port(number, "up", took=number / 10) for number in (3, 1, 2)]
    ports += [port(7, "silent"), port(8, "dialled"), port(5, "refused"), port(1, "silent", kind="udp")]
    assert said(seen(*ports, flows=[flow()]))[:4] == [
        "ok    server: 192.0.2.2, TCP ports 1-3: up (SYN-ACK after 0.1 ms)",
        (
            "warn  server: 192.0.2.2, TCP ports 7-8: no answer to a SYN: open these TCP ports in the firewall of the "
            "server's provider; on the server: rsock-nf status"
        ),
        (
            "warn  server: 192.0.2.2, TCP port 5: refused (RST): on the server: rsock-nf up --config FILE; "
            'make "ports" the same in both files'
        ),
        (
            "warn  server: 192.0.2.2, UDP port 1: no answer to a hello: open these UDP ports in the firewall of the "
            "server's provider; on the server: rsock-nf status"
        ),
    ]


@pytest.mark.parametrize("outcome", ["open", "unanswered", "answered", "reset"])
def test_without_a_session_the_reason_is_the_finding(outcome: str) -> None:
    *_, last = said(seen(port(1, outcome), reason="because"))
    assert last == "FAIL  secret: because"


def test_other_addresses_are_told_only_before_any_answer() -> None:
    elsewhere = port(1, "silent", remote="192.0.2.9")
    assert not [line for line in said(seen(port(1, "up"), elsewhere, flows=[flow()])) if "no answer" in line]
    assert said(seen(elsewhere))[0].startswith("FAIL  server: 192.0.2.2, TCP port 1: no answer to a SYN")


def test_nothing_could_be_dialled() -> None:
    assert said(seen(reason="no route to 192.0.2.2")) == ["FAIL  server: no route to 192.0.2.2"]
    assert said({}, failure="nftables refused: so") == ["FAIL  server: nftables refused: so"]


def test_the_narrower_direction_decides_what_to_set() -> None:
    (line,) = [line for line in said(seen(port(1, "up"), flows=[flow(), flow(into=1240)])) if "path MTU" in line]
    assert line == (
        "warn  path MTU: TCP: packets of 1500 bytes pass out, of 1280 in; the link here takes 1500: "
        "set WireGuard: MTU = 1200; OpenVPN: mssfix 1232; others: datagrams of at most 1232 bytes"
    )
    (unknown,) = [line for line in said(seen(port(1, "up"), flows=[flow(into=30)])) if "path MTU" in line]
    assert unknown == "ok    path MTU: TCP: packets of 1500 bytes pass out, of ? in"
    assert not [line for line in said(seen(port(1, "up"), flows=[flow(known=False)])) if "path MTU" in line]


def test_loss_by_kind() -> None:
    replies = [{"type": "tcp", "rtt_ms": 10.0}] * 99 + [
        {"type": "tcp", "rtt_ms": None},
        {"type": "udp", "rtt_ms": None},
    ]
    tcp, udp = [line for line in said(seen(port(1, "up"), flows=[flow()]), replies=replies) if "loss" in line]
    assert tcp == "ok    loss: TCP: 1 of 100 round trips lost; RTT 10.0 / 10.0 / 10.0 ms (min / avg / max)"
    assert udp == "warn  loss: UDP: 1 of 1 round trips lost: look for the loss on the way: mtr SERVER, ping SERVER"


def test_some_of_many_ports_were_asked() -> None:
    found = said(seen(port(1, "up"), flows=[flow()]), asked=64)
    assert "ok    server: 64 of its ports were asked, spread over all (at most 64 at a time)" in found


def test_the_wire_of_the_original_proves_no_secret() -> None:
    snapshot = seen(port(1, "up"), flows=[flow()])
    snapshot["sessions"][0]["wire"] = "rsock"
    assert not [line for line in said(snapshot) if "secret" in line]
    assert [line for line in said(snapshot) if line.startswith("ok    wire: rsock: nothing is authenticated")]


@pytest.mark.parametrize(
    ("seen_as", "said_so"),
    [
        ("10.0.0.1", "the server sees this host as 10.0.0.1"),
        ("198.51.100.7", "the server sees this host as 198.51.100.7; its own is 10.0.0.1, so a NAT is on the way"),
    ],
)
def test_the_address_that_the_server_sees(seen_as: str, said_so: str) -> None:
    snapshot = seen(port(1, "up"), flows=[flow()])
    snapshot["sessions"][0]["seen_as"] = seen_as
    assert f"ok    address: {said_so}" in said(snapshot)
    snapshot["sessions"][0]["seen_as"] = ""
    assert not [line for line in said(snapshot) if "address" in line]


def test_ports_that_lie_far_apart_are_not_all_listed() -> None:
    first, *_ = said(seen(*(port(number, "up") for number in range(100, 6500, 100)), flows=[flow()]))
    assert first == "ok    server: 192.0.2.2, TCP ports 100,200,300,400,500,600,700,800,… (64 of them): up"
