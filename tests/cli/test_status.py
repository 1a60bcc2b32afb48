"""``status`` as a user calls it: its options, what a pipe and what a terminal get."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsock_nf import cli
from rsock_nf.commands import status
from rsock_nf.ops.instances import overview
from tests.ops.metrics_snapshots import session, snapshot

GONE = {"name": "edge", "state": "crashed", "reason": "process 5 is gone; its rules still stand"}


def full(second: int = 0, clients: int = 40) -> dict[str, Any]:
    """An instance with 40 clients, after so many seconds."""
    found = snapshot(*(session(f"client{number}", number=number, carried=1000 * second) for number in range(clients)))
    described = {**found["sessions"][0], "cipher": "none", "fragments": True, "largest_oversized": 1500}
    link = {"device": "eth0", "mtu": 1500, "up": True, "counters": {"received_packets": 1, "sent_packets": 1}}
    firewall = {**found["firewall"], "backend": "nftables"}
    sessions = [{**described, **one} for one in found["sessions"]]
    return {**found, "sessions": sessions, "uptime": 60.0 + second, "link": link, "firewall": firewall}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user who has set nothing."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(time, "sleep", lambda _: None)


def find(monkeypatch: pytest.MonkeyPatch, *looks: list[dict[str, Any]]) -> None:
    """The instances of each look; the last ones stay."""
    following = iter(looks)
    last: list[list[dict[str, Any]]] = []

    def look(_named: object, *, find_lost: bool) -> list[dict[str, Any]]:
        del find_lost
        last[:] = [next(following, last[0] if last else [])]
        return last[0]

    monkeypatch.setattr(overview, "overview", look)


def test_a_pipe_gets_80_columns_without_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(monkeypatch, [full()])
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len([line for line in out.splitlines() if "client" in line and "198.51.100.7" in line]) == 40
    assert max(map(len, out.splitlines())) <= 80


def test_columns_of_the_environment_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find(monkeypatch, [GONE])
    monkeypatch.setenv("COLUMNS", "45")
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().out == "edge: crashed: process 5 is gone; its rules\nstill stand\n"


def test_each_output_is_what_it_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find(monkeypatch, [full()])
    assert cli.main(["status", "--flows"]) == 0
    assert capsys.readouterr().out.count("frames out") == 40
    assert cli.main(["status", "--brief"]) == 0
    assert {line.count("\t") for line in capsys.readouterr().out.splitlines()} == {17}
    assert cli.main(["status", "--metrics"]) == 0
    assert 'rsock_nf_up{tunnel="edge"} 1.0\n' in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [full()]


def test_outputs_for_programs_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--brief", "--json"])
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_watching_without_a_terminal_prints_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(monkeypatch, [full(0)], [full(1)], [GONE])
    assert cli.main(["status", "--watch"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("edge: server, serving") == 2
    assert "  now       out 32.00, in 16.00 Mbit/s" in out.splitlines()
    assert out.splitlines()[-1] == "edge: crashed: process 5 is gone; its rules still stand"


class Terminal:
    """Standard output is a terminal of 80 columns and 24 lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._slave = io.open(slave, "w", encoding="utf-8")  # noqa: SIM115, UP020 - closed by ``read``
        self._read = bytearray()
        self._text = ""
        self._when_full: Callable[[], object] | None = None
        """Called once, when something is shown on the whole screen."""
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))

    def _drain(self) -> None:
        try:
            while data := os.read(self._master, 1 << 16):
                self._read += data
                if self._when_full is not None and b"\x1b[?1049h" in self._read and b"edge" in self._read:
                    self._when_full()
                    self._when_full = None
        except OSError:  # EIO: nobody has the other end any more
            pass

    def run(self, *words: str) -> int:
        """The exit status of a command whose output is shown here."""
        with self._monkeypatch.context() as patched:  # here: pytest sets its own standard output before each test
            patched.setattr(sys, "stdout", self._slave)
            return cli.main(list(words))

    def run_until(self, leave: str | signal.Signals, *words: str) -> int:
        """The same; with a key, or a signal to this process, as soon as the screen is filled."""
        if isinstance(leave, str):
            self._when_full = lambda: os.write(self._master, leave.encode())
        else:
            self._when_full = lambda: os.kill(os.getpid(), leave)
        before = termios.tcgetattr(self._slave)
        with self._monkeypatch.context() as patched, os.fdopen(os.dup(self._slave.fileno())) as keys:
            patched.setattr(sys, "stdin", keys)
            try:
                return self.run(*words)
            finally:
                assert termios.tcgetattr(self._slave) == before, "the terminal is as it was"

    def read(self) -> str:
        """All that was written to it; nothing more can be."""
        if self._slave.closed:
            return self._text
        self._slave.close()
        self._reader.join()
        os.close(self._master)
        self._text = self._read.decode().replace("\r\n", "\n")
        return self._text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch)
    yield made
    made.read()


@pytest.mark.parametrize(
    ("name", "value", "coloured"), [("NO_COLOR", "", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)]
)
def test_a_terminal_gets_colours(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, name: str, value: str, *, coloured: bool
) -> None:
    find(monkeypatch, [full()])
    monkeypatch.setenv(name, value)
    assert terminal.run("status") == 0
    assert ("\x1b[32mserving\x1b[0m" in terminal.read()) == coloured


def test_watching_fills_the_screen_of_a_terminal_and_gives_it_back(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    find(monkeypatch, *([full(second)] for second in range(3)), [GONE])
    assert terminal.run("status", "--watch") == 1
    before, _, rest = terminal.read().partition("\x1b[?1049h")
    screen, _, after = rest.partition("\x1b[?1049l")
    assert (before, "crashed" in after, "crashed" in screen) == ("", True, False)
    frames = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", frame) for frame in screen.split("\x1b[H") if "edge" in frame]
    assert [len(frame.splitlines()) for frame in frames] == [24] * 3
    shown = [line for frame in frames for line in frame.splitlines()]
    assert max(map(len, shown)) <= 80
    assert "  … 26 more" in map(str.rstrip, shown)
    assert any("now       out 32.00, in 16.00 Mbit/s" in line for line in shown)
    assert "\x1b[32m" in screen


def test_a_watcher_who_leaves_gets_the_screen_back(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    find(monkeypatch, [full(0)])

    def leave(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", leave)
    assert terminal.run("status", "--watch") == 130
    said = terminal.read()
    assert said.count("\x1b[?1049h") == said.count("\x1b[?1049l") == 1
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.parametrize(("leave", "expected"), [("q", 0), ("xQ", 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_key_or_a_signal_ends_the_live_view_at_once(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, leave: str | signal.Signals, expected: int
) -> None:
    find(monkeypatch, [full(0)], [GONE])
    monkeypatch.setattr(status, "_PERIOD", 60.0)
    ended: object = None
    try:
        ended = terminal.run_until(leave, "status", "--watch")
    except SystemExit as left:
        ended = left.code
    assert ended == expected
    said = terminal.read()
    assert said.count("\x1b[?1049h") == said.count("\x1b[?1049l") == 1
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is back"
    assert "crashed" not in said, "there was no second look"


def test_the_live_view_alone_takes_rich() -> None:
    """It is imported where it is needed: ``status`` has to feel instant."""
    import subprocess

    code = "import sys; from rsock_nf import cli; cli.main(sys.argv[1:]); print(sorted({'rich', 'prometheus_client'} & set(sys.modules)))"
    for words in (["status"], ["status", "--brief"], ["status", "--flows"], ["status", "--json"]):
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert ran.stdout.splitlines()[-1] == "[]", ran.stderr
