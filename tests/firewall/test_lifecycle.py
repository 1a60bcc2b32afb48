"""Holding, dying, taking over, clearing: the host is left as it was, whatever happened in between."""

from __future__ import annotations

import dataclasses
import errno
import os
import select as io
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rsock_firewall import Firewall, FirewallError, Policy, PortRange, select
from rsock_firewall.iptables.backend import Iptables
from rsock_firewall.iptables.text import Line, Place
from rsock_firewall.nftables import messages, sockets
from rsock_firewall.nftables.backend import Nftables
from rsock_firewall.policy import Counters
from tests.firewall.lab import ADDRESSES, SYN, Lab

POLICY = Policy("life", "left", ADDRESSES["host"], (PortRange(10001, 10010),))
MORE = dataclasses.replace(POLICY, local_addresses=(*ADDRESSES["host"], *ADDRESSES["beyond"]))
BACKENDS: dict[str, Callable[[], Firewall]] = {
    "Nftables()": Nftables,
    "Nftables(persist=False)": lambda: Nftables(persist=False),
    "Iptables()": Iptables,
}
NFTABLES = list(BACKENDS)[:2]
LEAVE = """
    import os
    from rsock_firewall.iptables.backend import Iptables
    from rsock_firewall.nftables.backend import Nftables
    from tests.firewall.test_lifecycle import POLICY
    holding = {backend}.hold({policy})
    holding.__enter__()
    os.kill(os.getpid(), 9)
"""
HOLD = LEAVE.replace("os.kill(os.getpid(), 9)", "print('ready', flush=True); input()")


def leave_behind(lab: Lab, backend: str, policy: str = "POLICY") -> None:
    """A process that installs rules and dies of SIGKILL."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = textwrap.dedent(LEAVE.format(backend=backend, policy=policy))
    with lab.inside():
        done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=20, check=False)
    assert done.returncode == -9


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_exception_inside_removes_the_rules(lab: Lab, backend: str) -> None:
    with lab.inside():
        before = lab.state()
        with pytest.raises(ZeroDivisionError), BACKENDS[backend]().hold(POLICY):
            raise ZeroDivisionError
        assert lab.state() == before


def test_release_is_idempotent(lab: Lab, backend: str) -> None:
    with lab.inside():
        before = lab.state()
        with BACKENDS[backend]().hold(POLICY) as held:
            assert lab.state() != before
            held.release()
            assert lab.state() == before
            held.release()


def test_rules_of_others_stay_byte_for_byte(lab: Lab, backend: str) -> None:
    lab.run("nft add table inet theirs")
    lab.run("nft add chain inet theirs input { type filter hook input priority 0 ; }")
    lab.run("nft add rule inet theirs input tcp dport 10001-10010 counter accept")
    lab.run("iptables-legacy -t raw -A PREROUTING -p tcp -m multiport --dports 1,5:7 -j CT --notrack")
    lab.run("iptables-legacy -t raw -N RSOCK_LIKE")
    lab.run("iptables-legacy -t raw -A PREROUTING -j RSOCK_LIKE")
    lab.run("ip6tables-legacy -t raw -A OUTPUT -m comment --comment rsock-nf -j ACCEPT")
    before = lab.state()
    with lab.inside(), BACKENDS[backend]().hold(POLICY) as held:
        held.update(MORE)
    assert lab.state() == before
    leave_behind(lab, backend)
    with lab.inside():
        assert BACKENDS[backend]().clear_all() == ["life"]
    assert lab.state() == before
    lab.run("nft delete table inet theirs")
    for command in ("iptables-legacy", "ip6tables-legacy"):
        lab.run(f"{command} -t raw -F")
        lab.run(f"{command} -t raw -X")


def test_clear_after_kill_twice(lab: Lab, backend: str) -> None:
    leave_behind(lab, backend)
    assert "rsock" in str(lab.state()).lower()
    with lab.inside():
        assert lab.counted("life") == (0, 0, 0, 0)
        assert BACKENDS[backend]().clear("life") is True
        assert BACKENDS[backend]().clear("life") is False


def test_clear_on_a_clean_host(lab: Lab, backend: str) -> None:
    with lab.inside():
        assert BACKENDS[backend]().clear("life") is False
        assert BACKENDS[backend]().clear_all() == []
        assert lab.counted("life") is None


def test_clear_all_names_every_instance(lab: Lab, backend: str) -> None:
    long = "a-name-that-no-chain-can-hold"
    leave_behind(lab, backend)
    leave_behind(
        lab,
        backend,
        f'Policy("{long}", None, (), (PortRange(1, 2),))'.replace("Policy", "type(POLICY)").replace(
            "PortRange", "type(POLICY.local_ports[0])"
        ),
    )
    with lab.inside():
        assert BACKENDS[backend]().clear_all() == [long, "life"]


def test_what_a_killed_one_left_is_taken_over(lab: Lab, backend: str) -> None:
    leave_behind(lab, backend)
    with lab.inside():
        assert BACKENDS[backend]().left_behind("life") == POLICY.local_ports
        assert BACKENDS[backend]().left_behind("nobody") == ()
        with BACKENDS[backend]().hold(MORE):
            taken = lab.state()
        with BACKENDS[backend]().hold(MORE):
            assert lab.state() == taken


def test_what_another_kind_left_is_replaced(lab: Lab) -> None:
    """A plain table cannot become an owned one, nor an orphan a plain one; another device needs another chain."""
    other_device = 'type(POLICY)("life", "right", (), ())'
    for left, new in ((1, 0), (0, 1), (0, 0), (1, 1)):
        leave_behind(lab, NFTABLES[left], other_device)
        with lab.inside(), BACKENDS[NFTABLES[new]]().hold(POLICY) as held:
            assert 'device "left"' in lab.state()["nft"]
            assert ("flags owner" in lab.state()["nft"]) == (new == 0)
            assert held.repair() is False


def test_a_living_instance_of_the_same_name(lab: Lab) -> None:
    with lab.child(HOLD.format(backend="Nftables()", policy="POLICY")), lab.inside():
        standing = lab.state()
        with pytest.raises(FirewallError, match="another rsock-nf instance named life holds table inet rsock_nf_life"):
            Nftables().hold(POLICY).__enter__()
        with pytest.raises(FirewallError, match="held by a running rsock-nf instance life: stop that first"):
            Nftables().clear("life")
        leave_behind(lab, "Nftables()", 'type(POLICY)("dead", None, (), ())')
        with pytest.raises(FirewallError, match="running rsock-nf instance life"):
            Nftables().clear_all()
        assert lab.state() == standing, "what could be cleared was"
    with lab.inside():
        assert Nftables().clear("life")


@pytest.mark.parametrize("backend", NFTABLES)
def test_a_foreign_table_of_our_name_is_left_alone(lab: Lab, backend: str) -> None:
    lab.run("nft add table inet rsock_nf_life")
    lab.run("nft add chain inet rsock_nf_life precious")
    lab.run("nft add rule inet rsock_nf_life precious counter accept")
    before = lab.state()
    with lab.inside():
        with pytest.raises(FirewallError, match="rules that rsock-nf did not write"):
            BACKENDS[backend]().hold(POLICY).__enter__()
        with pytest.raises(FirewallError, match="nft delete table inet rsock_nf_life"):
            BACKENDS[backend]().clear("life")
        with pytest.raises(FirewallError, match="did not write"):
            BACKENDS[backend]().clear_all()
    assert lab.state() == before
    lab.run("nft delete table inet rsock_nf_life")


def readable(descriptor: int, seconds: float) -> bool:
    return bool(io.select([descriptor], [], [], seconds)[0])


def test_an_owned_table_outlives_a_flush(lab: Lab) -> None:
    with lab.inside(), Nftables().hold(POLICY) as held:
        standing = lab.state()
        lab.run("nft flush ruleset")
        assert lab.state() == standing
        assert held.repair() is False
        for attack in ("delete table inet rsock_nf_life", "flush chain inet rsock_nf_life ingress"):
            lab.run(f"nft {attack}", check=False)
            assert lab.state() == standing


def test_an_orphan_does_not_outlive_a_flush(lab: Lab) -> None:
    leave_behind(lab, "Nftables()")
    lab.run("nft flush ruleset")
    assert "rsock" not in lab.state()["nft"]


@pytest.mark.parametrize(
    "attack",
    [
        "flush ruleset",
        "delete table inet rsock_nf_life",
        "flush chain inet rsock_nf_life ingress",
        "flush table inet rsock_nf_life",
        "delete element inet rsock_nf_life local_ports { 10001-10010 }",
        "add element inet rsock_nf_life local_ports { 22 }",
        "insert rule inet rsock_nf_life ingress accept",
        "add chain inet rsock_nf_life ingress { policy drop ; }",
    ],
)
def test_a_plain_table_is_watched_and_put_back(lab: Lab, attack: str) -> None:
    with lab.inside(), Nftables(persist=False).hold(POLICY) as held:
        held.repair()
        assert not readable(held.fileno(), 0)
        standing = lab.state()
        lab.run(f"nft {attack}")
        assert lab.state() != standing
        assert readable(held.fileno(), 5)
        assert held.repair() is True
        assert lab.state() == standing
        assert held.repair() is False
        assert not readable(held.fileno(), 0)


def test_changes_elsewhere_are_not_ours_to_repair(lab: Lab) -> None:
    with lab.inside(), Nftables(persist=False).hold(POLICY) as held:
        held.repair()
        lab.run("nft add table inet theirs")
        assert readable(held.fileno(), 5)
        assert held.repair() is False
        held.update(MORE)
        assert held.repair() is False
        lab.run("nft delete table inet theirs")


@pytest.mark.parametrize(
    "attack", ["-F", "-F PREROUTING", "-D OUTPUT 1", "-F RSOCK_NF_life", "-I RSOCK_NF_life -j ACCEPT"]
)
def test_iptables_are_put_back_when_polled(lab: Lab, attack: str) -> None:
    with lab.inside(), Iptables().hold(POLICY) as held:
        assert held.fileno() == -1
        standing = lab.state()
        lab.run(f"ip6tables-legacy -t raw {attack}")
        assert lab.state() != standing
        assert held.repair() is True
        assert lab.state() == standing
        assert held.repair() is False


def test_a_batch_that_fails_leaves_nothing(lab: Lab) -> None:
    before = lab.state()
    with lab.inside():
        netlink = sockets.NfSocket()
        with pytest.raises(sockets.Refused) as refused:
            netlink.commit([messages.new_table("rsock_nf_half", 0), messages.delete_table("rsock_nf_none")])
        assert (refused.value.code, refused.value.index) == (2, 1)
        netlink.close()
    assert lab.state() == before


def test_without_a_descriptor_left_nothing_is_half_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the socket that would own the table."""
    opened: list[socket.socket] = []

    class Second(socket.socket):
        def __init__(self, *arguments: int) -> None:
            if opened:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            super().__init__(*arguments)
            opened.append(self)

    firewall = Nftables()
    with lab.inside():
        firewall.probe()
        monkeypatch.setattr(socket, "socket", Second)
        with pytest.raises(FirewallError, match=r"^nf_tables cannot be asked: Too many open files$"):
            firewall.hold(POLICY).__enter__()
    assert [end.fileno() for end in opened] == [-1]


@pytest.mark.parametrize("backend", NFTABLES)
def test_an_update_that_fails_changes_nothing(lab: Lab, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = messages.new_rule

    def bad(table: str, chain: str, *rest: object) -> messages.Message:
        return good(table, chain if chain == "ingress" else "nowhere", *rest)  # type: ignore[arg-type]

    with lab.inside(), BACKENDS[backend]().hold(POLICY) as held:
        standing = lab.state()
        with monkeypatch.context() as patched:
            patched.setattr(messages, "new_rule", bad)
            with pytest.raises(FirewallError, match="refused the rules of instance life on device left: No such file"):
                held.update(MORE)
        assert lab.state() == standing
        assert held.repair() is False
        held.update(MORE)
        assert str(ADDRESSES["beyond"][1]) in lab.state()["nft"]


def test_an_iptables_update_that_fails_in_ipv6_is_undone_in_ipv4(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsock_firewall.iptables import backend, text

    good = text.lines

    def bad(policy: Policy, version: int) -> list[Line]:
        jump_to_nowhere = [Line("PREROUTING", "NOWHERE", comment="rsock-nf life")]
        return good(policy, version) + (jump_to_nowhere if version == 6 and policy == MORE else [])

    monkeypatch.setattr(backend, "lines", bad)
    with lab.inside(), Iptables().hold(POLICY) as held:
        standing = lab.state()
        with pytest.raises(FirewallError, match="IPv6, table raw"):
            held.update(MORE)
        assert lab.state() == standing
        with pytest.raises(FirewallError, match="IPv6, table raw"):
            Iptables().hold(dataclasses.replace(MORE, name="life")).__enter__()


@pytest.mark.parametrize("match", ["recent --name here --set", "connlimit --connlimit-above 9"])
def test_a_foreign_iptables_rule_in_our_chain_is_in_nobodys_way(lab: Lab, match: str) -> None:
    """libiptc cannot delete a rule whose match keeps data of the kernel's, and the jump belongs first."""
    foreign = f"iptables-legacy -t raw -A RSOCK_NF_life -p tcp -m {match}"
    before = lab.state()
    with lab.inside():
        with Iptables().hold(POLICY) as held:
            standing = lab.state()
            lab.run(foreign)
            assert held.repair()
            assert lab.state() == standing
            lab.run(foreign)
            lab.run("iptables-legacy -t raw -I PREROUTING -p tcp -j ACCEPT")
            held.update(MORE)
            saved = lab.state()["iptables-legacy-save"]
            assert saved.index("-j RSOCK_NF_life") < saved.index("-A PREROUTING -p tcp -j ACCEPT")
            lab.run("iptables-legacy -t raw -D PREROUTING -p tcp -j ACCEPT")
            lab.run(foreign)
        assert lab.state() == before
        with Iptables().hold(POLICY):
            lab.run(foreign)
            assert Iptables().clear("life")
            assert lab.state() == before


def test_iptables_rules_that_can_be_neither_installed_nor_undone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsock_firewall.iptables import backend, tables

    good = tables.replace_rules

    def bad(place: Place, chains: tuple[str, str], new: list[Line]) -> Counters | None:
        if place.version == 6 or not new:
            raise FirewallError("cannot undo" if not new else "cannot install")
        return good(place, chains, new)

    with lab.inside():
        with monkeypatch.context() as patch:
            patch.setattr(backend, "replace_rules", bad)
            with pytest.raises(FirewallError, match="cannot install"):
                Iptables().hold(MORE).__enter__()
        assert Iptables().clear("life"), "the IPv4 rules were left: they could not be undone"


@pytest.mark.parametrize("backend", NFTABLES)
def test_a_device_that_is_not_there_is_named(lab: Lab, backend: str) -> None:
    with lab.inside():
        with pytest.raises(FirewallError, match="device nope0 does not exist"):
            BACKENDS[backend]().hold(dataclasses.replace(POLICY, device="nope0")).__enter__()
        with BACKENDS[backend]().hold(POLICY) as held:
            standing = lab.state()
            with pytest.raises(FirewallError, match="device nope0 does not exist"):
                held.update(dataclasses.replace(POLICY, device="nope0"))
            assert lab.state() == standing


def test_a_device_that_comes_back(lab: Lab) -> None:
    lab.run("ip link add brief type veth peer name other")
    with lab.inside(), Nftables().hold(dataclasses.replace(POLICY, device="brief")) as held:
        standing = lab.state()
        lab.run("ip link delete brief")
        lab.run("ip link add brief type veth peer name other")
        held.repair()
        assert lab.state() == standing
    lab.run("ip link delete brief")


@pytest.mark.parametrize("backend", NFTABLES)
def test_an_update_sees_that_the_device_was_made_anew(lab: Lab, backend: str) -> None:
    """Even with the policy that it has: the caller knows of the device, not whether this kernel kept the chain."""
    policy = dataclasses.replace(POLICY, device="brief")
    lab.run("ip link add brief type veth peer name other")
    with lab.inside(), BACKENDS[backend]().hold(policy) as held:
        standing = lab.state()
        lab.run("ip link delete brief")
        with pytest.raises(FirewallError, match="device brief does not exist"):
            held.update(policy)
        if backend == "Nftables(persist=False)":  # as a kernel before 6.16 does; an owned table lets nobody do it
            lab.run("nft flush chain inet rsock_nf_life ingress")
            lab.run("nft delete chain inet rsock_nf_life ingress")
        lab.run("ip link add brief type veth peer name other")
        held.update(policy)
        assert lab.state() == standing
        assert held.repair() is False
    lab.run("ip link delete brief")


def test_another_name_is_another_instance(lab: Lab, backend: str) -> None:
    with lab.inside(), BACKENDS[backend]().hold(POLICY) as held, pytest.raises(FirewallError, match="cannot become"):
        held.update(dataclasses.replace(POLICY, name="other"))


UNPRIVILEGED = """
    import os, time
    import iptc, iptc.easy
    from rsock_firewall import FirewallError, Policy, PortRange, select
    from rsock_firewall.iptables.backend import Iptables
    from rsock_firewall.nftables.backend import Nftables
    policy = Policy("nobody", None, (), (PortRange(1, 2),))
    Nftables()  # what is read from disk is read before the privilege goes
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    calls = [
        lambda: select("auto"), lambda: select("nftables"), lambda: select("iptables"),
        lambda: Nftables().hold(policy).__enter__(), lambda: Iptables().hold(policy).__enter__(),
        lambda: Nftables().clear("nobody"), lambda: Nftables().clear_all(), lambda: Nftables().left_behind("nobody"),
        lambda: Iptables().clear("nobody"), lambda: Iptables().clear_all(), lambda: Iptables().left_behind("nobody"),
    ]
    for call in calls:
        start = time.monotonic()
        try:
            call()
            print("did not complain")
        except FirewallError as error:
            print(f"{time.monotonic() - start < 1} {error}")
"""


def test_without_privilege_every_call_complains_at_once(lab: Lab) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with lab.inside():
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(UNPRIVILEGED)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    for line in lines:
        assert line.startswith("True "), line
        assert "needs root or CAP_NET_ADMIN" in line
    assert time.monotonic() - start < 20


def test_select(lab: Lab) -> None:
    with lab.inside():
        assert select().name == "nftables"
        assert select("nftables").name == "nftables"
        assert select("iptables").name == "iptables"
        assert select("manual").name == "manual"
    with pytest.raises(FirewallError, match="backend: 'pf' is not one of auto, nftables"):
        select("pf")


def test_auto_falls_back_and_names_both_reasons(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(reason: str) -> Callable[[object], None]:
        def probe(_self: object) -> None:
            raise FirewallError(reason)

        return probe

    monkeypatch.setattr(Nftables, "probe", broken("no nf_tables"))
    with lab.inside():
        assert select().name == "iptables"
        monkeypatch.setattr(Iptables, "probe", broken("no libraries"))
        with pytest.raises(FirewallError, match="nftables: no nf_tables; iptables: no libraries"):
            select()


def test_a_broken_python_iptables_is_one_line(lab: Lab) -> None:
    """Where the xtables libraries are missing its import raises; nothing else may be touched by that."""
    code = """
        import sys
        sys.modules["iptc"] = None
        from rsock_firewall import FirewallError, select
        try:
            select("iptables")
        except FirewallError as error:
            print(error)
        print(select("auto").name, select("manual").name)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with lab.inside():
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    first, second = done.stdout.splitlines()
    assert first.startswith("iptables backend unavailable: ")  # with the remedy, if that is what is missing
    assert "pip install python-iptables" in first
    assert second == "nftables manual"


def test_another_iptables_command_holds_the_lock(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fcntl

    from rsock_firewall.iptables import tables

    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    monkeypatch.setattr(tables, "LOCK_WAIT", 0.05)
    with lab.inside(), (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FirewallError, match=r"another command holds .*lock"):
            Iptables().probe()
        fcntl.flock(lock, fcntl.LOCK_UN)
        Iptables().probe()


def test_what_an_event_loop_calls_does_not_wait_for_another_iptables_command(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fcntl

    from rsock_firewall.iptables import backend, tables

    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    monkeypatch.setattr(tables, "LOCK_WAIT", 60.0)  # who waits that long runs into the test's time limit
    monkeypatch.setattr(backend, "UPDATE_WAIT", 0.05)
    with lab.inside(), Iptables().hold(POLICY) as held, (tmp_path / "lock").open("w") as lock:
        standing = lab.state()
        lab.answered([lab.segment((4000, 10001), SYN)], (4000, 9999))
        counted = held.counters()
        assert counted.inbound_packets == 1
        lab.run("iptables-legacy -t raw -F PREROUTING")
        fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        assert held.repair() is False
        assert held.counters() == counted
        with pytest.raises(FirewallError, match=r"another command holds .*lock for over 0.05 s"):
            held.update(MORE)
        assert time.monotonic() - start < 1
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert held.repair() is True
        assert lab.state() == standing
        held.update(MORE)
        assert str(ADDRESSES["beyond"][0]) in lab.state()["iptables-legacy-save"]


def test_importing_the_package_is_cheap() -> None:
    code = "import rsock_firewall, sys; print([m for m in ('pyroute2', 'iptc', 'rsock_nf') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "[]\n"
