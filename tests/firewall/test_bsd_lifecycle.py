"""pf and ipfw on simulated hosts: holding, dying, taking over, clearing; the host is left as it was."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from rsock_firewall import (
    Counters,
    Firewall,
    FirewallError,
    Held,
    Policy,
    PortRange,
    command,
    left_on_this_host,
    render_unprobed,
    select,
)
from rsock_firewall.command import Done, run
from rsock_firewall.held import HeldRules
from rsock_firewall.ipfw.backend import Ipfw, IpfwRules
from rsock_firewall.ipfw.tool import Tool as IpfwTool
from rsock_firewall.pf import pfctl
from rsock_firewall.pf.backend import Pf, PfRules
from tests.firewall.bsd_grammar import Packet
from tests.firewall.bsd_host import Counted, Host, IpfwHost, PfHost
from tests.firewall.bsd_host import Pf as PfState

HOME, PEER = ip_address("203.0.113.5"), ip_address("198.51.100.77")
POLICY = Policy("life", "em0", (HOME,), (PortRange(10001, 10010), PortRange(443, 443)))
MORE = dataclasses.replace(
    POLICY, local_addresses=(HOME, ip_address("2001:db8::5")), local_ports=(PortRange(10001, 10020),)
)
NONE = dataclasses.replace(POLICY, local_ports=())
SYN = Packet("in", "em0", PEER, 50000, HOME, 10001)
RST = Packet("out", "em0", HOME, 10001, PEER, 50000, rst=True)


def pf_host(system: str, **state: Any) -> PfHost:
    host = PfHost(system)
    for name, value in state.items():
        setattr(host.pf, name, value)
    return host


def admin_ruleset() -> list[str]:
    return ['anchor "rsock-nf/*" all', "block return all", "pass all flags S/SA keep state"]


HOSTS: dict[str, Callable[[], PfHost | IpfwHost]] = {
    "freebsd, pf off": lambda: pf_host("freebsd"),
    "freebsd, pf on and empty": lambda: pf_host("freebsd", enabled=True, skipped={"lo"}),
    "freebsd, pf on with rules": lambda: pf_host("freebsd", enabled=True, main=admin_ruleset()),
    "openbsd, pf on with rules": lambda: pf_host("openbsd", enabled=True, main=admin_ruleset()),
    "macos, pf off": lambda: pf_host("macos"),
    "macos, pf on": lambda: pf_host("macos", enabled=True, tokens={"7"}),
    "freebsd, ipfw": IpfwHost,
}
DIALECTS = {"freebsd": pfctl.FREEBSD, "openbsd": pfctl.OPENBSD, "macos": pfctl.MACOS}


def backend(host: PfHost | IpfwHost) -> Firewall:
    return Pf(DIALECTS[host.system], run=host) if isinstance(host, PfHost) else Ipfw(run=host)


def leave_behind(host: PfHost | IpfwHost, policy: Policy = POLICY) -> None:
    """What a daemon leaves that dies of SIGKILL."""
    if isinstance(host, PfHost):
        HeldRules(policy, PfRules(pfctl.Pfctl(DIALECTS[host.system], host), policy))
    else:
        HeldRules(policy, IpfwRules(IpfwTool(host), policy.name))


def state(host: PfHost | IpfwHost) -> object:
    return copy.deepcopy(host.pf if isinstance(host, PfHost) else host.rules)


def counted(host: PfHost | IpfwHost) -> Counters:
    """What the rules in the simulated kernel counted."""
    if isinstance(host, PfHost):
        rules = [counted for anchor in host.pf.anchors.values() for counted in anchor]
    else:
        rules = [Counted(one.rule, one.packets, one.octets) for one in host.rules if one.rule]
    sums = [
        sum(getattr(one, what) for one in rules if one.rule.direction == direction)
        for direction in ("in", "out")
        for what in ("packets", "octets")
    ]
    return Counters(*sums)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[PfHost | IpfwHost]:
    """Each kind of host; afterwards it must be as it was."""
    host = HOSTS[request.param]()
    before = state(host)
    yield host
    assert state(host) == before


def test_held_traffic_is_dropped_and_nothing_is_left(host: PfHost | IpfwHost) -> None:
    assert not host.drops(SYN)
    with backend(host).hold(POLICY) as held:
        assert host.drops(SYN)
        assert host.drops(RST)
        assert not host.drops(dataclasses.replace(RST, rst=False))
        assert not host.drops(dataclasses.replace(SYN, destination_port=10011))
        assert not host.drops(dataclasses.replace(SYN, device="em1"))
        assert held.fileno() == -1
        assert not held.repair()
        held.release()
        assert not host.drops(SYN)
        held.release()


def test_an_exception_inside_removes_the_rules(host: PfHost | IpfwHost) -> None:
    with pytest.raises(ZeroDivisionError), backend(host).hold(POLICY):
        raise ZeroDivisionError


def test_probe_and_render_change_nothing(host: PfHost | IpfwHost) -> None:
    before = state(host)
    backend(host).probe()
    assert "10001" in backend(host).render(POLICY)
    assert state(host) == before


def test_no_command_of_an_update_opens_a_gap(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held:

        def look() -> None:
            assert host.drops(SYN), host.commands[-1]

        host.after_each = look
        for policy in (MORE, POLICY, dataclasses.replace(POLICY, device=None), MORE, MORE):
            held.update(policy)
            assert not held.repair()
        host.after_each = lambda: None


def test_an_update_ends_where_a_fresh_install_would(host: PfHost | IpfwHost) -> None:
    firewall = backend(host)
    with firewall.hold(MORE):
        fresh = state(host)
    with firewall.hold(POLICY) as held:
        held.update(MORE)
        if isinstance(host, PfHost):
            assert _without_tokens(state(host)) == _without_tokens(fresh)
        else:
            assert {rule.body for rule in host.rules} == {rule.body for rule in fresh}  # type: ignore[attr-defined]


def _without_tokens(pf: Any) -> Any:
    return (pf.enabled, pf.main, len(pf.tokens), {path: [c.rule for c in rules] for path, rules in pf.anchors.items()})


def test_a_policy_without_ports_has_no_rules(host: PfHost | IpfwHost) -> None:
    """A client before it dials; an instance whose carriers are all UDP."""
    before = state(host)
    with backend(host).hold(NONE) as held:
        assert not host.drops(SYN)
        assert not held.repair()
        assert held.counters() == (0, 0, 0, 0)
        held.update(POLICY)
        assert host.drops(SYN)
        held.update(NONE)
        assert not host.drops(SYN)
        assert not held.repair()
        held.update(POLICY)
        assert host.drops(SYN)
        assert counted(host).inbound_packets == 1
        held.update(NONE)
        if isinstance(host, PfHost):
            assert not host.pf.anchors
            assert isinstance(before, PfState)
            assert host.pf.tokens == before.tokens, "a token without rules would be lost with the process"


def test_counters_go_on_through_updates(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held:
        assert held.counters() == (0, 0, 0, 0)
        for _ in range(3):
            host.drops(SYN, octets=100)
        host.drops(RST, octets=40)
        assert held.counters() == counted(host) == Counters(3, 300, 1, 40)
        held.update(MORE)
        host.drops(SYN, octets=100)
        assert held.counters() == (4, 400, 1, 40)
        assert counted(host).inbound_packets == 1


def test_clear_after_a_kill_needs_no_memory(host: PfHost | IpfwHost) -> None:
    leave_behind(host)
    assert host.drops(SYN)
    assert backend(host).clear("life") is True
    assert not host.drops(SYN)
    assert backend(host).clear("life") is False


def test_clear_after_a_kill_without_rules(host: PfHost | IpfwHost) -> None:
    """The main ruleset, and pf switched on, may be all that is left."""
    leave_behind(host, NONE)
    backend(host).clear("life")
    assert backend(host).clear_all() == []


def test_clear_all_names_every_instance_and_leaves_what_is_not_ours(host: PfHost | IpfwHost) -> None:
    if isinstance(host, PfHost):
        host.pf.anchors["com.apple/250.ApplicationFirewall"] = []
    else:
        host.add(11, 31, "deny tcp from any to any 23 // theirs")
    leave_behind(host)
    leave_behind(host, dataclasses.replace(POLICY, name="a.b"))
    assert backend(host).clear_all() == ["a.b", "life"]
    assert backend(host).clear_all() == []
    if isinstance(host, PfHost):
        del host.pf.anchors["com.apple/250.ApplicationFirewall"]
    else:
        assert [rule.body for rule in host.rules if rule.number == 11] == ["deny tcp from any to any 23 // theirs"]
        host.rules = [rule for rule in host.rules if rule.number != 11]


def test_what_a_killed_one_left_is_taken_over_without_a_gap(host: PfHost | IpfwHost) -> None:
    leave_behind(host)
    host.drops(SYN)
    firewall = backend(host)
    assert firewall.left_behind("life") == (PortRange(443, 443), PortRange(10001, 10010))
    assert firewall.left_behind("nobody") == ()

    def look() -> None:
        assert host.drops(SYN), host.commands[-1]

    host.after_each = look
    with firewall.hold(MORE) as held:
        host.after_each = lambda: None
        assert held.counters().inbound_packets >= 1, "the predecessor's count goes on"
        assert firewall.left_behind("life") == (PortRange(10001, 10020),)


def test_instances_side_by_side(host: PfHost | IpfwHost) -> None:
    other = Policy("other", None, (), (PortRange(7000, 7000),))
    packet = dataclasses.replace(SYN, destination_port=7000, local=frozenset({HOME}))
    with backend(host).hold(POLICY) as first:
        with backend(host).hold(other) as second:
            assert host.drops(SYN)
            assert host.drops(packet)
            first.release()
            assert not host.drops(SYN)
            assert host.drops(packet), "the last one still needs the main ruleset"
            assert not second.repair()
        assert not host.drops(packet)


def test_an_instance_that_had_no_rules_when_the_last_one_left(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(NONE) as idle:
        with backend(host).hold(dataclasses.replace(POLICY, name="other")):
            pass
        idle.update(POLICY)
        assert host.drops(SYN)


def test_a_failed_update_leaves_the_old_rules(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held:
        before = state(host)
        host.fails = "-f" if isinstance(host, PfHost) else "tcpflags"
        with pytest.raises(FirewallError, match="Device busy"):
            held.update(MORE)
        host.fails = None
        assert _rules(state(host)) == _rules(before)
        assert not held.repair()
        held.update(MORE)
        assert not host.drops(dataclasses.replace(SYN, destination_port=443))


def _rules(found: Any) -> Any:
    """Without what counts."""
    return _without_tokens(found) if hasattr(found, "anchors") else [(r.number, r.set, r.body) for r in found]


def test_a_failed_hold_undoes_everything(host: PfHost | IpfwHost) -> None:
    host.fails = "-f" if isinstance(host, PfHost) else "tcpflags"
    with pytest.raises(FirewallError, match="Device busy"), backend(host).hold(POLICY):
        pass


def test_a_name_does_not_change(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held, pytest.raises(FirewallError, match="cannot become other"):
        held.update(dataclasses.replace(POLICY, name="other"))


# -- somebody else's edits


def put_back(host: PfHost | IpfwHost, held: Held) -> None:
    assert not host.drops(SYN)
    assert held.repair() is True
    assert host.drops(SYN)
    assert host.drops(RST)
    assert held.repair() is False


def test_an_anchor_that_somebody_flushed_is_put_back(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held:
        if isinstance(host, PfHost):
            host.pf.anchors.clear()
        else:
            host.rules = [rule for rule in host.rules if "rsock" not in rule.body]
        put_back(host, held)


def test_counters_do_not_fall_when_somebody_removes_the_rules(host: PfHost | IpfwHost) -> None:
    with backend(host).hold(POLICY) as held:
        host.drops(SYN, octets=100)
        assert held.counters() == (1, 100, 0, 0)
        if isinstance(host, PfHost):
            host.pf.anchors.clear()
        else:
            host.rules = [rule for rule in host.rules if rule.rule is None]
        assert held.counters() == (1, 100, 0, 0)
        assert held.repair()
        host.drops(SYN, octets=100)
        assert held.counters() == (2, 200, 0, 0)


def test_ipfw_flush_leaves_our_rules() -> None:
    host = IpfwHost()
    with backend(host).hold(POLICY) as held:
        host.add(100, 0, "allow ip from any to any via lo0")
        host.flush()
        assert host.drops(SYN)
        assert not held.repair()
    assert len(host.rules) == 1


@pytest.mark.parametrize("name", ["freebsd, pf off", "freebsd, pf on and empty"])
def test_a_main_ruleset_that_somebody_flushed_is_put_back(name: str) -> None:
    host = HOSTS[name]()
    assert isinstance(host, PfHost)
    before = state(host)
    with backend(host).hold(POLICY) as held:
        host.pf.main = []
        put_back(host, held)
        host.switch_off()
        put_back(host, held)
    after = state(host)
    assert dataclasses.replace(after, enabled=False) == dataclasses.replace(before, enabled=False)  # type: ignore[type-var]


def test_pf_that_we_enabled_is_switched_off_though_somebody_flushed_everything() -> None:
    """``pfctl -F all`` takes our main ruleset, which says that pf was off, and leaves pf enabled."""
    host = pf_host("freebsd")
    with backend(host).hold(POLICY) as held:
        host.flush_all()
        put_back(host, held)
        held.update(MORE)
        host.flush_all()
        put_back(host, held)
        assert host.pf.main == ['anchor "rsock-nf/*" all', 'anchor "rsock-nf-enabled-pf" all']
    assert host.pf == PfState()
    with backend(host).hold(POLICY) as held:
        host.flush_all()  # and we end before we could put anything back
    assert host.pf == PfState()


def test_a_second_instance_remembers_that_the_first_enabled_pf() -> None:
    host = pf_host("freebsd")
    with backend(host).hold(POLICY) as first:
        with backend(host).hold(dataclasses.replace(POLICY, name="other")) as second:
            host.flush_all()
            first.release()
            put_back(host, second)
        assert host.pf == PfState()


def test_pf_that_somebody_else_enabled_stays_enabled() -> None:
    host = pf_host("freebsd", enabled=True)
    with backend(host).hold(POLICY) as held:
        host.flush_all()
        put_back(host, held)
    assert host.pf == PfState(enabled=True)
    host = pf_host("freebsd")
    with backend(host).hold(POLICY) as held:
        held.update(NONE)  # without rules we need no pf
        host.flush_all()
    assert host.pf == PfState(enabled=True)
    host.pf.enabled = False
    with backend(host).hold(POLICY):
        host.pf.main = ['anchor "rsock-nf/*" all', "pass all"]  # an administrator's, for an enabled pf
    assert host.pf == PfState(enabled=True, main=['anchor "rsock-nf/*" all', "pass all"])


@pytest.mark.parametrize("system", DIALECTS)
def test_the_longest_name_is_the_longest_that_pfctl_takes(system: str) -> None:
    host = pf_host(system, enabled=True, main=admin_ruleset() if system != "macos" else PfHost(system).pf.main)
    dialect = DIALECTS[system]
    longest = dataclasses.replace(POLICY, name="n" * dialect.longest_name)
    with backend(host).hold(longest):
        assert host.drops(SYN)
    with pytest.raises(FirewallError, match=r"pfctl -a .* -f -: pfctl_(add_rule|rules): strlcpy$"):
        pfctl.Pfctl(dialect, host).load(f"{dialect.prefix}{longest.name}n", "")
    host.commands.clear()
    with (
        pytest.raises(FirewallError, match=f"name: .* at most {dialect.longest_name} characters"),
        backend(host).hold(dataclasses.replace(POLICY, name=f"{longest.name}n")),
    ):
        pass
    assert host.commands == []


def test_an_instance_of_ipfw_may_have_a_name_that_pf_cannot_have() -> None:
    pf, ipfw = pf_host("freebsd"), IpfwHost()
    long = dataclasses.replace(POLICY, name="n" * 64)
    leave_behind(ipfw, long)
    assert Pf(pfctl.FREEBSD, run=pf).left_behind(long.name) == ()
    assert [one.clear(long.name) for one in left_on_this_host(platform="freebsd14", run=BothHost(pf, ipfw))] == [
        False,
        True,
    ]


def test_a_main_ruleset_that_somebody_loaded_is_named_and_left() -> None:
    host = pf_host("freebsd", enabled=True)
    with backend(host).hold(POLICY) as held:
        host.pf.main = ["pass all"]
        with pytest.raises(FirewallError, match=r'add this line to /etc/pf.conf .*: anchor "rsock-nf/\*"$'):
            held.repair()
        assert host.pf.main == ["pass all"]
        host.pf.main = ['anchor "rsock-nf/*" all', "pass all"]
        assert not held.repair()
        assert host.drops(SYN)
    assert host.pf.main == ['anchor "rsock-nf/*" all', "pass all"]
    assert host.pf.enabled


def test_macos_pf_that_somebody_switched_off_gets_a_new_reference() -> None:
    host = pf_host("macos")
    with backend(host).hold(POLICY) as held:
        (old,) = host.pf.tokens
        host.switch_off()
        put_back(host, held)
        (new,) = host.pf.tokens
        assert new != old
        host.switch_off()
    assert (host.pf.enabled, host.pf.tokens, host.pf.anchors) == (False, set(), {})


def test_macos_a_successor_uses_the_reference_of_the_killed_one() -> None:
    host = pf_host("macos")
    leave_behind(host)
    (left,) = host.pf.tokens
    with backend(host).hold(MORE):
        assert host.pf.tokens == {left}
    assert (host.pf.enabled, host.pf.tokens) == (False, set())


def test_macos_a_reference_is_given_back_once() -> None:
    host = pf_host("macos")
    with backend(host).hold(POLICY) as held:
        held.update(MORE)
    assert [command[1] for command in host.commands if command[1] in ("-E", "-X")] == ["-E", "-X"]


def test_macos_a_reference_is_not_lost_when_loading_fails() -> None:
    host = pf_host("macos")
    host.fails = "-f"
    with pytest.raises(FirewallError), backend(host).hold(POLICY):
        pass
    assert (host.pf.enabled, host.pf.tokens) == (False, set())


def test_pf_already_enabled_in_the_meantime_is_fine() -> None:
    host = pf_host("freebsd")

    def race() -> None:
        if host.commands[-1][1:] == ["-s", "info"]:
            host.pf.enabled = True

    host.after_each = race
    with backend(host).hold(POLICY):
        assert host.drops(SYN)


def test_an_anchor_that_lingers_without_rules_is_no_instance() -> None:
    host = pf_host("freebsd")
    host.lingers = True
    with backend(host).hold(POLICY):
        pass
    assert host.pf.anchors == {"rsock-nf/life": []}
    assert (host.pf.enabled, host.pf.main) == (False, [])
    assert backend(host).clear_all() == []


# -- one clear line


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            pf_host("freebsd", enabled=True, main=["pass all"]),
            'add this line to /etc/pf.conf before any "quick" rule.*anchor "rsock-nf/\\*"$',
        ),
        (pf_host("freebsd", enabled=True, nat=["nat on em0 all -> (em0)"]), "does not evaluate our rules"),
        (pf_host("openbsd", enabled=True, main=["pass all"]), 'pfctl -f /etc/pf.conf: anchor "rsock-nf/\\*"$'),
        (pf_host("openbsd", enabled=True, main=['anchor "rsock-nf/*" in on em0 all']), "does not evaluate our rules"),
        (pf_host("macos", main=[]), 'put back this line.*anchor "com.apple/\\*"$'),
        (pf_host("freebsd", main=admin_ruleset()), "pf is disabled and has a ruleset.*pfctl -e$"),
    ],
)
def test_a_main_ruleset_that_is_not_ours_is_refused_and_left(made: PfHost, complaint: str) -> None:
    before = state(made)
    with pytest.raises(FirewallError, match=complaint):
        backend(made).probe()
    with pytest.raises(FirewallError, match=complaint) as caught, backend(made).hold(POLICY):
        pass
    assert "\n" not in str(caught.value)
    assert state(made) == before


TAKES = [
    "pass quick all flags S/SA keep state",
    "pass in quick on em0 all flags S/SA keep state",
    "pass in quick inet proto tcp from any to any port = 10001 flags S/SA keep state",
    "pass in quick proto tcp from any to 203.0.113.0/24 port 10000:10005 flags S/SA keep state",
    "pass in quick proto tcp from 198.51.100.0/24 to any flags S/SA keep state",
    "block return in quick proto tcp from any to any port 1:65535",
]
TAKES_NOT = [
    "pass all flags S/SA keep state",
    "pass quick on lo0 all flags S/SA keep state",
    "pass out quick all flags S/SA keep state",
    "pass in quick on em1 all flags S/SA keep state",
    "pass in quick inet6 all flags S/SA keep state",
    "pass in quick proto udp from any to any port = 10001 keep state",
    "pass in quick proto tcp from any to any port = https flags S/SA keep state",
    "pass in quick proto tcp from any to any port 20000:30000 flags S/SA keep state",
    "pass in quick proto tcp from any to 192.0.2.0/24 port = 10001 flags S/SA keep state",
    "block drop in quick proto tcp from any to any",
]


@pytest.mark.parametrize("line", TAKES + TAKES_NOT)
@pytest.mark.parametrize("system", DIALECTS)
def test_a_quick_rule_before_our_anchor_is_named_if_it_takes_our_packets(system: str, line: str) -> None:
    """The rules are there, and the kernel answers all the same."""
    call = DIALECTS[system].call
    host = pf_host(system, enabled=True, main=[line, f"{call} all", "pass quick all"])
    only = dataclasses.replace(POLICY, local_ports=(PortRange(10001, 10010),))
    firewall = backend(host)
    with firewall.hold(only):
        assert host.drops(SYN) is (line in TAKES_NOT)
        found = firewall.obstacles(only)
    if line in TAKES_NOT:
        assert found == []
    else:
        (text,) = found
        assert text.startswith(
            f"pf evaluates this rule before {call}, so that our packets are answered with RST: {line}; "
        )
    host.pf.main.reverse()  # behind it, a rule takes nothing of ours
    host.pf.main.remove("pass quick all")
    assert firewall.obstacles(only) == []


@pytest.mark.parametrize(
    ("line", "takes"),
    [
        ("pass in quick proto tcp from any to any port = ssh flags S/SA keep state", False),
        ("pass in quick proto tcp from any to any flags S/SA keep state", True),
        ("pass in quick proto tcp from 198.51.100.77 port = https to any flags S/SA keep state", False),
        ("pass in quick proto tcp from 198.51.100.77 port 10001:10005 to any flags S/SA keep state", True),
        ("pass in quick proto tcp from 192.0.2.1 to any flags S/SA keep state", False),
        ("pass in quick proto tcp from <friends> to (em0) port > 1023 flags S/SA keep state", False),
        ("pass in quick on egress proto tcp from ! 192.0.2.1 to any flags S/SA keep state", True),
        ("pass in quick on lo all flags S/SA keep state", False),
        ("pass in quick proto tcp from any port = no-such-service to any", True),
    ],
)
def test_a_client_knows_its_server_and_not_yet_its_own_ports(line: str, takes: bool) -> None:  # noqa: FBT001
    client = Policy("life", "em0", (), (), (PEER,), (PortRange(10001, 10010),))
    host = pf_host("freebsd", enabled=True, main=[line, 'anchor "rsock-nf/*" all'])
    assert bool(backend(host).obstacles(client)) is takes


def test_an_unknown_port_expression_counts_as_ours() -> None:
    line = "pass in quick proto tcp from any to any port 1023 >< 65535 flags S/SA keep state"
    host = pf_host("freebsd", enabled=True, main=[line, 'anchor "rsock-nf/*" all'])
    assert len(backend(host).obstacles(POLICY)) == 1
    assert Ipfw(run=IpfwHost()).obstacles(POLICY) == []


def _user(made: PfHost | IpfwHost, user: str) -> PfHost | IpfwHost:
    made.user = user
    return made


def _unloaded(made: PfHost | IpfwHost) -> PfHost | IpfwHost:
    made.loaded = False
    return made


def _off(made: IpfwHost) -> IpfwHost:
    made.switches["net.inet6.ip6.fw.enable"] = "0"
    return made


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (_user(pf_host("freebsd"), "nobody"), "^changing firewall rules needs root$"),
        (_user(pf_host("macos"), "nobody"), "^changing firewall rules needs root$"),
        (_user(pf_host("openbsd", enabled=True, main=admin_ruleset()), "secured"), "kern.securelevel"),
        (_unloaded(pf_host("freebsd")), "^this kernel has no pf .*; try: kldload pf$"),
        (_unloaded(pf_host("openbsd")), r"^this kernel has no pf \(/dev/pf: No such file or directory\)$"),
        (pf_host("freebsd", enabled=True, skipped={"em0"}), 'pf ignores device em0: remove its "set skip on"'),
        (_user(IpfwHost(), "nobody"), "^changing firewall rules needs root"),
        (_user(IpfwHost(), "secured"), "kern.securelevel"),
        (_unloaded(IpfwHost()), "^this kernel has no ipfw"),
        (_off(IpfwHost()), "^ipfw is switched off; try: sysctl net.inet6.ip6.fw.enable=1$"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(made: PfHost | IpfwHost, complaint: str) -> None:
    before = state(made)
    with pytest.raises(FirewallError, match=complaint) as caught, backend(made).hold(POLICY):
        pass
    assert "\n" not in str(caught.value)
    assert state(made) == before


def test_a_skipped_interface_group_counts() -> None:
    made = pf_host("freebsd", enabled=True, skipped={"lo"})
    with (
        pytest.raises(FirewallError, match="pf ignores device lo0"),
        backend(made).hold(dataclasses.replace(POLICY, device="lo0")),
    ):
        pass


@pytest.mark.parametrize("made", [_unloaded(pf_host("freebsd")), _unloaded(IpfwHost())])
def test_where_the_kernel_has_no_filter_there_is_nothing_to_clear(made: PfHost | IpfwHost) -> None:
    assert backend(made).clear("life") is False
    assert backend(made).clear_all() == []


@pytest.mark.parametrize("platform", ["freebsd14", "openbsd7", "darwin"])
def test_where_the_host_has_no_tool_there_is_nothing_to_clear(platform: str) -> None:
    """A FreeBSD without pf or without ipfw, say: `down` has to work there."""

    def absent(arguments: Sequence[str], text: str) -> Done:
        return run([f"/nowhere{arguments[0]}", *arguments[1:]], text)

    backends = left_on_this_host(platform=platform, run=absent)
    assert backends
    for backend in backends:
        assert not backend.clear("demo")
        assert backend.clear_all() == []
    with pytest.raises(FirewallError, match="cannot run /nowhere/sbin/pfctl"):
        select("auto", platform=platform, run=absent)


def test_ipfw_refuses_to_delete_what_it_did_not_write() -> None:
    host = IpfwHost()
    leave_behind(host)
    number = next(rule.number for rule in host.rules if "rsock" in rule.body)
    host.add(number, 31, "deny tcp from any to any 23 // theirs")
    with pytest.raises(FirewallError, match=f"has a rule {number} that rsock-nf did not write"):
        backend(host).clear("life")
    host.rules = [rule for rule in host.rules if "theirs" not in rule.body]
    assert backend(host).clear("life") is True


def test_ipfw_rules_of_that_number_in_other_sets_are_no_concern_of_ours() -> None:
    host = IpfwHost()
    leave_behind(host)
    number = next(rule.number for rule in host.rules if "rsock" in rule.body)
    host.add(number, 0, "count ip from any to any")
    assert backend(host).clear("life") is True
    assert [rule.body for rule in host.rules if rule.number == number] == ["count ip from any to any"]


def test_ipfw_numbers_run_out() -> None:
    host = IpfwHost()
    for number in range(1, 100):
        host.add(number, 0, "count ip from any to any")
    with pytest.raises(FirewallError, match="no free rule number from 1 to 99"), backend(host).hold(POLICY):
        pass


def test_ipfw_instances_take_the_next_free_number() -> None:
    host = IpfwHost()
    leave_behind(host)
    number = next(rule.number for rule in host.rules if "rsock" in rule.body)
    with backend(host).hold(MORE):
        numbers = {rule.number for rule in host.rules if "rsock" in rule.body}
        assert numbers == {number + 1}


# -- the choice


class BothHost(Host):
    """FreeBSD, where either filter may be there."""

    def __init__(self, pf: PfHost, ipfw: IpfwHost) -> None:
        super().__init__()
        self.pf_host, self.ipfw_host = pf, ipfw

    def answer(self, arguments: list[str], text: str) -> command.Done:
        return (self.pf_host if arguments[0].endswith("pfctl") else self.ipfw_host)(arguments, text)


@pytest.mark.parametrize(
    ("pf", "ipfw", "chosen"),
    [
        (pf_host("freebsd", enabled=True), IpfwHost(), "pf"),
        (pf_host("freebsd"), IpfwHost(), "ipfw"),
        (pf_host("freebsd"), _unloaded(IpfwHost()), "pf"),
        (_unloaded(pf_host("freebsd")), IpfwHost(), "ipfw"),
        (pf_host("freebsd", enabled=True, main=["pass all"]), IpfwHost(), "ipfw"),
    ],
)
def test_freebsd_takes_what_is_in_use(pf: PfHost, ipfw: IpfwHost, chosen: str) -> None:
    both = BothHost(pf, ipfw)
    before = state(pf), state(ipfw)
    assert select(platform="freebsd14", run=both).name == chosen
    assert [backend.name for backend in left_on_this_host(platform="freebsd14", run=both)] == ["pf", "ipfw"]
    assert (state(pf), state(ipfw)) == before


def test_freebsd_without_either_says_how_to_get_one() -> None:
    both = BothHost(_unloaded(pf_host("freebsd")), _unloaded(IpfwHost()))  # type: ignore[arg-type]
    with pytest.raises(
        FirewallError, match=r"^no firewall backend works here: pf: .*kldload pf; ipfw: this kernel has no ipfw[^;]*$"
    ):
        select(platform="freebsd15", run=both)


@pytest.mark.parametrize(
    ("platform", "system", "asked", "chosen"),
    [
        ("darwin", "macos", "auto", "pf"),
        ("darwin", "macos", "pf", "pf"),
        ("openbsd7", "openbsd", "auto", "pf"),
        ("openbsd7", "openbsd", "manual", "manual"),
    ],
)
def test_select(platform: str, system: str, asked: str, chosen: str) -> None:
    host = pf_host(system, enabled=True)
    assert select(asked, platform=platform, run=host).name == chosen


def test_select_on_netbsd_never_pretends() -> None:
    with pytest.raises(FirewallError, match='rsock-nf does not change npf: set "backend": "manual"'):
        select(platform="netbsd10")
    assert "block in final" in select("manual", platform="netbsd10").render(POLICY)
    assert left_on_this_host(platform="netbsd10") == []


@pytest.mark.parametrize(
    ("platform", "asked", "complaint"),
    [
        ("openbsd7", "ipfw", "'ipfw' is not one of auto, pf, manual$"),
        ("freebsd14", "nftables", "'nftables' is not one of auto, pf, ipfw, manual$"),
        ("linux", "pf", "'pf' is not one of auto, nftables, iptables, manual$"),
        ("sunos5", "auto", "there is no firewall backend for sunos5"),
    ],
)
def test_select_refuses(platform: str, asked: str, complaint: str) -> None:
    with pytest.raises(FirewallError, match=complaint):
        select(asked, platform=platform)


# -- the runner itself


def test_run_takes_an_argument_list_and_a_text() -> None:
    code = "import sys; sys.stderr.write(sys.argv[1]); print(sys.stdin.read()); sys.exit(3)"
    done = command.run([sys.executable, "-c", code, "$(id) *"], "text")
    assert done == (3, "text\n", "$(id) *")


def test_run_names_a_tool_that_is_missing() -> None:
    with pytest.raises(FirewallError, match="cannot run /sbin/no-such-tool: No such file or directory"):
        command.run(["/sbin/no-such-tool"])


def test_run_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PATIENCE", 0.2)
    with pytest.raises(FirewallError, match=r"did not end within 0\.2 s"):
        command.run([sys.executable, "-c", "import threading; threading.Event().wait()"])


@pytest.mark.parametrize(
    ("backend", "platform", "text"),
    [
        ("auto", "linux", "table inet rsock_nf_life {"),
        ("nftables", "linux", "table inet rsock_nf_life {"),
        ("iptables", "linux", "# IPv4: iptables-restore --noflush"),
        ("auto", "freebsd14", "# pfctl -a rsock-nf/life -f -"),
        ("ipfw", "freebsd14", "# ipfw -q FILE"),
        ("auto", "darwin", "# pfctl -a com.apple/rsock-nf.life -f -"),
        ("auto", "netbsd10", "# at the head of npf.conf's group for em0"),
    ],
)
def test_rules_can_be_rendered_where_no_backend_works(backend: str, platform: str, text: str) -> None:
    def refuse(arguments: Sequence[str], _: str) -> Done:
        raise AssertionError(f"runs {arguments}")

    assert render_unprobed(backend, POLICY, platform=platform, run=refuse).startswith(text)


def test_an_unknown_backend_cannot_be_rendered() -> None:
    with pytest.raises(FirewallError, match="backend: 'pf' is not one of auto, nftables, iptables, manual"):
        render_unprobed("pf", POLICY, platform="linux")
