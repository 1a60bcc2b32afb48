"""The suite itself: a test that hangs or fails costs itself only, leaves nothing running, and tells what it saw."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from rsock_nf.lab.netns import NETNS_DIR
from tests.suite.nested import run

A_TUNNEL = """
import time

import pytest


@pytest.mark.timeout(4)
def test_hangs(site):
    site.lab.server.popen(["sleep", "1000"])
    print("namespaces", site.lab.name)
    print("process", site.tunnel.pids("server")[0])
    time.sleep(1000)


def test_after_it():
    pass
"""
WAYS_TO_HANG = """
import subprocess
import time

import pytest

from rsock_nf.lab.lab import Lab


@pytest.fixture
def lab():
    with Lab(None) as made:
        print("namespaces", made.name)
        yield made


@pytest.mark.timeout(1)
def test_waits_for_a_process(lab):
    lab.server.run(["sleep", "1000"], timeout=1000)


@pytest.mark.timeout(1)
def test_waits_for_a_thread(lab):
    lab.server.call(lambda: time.sleep(4))


@pytest.mark.timeout(1)
def test_never_ends():
    while True:
        pass


def test_after_them():
    pass


@pytest.fixture
def hangs_before(lab):
    time.sleep(1000)


@pytest.fixture
def hangs_after(lab):
    yield
    time.sleep(1000)


def test_whose_fixture_hangs_before(hangs_before):
    pass


def test_whose_fixture_hangs_after(hangs_after):
    pass
"""


def runs(process: str) -> bool:
    """One that ended, and that nobody has waited for yet, has no command line."""
    try:
        return Path("/proc", process, "cmdline").read_bytes() != b""
    except OSError:
        return False


def no_namespace_is_left(said: str) -> bool:
    """None of those that the tests printed the names of."""
    made = set(re.findall(r"(?m)^namespaces (\S+)$", said))
    return bool(made) and not [name for name in made if list(NETNS_DIR.glob(f"{name}-*"))]


def test_a_tunnel_whose_test_hangs_is_removed_and_its_capture_and_logs_are_kept(directory: Path) -> None:
    said = run(directory, A_TUNNEL)
    assert re.search(r"(?m)^=+ 1 failed, 1 passed in .* =+$", said), said
    assert "Timeout (>4.0s)" in said
    assert no_namespace_is_left(said), said
    process = re.search(r"(?m)^process (\d+)$", said)
    assert process
    assert not runs(process[1])

    kept = directory / "out/test_it.py-test_hangs"
    assert f"{kept}: capture-0.pcap, client.log, router.txt, server.log" in said
    for name in ("client", "server"):
        assert " up: pid " in (kept / f"{name}.log").read_text()
        assert re.search(rf"the end of {name}.log -*\n(.*\n)*?.* up: pid ", said)
    assert "tcp_inside" in (kept / "router.txt").read_text()
    syns = ["tcpdump", "-n", "-r", str(kept / "capture-0.pcap"), "tcp[tcpflags] & tcp-syn != 0"]
    assert subprocess.run(syns, capture_output=True, text=True, check=True).stdout.count("\n") >= 10


@pytest.mark.parametrize("options", [(), ("--numprocesses", "2")], ids=["one", "workers"])
def test_what_hangs_fails_and_the_run_goes_on(directory: Path, options: tuple[str, ...]) -> None:
    said = run(directory, WAYS_TO_HANG, *options, RSOCK_NF_TESTS_FIXTURES_LIMIT="6")
    assert re.search(r"(?m)^=+ 3 failed, 2 passed, 2 errors in .* =+$", said), said
    told = re.findall(r"(?m)^(?:E +)?Failed: Timeout \((>\S+(?: s)?)\)(?: in the (\S+) of fixtures)?", said)
    assert sorted(told) == [(">1.0s", "")] * 3 + [(">6 s", "set-up"), (">6 s", "tear-down")], said
    assert no_namespace_is_left(said), said
