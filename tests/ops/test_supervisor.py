"""What a service manager hears of an instance, and what the journal gets of its log."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsock_nf import config
from rsock_nf.commands.output import complain
from rsock_nf.config.values import format_secret
from rsock_nf.ops import handover
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from rsock_nf.ops.journald import on_journal
from rsock_nf.ops.log import InstanceLog
from rsock_nf.ops.supervisor import Supervisor
from rsock_nf.settings import Log
from tests.ops.supervised import Manager, named

FAKE = Path(__file__).with_name("fake_daemon.py")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="rsnf-") as short:  # the path of a socket has 107 bytes at most
        address = f"{short}/notify" if request.param == "path" else f"@rsnf-notify-{os.getpid()}"
        with Manager(address) as made:
            yield made


@contextlib.contextmanager
def instance(
    directory: Path, behaviour: str, variables: dict[str, str], stderr: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """In the foreground, as a service is; it has its configuration by standard input."""
    path = directory / "edge.json"
    secret = format_secret(bytes(range(32)))
    path.write_text(json.dumps({"role": "server", "target": "127.0.0.1:9", "secret": secret, "cipher": "aes-256-gcm"}))
    path.chmod(0o600)
    environment = {
        **os.environ,
        RUN_DIR_VARIABLE: str(directory / "run"),
        "PYTHONPATH": os.pathsep.join(["", *sys.path]),
        **variables,
    }
    command = [sys.executable, str(FAKE), behaviour]
    with (
        stderr.open("ab") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, env=environment) as process,
    ):
        try:
            assert process.stdin is not None
            with process.stdin as stdin:
                stdin.write(handover.pack(config.load(path)))
            yield process
        finally:
            process.kill()


def variables(manager: Manager, stderr: Path, watchdog: float | None = None) -> dict[str, str]:
    descriptor = os.open(stderr, os.O_WRONLY | os.O_CREAT)
    try:
        return manager.variables(journal=descriptor, watchdog=watchdog)
    finally:
        os.close(descriptor)


def test_a_service_tells_its_state_that_it_stands_reloads_lives_and_goes(tmp_path: Path, manager: Manager) -> None:
    said = tmp_path / "stderr"
    with instance(tmp_path, "ready", variables(manager, said, watchdog=0.2), said) as process:
        begin = manager.until("READY", "1")
        assert {"STATUS": "connecting: no answer from 203.0.113.5"} in begin
        assert named(manager.until("WATCHDOG", "1") + manager.until("WATCHDOG", "1"), "WATCHDOG", "READY")
        process.send_signal(signal.SIGHUP)
        (reloading,) = [message for message in manager.until("RELOADING", "1") if "RELOADING" in message]
        assert reloading["MONOTONIC_USEC"].isdecimal()
        manager.until("READY", "1")
        process.send_signal(signal.SIGTERM)
        manager.until("STOPPING", "1")
        assert process.wait(30) == 0
    lines = said.read_text().splitlines()
    assert [line for line in lines if line.startswith("<6>up: pid ")], lines
    assert [line for line in lines if line.startswith("<6>SIGHUP: log level info")], lines
    assert lines[-1] == "<6>down"
    assert not [line for line in lines if line[:1] != "<"]


def test_what_it_waits_for_is_told_and_it_is_not_ready_before(tmp_path: Path, manager: Manager) -> None:
    said = tmp_path / "stderr"
    with instance(tmp_path, "absent", variables(manager, said), said) as process:
        begin = manager.until("READY", "1")
        assert {"STATUS": "waiting: no route to 203.0.113.5"} in begin
        assert named(begin, "WATCHDOG") == [], "nobody has asked for it"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "<4>waiting: no route to 203.0.113.5" in said.read_text().splitlines()


def test_why_it_failed_is_its_last_status(tmp_path: Path, manager: Manager) -> None:
    said = tmp_path / "stderr"
    with instance(tmp_path, "refused", variables(manager, said), said) as process:
        manager.until("STATUS", "ports: 10001 is taken by another process")
        assert process.wait(30) == 1


def test_a_manager_that_is_not_there_or_does_not_read_stops_nobody(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000"}
    with contextlib.closing(Supervisor(environment)) as supervisor:
        assert environment == {}, "what we start would speak for us"
        for number in range(10_000):  # many more than a socket holds: net.unix.max_dgram_qlen
            supervisor.status(str(number))
        assert manager.next() == {"STATUS": "0"}
    for nobody in ({}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": ""}):
        Supervisor(dict(nobody)).ready()


def test_a_status_is_one_printable_line_told_once(manager: Manager) -> None:
    with contextlib.closing(Supervisor({"NOTIFY_SOCKET": manager.address})) as supervisor:
        supervisor.status("a\nREADY=1\x1b[2J")
        supervisor.status("a\nREADY=1\x1b[2J")
        supervisor.stopping()
    assert [manager.next(), manager.next()] == [{"STATUS": r"a READY=1\u001b[2J"}, {"STOPPING": "1"}]


def test_the_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    asked = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}
    for more, period in (({"WATCHDOG_PID": "1"}, None), ({"WATCHDOG_PID": str(os.getpid())}, 1.0), ({}, 1.0)):
        with contextlib.closing(Supervisor({**asked, **more})) as supervisor:
            assert supervisor._alive_every == period
    with contextlib.closing(Supervisor({**asked, "WATCHDOG_USEC": "soon"})) as supervisor:
        assert supervisor._alive_every is None


# -- the journal


@contextlib.contextmanager
def journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error is the journal, at ``path``.  No fixture: pytest gives each phase of a test an error of its
    own."""
    before = os.dup(2)
    with path.open("ab") as file, monkeypatch.context() as patched, os.fdopen(os.dup(file.fileno()), "w") as stream:
        os.dup2(file.fileno(), 2)
        there = os.fstat(2)
        patched.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        patched.setattr(sys, "stderr", stream)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def test_log_lines_have_a_priority_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path / "journal", monkeypatch):
        log = InstanceLog("journal", Log(level="debug"), None)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.logger.log(level, "line %d", level)
        log.logger.error("two", exc_info=ZeroDivisionError("of no use\nto anyone"))
        log.close()
    lines = (tmp_path / "journal").read_text().splitlines()
    assert lines[:5] == ["<7>line 10", "<6>line 20", "<4>line 30", "<3>line 40", "<3>line 50"]
    assert lines[5] == "<3>two"
    assert len(lines) == 8
    assert {line[:3] for line in lines[5:]} == {"<3>"}, "each line of a traceback"


def test_errors_of_the_command_line_have_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path / "journal", monkeypatch):
        complain("warning: everyone can read it")
        complain("no such file")
    said = (tmp_path / "journal").read_text()
    assert said == "<4>rsock-nf: warning: everyone can read it\n<3>rsock-nf: no such file\n"


def test_another_standard_error_is_not_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path / "journal", monkeypatch):
        assert on_journal()
        there = tmp_path.stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        assert not on_journal()
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not on_journal()


def test_a_log_file_keeps_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path / "journal", monkeypatch):
        log = InstanceLog("file", Log(file=tmp_path / "log"), None)
        log.logger.info("line")
        log.close()
    assert (tmp_path / "log").read_text().endswith("INFO    line\n")
    assert (tmp_path / "journal").read_text() == ""
