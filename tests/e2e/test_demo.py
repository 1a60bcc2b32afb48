"""``rsock-nf demo`` as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from rsock_nf.lab.netns import NETNS_DIR

# A shell without job control has SIGINT ignored in what it starts in the background.
DEMO = ["env", "--default-signal=INT", sys.executable, "-m", "rsock_nf", "demo"]


def namespaces_of(pid: int) -> list[str]:
    return [entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(f"rsnf-{pid}-")]


@pytest.mark.alone  # the farewell of a starved process may come too late: then the kernel answers it with RST
@pytest.mark.slow
def test_the_demo_shows_what_it_should_and_leaves_nothing() -> None:
    with subprocess.Popen([*DEMO, "--datagrams", "5000"], stdout=subprocess.PIPE, text=True) as demo:
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0
    rows = {match[1].strip(): match[2].split() for match in re.finditer(r"(?m)^(.{40})(.*)$", said)}
    assert rows["datagrams sent by the application"] == ["5,200", "5,200"]
    assert rows["judged INVALID"][:2] == ["0", "0"]
    assert rows["RSTs on either wire"][:2] == ["0", "0"]
    assert rows["left behind after down"][:2] == ["0", "0"]
    assert namespaces_of(demo.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(number: signal.Signals) -> None:
    with subprocess.Popen([*DEMO, "--datagrams", "1000000"], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        while "rsock-nf up on both sides" not in demo.stdout.readline():
            assert demo.poll() is None
        made = namespaces_of(demo.pid)
        os.kill(demo.pid, number)
        demo.communicate(timeout=30)
    assert len(made) == 3
    assert demo.returncode == 128 + number
    assert namespaces_of(demo.pid) == []
