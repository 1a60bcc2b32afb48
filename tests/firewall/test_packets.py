"""What the rules do to packets: the kernel is blind to what is ours, a tap is not, and nobody else notices."""

from __future__ import annotations

import dataclasses
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from rsock_firewall import Firewall, Policy, PortRange
from rsock_firewall.iptables.backend import Iptables
from rsock_firewall.nftables.backend import OWNED, PLAIN, Nftables, NftablesHeld
from tests.firewall.lab import ACK, ADDRESSES, RST, SYN, SYN_ACK, Lab, Segment, Sender, Tap

HELD, FREE = 10005, 9999
SERVER = Policy("packets", "left", ADDRESSES["host"], (PortRange(10001, 10010),))
CLIENT = Policy(
    "packets", "left", ADDRESSES["host"], (PortRange(40001, 40001),), ADDRESSES["peer"], (PortRange(443, 444),)
)
BACKENDS: dict[str, Callable[[], Firewall]] = {
    "owned": Nftables,
    "plain": lambda: Nftables(persist=False),
    "prerouting": lambda: Nftables(persist=False, ingress=False),
    "iptables": Iptables,
}


@pytest.fixture(autouse=True)
def nobody_else_at_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another command has the lock, be it in another network namespace, counters are those of a moment ago."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


@pytest.fixture(params=BACKENDS)
def firewall(request: pytest.FixtureRequest) -> Firewall:
    return BACKENDS[request.param]()


def probes(lab: Lab, source: int, destination: int, version: int) -> list[Segment]:
    """What makes a kernel without a socket answer RST, every time."""
    return [lab.segment((source, destination), flags, version) for flags in (SYN, ACK, SYN_ACK)]


@pytest.mark.parametrize("version", [4, 6])
def test_without_rules_every_probe_is_reset(lab: Lab, version: int) -> None:
    """Or the tests below would pass whatever the rules did."""
    answers = lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE))
    assert [bool(answer.flags & RST) for answer in answers] == [True, True, True]


@pytest.mark.parametrize("version", [4, 6])
def test_a_server_is_silent_on_its_ports_only(lab: Lab, firewall: Firewall, version: int) -> None:
    with lab.inside(), firewall.hold(SERVER) as held:
        assert lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE)) == []
        for neighbour in (10000, 10011):
            assert len(lab.answered(probes(lab, 5000, neighbour, version), free=(5000, FREE))) == 3
        counters = held.counters()
        sizes = 3 * (40 if version == 4 else 60) + len(b"data")
        assert counters == lab.counted("packets") == (3, sizes, 0, 0)
    assert len(lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE))) == 3


@pytest.mark.parametrize("version", [4, 6])
def test_a_client_is_silent_to_its_server_only(lab: Lab, firewall: Firewall, version: int) -> None:
    with lab.inside(), firewall.hold(CLIENT):
        assert lab.answered(probes(lab, 443, 40001, version), free=(443, FREE)) == []
        assert len(lab.answered(probes(lab, 443, 40002, version), free=(443, FREE))) == 3, (
            "a port that it does not hold"
        )
        assert len(lab.answered(probes(lab, 442, 40001, version), free=(442, FREE))) == 3, "not the server's port"


def test_a_client_of_another_server_is_not_ours(lab: Lab, firewall: Firewall) -> None:
    elsewhere = dataclasses.replace(CLIENT, remote_addresses=ADDRESSES["beyond"])
    with lab.inside(), firewall.hold(elsewhere):
        for version in (4, 6):
            assert len(lab.answered(probes(lab, 443, 40001, version), free=(443, FREE))) == 3


def test_no_ports_no_silence_until_the_update(lab: Lab, firewall: Firewall) -> None:
    with lab.inside(), firewall.hold(dataclasses.replace(CLIENT, local_ports=())) as held:
        assert len(lab.answered(probes(lab, 443, 40001, 4), free=(443, FREE))) == 3
        held.update(CLIENT)
        assert lab.answered(probes(lab, 443, 40001, 4), free=(443, FREE)) == []
        before = held.counters().inbound_packets
        assert before == 3
        held.update(dataclasses.replace(CLIENT, local_addresses=()))
        assert lab.answered(probes(lab, 443, 40001, 4), free=(443, FREE)) == []
        assert held.counters().inbound_packets == before + 3, "counters go on when rules are swapped"


def test_what_arrives_while_the_rules_change_is_counted(lab: Lab) -> None:
    """A client that dials changes them for every flow, and the answers to the one before come meanwhile."""
    answer = lab.segment((443, 40001), SYN_ACK, 4)
    sent, over = 0, threading.Event()
    with lab.inside("peer"):
        sender = Sender()

    def send() -> None:
        nonlocal sent
        while not over.wait(0.001):
            sender.send(answer)
            sent += 1

    with closing(sender), lab.inside(), Nftables().hold(CLIENT) as held:
        thread = threading.Thread(target=send)
        thread.start()
        try:
            for port in itertools.count(41001, 2):
                if sent > 30 and port > 41010:
                    break
                held.update(dataclasses.replace(CLIENT, local_ports=(*CLIENT.local_ports, PortRange(port, port))))
        finally:
            over.set()
            thread.join()
        assert lab.answered(probes(lab, 443, 40001, 4), free=(443, FREE)) == []  # and nothing is on its way
        assert held.counters().inbound_packets == sent + 3


def test_what_was_counted_outlives_a_foreign_flush(lab: Lab) -> None:
    with lab.inside(), Iptables().hold(CLIENT) as held:
        for attack in ("-F", "-F RSOCK_NF_packets"):
            before = held.counters().inbound_packets
            lab.answered(probes(lab, 443, 40001, 4), free=(443, FREE))
            assert held.counters().inbound_packets == before + 3
            lab.run(f"iptables-legacy -t raw {attack}")
            assert held.counters().inbound_packets == before + 3
            assert held.repair()
            assert held.counters().inbound_packets == before + 3


def test_any_device(lab: Lab) -> None:
    for firewall in (Nftables(), Iptables()):
        with lab.inside(), firewall.hold(dataclasses.replace(SERVER, device=None)):
            for version in (4, 6):
                assert lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE)) == []


def test_the_output_guard_stops_what_came_by_another_device(lab: Lab, firewall: Firewall) -> None:
    """The rule is on the right device, the probes come by the left one: the kernel answers, and nobody hears it."""
    with lab.inside(), firewall.hold(dataclasses.replace(SERVER, device="right")) as held:
        for version in (4, 6):
            assert lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE)) == []
        assert held.counters()[::2] == (0, 6)


@pytest.mark.parametrize("version", [4, 6])
def test_forwarded_traffic_to_the_same_port_passes(lab: Lab, firewall: Firewall, version: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    target = (str(ADDRESSES["beyond"][version == 6]), HELD)
    with lab.inside("beyond"):
        listener = socket.create_server(target, family=family)
    with listener, lab.inside(), firewall.hold(SERVER) as held:
        with lab.inside("peer"):
            connection = socket.create_connection(target, timeout=5)
        with connection, listener.accept()[0] as accepted:
            connection.sendall(b"through")
            assert accepted.recv(100) == b"through"
        assert held.counters().inbound_packets == 0


def test_two_instances_side_by_side(lab: Lab, firewall: Firewall) -> None:
    other = Policy("other", "left", ADDRESSES["host"], (PortRange(20000, 20000),))
    with lab.inside(), firewall.hold(SERVER):
        with firewall.hold(other):
            assert lab.answered(probes(lab, 1, HELD, 4) + probes(lab, 1, 20000, 4), free=(1, FREE)) == []
        assert len(lab.answered(probes(lab, 1, HELD, 4) + probes(lab, 1, 20000, 4), free=(1, FREE))) == 3


FORWARDING = dataclasses.replace(SERVER, at_input=True)


@contextmanager
def masquerade(lab: Lab) -> Iterator[None]:
    """The host translates what leaves by its left device, as a VPN's exit does."""
    lab.load(
        "table inet nat { chain post { type nat hook postrouting priority 100; oifname left masquerade; }; }",
        "nft -f -",
    )
    try:
        yield
    finally:
        lab.run("nft delete table inet nat")


def through_the_host(lab: Lab, source_port: int, version: int) -> bool:
    """Whether somebody behind the host, with that source port, can talk to a server outside."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    any_address = "0.0.0.0" if version == 4 else "::"
    target = str(ADDRESSES["peer"][version == 6])
    with lab.inside("peer"):
        listener = socket.create_server((target, 0), family=family)
    with listener, lab.inside("beyond"), socket.socket(family) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind((any_address, source_port))
        connection.settimeout(1)
        try:
            connection.connect((target, listener.getsockname()[1]))
        except TimeoutError:
            return False
        with listener.accept()[0] as accepted:
            assert accepted.getpeername()[:2] == (str(ADDRESSES["host"][version == 6]), source_port), "translated"
            accepted.sendall(b"through")
            return connection.recv(100) == b"through"


@pytest.mark.parametrize("version", [4, 6])
def test_translated_connections_of_others_pass(lab: Lab, firewall: Firewall, version: int) -> None:
    """Masquerading keeps their source port, also one of ours."""
    with lab.inside(), masquerade(lab), firewall.hold(SERVER) as held:
        assert through_the_host(lab, 10011, version)
        assert not through_the_host(lab, 10001, version), "on a host of which nobody knows that it forwards"
        held.update(FORWARDING)
        assert through_the_host(lab, 10002, version)
        assert lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE)) == []
        assert held.counters().output_packets == 0
        assert f"dport={HELD}" not in lab.run("conntrack -L"), "our flows have no entries"
        held.update(SERVER)
        assert lab.answered(probes(lab, 5000, HELD, version), free=(5000, FREE)) == []
        assert held.counters().output_packets == 0
        assert held.counters().inbound_packets >= 6, "counters go on when the rules move"


@pytest.mark.parametrize("loose", [0, 1])
def test_without_an_entry_of_conntrack_what_is_ours_is_dropped(lab: Lab, firewall: Firewall, loose: int) -> None:
    """With nf_conntrack_tcp_loose=0 it calls our segments INVALID."""
    key = "net.netfilter.nf_conntrack_tcp_loose"
    with lab.inside(), masquerade(lab), firewall.hold(FORWARDING) as held:
        lab.run(f"sysctl -qw {key}={loose}")
        try:
            assert lab.answered(probes(lab, 5000, HELD, 4), free=(5000, FREE)) == []
        finally:
            lab.run(f"sysctl -qw {key}=1")
        assert held.counters()[::2] == (3, 0)


def test_a_tap_on_a_bridge_sees_what_the_rules_drop(lab: Lab, firewall: Firewall) -> None:
    """With bridge-nf-call-iptables=1, as on hosts with Docker or Proxmox, prerouting comes before that tap."""
    key = "net.bridge.bridge-nf-call-iptables"
    lab.run("ip link add br0 type bridge")
    lab.run("ip link set br0 up")
    lab.run(f"sysctl -qw {key}=1")
    lab.run("ip link set left master br0")
    lab.run("ip addr add 10.66.3.1/24 dev br0")
    lab.run("ip addr add 10.66.3.2/24 dev eth", "peer")
    here, there = ip_address("10.66.3.1"), ip_address("10.66.3.2")
    policy = dataclasses.replace(FORWARDING, device="br0", local_addresses=(here,))
    try:
        with lab.inside("peer"):
            peer_tap, sender = Tap("eth"), Sender()
        with lab.inside(), closing(Tap("br0")) as tap, closing(peer_tap), closing(sender), firewall.hold(policy):
            for port in (HELD, HELD, HELD, FREE):
                sender.send(Segment(there, here, 5000, port, SYN, port))
            seen = tap.until(lambda segment: segment.destination_port == FREE)
            assert [segment.destination_port for segment in seen] == [HELD, HELD, HELD, FREE]
            answers = peer_tap.until(lambda segment: segment.source == here)
            assert [segment.source_port for segment in answers] == [FREE]
    finally:
        lab.run("ip link delete br0")
        lab.run(f"sysctl -qw {key}=0")
        lab.run("ip addr delete 10.66.3.2/24 dev eth", "peer")


STREAM = """
    import itertools, select, sys
    from ipaddress import ip_address
    from tests.firewall.lab import ACK, ADDRESSES, SYN, Segment, Sender
    pairs = list(zip(ADDRESSES["peer"], ADDRESSES["host"]))
    segments = [Segment(*pair, 5000, {held}, flags, 1) for flags in (SYN, ACK) for pair in pairs]
    sender = Sender()
    print("ready", flush=True)
    for sent in itertools.count():
        if sent % 64 == 0 and select.select([sys.stdin], [], [], 0)[0]:
            break
        sender.send(segments[sent % len(segments)])
    print(sent)
"""


@contextmanager
def stream(lab: Lab) -> Iterator[Callable[[], list[Segment]]]:
    """Segments to a held port as fast as they go, in both families.

    Gives a function that ends the stream, sees that it flowed, and says what came back from the held port.
    """
    with lab.inside("peer"):
        tap = Tap("eth")
    with closing(tap), lab.child(STREAM.format(held=HELD), "peer") as child:

        def answers() -> list[Segment]:
            sent = int(child.communicate("", timeout=10)[0])
            assert sent > 2000
            with lab.inside("peer"), closing(Sender()) as sender:
                sender.send(lab.segment((5000, FREE), SYN))
            seen = tap.until(lambda segment: segment.source_port == FREE)
            return [segment for segment in seen if segment.source_port == HELD]

        yield answers


def test_the_stream_is_reset_where_nobody_holds(lab: Lab) -> None:
    with stream(lab) as answers, lab.inside():
        with closing(Tap("left")) as host_tap:
            for _ in range(3000):
                host_tap.until(lambda _any: True)
        assert len(answers()) > 1000


def test_updates_have_no_gap(lab: Lab, firewall: Firewall) -> None:
    """Ports come and go beside the held one, its range is cut anew, an address comes and goes: not one RST."""
    policies = [
        SERVER,
        FORWARDING,
        dataclasses.replace(SERVER, local_ports=(PortRange(10001, 10010), PortRange(30000, 30010))),
        dataclasses.replace(SERVER, local_ports=(PortRange(HELD, HELD), PortRange(HELD + 1, HELD + 1))),
        dataclasses.replace(SERVER, local_addresses=(*ADDRESSES["host"], *ADDRESSES["beyond"])),
    ]
    with lab.inside(), firewall.hold(SERVER) as held, stream(lab) as answers:
        for policy in policies * (15 if firewall.name == "iptables" else 60):  # python-iptables is slow
            held.update(policy)
        assert held.counters().output_packets == 0, "the output guard had nothing to hide"
        assert answers() == []


HOLD = """
    import sys
    from rsock_firewall.iptables.backend import Iptables
    from rsock_firewall.nftables.backend import Nftables
    from tests.firewall.test_packets import FORWARDING, SERVER
    with {}.hold({}):
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("backend", ["Nftables()", "Nftables(persist=False)", "Iptables()"])
def test_kill_and_take_over_have_no_gap(lab: Lab, backend: str) -> None:
    """kill -9 leaves the rules, the next one takes them over: the kernel sees nothing in between."""
    codes = [HOLD.format(backend, policy) for policy in ("SERVER", "FORWARDING")]
    firewall: Firewall = Iptables() if backend == "Iptables()" else Nftables()
    with lab.child(codes[0]) as first, stream(lab) as answers, lab.inside():
        first.kill()
        first.wait()
        for turn in (1, 1, 0, 0):  # the host has begun or ceased to forward meanwhile, or not
            with lab.child(codes[turn]) as successor:
                counters = lab.counted("packets")
                assert counters is not None
                assert counters.output_packets == 0
                successor.kill()
                successor.wait()
        assert answers() == []
        assert firewall.clear("packets")


@pytest.mark.parametrize("persist", [True, False])
def test_two_hundred_take_overs_have_no_gap(lab: Lab, persist: bool) -> None:  # noqa: FBT001
    """As after kill -9: the kernel closes the owner's socket, and nothing else happens."""
    flags = OWNED if persist else PLAIN
    with lab.inside():
        NftablesHeld(SERVER, flags, ingress=True)._close()
        with stream(lab) as answers:
            for turn in range(200):
                NftablesHeld(FORWARDING if turn & 2 else SERVER, flags, ingress=True)._close()
            counters = lab.counted("packets")
            assert counters is not None
            assert counters.inbound_packets > 0, "counters outlive a crash"
            assert counters.output_packets == 0
            assert answers() == []
        assert Nftables().clear("packets")
