"""``rsock-nf capture`` before it captures anything: what it refuses, in one line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rsock_nf import cli
from rsock_nf.config.values import format_secret
from rsock_nf.errors import TunnelError
from rsock_nf.ops.capture import subject
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE

CLIENT = {
    "role": "client",
    "server": "192.0.2.2",
    "listen": "127.0.0.1:30000",
    "secret": format_secret(bytes(range(32))),
    "cipher": "aes-256-gcm",
}


@pytest.fixture(autouse=True)
def own_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))


def client_file(tmp_path: Path, **keys: object) -> Path:
    path = tmp_path / "home.json"
    path.write_text(json.dumps({**CLIENT, **keys}))
    path.chmod(0o600)
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = cli.main(["capture", *words])
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


@contextmanager
def terminal() -> Iterator[int]:
    ours, theirs = pty.openpty()
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_gets_no_packets() -> None:
    with terminal() as screen:
        argv = [sys.executable, "-m", "rsock_nf", "capture"]
        ran = subprocess.run(argv, stdout=screen, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == ("rsock-nf: a capture is nothing for a terminal: give -w FILE, or pipe it into tshark -r -\n")


def test_what_does_not_run_is_captured_by_its_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "c.pcapng")
    hint = "--config FILE captures all the same"
    assert refused(capsys, "-w", out) == (1, f"rsock-nf: no instance is running: {hint}")
    assert refused(capsys, "home", "-w", out) == (1, f"rsock-nf: instance home is not running: {hint}")
    status, line = refused(capsys, "--decrypt", "-c", str(client_file(tmp_path)), "-w", out)
    assert (status, line) == (1, "rsock-nf: instance home is not running: --decrypt asks it for the keys")
    assert not Path(out).exists()


def test_whose_packets_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(subject, "open_watch", lambda watched, device, snap: asked.append((watched, device, snap)))
    path = client_file(tmp_path, type="all", ports="443,10001-10010", device="eth7")
    found = subject.find(Instance("home"), path)
    subject.watch(found, snap=96)
    ((watched, device, snap),) = asked
    assert (device, snap) == ("eth7", 96)
    assert [str(address) for address in watched.addresses] == ["192.0.2.2"]
    assert list(map(str, watched.tcp)) == list(map(str, watched.udp)) == ["443", "10001-10010"]
    assert found.text() == "tunnel home (client; the server's ports: tcp 443,10001-10010, udp 443,10001-10010)"


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    found = subject.find(Instance("home"), client_file(tmp_path, device="rsnf-none"))
    with pytest.raises(TunnelError, match=r"^device rsnf-none does not exist$"):
        subject.watch(found, snap=96)
