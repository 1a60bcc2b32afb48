"""pf, ipfw and npf rules as text: golden files, parsed back, and compared with what the policy asks for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_firewall import FirewallError, Policy, PortRange, manual, npf
from rsock_firewall.ipfw import text as ipfw_text
from rsock_firewall.ipfw.backend import Ipfw
from rsock_firewall.pf import pfctl
from rsock_firewall.pf import text as pf_text
from rsock_firewall.pf.backend import Pf
from tests.firewall.bsd_grammar import (
    Packet,
    Rule,
    SyntaxRefused,
    asked_for,
    parse_ipfw,
    parse_npf,
    parse_pf,
    parse_pf_main,
)
from tests.firewall.test_rules_text import HOME4, HOME6, POLICIES, RULES, V4, V6

RENDER: dict[str, Callable[[Policy], str]] = {
    "pf": Pf(pfctl.FREEBSD).render,
    "ipfw": Ipfw().render,
    "npf": npf.render,
}
PARSE: dict[str, Callable[[str], list[Rule]]] = {
    "pf": parse_pf,
    "ipfw": lambda text: [rule for _, _, rule in parse_ipfw(text)],
    "npf": parse_npf,
}
STRANGER = ip_address("198.51.100.77")
LOCAL = frozenset({V4, V6, HOME4, HOME6})


@pytest.mark.parametrize("kind", RENDER)
@pytest.mark.parametrize("name", POLICIES)
def test_golden(name: str, kind: str) -> None:
    assert RENDER[kind](POLICIES[name]) == (RULES / f"{name}.{kind}").read_text()


def test_every_golden_file_is_tested() -> None:
    expected = {f"{name}.{kind}" for name, kind in itertools.product(POLICIES, RENDER)}
    assert {path.name for path in RULES.iterdir() if path.suffix.removeprefix(".") in RENDER} == expected


@pytest.mark.parametrize("kind", RENDER)
@pytest.mark.parametrize("name", POLICIES)
def test_the_rules_drop_what_the_policy_asks_for_and_nothing_else(name: str, kind: str) -> None:
    policy = POLICIES[name]
    rules = PARSE[kind](RENDER[kind](policy))
    addresses = (V4, V6, HOME4, HOME6, STRANGER)
    ports = (442, 443, 444, 10000, 10001, 10010, 10011, 40112, 40113, 51007)
    for direction, device, source, destination in itertools.product(
        ("in", "out"), ("eth0", "em1"), addresses, addresses
    ):
        if source.version != destination.version:
            continue
        for source_port, destination_port, rst in itertools.product(ports, ports, (False, True)):
            packet = Packet(direction, device, source, source_port, destination, destination_port, rst, LOCAL)
            dropped = any(rule.matches(packet) for rule in rules)
            assert dropped == asked_for(policy, packet, any_is_me=kind == "ipfw"), packet


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    ranges = st.tuples(st.integers(1, 65535), st.integers(0, 9)).map(lambda t: PortRange(t[0], min(65535, sum(t))))
    lists = st.lists(ranges, max_size=18).map(tuple)  # more than one ipfw rule takes
    few = st.lists(ranges, max_size=2).map(tuple)
    addresses = st.lists(st.ip_addresses(), max_size=2).map(tuple)
    device = draw(st.sampled_from([None, "em0", "vlan12", "em0.100", "wan", "inet6", "in", "utun3"]))
    try:
        return Policy(
            draw(st.from_regex(r"[A-Za-z0-9_.-]{1,63}", fullmatch=True)),
            device,
            draw(addresses),
            draw(lists),
            draw(addresses),
            draw(few),
        )
    except FirewallError:
        return Policy("x", device, (), draw(lists))


@pytest.mark.parametrize("kind", ["pf", "ipfw"])
@given(policy=policies())
def test_every_policy_is_within_the_grammar_and_covers_its_ports(kind: str, policy: Policy) -> None:
    rules = PARSE[kind](RENDER[kind](policy))
    inbound = [rule for rule in rules if rule.direction == "in"]
    covered = {port for rule in inbound for r in rule.destination_ports or () for port in range(r.first, r.last + 1)}
    assert covered == {port for r in policy.local_ports for port in range(r.first, r.last + 1)}
    assert len(inbound) * 2 == len(rules)
    assert {rule.device for rule in inbound} <= {policy.device}


@pytest.mark.parametrize("kind", RENDER)
def test_no_ports_no_rules(kind: str) -> None:
    """A client before it dials, or an instance whose carriers are all UDP."""
    for policy in (POLICIES["client-before-dialling"], Policy("demo", None, (), ())):
        assert PARSE[kind](RENDER[kind](policy)) == []


def test_labels_say_direction_ports_and_token() -> None:
    token = "17434587318862413845"  # noqa: S105 - what pfctl -E gives
    lines = pf_text.render(POLICIES["server-ipv4"], "com.apple/rsock-nf.demo", token)
    labels = [pf_text.read_label(rule.label) for rule in parse_pf(lines)]
    assert labels == [("in", PortRange(10001, 10010), token), ("out", PortRange(10001, 10010), token)]
    assert pf_text.read_label("rsock-nf:in:80") is None
    assert pf_text.read_label("theirs") is None


def test_an_instance_keeps_its_first_ipfw_number() -> None:
    ((number, set_, _), *_rest) = parse_ipfw(Ipfw().render(POLICIES["server-ipv4"]))
    assert (number, set_) == (ipfw_text.first_number("demo"), 31)
    assert number in ipfw_text.NUMBERS


@pytest.mark.parametrize("device", ["any", "table", "em*", "e[0]"])
def test_ipfw_devices_that_would_be_patterns_are_refused(device: str) -> None:
    with pytest.raises(FirewallError, match="device:"):
        Ipfw().render(dataclasses.replace(POLICIES["server-ipv4"], device=device))


def test_names_that_no_anchor_can_have() -> None:
    for dialect, longest in ((pfctl.FREEBSD, 54), (pfctl.OPENBSD, 62), (pfctl.MACOS, 44)):
        for length in (longest, longest + 1):
            policy = dataclasses.replace(POLICIES["server-ipv4"], name="x" * length)
            if length == longest:
                assert f"x{policy.name[1:]} -f -" in Pf(dialect).render(policy)
            else:
                with pytest.raises(FirewallError, match=f"name: .* at most {longest} characters"):
                    Pf(dialect).render(policy)


@pytest.mark.parametrize(
    "line",
    [
        "pass in quick proto tcp from any to any",
        'block return in quick proto tcp from any to any port = 1 label "a"',
        "block drop in quick on em0 proto tcp from any to any port = 1",
        'block drop in quick proto tcp from any to 192.0.2.1 port = 1 label "no family"',
        'block drop in quick inet6 proto tcp from any to 192.0.2.1 port = 1 label "another family"',
        'block drop in quick on in proto tcp from any to any port = 1 label "keyword"',
        'block drop in quick proto tcp from any to any port 9:1 label "order"',
        'block drop in quick proto tcp from any to any port = 65536 label "size"',
        'block drop in quick proto tcp from any to any port = 1 flags S/SA label "flags"',
        'block drop in quick proto tcp from any to any port = 1 label "$if"',
        f'block drop in quick proto tcp from any to any port = 1 label "{"x" * 64}"',
        'block drop in quick proto tcp from any to any port = 1 label "a" keep state',
        'block drop in quick proto tcp from any to any port = 1 label "a',
    ],
)
def test_the_pf_grammar_refuses(line: str) -> None:
    with pytest.raises(SyntaxRefused):
        parse_pf(line)


@pytest.mark.parametrize(
    "line",
    [
        "add 10 set 32 deny tcp from any to me dst-port 1 in // a",
        "add 65535 set 31 deny tcp from any to me dst-port 1 in // a",
        "add 10 set 31 allow tcp from any to me dst-port 1 in // a",
        "add 10 set 31 deny tcp from any to nowhere dst-port 1 in // a",
        "add 10 set 31 deny tcp from any to me dst-port 2-1 in // a",
        "add 10 set 31 deny tcp from any to me dst-port 1 out // a",
        f"add 10 set 31 deny tcp from any to me dst-port 1 in // {'x' * 81}",
        f"add 10 set 31 deny tcp from any to me dst-port {','.join(map(str, range(1, 17)))} in // a",
    ],
)
def test_the_ipfw_grammar_refuses(line: str) -> None:
    with pytest.raises(SyntaxRefused):
        parse_ipfw(line)


@pytest.mark.parametrize(
    "line", ["block in final proto tcp from any to any port 1:2", "pass in final proto tcp from any to any"]
)
def test_the_npf_grammar_refuses(line: str) -> None:
    with pytest.raises(SyntaxRefused):
        parse_npf(line)


def test_the_main_ruleset_grammar_refuses() -> None:
    for line in ("pass", 'anchor "a" quick in', f'anchor "{"x" * 64}"'):
        with pytest.raises(SyntaxRefused):
            parse_pf_main(line)


@pytest.mark.parametrize(
    ("language", "remove"),
    [
        (manual.pf_language(pfctl.FREEBSD), "pfctl -a rsock-nf/demo -F rules"),
        (manual.pf_language(pfctl.MACOS), "pfctl -a com.apple/rsock-nf.demo -F rules"),
        (manual.NPF, "the rules of instance demo in npf.conf"),
    ],
)
def test_manual_speaks_the_systems_language(language: manual.Language, remove: str) -> None:
    said: list[str] = []
    policy = POLICIES["client-ipv4"]
    with manual.Manual(said.append, language).hold(policy) as held:
        held.update(dataclasses.replace(policy, local_ports=(PortRange(7, 7),)))
    assert "port = 51007" in said[0] or "port 51007" in said[0]
    assert "port = 7" in said[1] or "port 7" in said[1]
    assert remove in said[2]
    assert not any("nft" in text for text in said)
