"""The laboratory itself: a judge that does not judge would pass everything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyroute2 import netns

from rsock_nf.lab.lab import DEVICE, CommandFailed, Lab, Router
from rsock_nf.lab.netns import NETNS_DIR, Namespace

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
TCP_MAXSEG = 2


def ours() -> list[str]:
    return [entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(f"rsnf-{os.getpid()}-")]


def connect(lab: Lab, version: int) -> tuple[socket.socket, socket.socket]:
    listener = lab.server.socket(FAMILIES[version], socket.SOCK_STREAM)
    listener.bind((lab.server_ip[version], 0))
    listener.listen()
    client = lab.client.socket(FAMILIES[version], socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect(listener.getsockname()[:2])
    return client, lab.server.keep(listener.accept()[0])


@pytest.mark.parametrize("version", [4, 6])
def test_the_strict_router_masquerades_tcp_and_blocks_udp(version: int) -> None:
    with Lab(Router()) as lab:
        _client, accepted = connect(lab, version)
        assert accepted.getpeername()[0] not in lab.client_ip.values()
        assert any(lab.client_ip[4] in line or "fd77:0001" in line for line in lab.conntrack())
        sender = lab.client.socket(FAMILIES[version], socket.SOCK_DGRAM)
        sender.sendto(b"x", (lab.server_ip[version], 9))
        counters = lab.counters()
        assert counters["udp_refused"] == 1
        assert counters["invalid"] == 0
        assert lab.rsts() == 0


def test_a_segment_out_of_the_blue_is_invalid_and_dropped() -> None:
    """loose=0: an ACK that belongs to no tracked connection, sent raw."""
    with Lab(Router()) as lab:
        raw = lab.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        header = bytes.fromhex("2710 2711 00000001 00000001 5010 ffff 0000 0000".replace(" ", ""))
        pseudo = socket.inet_aton(lab.client_ip[4]) + socket.inet_aton(lab.server_ip[4]) + bytes([0, 6, 0, 20])
        total = sum(int.from_bytes((pseudo + header)[i : i + 2]) for i in range(0, 32, 2)) % 0xFFFF
        raw.sendto(header[:16] + (0xFFFF - total).to_bytes(2) + header[18:], (lab.server_ip[4], 0))
        counters = lab.counters()
        assert counters["invalid"] == 1
        assert counters["tcp_outside"] == 0


def test_resets_are_counted_on_the_wire_that_they_came_from() -> None:
    with Lab(Router()) as lab:
        refused = lab.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        with pytest.raises(ConnectionRefusedError):
            refused.connect((lab.server_ip[4], 1))
        counters = lab.counters()
        assert (counters["rst_inside"], counters["rst_outside"], counters["rst_router"]) == (0, 1, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_options_of_the_syn_are_rewritten(version: int) -> None:
    with Lab(Router(maxseg=1400, strip_wscale=True)) as lab:
        client, _accepted = connect(lab, version)
        assert client.getsockopt(socket.IPPROTO_TCP, TCP_MAXSEG) <= 1400
        said = lab.client.run(["ss", "-tin", "state", "established"]).stdout
        assert "wscale" not in said
        assert "mss:1388" in said  # 1400 less 12 bytes of timestamps


def test_a_black_hole_opens_and_closes() -> None:
    with Lab(Router(block_udp=False)) as lab:
        sink = lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.bind((lab.server_ip[4], 0))
        sink.settimeout(5)
        source = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.black_hole(f"udp dport {sink.getsockname()[1]}"):
            source.sendto(b"lost", sink.getsockname())
            assert lab.counters()["blackholed"] == 1
        source.sendto(b"kept", sink.getsockname())
        assert sink.recv(10) == b"kept"


def test_loss_is_about_what_was_asked_for() -> None:
    with Lab(Router(block_udp=False, loss=30)) as lab:
        source = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(1000):
            source.sendto(b"x", (lab.server_ip[4], 9))
        assert 200 < lab.counters()["lost"] < 400


def test_the_client_moves_to_another_address() -> None:
    with Lab(Router(strict=False, block_udp=False)) as lab:
        for version, address in ((4, "10.77.1.77"), (6, "fd77:1::77")):
            lab.renumber_client(version, address)
            _client, accepted = connect(lab, version)
            assert accepted.getpeername()[0] == address


def test_mtu_and_offloads_are_set_where_they_should() -> None:
    with Lab(Router()) as lab:
        lab.set_mtu(1300, outside_only=True)
        lab.offload(lab.client, tso=False, gro=True)
        assert "mtu 1300" in lab.server.run(["ip", "link", "show", DEVICE]).stdout
        assert "mtu 1500" in lab.client.run(["ip", "link", "show", DEVICE]).stdout
        features = lab.client.run(["ethtool", "-k", DEVICE]).stdout
        assert "tcp-segmentation-offload: off" in features
        assert "generic-receive-offload: on" in features


def start_and_fail(started: list[subprocess.Popen[bytes]]) -> None:
    with Lab(None) as lab:
        started.append(lab.server.popen(["sh", "-c", "echo; exec sleep 100"], stdout=subprocess.PIPE))
        assert started[0].stdout is not None
        started[0].stdout.readline()
        assert lab.server.pids() == [started[0].pid]
        lab.client.ip("nonsense")


def test_nothing_is_left_after_a_failure_inside() -> None:
    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(CommandFailed, match=r"ip -n .*nonsense"):
        start_and_fail(started)
    assert started[0].wait(timeout=5) == -signal.SIGTERM
    assert ours() == []


def test_a_killed_laboratory_is_swept_up_by_the_next() -> None:
    code = "from rsock_nf.lab.lab import Lab\nwith Lab(None) as lab: print(lab.name, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        name = victim.stdout.readline().decode().strip()
        assert Path(NETNS_DIR, f"{name}-client").exists()
        victim.kill()
    with Lab(None):
        assert not Path(NETNS_DIR, f"{name}-client").exists()


def test_two_laboratories_may_sweep_up_the_same_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run side by side: the other one may be a moment earlier."""
    victim = Namespace(f"rsnf-{os.getpid()}-twice")
    remove = netns.remove

    def too_late(name: str) -> None:
        remove(name)
        remove(name)

    monkeypatch.setattr(netns, "remove", too_late)
    victim.close()
    assert not Path(NETNS_DIR, victim.name).exists()
    assert Namespace(victim.name, create=False)._inside() == []
