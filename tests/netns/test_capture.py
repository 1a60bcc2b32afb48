"""``rsock-nf capture`` beside a running tunnel: tcpdump sees the same, tshark reads it, and with the keys all of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader, RawPcapReader

from rsock_nf.lab.lab import DEVICE, Router
from rsock_nf.lab.traffic import genuine
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import FLOWS, Build, Site
from tests.netns.judges import Capture, wait_until
from tests.wire.native.scene import Shown, dissected

NONE = {"cipher": "none"}
SEALED = {"cipher": "aes-256-gcm", "key_log": True}


def both(**keys: Any) -> dict[str, Any]:
    return {"client": keys, "server": keys}


@contextmanager
def capturing(site: Site, role: Role, path: Path, *words: str) -> Iterator[list[str]]:
    """``rsock-nf capture`` until the end, by Ctrl-C; then the list has its lines on standard error."""
    argv = [sys.executable, "-m", "rsock_nf", "capture", "-w", str(path), *words]
    process = site.host(role).popen(argv, env=site.tunnel.environment(role), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = [process.stderr.readline()]
    assert "captures tunnel" in said[0], said + process.stderr.readlines()
    yield said
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=30)[1].splitlines()
    assert process.returncode == 0, said


def own_packets(path: Path) -> list[tuple[bytes, int]]:
    """Packets and microseconds."""
    with RawPcapNgReader(str(path)) as file:
        return [(data, (meta.tshigh << 32 | meta.tslow) // 1000) for data, meta in file]  # type: ignore[attr-defined]


def of_tcpdump(path: Path) -> list[tuple[bytes, int]]:
    """The same."""
    with RawPcapReader(str(path)) as file:
        return [(data, meta.sec * 1_000_000 + meta.usec) for data, meta in file] or [(b"", 0)]


def test_it_sees_the_tunnels_packets_and_no_others(share: Build, tmp_path: Path) -> None:
    """tcpdump, with a filter by hand, is the judge."""
    site = share(**both(**NONE))
    ours, theirs = tmp_path / "c.pcapng", tmp_path / "tcpdump.pcap"
    site.all_flows()
    with (
        Capture(site.lab.client, theirs, "tcp portrange 10001-10010"),
        capturing(site, "client", ours) as said,
    ):
        site.carries(2000)  # 200 of them may be no more than 50 bursts
        site.lab.client.run(["ping", "-c", "1", site.lab.server_ip[4]], check=False)
        last = time.time_ns() // 1000
        # Flows are probed all the time.  tcpdump gets what the kernel saw up to a second later.
        wait_until(
            lambda: min(of_tcpdump(theirs)[-1][1], own_packets(ours)[-1][1]) > last, "later packets in both files"
        )
    own, seen = own_packets(ours), of_tcpdump(theirs)
    first = own[0][1]
    assert f"{len(own):,} packets; 0 lost" in said[-1]
    counted = [Counter(data for data, when in found if first <= when <= last) for found in (own, seen)]
    assert counted[0] == counted[1]
    assert sum(counted[0].values()) > 50
    argv = ["tshark", "-n", "-r", str(ours), "-T", "fields"]
    for field in ("frame.interface_name", "frame.packet_flags_direction", "ip.src"):
        argv += ["-e", field]
    rows = {
        tuple(line.split())
        for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    }
    client, server = site.lab.client_ip[4], site.lab.server_ip[4]
    assert rows == {(DEVICE, "0x00000002", client), (DEVICE, "0x00000001", server)}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_with_keys_everything_is_in_clear_also_what_comes_later(build: Build, tmp_path: Path, kind: str) -> None:
    """At both ends: what left one in clear is what came at the other, and it is what the application sent."""
    site = build(Router(block_udp=kind == "tcp"), **both(**SEALED, type=kind))
    paths: dict[Role, Path] = {"client": tmp_path / "c.pcapng", "server": tmp_path / "s.pcapng"}
    wait_until(lambda: len(flow_ids(site)) == FLOWS, "all flows")
    before = flow_ids(site)
    with (
        capturing(site, "client", paths["client"], "--decrypt") as said,
        capturing(site, "server", paths["server"], "--decrypt"),
    ):
        site.carries(100)
        site.tunnel.command("client", "reconnect")
        wait_until(lambda: len(flow_ids(site) - before) == len(flow_ids(site)) == FLOWS, "new flows alone")
        site.carries(100)
    assert ", 0 that no key opens" in said[-1]
    numbers: dict[tuple[Role, bool], Counter[int]] = {}
    for role, path in paths.items():
        shown = [seen for seen in dissected(path) if seen.tree is not None]
        assert all(seen.all("decrypted") for seen in shown)
        assert not any(seen.all("malformed") for seen in shown)
        assert {message for seen in shown for message in seen.numbers("handshake.kind")} >= {3, 4, 5}
        assert {number for seen in shown for number in seen.numbers("control")} >= {1, 2, 3, 5, 6}
        for toward in ("server", "client"):
            numbers[role, toward == "server"] = Counter(datagrams(shown, toward))
        ids = {flow_id for seen in shown for flow_id in seen.numbers("handshake.number")}
        assert ids == flow_ids(site) - before
    for to_server in (True, False):
        assert numbers["client", to_server] == numbers["server", to_server]
        assert sum(numbers["client", to_server].values()) == 200


def flow_ids(site: Site) -> set[int]:
    return {flow["id"] for session in site.tunnel.status("client")["sessions"] for flow in session["flows"]}


def datagrams(shown: list[Shown], toward: str) -> list[int]:
    """The numbers of the application's datagrams in packets toward one end; fails if one of them is not genuine."""
    found = []
    for seen in shown:
        (told,) = [one.get("show", "") for one in seen.all("decrypted")]
        if told.endswith(f"to the {toward}"):
            for datagram in seen.bytes("datagram"):
                number = genuine(datagram)
                assert number is not None
                found.append(number)
    return found


def test_without_the_key_in_the_file_nothing_is_handed_out(share: Build, tmp_path: Path) -> None:
    site = share(**both(**NONE))
    ran = site.tunnel.command("client", "capture", "--decrypt", "-w", str(tmp_path / "c.pcapng"), check=False)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert 'set "key_log": true in ' in line
    assert not (tmp_path / "c.pcapng").exists()


def test_tshark_reads_the_pipe(share: Build) -> None:
    site = share(**both(**NONE))
    shell = f"{sys.executable} -m rsock_nf capture client --count 40 | tshark -n -r - -T json -e ip.dst -e tcp.len"
    with site.lab.client.popen(
        ["sh", "-c", shell],
        env=site.tunnel.environment("client"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = ""
        while "captures tunnel client" not in said:
            said = process.stderr.readline()
            assert said
        site.carries(200)
        out, _ = process.communicate(timeout=60)
    assert len(json.loads(out)) == 40


def test_a_tunnel_of_another_namespace_is_not_looked_for_here(share: Build) -> None:
    site = share(**both(**NONE))
    argv = [sys.executable, "-m", "rsock_nf", "capture", "client", "-w", "-"]
    ran = site.lab.server.run(argv, check=False, env=site.tunnel.environment("client"))
    assert ran.returncode == 1
    assert ran.stderr.startswith("rsock-nf: instance client runs in another network namespace: ip netns exec ")
    assert ran.stdout == ""
