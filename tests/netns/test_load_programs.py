"""The C programs of the benchmark: a generator that miscounts would flatter, or slander, the tunnel."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from typing import Any

import pytest

from bench.cells import MIX, MIX_MEAN
from rsock_nf.lab.lab import Lab, Router
from tests.netns.judges import LOAD, start

RELAY = LOAD.replace("udp_load", "relay")
PORT = "9999"


def lines(said: str) -> list[dict[str, Any]]:
    """The results in what a load program printed."""
    return [json.loads(line) for line in said.splitlines() if line != "ready"]


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
    assert 0 < sent["offered"] <= 4_040
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
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["p999_us"] < 1e6


def test_a_mix_has_each_size_as_often_as_it_says() -> None:
    with Lab(None) as lab:
        receiver = start(lab.server, [LOAD, "receive", "-p", PORT])
        sent = send(lab, "-s", MIX, "-t", "1", "-r", "4000")
        got = result(receiver)
    assert got["unique"] == sent["offered"]
    whole, rest = divmod(int(sent["offered"]), 1200)  # the order repeats
    assert abs(got["bytes"] - whole * 1200 * MIX_MEAN) <= rest * 1400
    assert whole > 0


@pytest.mark.parametrize("gso", [[], ["-g", "8"]], ids=["plain", "gso"])
def test_each_conversation_has_a_port_of_its_own(gso: list[str]) -> None:
    with Lab(None) as lab:
        target = lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        target.bind(("", int(PORT)))
        target.settimeout(20)
        sender = lab.client.popen(
            [
                LOAD,
                "send",
                "-h",
                lab.server_ip[4],
                "-p",
                PORT,
                "-s",
                "100",
                "-t",
                "30",
                "-r",
                "2000",
                "-c",
                "200",
                *gso,
            ],
            stdout=subprocess.PIPE,
        )
        ports: set[int] = set()
        while len(ports) < 200:
            ports.add(target.recvfrom(2048)[1][1])
        sender.terminate()
        offered = json.loads(sender.communicate(timeout=20)[0])["offered"]
    assert offered >= 200


@pytest.mark.parametrize("options", [[], ["-c", "50"], ["-g", "20"]], ids=["one", "50 conversations", "gso"])
def test_the_target_sends_to_every_conversation(options: list[str]) -> None:
    with Lab(None) as lab:
        sender = start(
            lab.server, [LOAD, "send", "-p", PORT, "-s", "900", "-t", "0.5", "-r", "4000", "-c", "1", *options]
        )
        gro = ["-g"] if "-g" in options else options
        said = lab.client.run([LOAD, "receive", "-h", lab.server_ip[4], "-p", PORT, *gro]).stdout
        sent = result(sender)
    (got,) = lines(said)
    assert got["unique"] == got["received"] == sent["offered"] > 0
    assert got["bytes"] == 900 * sent["offered"]


def test_load_goes_both_ways_at_once() -> None:
    with Lab(None) as lab:
        argv = [LOAD, "both", "-p", PORT, "-s", "300", "-t", "0.5", "-r", "2000"]
        far = start(lab.server, argv)
        near = lines(lab.client.run([*argv, "-h", lab.server_ip[4]]).stdout)
        received, sent = lines(far.communicate(timeout=20)[0])
    assert received["unique"] == near[1]["offered"] > 0
    assert near[0]["unique"] == sent["offered"] > 0


def test_round_trips_beside_a_load_are_told_apart_from_it() -> None:
    with Lab(None) as lab:
        far = start(lab.server, [LOAD, "receive", "-p", PORT, "-e"])
        argv = [LOAD, "rtt", "-h", lab.server_ip[4], "-p", PORT, "-s", "500", "-t", "0.5", "-r", "200", "-b", "3000"]
        load, trips = lines(lab.client.run(argv).stdout)
        got = result(far)
    assert trips["received"] == trips["offered"] == 100
    assert got["unique"] == load["offered"] > 0


@pytest.mark.parametrize("sizes", ["8", "3000", "100x", "100x0", "100;200", "80x7,"])
def test_a_size_that_cannot_be_sent_is_refused(sizes: str) -> None:
    said = subprocess.run([LOAD, "send", "-p", PORT, "-s", sizes], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert f"sizes {sizes}: give 16..2048" in said.stderr
