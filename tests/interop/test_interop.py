"""Against an original on the other host, its kernel and all, in either role."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rsock_nf.lab.lab import DEVICE, Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import LISTEN, TARGET, Role
from tests.evidence import watched
from tests.interop.original import Original, OriginalClient, OriginalServer
from tests.netns.asked import AskedTunnel
from tests.netns.judges import Capture, wait_until

KEY = "between us"
OURS: dict[str, Any] = {"wire": "rsock", "hash": KEY, "secret": None, "keepalive": 1}
ORIGINAL: dict[str, Any] = {"key": KEY.encode(), "keepalive": 1.0, "settle": 1.0}
PORTS = range(10_001, 10_011)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Of one end.  Not pytest's: the path of a Unix socket below it has 107 bytes at most."""
    with TemporaryDirectory(prefix="rski-") as made:
        yield Path(made)


@pytest.fixture
def lab(directory: Path) -> Iterator[Lab]:
    """UDP is blocked on the way; otherwise a router without opinions: a strict one would throw half of an original's
    away."""
    with Lab(Router(strict=False, block_udp=True), prefix="rski") as made, watched(made, directory):
        yield made


@pytest.fixture(params=["plain", "default", "strict", "no-wscale"])
def nat(request: pytest.FixtureRequest, directory: Path) -> Iterator[Lab]:
    """A router that masquerades.  Its connection tracking takes every number (plain); or it takes what Linux takes by
    default, and packets that it finds INVALID are not translated, but not dropped (default); or it drops them (strict),
    and takes the window scale out of every SYN (no-wscale).
    """
    kind = request.param
    model = Router(strict=True, block_udp=True, strip_wscale=kind == "no-wscale")
    with Lab(model, prefix="rski") as made, watched(made, directory):
        router = made.router
        if kind in ("plain", "default"):
            router.nft("flush chain inet lab judge")
            router.nft("add rule inet lab judge ct state invalid counter name invalid")
            router.nft("flush chain inet lab passing")
            router.nft("add rule inet lab passing meta l4proto udp counter name udp_refused drop")
            router.nft("add chain inet lab passing { policy accept; }")
            router.sysctl("net.netfilter.nf_conntrack_tcp_loose", "1")
            router.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1" if kind == "plain" else "0")
        yield made


@contextlib.contextmanager
def ours(lab: Lab, directory: Path, role: Role, **changes: Any) -> Iterator[AskedTunnel]:
    """One end is ours."""
    tunnel = AskedTunnel(lab, directory / "tunnel", client={**OURS, **changes}, server={**OURS, **changes})
    tunnel.up(role)
    try:
        yield tunnel
    finally:
        tunnel.end(role)


def original_server(lab: Lab, version: int = 2) -> OriginalServer:
    return OriginalServer(lab.server, lab.server_ip[4], PORTS, TARGET, version=version, **ORIGINAL)


def original_client(lab: Lab, version: int = 2) -> OriginalClient:
    return OriginalClient(lab.client, lab.client_ip[4], lab.server_ip[4], PORTS, LISTEN, version=version, **ORIGINAL)


def carries(lab: Lab, count: int = 1500, listen: tuple[str, int] = LISTEN) -> None:
    """Datagrams of mixed sizes go there and come back, every one."""
    with EchoTarget(lab) as target, Application(lab, listen) as application:
        found = application.exchange(count, window=32)
    assert (found.lost, found.corrupted, target.corrupted) == (0, 0, 0)


def recovers(application: Application, within: float) -> float:
    """Ping until ten in a row come back; how long that took."""
    began = time.monotonic()
    while (found := application.ping(10)).lost:
        assert time.monotonic() - began < within, f"{found.lost} of 10 pings were lost after {within} s"
    return time.monotonic() - began


def content(peer: Original, *, restarted: bool = False) -> None:
    """It has nothing to complain about, and found no reason to dial or drop.

    One that was ``restarted`` may hear that flows of its predecessor are gone, which are none of its own.
    """
    for trouble in (
        "bad frames",
        "payloads too large",
        "datagrams without a connection",
        "control frames of a stranger",
        "flows found dead",
        "flows refused" if restarted else "command 2",
    ):
        assert peer.seen[trouble] == 0, peer.seen


def kernel_states(host: Namespace) -> set[str]:
    """Of every TCP socket on that host."""
    return {line.split()[0] for line in host.run(["ss", "-Htan"]).stdout.splitlines()}


def silent_for(tunnel: AskedTunnel, seconds: float) -> bool:
    """Whether our client sends nothing meanwhile."""
    before = tunnel.status("client")["link"]["counters"]["sent_packets"]
    time.sleep(seconds)
    return bool(tunnel.status("client")["link"]["counters"]["sent_packets"] == before)


def resets(lab: Lab) -> int:
    """RSTs that the router has seen or sent."""
    counters = lab.counters()
    return sum(counters[name] for name in ("rst_inside", "rst_outside", "rst_router"))


# -- our client


def test_our_client_behind_a_nat_reaches_an_original_server(nat: Lab, directory: Path) -> None:
    """The server's ACKs follow our numbers only where ours are numerically larger.  So all of ours are.

    A flow on which they are not is exchanged; the RST that ends it is ours.
    """
    with original_server(nat) as peer, ours(nat, directory, "client") as tunnel:
        wait_until(lambda: len(tunnel.status("client")["sessions"][0]["flows"]) == len(PORTS), "ten flows")
        carries(nat, 2000)
        wait_until(lambda: peer.seen["command 4"] > 20 and peer.seen["command 3"] > 20, "keepalives both ways")
        carries(nat, 2000)
        content(peer)
        assert peer.seen["flows"] == len(PORTS)
        assert nat.invalid() == 0
        counters = nat.counters()
        assert counters["rst_outside"] == counters["rst_router"] == 0


def test_our_client_carries_datagrams_over_an_original_server(lab: Lab, directory: Path) -> None:
    """For longer than the server waits before it asks: each side's keepalive is answered by the other."""
    with original_server(lab) as peer, ours(lab, directory, "client") as tunnel:
        carries(lab)
        wait_until(lambda: peer.seen["command 4"] > 20 and peer.seen["command 3"] > 20, "keepalives both ways")
        carries(lab)
        content(peer)
        assert peer.seen["flows"] == len(PORTS)
        status = tunnel.status("client")
        assert status["state"] == "connected"
        assert len(status["sessions"][0]["flows"]) == len(PORTS)
        assert status["mtu"] == 1500 - 40 - 31


def test_our_client_renews_its_flows_to_an_original_server(lab: Lab, directory: Path) -> None:
    with original_server(lab) as peer, ours(lab, directory, "client") as tunnel:
        with EchoTarget(lab) as target, Application(lab) as application:
            lost = 0
            for _ in range(3):
                lost += application.exchange_evenly(100, 50).lost
                tunnel.command("client", "reconnect")
                lost += application.exchange_evenly(100, 50).lost
        assert (lost, target.corrupted) == (0, 0)
        assert peer.seen["flows"] == 4 * len(PORTS)


def test_our_frames_reach_an_original_behind_gro_one_by_one(lab: Lab, directory: Path, tmp_path: Path) -> None:
    """It drops what was merged: PSH on each keeps them apart, also where our kernel could cut for us."""
    lab.offload(lab.router, "outside", tso=False)
    eager_gro(lab, lab.server)
    with (
        original_server(lab) as peer,
        ours(lab, directory, "client"),
        Capture(lab.server, tmp_path / "in.pcap", "tcp and inbound") as capture,
    ):
        carries(lab)
        content(peer)
    assert capture.count("greater 1515") == 0


@pytest.mark.slow
def test_our_client_finds_an_original_server_that_was_restarted(lab: Lab, directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(EchoTarget(lab))
        peer = original_server(lab)
        with peer, ours(lab, directory, "client"):
            application = stack.enter_context(Application(lab))
            assert recovers(application, 2.0) < 2.0
            peer.close()
            time.sleep(0.5)
            with original_server(lab) as peer:
                recovers(application, 8.0)
                content(peer, restarted=True)


def test_a_flow_that_an_original_server_drops_is_dialled_anew(lab: Lab, directory: Path) -> None:
    with original_server(lab) as peer, ours(lab, directory, "client") as tunnel:
        carries(lab, 500)
        (group,) = peer.groups.values()
        victims = list(group.flows.values())[:2]
        for flow in victims:
            flow.dead = True  # its kernel closes it when a frame would have gone out there: a FIN
        carries(lab, 500)
        wait_until(lambda: peer.seen["flows dropped"] == 2, "both to be dropped")
        wait_until(lambda: len(tunnel.status("client")["sessions"][0]["flows"]) == len(PORTS), "ten flows again")
        carries(lab, 500)
        assert peer.seen["flows"] == len(PORTS) + 2


def test_our_client_sleeps_and_wakes_in_front_of_an_original_server(lab: Lab, directory: Path) -> None:
    """Its flows end so that the server's kernel hears of it; then nothing is sent until the next datagram."""
    with (
        original_server(lab) as peer,
        ours(lab, directory, "client", duration=2, idle_timeout=1) as tunnel,
        EchoTarget(lab),
        Application(lab) as application,
    ):
        assert application.exchange(300, window=32).lost == 0
        (group,) = peer.groups.values()
        used = peer.seen["flows"]
        wait_until(lambda: bool(tunnel.status("client")["state"] == "idle"), "it to fall asleep", 20)
        wait_until(lambda: all(flow.dead for flow in group.flows.values()), "its server to know")
        wait_until(lambda: silent_for(tunnel, 3.0), "the last close frame: its server's kernel answers none", 10)
        assert peer.seen["flows"] == used
        recovers(application, 3.0)
        assert application.exchange(300, window=32).lost == 0
        assert peer.seen["flows"] > used
        for trouble in ("bad frames", "datagrams without a connection", "flows found dead"):
            assert peer.seen[trouble] == 0, peer.seen


@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "refused"])
def test_our_client_of_both_kinds_and_an_original_server_of_tcp_only(directory: Path, *, blocked: bool) -> None:
    """No datagram goes where nothing has ever come back: UDP is lost on the way, or ICMP says that its port is
    closed."""
    with (
        Lab(Router(strict=False, block_udp=blocked), prefix="rski") as lab,
        watched(lab, directory),
        original_server(lab) as peer,
        ours(lab, directory, "client", type="all") as tunnel,
        EchoTarget(lab),
        Application(lab) as application,
    ):
        recovers(application, 2.0)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert application.ping(1).lost == 0
            time.sleep(0.02)
        content(peer)
        flows = tunnel.status("client")["sessions"][0]["flows"]
        assert sum(flow["type"] == "tcp" for flow in flows) == len(PORTS)


def test_an_address_that_is_not_ours_is_named_at_once(lab: Lab, directory: Path) -> None:
    began = time.monotonic()
    tunnel = AskedTunnel(lab, directory / "tunnel", client={**OURS, "addresses": "10.9.9.9"}, server=OURS)
    result = tunnel.command("client", "up", "--config", str(tunnel.config("client")), check=False)
    assert result.returncode == 1
    assert f"addresses: 10.9.9.9 is not an address of this host; it has {lab.client_ip[4]}" in result.stderr
    assert time.monotonic() - began < 10
    assert not tunnel.pids("client")


# -- our server


def test_an_original_client_carries_datagrams_over_our_server(lab: Lab, directory: Path) -> None:
    with ours(lab, directory, "server") as tunnel, original_client(lab) as peer:
        carries(lab)
        wait_until(lambda: peer.seen["command 4"] > 20 and peer.seen["command 3"] > 20, "keepalives both ways")
        carries(lab)
        content(peer)
        assert peer.seen["RST"] == peer.seen["FIN"] == 0
        assert peer.seen["flows"] == len(PORTS)
        (session,) = tunnel.status("server")["sessions"]
        assert len(session["flows"]) == len(PORTS)
        assert session["wire"] == "rsock"


def test_an_original_client_behind_a_nat_reaches_our_server(nat: Lab, directory: Path) -> None:
    """Its first ACK is its own first number + 3.  Our number makes it right, so connection tracking passes it."""
    with ours(nat, directory, "server") as tunnel, original_client(nat) as peer:
        carries(nat, 2000)
        wait_until(lambda: peer.seen["command 4"] > 20 and peer.seen["command 3"] > 20, "keepalives both ways")
        carries(nat, 2000)
        content(peer)
        assert peer.seen["flows"] == len(PORTS)
        assert (nat.invalid(), resets(nat)) == (0, 0)
        assert len(tunnel.status("server")["sessions"][0]["flows"]) == len(PORTS)


def test_what_our_kernel_merges_of_an_original_is_cut(lab: Lab, directory: Path, tmp_path: Path) -> None:
    """It never sets PSH, so its frames come in as one packet; the link tells where the cuts were."""
    lab.offload(lab.router, "outside", tso=False)
    eager_gro(lab, lab.server)
    with (
        ours(lab, directory, "server"),
        original_client(lab) as peer,
        Capture(lab.server, tmp_path / "in.pcap", "tcp and inbound") as capture,
        EchoTarget(lab) as target,
        Application(lab) as application,
    ):
        peer.rng.choice = lambda flows: flows[0]  # type: ignore[method-assign,assignment]
        found = application.exchange(3000, window=64, sizes=iter([1000] * 3000))
        assert (found.lost, target.corrupted) == (0, 0)
        content(peer)
    assert capture.count("greater 1515") > 0, "nothing was merged, so nothing is shown"


@pytest.mark.slow
def test_an_original_client_finds_our_server_restarted(lab: Lab, directory: Path) -> None:
    """Its connections are nobody's any more, and an RST tells it so; without it keepalives would take 12 s and more."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(EchoTarget(lab))
        with ours(lab, directory, "server") as tunnel, original_client(lab) as peer:
            application = stack.enter_context(Application(lab))
            assert recovers(application, 2.0) < 2.0
            for pid in tunnel.pids("server"):
                tunnel.lab.server.run(["kill", "-9", str(pid)])
            wait_until(lambda: not tunnel.pids("server"), "the killed server to be gone")
            tunnel.up("server")
            recovers(application, 10.0)
            assert peer.seen["RST"] > 0


def test_an_original_client_that_is_idle_is_left_in_peace(lab: Lab, directory: Path) -> None:
    """Flows whose first frame was a keepalive were reset and dialled anew, every 20 s for ever."""
    with ours(lab, directory, "server") as tunnel, original_client(lab) as peer:
        with EchoTarget(lab), Application(lab) as application:
            assert application.ping(3).lost == 0
        wait_until(lambda: peer.seen["command 4"] > 40, "many keepalives", 20)
        content(peer)
        assert peer.seen["RST"] == peer.seen["FIN"] == peer.seen["flows dropped"] == 0
        assert tunnel.status("server")["sessions"][0]["conversations"] == 1


def test_an_original_client_that_ends_leaves_nothing(lab: Lab, directory: Path) -> None:
    with ours(lab, directory, "server") as tunnel:
        with original_client(lab):
            carries(lab, 300)
        wait_until(lambda: not tunnel.status("server")["sessions"][0]["flows"], "its flows to end", 5)
        assert kernel_states(lab.client) <= {"TIME-WAIT"}


def test_our_client_that_ends_leaves_nothing(lab: Lab, directory: Path) -> None:
    with original_server(lab) as peer:
        with ours(lab, directory, "client"):
            carries(lab, 300)
        wait_until(
            lambda: kernel_states(lab.server) <= {"LISTEN", "CLOSE-WAIT"}, "the server's kernel to hear of it", 5
        )
        wait_until(lambda: peer.seen["command 2"] >= len(PORTS) // 2, "the server to hear of it", 5)


@pytest.mark.parametrize("role", ["client", "server"])
def test_rsock_1_with_its_shorter_head(lab: Lab, directory: Path, role: Role) -> None:
    """A client says what it speaks; a server hears it."""
    with contextlib.ExitStack() as stack:
        if role == "client":
            peer: Original = stack.enter_context(original_server(lab, version=1))
            tunnel = stack.enter_context(ours(lab, directory, role, rsock_version=1))
        else:
            tunnel = stack.enter_context(ours(lab, directory, role))
            peer = stack.enter_context(original_client(lab, version=1))
        carries(lab, 500)
        wait_until(lambda: peer.seen["command 4"] > 10 and peer.seen["command 3"] > 10, "keepalives both ways")
        content(peer)
        assert tunnel.status(role)["sessions"][0]["mtu"] == 1500 - 40 - 27


def test_both_wires_at_once(lab: Lab, directory: Path) -> None:
    """One server, told apart by the ports: an original's client, and ours with the native wire."""
    second = {"ports": "20001-20004", "hash": KEY, "keepalive": 1}
    tunnel = AskedTunnel(
        lab, directory / "tunnel", client={"ports": "10001-10004"}, server={"ports": "10001-10004", "rsock": second}
    )
    other = ("127.0.0.1", 30_001)
    with (
        tunnel.standing(),
        OriginalClient(
            lab.client, lab.client_ip[4], lab.server_ip[4], range(20_001, 20_005), other, **ORIGINAL
        ) as peer,
    ):
        carries(lab)
        carries(lab, listen=other)
        content(peer)
        status = tunnel.status("server")
        assert sorted(session["wire"] for session in status["sessions"]) == ["native", "rsock"]
        assert {len(session["flows"]) for session in status["sessions"]} == {4}
        assert status["ports"] == "10001-10004,20001-20004"
    with contextlib.suppress(StopIteration):
        raise AssertionError(next(line for line in tunnel.log("server").splitlines() if "ERROR" in line))


def eager_gro(lab: Lab, host: Any) -> None:
    """As a hardware NIC's driver merges, on a veth."""
    lab.offload(host, gro=True)
    knobs = f"/sys/class/net/{DEVICE}"
    host.run(["sh", "-c", f"echo 50000 > {knobs}/gro_flush_timeout; echo 2 > {knobs}/napi_defer_hard_irqs"])
