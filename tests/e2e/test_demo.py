"""``rsock-nf demo`` as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.config.values import format_secret
from rsock_nf.lab import demo
from rsock_nf.lab.netns import NETNS_DIR
from rsock_nf.lab.tunnel import Tunnel

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


def test_who_is_not_root_is_told_that_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nft is in /usr/sbin, which is not in the PATH of most users."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert demo.main([]) == 1
    assert "missing: ip, nft" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert demo.main([]) == 1
    assert capsys.readouterr() == ("", "rsock-nf demo: must be root: it makes network namespaces\n")


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demonstration makes its directories.  Short: a control socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="d") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


def kept(said: str) -> Path:
    (path,) = re.findall(r"logs are kept in (\S+)$", said, re.MULTILINE)
    return Path(path)


def test_a_demo_that_cannot_come_up_keeps_its_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scratch: Path
) -> None:
    def with_another_secret(*words: Any, **options: Any) -> Tunnel:
        return Tunnel(*words, **{**options, "client": {"secret": format_secret(bytes(range(1, 33)))}})

    monkeypatch.setattr(demo, "Tunnel", with_another_secret)
    assert demo.main(["--datagrams", "10"]) == 1
    said = capsys.readouterr().err
    assert "are secret, wire and version" in said
    assert list(scratch.iterdir()) == [kept(said)]
    logs = {path.parent.name: path.read_text() for path in kept(said).rglob("log")}
    assert "leaves our hellos unanswered" in logs["client"]
    assert "serving" in logs["server"] or "up: pid" in logs["server"]


def test_a_demo_with_a_bad_row_keeps_its_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scratch: Path
) -> None:
    """Before: it had removed them when it found out."""
    demo._show(4, 10, "none")
    assert list(scratch.iterdir()) == [], "what is well leaves nothing"
    monkeypatch.setattr(demo, "TOLERATED_LOSS", -1.0)
    demo._show(4, 10, "none")
    assert "up: pid" in "".join(path.read_text() for path in kept(capsys.readouterr().err).rglob("log"))
