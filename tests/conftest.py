"""How the whole suite runs: order, thoroughness, and what a failed test leaves behind.

Time limits are in ``limits.py``, workers in ``distribution.py``.  Fixtures belong to the areas.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings

from tests.distribution import Distributed
from tests.evidence import FAILED, keep_evidence
from tests.limits import Limits

# The machine may be busy with other tests: no deadline for one example.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=10_000)
settings.load_profile("default")

ROOT = Path(__file__).parent
NEED_ROOT = ("firewall", "link", "sockets", "ops", "netns", "interop", "native", "e2e", "suite")
"""Areas that make network namespaces.  They run after the others, in this order."""
SIMULATED = ("core", "wire", "property")
"""Areas whose tests have many cases, and whose cases take long: tunnels on a virtual clock, random packets."""
QUICK_CASES = 2
"""How many cases of each test of the simulated areas ``--quick`` runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out what needs root and what is slow, and run two cases only of tests that have many",
    )
    parser.addoption(
        "--pump",
        choices=["python", "native"],
        default="python",
        help="which pump the tunnels on a virtual clock have (tests/core); real tunnels take the native one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Limits(config))
    config.pluginmanager.register(Distributed(config))
    if config.getoption("pump") == "native":
        from tests.core import pair
        from tests.native.hot_end import HotEnd

        pair.wrap = cast("Any", HotEnd)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # iptables takes one lock for the whole host, also where its tables are those of different namespaces, and
        # gives up at once if another worker has it.
        lock = f"/run/rsock-nf-tests-{os.getpid()}.xtables.lock"
        os.environ["XTABLES_LOCKFILE"] = lock
        config.add_cleanup(lambda: Path(lock).unlink(missing_ok=True))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not even imported."""
    return True if config.getoption("quick") and _area(collection_path) in NEED_ROOT else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is quick and needs nothing comes first: a broken core is seen before a broken tunnel."""
    items.sort(key=_rank)
    for item in items:
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))  # one worker takes them all, as its last work
        elif "share" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))  # one worker has what they share
    if config.getoption("quick"):
        chosen = _quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


def _rank(item: pytest.Item) -> int:
    area = _area(item.path)
    place = NEED_ROOT.index(area) + 1 if area in NEED_ROOT else 0
    return place + (len(NEED_ROOT) + 1 if item.get_closest_marker("alone") else 0)


def _area(path: Path) -> str:
    """The directory below ``tests`` that it is in."""
    return path.relative_to(ROOT).parts[0] if path.is_relative_to(ROOT) and path != ROOT else ""


def _quick(items: list[pytest.Item]) -> set[pytest.Item]:
    """The tests for ``--quick``; of many cases some that lie evenly among them."""
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("slow") and not item.get_closest_marker("root"):
            cases[item.nodeid.partition("[")[0] if _area(item.path) in SIMULATED else item.nodeid].append(item)
    chosen: set[pytest.Item] = set()
    for found in cases.values():
        count = min(QUICK_CASES, len(found))
        chosen.update(found[at * len(found) // count] for at in range(count))
    return chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if item.config.getoption("pump") == "native":
            from tests.native.hot_end import HotEnd

            HotEnd.close_all()


# -- failures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        report.sections += keep_evidence(item.nodeid)
    return report
