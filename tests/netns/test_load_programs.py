"""The C programs of the benchmark: a generator that miscounts would flatter, or slander, the tunnel."""

from __future__ import annotations

import json
import socket
import struct
import subprocess

import pytest

from rsock_nf.lab.lab import Lab, Router
from tests.netns.judges import LOAD, start

RELAY = LOAD.replace("udp_load", "relay")
PORT = "9999"


def send(lab: Lab, *options: str, host: str | None = None, port: str = PORT) -> dict[str, float]:
    argv = [LOAD, "send", "-h", host or lab.server_ip[4], "-p", port, *options]
    found: dict[str, float] = json.loads(lab.client.run(argv).stdout)
    return found


def result(receiver: subprocess.Popen[str]) -> dict[str, float]:
    found: dict[str, float] = json.loads(receiver.communicate(timeout=20)[0])
    return found


@pytest.mark.parametrize("gso", [[], ["-g", "40"]], ids=["plain", "gso"])
def test_what_is_sent_is_received_once_and_at_the_rate_asked_for(gso: list[str]) -> None:
    with Lab(None) as lab:
        receiver = start(lab.server, [LOAD, "receive", "-p", PORT, *gso[:1]])
        sent = send(lab, "-s", "1200", "-t", "1", "-r", "4000", *gso)
        got = result(receiver)
    assert 3_600 <= sent["offered"] <= 4_040
    assert got["unique"] == got["received"] == sent["taken"] == sent["offered"]
    assert got["duplicates"] == 0
    assert got["bytes"] == 1200 * sent["offered"]


def test_loss_is_counted() -> None:
    with Lab(Router(block_udp=False, loss=30)) as lab:
        receiver = start(lab.server, [LOAD, "receive", "-p", PORT])
        sent = send(lab, "-s", "200", "-t", "1", "-r", "4000")
        got = result(receiver)
        assert sent["offered"] - got["unique"] == lab.counters()["lost"] > 0


def test_duplicates_are_counted() -> None:
    with Lab(None) as lab:
        receiver = start(lab.server, [LOAD, "receive", "-p", PORT])
        sender = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for number in (0, 1, 2, 1, 1, 2):
            sender.sendto(struct.pack("=QQ", number, 0), (lab.server_ip[4], int(PORT)))
        got = result(receiver)
    assert (got["received"], got["unique"], got["duplicates"]) == (6, 3, 3)


def test_the_relay_relays_both_ways() -> None:
    with Lab(None) as lab:
        start(lab.server, [LOAD, "echo", "-p", PORT])
        start(lab.client, [RELAY, "30000", lab.server_ip[4], PORT])
        argv = [LOAD, "rtt", "-h", "127.0.0.1", "-p", "30000", "-s", "1200", "-t", "0.5"]
        found = json.loads(lab.client.run(argv).stdout)
    assert found["received"] == found["offered"] == 500
    assert 0 < found["p50_us"] <= found["p99_us"] < 1e6
