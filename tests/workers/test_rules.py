"""The firewall rules of workers: each has its own, found again by the name of the instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsock_firewall import FirewallError, Policy, PortRange
from rsock_nf.config import load
from rsock_nf.errors import InstanceError
from rsock_nf.ops import rules
from rsock_nf.ops.instances import leftovers
from rsock_nf.shares import names_of
from tests.config.test_config import CLIENT, SERVER, write


class Backend:
    """A packet filter with rules of these names; those in ``stuck`` cannot be removed."""

    name = "nftables"

    def __init__(self, *names: str, stuck: tuple[str, ...] = ()) -> None:
        self.names = set(names)
        self.stuck = stuck

    def clear(self, name: str) -> bool:
        if name in self.stuck:
            raise FirewallError(f"table of {name} is held")
        there = name in self.names
        self.names.discard(name)
        return there

    def clear_all(self) -> list[str]:
        return sorted(name for name in list(self.names) if self.clear(name))


def on_this_host(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> Backend:
    monkeypatch.setattr(leftovers, "left_on_this_host", lambda: [backend])
    return backend


def test_what_workers_left_goes_with_the_instance_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"edge2", "edge2/1", "edg", "edge.1"}
    backend = on_this_host(monkeypatch, Backend(*names_of("edge"), *others))
    assert leftovers.clear_rules("edge") == ["nftables"]
    assert backend.names == others
    assert leftovers.clear_rules("edge") == []


def test_what_cannot_be_removed_is_told_and_the_rest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = on_this_host(monkeypatch, Backend("edge/1", "edge/2", stuck=("edge/1",)))
    with pytest.raises(InstanceError, match="table of edge/1 is held"):
        leftovers.clear_rules("edge")
    assert backend.names == {"edge/1"}


def test_all_leftovers_are_told_by_the_names_of_their_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_host(monkeypatch, Backend("edge/1", "edge/2", "wg"))
    assert leftovers.clear_all_rules() == ["edge", "wg"]


def test_the_command_prints_those_of_each_worker(tmp_path: Path) -> None:
    keys = {**SERVER, "workers": 2, "addresses": "192.0.2.1", "backend": "nftables", "name": "edge"}
    text = rules.rules_for(load(write(tmp_path / "a.json", keys)).settings)
    assert [line for line in text.splitlines() if line.startswith("table")] == [
        "table inet rsock_nf_edge/1 {", "table inet rsock_nf_edge/2 {",
    ]  # fmt: skip
    assert text.count("10001-10010") == 2, "each covers all ports: when one is killed, the others' rules still stand"


def test_a_clients_worker_has_the_source_ports_that_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: dict[str, Any] = {"firewall": {"local_ports": [40000, 40001, 40003]}}
    monkeypatch.setattr(rules, "ask", lambda *_: answer)
    keys = {**CLIENT, "workers": 2, "backend": "nftables", "name": "edge"}
    first, second = rules.rules_for(load(write(tmp_path / "a.json", keys)).settings).split("table inet rsock_nf_edge/2")
    assert "40000" in first
    assert "40001" not in first
    assert "40001" in second
    assert "40000" not in second


def test_the_operators_own_rules_are_one_set(tmp_path: Path) -> None:
    keys = {**SERVER, "workers": 4, "addresses": "192.0.2.1", "backend": "manual", "name": "edge"}
    text = rules.rules_for(load(write(tmp_path / "a.json", keys)).settings)
    assert "edge/" not in text
    assert text.count("10001-10010") == 1


@pytest.mark.parametrize("name", ["edge/1", "edge/16", f"{'x' * 64}/16"])
def test_a_policy_may_be_a_workers(name: str) -> None:
    assert Policy(name, None, (), (PortRange(1, 1),)).name == name


@pytest.mark.parametrize("name", ["edge/", "/1", "edge/x", "edge/1/1", "edge/1000", "x" * 65])
def test_other_names_are_none(name: str) -> None:
    with pytest.raises(FirewallError, match="name"):
        Policy(name, None, (), (PortRange(1, 1),))
