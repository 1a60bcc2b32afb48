"""The rules as text: golden files that read as documentation, and the proof that they are what is installed."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_firewall import FirewallError, Policy, PortRange
from rsock_firewall.iptables.backend import Iptables
from rsock_firewall.iptables.text import chain_names
from rsock_firewall.manual import Manual
from rsock_firewall.nftables.backend import Nftables
from rsock_firewall.policy import Ports, merged
from tests.firewall.lab import Lab

RULES = Path(__file__).parents[2] / "firewall" / "rules"
V4, V6 = ip_address("203.0.113.5"), ip_address("2001:db8::5")
HOME4, HOME6 = ip_address("192.0.2.10"), ip_address("2001:db8:1::10")
SERVER_PORTS = (PortRange(10001, 10010),)
CLIENT_PORTS = (PortRange(40112, 40112), PortRange(40113, 40113), PortRange(51007, 51007))
POLICIES = {
    "server-ipv4": Policy("demo", "eth0", (V4,), SERVER_PORTS),
    "server-dual-stack": Policy("demo", "eth0", (V4, V6), (*SERVER_PORTS, PortRange(443, 443))),
    "client-ipv4": Policy("demo", "eth0", (HOME4,), CLIENT_PORTS, (V4,), SERVER_PORTS),
    "client-ipv6": Policy("demo", "eth0", (HOME6,), CLIENT_PORTS, (V6,), SERVER_PORTS),
    "client-before-dialling": Policy("demo", "eth0", (HOME4,), (), (V4,), SERVER_PORTS),
    "server-any-device": Policy("demo", None, (V4, V6), SERVER_PORTS),
    "server-any-address": Policy("demo", "eth0", (), SERVER_PORTS),
    "server-forwarding": Policy("demo", "eth0", (V4, V6), SERVER_PORTS, at_input=True),
    "client-forwarding": Policy("demo", None, (), CLIENT_PORTS, (V4, V6), SERVER_PORTS, at_input=True),
}
BACKENDS = {"nft": Nftables, "iptables": Iptables}


@pytest.fixture
def host(lab: Lab) -> Iterator[Lab]:
    """The host with an ``eth0``, as the golden policies have it."""
    lab.run("ip link add eth0 type veth peer name other")
    yield lab
    lab.run("ip link delete eth0")


def listed(host: Lab) -> str:
    """The rules that the kernel has, without what is allowed to differ: flags, their owner, counters, order of sets."""
    text = "\n".join(host.state().values())
    text = re.sub(r" # progname \w+|\tflags owner\n\n|counter packets \d+ bytes \d+", "", text)
    return re.sub(r"\n+", "\n", text)


def load(host: Lab, kind: str, text: str) -> None:
    if kind == "nft":
        host.load(text, "nft -f -")
        return
    for part in re.split(r"(?m)^(?=# IPv)", text)[1:]:
        command = "iptables" if part.startswith("# IPv4") else "ip6tables"
        host.load(part, f"{command}-legacy-restore --noflush")


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", POLICIES)
def test_golden(name: str, kind: str) -> None:
    assert BACKENDS[kind]().render(POLICIES[name]) == (RULES / f"{name}.{kind}").read_text()


def test_every_golden_file_is_tested() -> None:
    expected = {f"{name}.{kind}" for name, kind in itertools.product(POLICIES, BACKENDS)}
    assert {path.name for path in RULES.iterdir() if path.suffix in {".nft", ".iptables"}} == expected


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_installed_is_what_is_rendered(host: Lab, name: str, kind: str) -> None:
    firewall = BACKENDS[kind]()
    load(host, kind, (RULES / f"{name}.{kind}").read_text())
    loaded = listed(host)
    assert "demo" in loaded
    with host.inside():
        assert firewall.clear("demo"), "rules that were loaded by hand are known as ours"
        with firewall.hold(POLICIES[name]):
            assert listed(host) == loaded


@pytest.mark.parametrize("kind", BACKENDS)
def test_an_update_ends_where_a_fresh_install_would(host: Lab, kind: str) -> None:
    firewall = BACKENDS[kind]()
    fresh = {}
    with host.inside():
        for name, policy in POLICIES.items():
            with firewall.hold(policy):
                fresh[name] = listed(host)
        with firewall.hold(POLICIES["server-ipv4"]) as held:
            for old, new in itertools.permutations(POLICIES, 2):
                held.update(POLICIES[old])
                held.update(POLICIES[new])
                assert listed(host) == fresh[new], f"from {old} to {new}"
                assert not held.repair()


def test_prerouting_where_ingress_is_missing(host: Lab) -> None:
    firewall = Nftables(persist=False, ingress=False)
    text = firewall.render(POLICIES["server-ipv4"])
    assert 'iifname "eth0" ip daddr 203.0.113.5 tcp dport @local_ports' in text
    load(host, "nft", text)
    loaded = listed(host)
    with host.inside():
        assert firewall.clear("demo")
        with firewall.hold(POLICIES["server-ipv4"]):
            assert listed(host) == loaded


def test_a_thousand_ranges(host: Lab) -> None:
    many = tuple(PortRange(port, port) for port in range(20000, 24000, 4))
    with host.inside(), Nftables().hold(dataclasses.replace(POLICIES["server-ipv4"], local_ports=many)) as held:
        assert listed(host).count("23996") == 1
        held.update(dataclasses.replace(POLICIES["server-ipv4"], local_ports=many[::2]))
        assert "20004" not in listed(host)


def test_manual_says_and_touches_nothing(host: Lab) -> None:
    said: list[str] = []
    firewall = Manual(said.append)
    policy = POLICIES["client-ipv4"]
    before = host.state()
    with host.inside(), firewall.hold(policy) as held:
        assert firewall.render(policy) in said[0]
        held.update(policy)
        assert len(said) == 1, "nothing changed, nothing said"
        held.update(dataclasses.replace(policy, local_ports=()))
        assert host.state() == before
        assert (held.fileno(), held.repair(), tuple(held.counters())) == (-1, False, (0, 0, 0, 0))
    assert "nft delete table inet rsock_nf_demo" in said[-1]
    load(host, "nft", said[0])
    load(host, "nft", said[1])
    host.run("nft delete table inet rsock_nf_demo")


@given(
    st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 300)).map(lambda t: PortRange(t[0], min(65535, sum(t)))))
)
def test_merged_ranges_hold_the_same_ports_and_never_overlap(ranges: list[Ports]) -> None:
    result = merged(ranges)
    assert all(before.last < after.first for before, after in itertools.pairwise(result))
    ports = {port for r in ranges for port in range(r.first, r.last + 1)}
    assert {port for r in result for port in range(r.first, r.last + 1)} == ports


def test_adjacent_ranges_stay_apart() -> None:
    assert merged((PortRange(7, 7), PortRange(8, 9), PortRange(9, 12))) == (PortRange(7, 7), PortRange(8, 12))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": 'x"; drop'}, "name:"),
        ({"name": ""}, "name:"),
        ({"device": "eth0 lo"}, "device:"),
        ({"device": 'a"b'}, "device:"),
        ({"local_ports": (PortRange(5, 4),)}, "5-4"),
        ({"remote_ports": (PortRange(0, 4),)}, "0-4"),
        ({"remote_addresses": (V6,)}, "no address family in common"),
    ],
)
def test_a_policy_that_cannot_be(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FirewallError, match=complaint):
        dataclasses.replace(POLICIES["server-ipv4"], **change)


def test_link_local_scope_is_not_in_packets() -> None:
    policy = Policy("demo", "eth0", (ip_address("fe80::1%eth0"),), SERVER_PORTS)
    assert "ip6 daddr fe80::1 tcp" in Nftables().render(policy)


def test_chain_names_fit_and_differ() -> None:
    names = ["a", "O_a", "a-b", "a_b", "x" * 18, "x" * 19, "x" * 64, "y" * 64]
    chains = [chain for name in names for chain in chain_names(name)]
    assert len(set(chains)) == len(chains)
    assert max(map(len, chains)) <= 28
