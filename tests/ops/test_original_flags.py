"""The original's flags: ``rsock-nf server`` and ``rsock-nf client``, and the process that they start in the
background."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsock_nf import cli, config, daemon
from rsock_nf.config.configuration import Configuration
from rsock_nf.ops import handover, launch, privileges
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from rsock_nf.ops.log import InstanceLog
from rsock_nf.ops.program import program

SERVER = ["server", "--dev=eth1", "--taddr=127.0.0.1:9999", "--ports=10001-10010", "--daemon=1"]
CLIENT = ["client", "-d", "en0", "-t", "203.0.113.5", "-l", "127.0.0.1:30000", "-p", "443,10001-10003", "-v"]


class Started:
    """What would have been started in the background, and what that process makes of its command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.configurations: list[Configuration] = []
        self.commands: list[list[str]] = []
        self.foreground: list[tuple[Configuration, int | None]] = []
        monkeypatch.setattr(privileges, "missing", list)
        monkeypatch.setattr(launch, "start", self.start)
        monkeypatch.setattr(daemon, "run", self.run)

    def start(self, configuration: Configuration, command: Sequence[str], **_: object) -> None:
        self.configurations.append(configuration)
        self.commands.append(list(command))

    def run_command(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """As the process in the background does."""
        given = SimpleNamespace(buffer=io.BytesIO(handover.pack(self.configurations[-1])))
        monkeypatch.setattr(sys, "stdin", given)
        known = program()
        assert self.commands[-1][: len(known)] == known
        return cli.main([*self.commands[-1][len(known) :], "--ready-fd", "7"])

    def run(self, configuration: Configuration, *, ready_fd: int | None = None, **_: object) -> int:
        self.foreground.append((configuration, ready_fd))
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))
    return Started(monkeypatch)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (SERVER, "server-10001"),
        (CLIENT, "client-30000"),
        ([*CLIENT, "--name", "home"], "home"),
        (["client", "-t", "203.0.113.5", "--unPath", "app.sock", "--log", "x.log", "--hash="], "client-unix"),
        ([*SERVER, "--hash=a b'\"", "--duration", "60", "--keepalive=9", "--lcapIp", "192.0.2.1", "--type", "all"], "server-10001"),
    ],
)  # fmt: skip
def test_the_process_in_the_background_is_what_the_flags_said(
    started: Started, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    words: list[str], name: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: up")
    assert said.endswith(f"; `rsock-nf status --name {name}` shows it, `rsock-nf down --name {name}` stops it\n")
    monkeypatch.chdir("/")  # where it stands
    assert started.run_command(monkeypatch) == 0
    ((configuration, ready_fd),) = started.foreground
    assert configuration == started.configurations[0]
    assert configuration.settings.name == name
    assert "a b" not in " ".join(started.commands[0]), "nobody can read the key in a list of processes"
    assert ready_fd == 7
    assert capsys.readouterr() == ("", ""), "a process in the background has its log"


def test_what_a_file_said_is_what_the_process_in_the_background_is(
    started: Started, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("home.json").write_text(json.dumps({"param": {"taddr": "203.0.113.5", "ludp": "127.0.0.1:30000"}}))
    assert cli.main(["client", "-f", "home.json", "--ports", "443"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("home: up; `rsock-nf status --name home` shows it")
    assert said.err.splitlines()[0] == "rsock-nf: --ports: has no meaning beside -f"
    monkeypatch.chdir("/")
    assert started.run_command(monkeypatch) == 0
    assert started.foreground[0][0] == started.configurations[0]


@pytest.mark.parametrize("words", [[*SERVER[:-1], "--daemon=0"], ["server", "-f", "FILE"]])
def test_daemon_0_stays(started: Started, tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "edge.json"
    file.write_text(json.dumps({"daemon": 0, "param": {"taddr": "127.0.0.1:9"}}))
    assert cli.main([str(file) if word == "FILE" else word for word in words]) == 0
    assert started.commands == []
    ((_, ready_fd),) = started.foreground
    assert ready_fd is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["server"], 'rsock-nf: the command line: --taddr: missing: where datagrams go, as "127.0.0.1:9999"'),
        (["client", "-t", "203.0.113.5"], 'rsock-nf: the command line: --ludp: missing: where the application sends its datagrams, as "127.0.0.1:30000"'),
        ([*CLIENT, "--duration", "5"], "rsock-nf: the command line: --duration: must be 10 to 6000 seconds, not 5"),
        ([*CLIENT, "--name", "a/b"], "rsock-nf: the command line: --name: \"a/b\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
        (["client", "-f", "/none.json"], "rsock-nf: /none.json: cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line_and_status_2(
    started: Started, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr() == ("", f"{line}\n")
    assert started.commands == []


def test_sighup_opens_the_log_anew_though_there_is_no_file_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))
    flags = {"name": "edge", "log": str(tmp_path / "log"), "param": {"taddr": "127.0.0.1:9"}}
    settings = config.from_flags("server", flags).settings
    with contextlib.closing(InstanceLog("edge", settings.log, None)) as log, socket.socket() as unused:
        doors = daemon.Doors(unused, None)
        running = daemon._Daemon(settings, Instance("edge"), doors, log, daemon.Announcement(None), daemon._tunnel)
        (tmp_path / "log").rename(tmp_path / "log.1")
        asyncio.run(running._reload())
    assert "SIGHUP: log level info" in (tmp_path / "log").read_text()


def test_convert_prints_json_and_says_what_it_dropped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({"param": {"taddr": "127.0.0.1:9", "cap_timeout": 5}}))
    assert cli.main(["convert", str(path)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"role": "server", "wire": "rsock", "target": "127.0.0.1:9", "duration": 30}
    assert f"rsock-nf: {path}: param.cap_timeout: has no meaning here: nothing is captured with libpcap" in said.err


def test_check_and_up_take_the_file_as_it_is(
    started: Started, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({"param": {"taddr": "127.0.0.1:9"}}))
    for words, answer in ((["check"], f"{path}: valid; instance edge"), (["up"], "edge: up: TCP ports 10001-10010")):
        assert cli.main([*words, "--config", str(path)]) == 0
        said = capsys.readouterr()
        assert said.out == f"{answer}\n"
        assert f"rsock-nf: {path}: param.taddr: datagrams go to 127.0.0.1:9" in said.err
    assert started.configurations[0].settings.name == "edge"
