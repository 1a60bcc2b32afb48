"""The benchmark's carriers and measurements on real tunnels.  No number is judged here: others use the machine, too."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import measure
from bench.carriers import THERE, carrier, other_checkout
from bench.cells import DIRECT, NATIVE, NATIVE_UDP, PYTHON, RELAY, Cell, Kind
from rsock_nf.lab.netns import CommandFailed
from rsock_nf.native.library import Library, load

ROOT = Path(__file__).parents[2]
SECONDS = 0.3
TUNNELS = [PYTHON, NATIVE, NATIVE_UDP] if isinstance(load(), Library) else [PYTHON]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: the path of a control socket has at most 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="rsnf-") as made:
        yield Path(made)


@pytest.mark.parametrize("name", [DIRECT, RELAY, *TUNNELS])
def test_every_load_is_carried_and_counted(name: str, short: Path) -> None:
    usual = Cell(Kind.FIXED, name)
    cells = [usual, usual._replace(direction="down"), usual._replace(direction="both"), usual._replace(app="gso")]
    cells.append(usual._replace(size="mix", conversations=1 if name == RELAY else 100))
    with carrier(name, short / name, None) as found:
        for cell in cells:
            seen = measure.measure_load(found, cell, SECONDS, 2000)
            assert 0 < seen["received"] <= seen["offered"], cell.name
            assert seen["duplicates"] == 0, cell.name
            assert name != DIRECT or seen["cpu"] == 0, cell.name
        idle, half = measure.measure_trips(found, usual, SECONDS), measure.measure_trips(found, usual, SECONDS, 2000)
    assert 0 < idle["p50"] <= idle["p99"] <= idle["p999"]
    assert 0 < half["p50"] <= half["p99"] <= half["p999"]
    assert half["load"] > 0


def test_a_tunnel_starts_again_and_tells_what_it_took(short: Path) -> None:
    with carrier(PYTHON, short / "both", None) as found:
        before = found.pids()
        took = measure.measure_start(found)
        assert set(found.pids()).isdisjoint(before)
        assert min(took.values()) > 0
        memory = measure.measure_memory(found)
        assert memory["resident"] > memory["proportional"] > 10e6
        assert measure.measure_load(found, Cell(Kind.FIXED, PYTHON), SECONDS, 2000)["received"] > 0


def test_another_checkout_runs_its_own_code(short: Path) -> None:
    there = short / "there"
    for package in ("rsock_nf", "firewall/rsock_firewall", "firewall/rules"):
        shutil.copytree(ROOT / package, there / package, ignore=shutil.ignore_patterns("__pycache__"))
    with carrier(PYTHON + THERE, short / "both", there) as found:
        commands = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in found.pids()]
        assert len(commands) == 2
        assert all(str(there / "rsock_nf/__main__.py") in words for words in commands), commands
        assert measure.measure_load(found, Cell(Kind.FIXED, PYTHON), SECONDS, 2000)["received"] > 0


def test_a_directory_that_is_no_checkout_is_refused(short: Path) -> None:
    with pytest.raises(CommandFailed, match=r"--against .*: not a checkout of rsock-nf: name its top directory"):
        other_checkout(short)
