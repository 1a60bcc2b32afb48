"""What commands print: one line for a program, lines of its width for a terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from pathlib import Path

import pytest

from rsock_nf import cli


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "edge.json"
    path.write_text('{"role": "client", "server": "10.81.2.2:10001"}')
    return path


def on_terminal(columns: int, *words: str) -> list[str]:
    """The lines on standard error, which is a terminal."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with pytest.MonkeyPatch.context() as patched, os.fdopen(slave, "w", encoding="utf-8") as stderr:
        patched.setattr(sys, "stderr", stderr)
        assert cli.main(list(words)) == 2
        stderr.flush()
        said = os.read(master, 65536).decode()
    os.close(master)
    return said.splitlines()


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_gets_an_error_at_its_width(
    broken: Path, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.main(["check", str(broken)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    shown = on_terminal(columns, "check", str(broken))
    assert len(shown) > 1
    assert " ".join(one.strip() for one in shown) == line
    assert all(len(one) <= columns or len(one.split()) == 1 for one in shown), "but for a word that is longer"
    monkeypatch.setenv("COLUMNS", "40")
    assert len(on_terminal(columns, "check", str(broken))) > len(shown)
