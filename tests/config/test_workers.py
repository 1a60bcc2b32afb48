"""The key ``workers``: what it may hold, what it does not go with, and what ``auto`` comes to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config import workers
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import Shard
from rsock_nf.link import system
from rsock_nf.settings import Settings
from rsock_nf.shares import MOST_WORKERS, instance_of, names_of, share, shares
from tests.config.test_config import CLIENT, SERVER, message, write


def load(tmp_path: Path, keys: dict[str, Any], **more: Any) -> Settings:
    return config.load(write(tmp_path / "a.json", {**keys, **more})).settings


def refusal(tmp_path: Path, keys: dict[str, Any], **more: Any) -> str:
    return message(write(tmp_path / "a.json", {**keys, **more}))


@pytest.mark.parametrize("keys", [SERVER, CLIENT])
def test_it_is_one_process_unless_the_file_says_more(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert load(tmp_path, keys).workers == 1
    assert load(tmp_path, keys, workers=1).workers == 1
    assert load(tmp_path, keys, workers=4).workers == 4


@pytest.mark.parametrize("value", [0, -1, MOST_WORKERS + 1, 2.0, True, "4", "many", None, [2]])
def test_anything_else_is_no_number_of_processes(tmp_path: Path, value: object) -> None:
    assert refusal(tmp_path, SERVER, workers=value).startswith("workers: ")


@pytest.mark.parametrize(("processors", "expected"), [(1, 1), (2, 1), (3, 3), (4, 4), (8, 8), (64, 8)])
def test_auto_is_one_for_each_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int, expected: int
) -> None:
    monkeypatch.setattr(workers, "usable_processors", lambda: processors)
    assert load(tmp_path, SERVER, workers="auto").workers == expected
    assert load(tmp_path, CLIENT, workers="auto").workers == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({**SERVER, "ports": "10001-10003"}, 3),
        ({**SERVER, "ports": [10000, 10004]}, 1),
        ({**SERVER, "ports": 443}, 1),
        ({**SERVER, "rsock": {"ports": 20001}}, 1),
        ({**CLIENT, "listen": "unix:/run/a"}, 1),
        ({**CLIENT, "client_ports": "20000-20019"}, 8),
        ({**CLIENT, "client_ports": "20000-20011"}, 6),
    ],
)
def test_auto_is_never_more_than_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(workers, "usable_processors", lambda: 8)
    assert load(tmp_path, keys, workers="auto").workers == expected


def test_what_several_processes_cannot_do_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert refusal(tmp_path, {**SERVER, "ports": [10001, 10003, 10005]}, workers=2) == (
        "workers: none of the ports 10001,10003,10005 is 0 modulo 2, as those of one worker must be: name 2 consecutive "
        "ports, or fewer workers"
    )
    assert refusal(tmp_path, {**SERVER, "rsock": {"ports": 20001}}, workers=2).startswith(
        'workers: the original\'s wire does not tell which of the ports a session is at: set "workers": 1'
    )
    assert refusal(
        tmp_path, {"role": "client", "server": "203.0.113.5", "listen": "127.0.0.1:1", "wire": "rsock"}, workers=2
    ).startswith("workers: the original's wire")
    unix = 'one process alone can read it: set "workers": 1, or name an address and a port'
    assert refusal(tmp_path, {**CLIENT, "listen": "unix:/run/a"}, workers=2) == f"workers: listen: unix:/run/a: {unix}"
    tunnels = {key: value for key, value in CLIENT.items() if key != "listen"} | {
        "tunnels": [{"listen": "unix:/run/b"}]
    }
    assert refusal(tmp_path, tunnels, workers=2) == f"workers: tunnels: unix:/run/b: {unix}"
    assert refusal(tmp_path, {**CLIENT, "client_ports": "20000-20010"}, workers=4) == (
        "client_ports: each of 4 workers needs 3, and one of them has 2: name 12 consecutive ones, or fewer workers"
    )


def test_other_systems_have_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(system()), "has_workers", False)
    assert "on Linux only" in refusal(tmp_path, SERVER, workers=2)
    monkeypatch.setattr(workers, "usable_processors", lambda: 8)
    assert load(tmp_path, SERVER, workers="auto").workers == 1


# -- what each worker gets


def test_a_servers_workers_have_its_ports_among_them(tmp_path: Path) -> None:
    whole = load(tmp_path, SERVER, workers=4, max_conversations=10, max_sessions=3)
    parts = shares(whole)
    assert [part.tunnel.shard for part in parts] == [Shard(number, 4) for number in range(4)]
    for part in parts:
        assert isinstance(part.tunnel, ServerParameters)
        assert (part.tunnel.max_conversations, part.tunnel.max_sessions) == (3, 1)
        assert part.tunnel.ports == whole.tunnel.ports
        assert part.wire == whole.wire


@pytest.mark.parametrize(("allowed", "each"), [(0, 0), (1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (100, 25)])
def test_a_servers_workers_have_the_rate_of_speed_tests_among_them(tmp_path: Path, allowed: int, each: int) -> None:
    parts = [part.tunnel for part in shares(load(tmp_path, SERVER, workers=4, speedtest=allowed))]
    assert [isinstance(part, ServerParameters) and part.speedtest for part in parts] == [each] * 4


def test_a_clients_workers_have_its_flows_among_them_and_begin_at_different_ports(tmp_path: Path) -> None:
    whole = load(tmp_path, CLIENT, workers=4, flows=100)
    for number in range(4):
        part = share(whole, number, 7).tunnel
        assert isinstance(part, ClientParameters)
        assert (part.flows, part.first_port, part.shard) == ((2, 3)[number % 2], 7 + number, Shard(number, 4))


def test_a_single_process_has_its_settings_themselves(tmp_path: Path) -> None:
    whole = load(tmp_path, SERVER)
    assert shares(whole) == [whole]


def test_rules_of_workers_are_found_by_the_name_of_the_instance(tmp_path: Path) -> None:
    whole = dataclasses.replace(load(tmp_path, SERVER, workers=MOST_WORKERS, ports="10001-10016"), name="edge.1-a")
    names = [part.name for part in shares(whole)]
    assert names_of("edge.1-a") == ["edge.1-a", *names]
    assert {instance_of(name) for name in names_of("edge.1-a")} == {"edge.1-a"}
    assert "name: " in refusal(tmp_path, {**SERVER, "name": names[0]})
