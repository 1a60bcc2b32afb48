"""Starting and stopping real processes around a fake tunnel: what ``up`` and ``down`` promise whatever happens."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import cli, config, daemon
from rsock_nf.config.configuration import Configuration
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ControlError, InstanceError, TunnelError
from rsock_nf.ops import confinement, launch, privileges
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import KEPT_LOGS, Instance, instances
from rsock_nf.ops.instances.overview import overview, runs
from rsock_nf.ops.instances.processes import instance_processes
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir
from rsock_nf.ops.launched import Launched
from rsock_nf.ops.log import InstanceLog
from rsock_nf.settings import Log, Settings
from rsock_nf.wire.parameters import NativeParameters
from tests.ops.fake_daemon import FakeTunnel

FAKE = Path(__file__).with_name("fake_daemon.py")
SECRET = format_secret(bytes(range(32)))


class Host:
    """A run directory, configuration files, and a firewall that only remembers what was cleared."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cleared: list[str] = []

    def settings(self, stem: str = "edge", **keys: object) -> Settings:
        return self.configuration(stem, **keys).settings

    def configuration(self, stem: str = "edge", **keys: object) -> Configuration:
        path = self.directory / f"{stem}.json"
        path.write_text(json.dumps({"role": "server", "target": "127.0.0.1:9", "secret": SECRET, **keys}))
        path.chmod(0o600)
        return config.load(path)

    def start(
        self,
        settings: Settings,
        behaviour: str = "ready",
        *,
        timeout: float = 20.0,
        **options: Any,
    ) -> Instance:
        command = [sys.executable, str(FAKE), behaviour]
        launch.start(Configuration(settings, ()), command, timeout=timeout, clear=self.clear, **options)
        return Instance(settings.name)

    def clear(self, name: str) -> list[str]:
        self.cleared.append(name)
        return []

    def stop(self, name: str = "edge") -> str:
        return launch.stop(name, self.clear)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *sys.path]))
    made = Host(tmp_path)
    yield made
    for instance in instances():
        instance.stop(grace=0.1)
        instance.discard()


def pid_of(instance: Instance) -> int:
    record = instance.record()
    assert record is not None
    return record.pid


def kill(pid: int, number: signal.Signals) -> None:
    """Signal a process and wait for its end."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, number)
        assert select.select([process], [], [], 10)[0], "the process did not end"
    finally:
        os.close(process)


def test_up_returns_when_it_stands_and_down_leaves_nothing(host: Host) -> None:
    instance = host.start(host.settings())
    assert instance.is_running()
    assert instance.directory.stat().st_mode & 0o777 == 0o700
    assert instance.control_path.stat().st_mode & 0o777 == 0o600
    assert ask(instance, "status")["pid"] == pid_of(instance) != os.getpid()
    assert host.stop() == "edge: stopped"
    assert left() == ["edge/log"]
    assert host.cleared == ["edge"]


def test_the_background_process_keeps_no_terminal_and_no_directory(host: Host) -> None:
    pid = pid_of(host.start(host.settings()))
    assert [str(Path(f"/proc/{pid}/fd/{standard}").readlink()) for standard in (0, 1, 2)] == ["/dev/null"] * 3
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert os.getsid(pid) == pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_three_signals_end_it_in_order(host: Host, number: signal.Signals) -> None:
    instance = host.start(host.settings())
    kill(pid_of(instance), number)
    assert left() == ["edge/log"]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("refused", "ports: 10001 is taken by another process"),
        ("broken", "unexpected ZeroDivisionError: of no use to anyone (log: LOG)"),
        ("brief", "instance edge was stopped before it stood (log: LOG)"),
        ("early", "instance edge was stopped before it stood (log: LOG)"),
        ("dead", "instance edge ended while starting (status 3): ImportError: no module named soap (log: LOG)"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(host: Host, behaviour: str, expected: str) -> None:
    with pytest.raises(TunnelError) as caught:
        host.start(host.settings(), behaviour)
    assert str(caught.value) == expected.replace("LOG", str(Instance("edge").log_path))
    assert host.cleared == ["edge"]
    assert left() == ([] if behaviour == "dead" else ["edge/log"])


def test_a_start_that_takes_too_long_is_undone_and_says_what_it_waited_for(host: Host) -> None:
    with pytest.raises(
        TunnelError,
        match=r"^instance edge is not up within 5 s: no answer from 203.0.113.5 \(log: .*/edge/log\); "
        r"`rsock-nf up --wait` waits as long as it takes$",
    ):
        host.start(host.settings(), "silent", timeout=5)
    assert host.cleared == ["edge"]
    assert left() == ["edge/log"]


def test_in_the_foreground_it_gives_up_only_when_asked_to(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = host.settings()
    configuration = config.load(settings.path)
    made = functools.partial(FakeTunnel, "silent")
    with pytest.raises(TunnelError, match=r"^instance edge is not up within 0.1 s: no answer from 203.0.113.5$"):
        daemon.run(configuration, timeout=0.1, make_tunnel=made)
    assert not run_dir().exists() or left() == []
    told = capsys.readouterr().err
    assert told.count('cipher "none"') == 1
    monkeypatch.setattr(privileges, "missing", list)
    monkeypatch.setattr(confinement, "confine", lambda _: ["the privileges of the tests stay"])
    monkeypatch.setattr(daemon, "_tunnel", made)
    assert cli.main(["up", "--foreground", "--timeout", "0.1", "--config", str(settings.path)]) == 1
    told = capsys.readouterr().err
    assert told.count('cipher "none"') == 1, "the log is standard error: nobody else need say it"
    assert told.endswith("rsock-nf: instance edge is not up within 0.1 s: no answer from 203.0.113.5\n")


def test_a_start_that_waits_says_for_what(host: Host) -> None:
    told: list[str] = []
    host.start(host.settings(), "absent", tell=told.append)
    assert told == ["waiting: no route to 203.0.113.5"]
    assert host.stop() == "edge: stopped"


def test_without_patience_what_is_missing_is_an_error(host: Host) -> None:
    FakeTunnel.tried = False
    with pytest.raises(TunnelError, match=r"^no route to 203.0.113.5; `rsock-nf up --wait` waits for it$"):
        daemon.run(config.load(host.settings().path), make_tunnel=functools.partial(FakeTunnel, "absent"))
    assert not run_dir().exists() or left() == []


def test_what_waiting_does_not_heal_ends_a_start_unless_it_is_to_wait(host: Host) -> None:
    with pytest.raises(
        TunnelError,
        match=r"^instance edge does not come up: the secret is another \(log: .*/edge/log\); "
        r"correct it, or `rsock-nf up --wait` goes on trying$",
    ):
        host.start(host.settings(), "hopeless", timeout=600)
    assert host.cleared == ["edge"]


@pytest.fixture
def launched(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Launched]]:
    """Makes one of which ``status`` tells what is given; at the second look it says ``ready``."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as announcement, os.fdopen(write_end, "wb", buffering=0) as says:

        def make(status: dict[str, Any], **options: Any) -> Launched:
            looks = iter([b"", b"ready\n"])

            def look(_: str) -> dict[str, Any]:
                says.write(next(looks))
                return status

            monkeypatch.setattr("rsock_nf.ops.launched._status", look)
            nobody: Any = None
            return Launched(
                host.settings(), nobody, announcement, nobody, **{"patient": False, "watch": None} | options
            )

        yield make


def test_who_waits_waits_for_that_too_and_sees_why(launched: Callable[..., Launched]) -> None:
    seen: list[dict[str, Any]] = []
    status = {"state": "connecting", "hopeless": True, "reason": "the secret is another"}
    launched(status, patient=True, watch=seen.append).await_ready(None)
    assert seen == [status, status]


def test_one_that_stands_when_the_time_is_over_has_a_moment_to_say_so(launched: Callable[..., Launched]) -> None:
    """Its word on the pipe may come late on a busy host; to undo it would be wrong."""
    launched({"state": "serving", "reason": ""}).await_ready(0.0)
    with pytest.raises(TunnelError, match=r"^instance edge is not up within 0 s: connecting \(log: "):
        launched({"state": "connecting", "reason": ""}).await_ready(0.0)


def test_logs_of_failed_starts_do_not_pile_up(host: Host) -> None:
    host.start(host.settings("alive"))
    for number in range(KEPT_LOGS + 3):
        with pytest.raises(TunnelError):
            host.start(host.settings(f"edge{number}"), "refused")
    kept = [f"edge{number}/log" for number in range(3, KEPT_LOGS + 3)]
    assert [name for name in left() if not name.startswith("alive/")] == kept


def test_an_interrupted_start_is_undone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(launched: Launched, _: float) -> None:
        started.append(launched._process)
        raise KeyboardInterrupt

    monkeypatch.setattr(Launched, "await_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host.start(host.settings())
    assert started[0].returncode is not None
    assert host.cleared == ["edge"]


START = """
import signal
import sys
from pathlib import Path
from rsock_nf import config
from rsock_nf.ops import launch
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may ignore it, and so would we
fake, path = sys.argv[1:]
launch.start(config.load(Path(path)), [sys.executable, fake, "silent"], timeout=60, clear=lambda _: [])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_start_that_is_told_to_end_is_undone(host: Host, number: signal.Signals) -> None:
    """As by timeout(1), by a service manager, or when the terminal is closed while `up` dials."""
    settings = host.settings()
    with subprocess.Popen([sys.executable, "-c", START, str(FAKE), str(settings.path)]) as starting:
        while not Instance("edge").is_running():
            assert starting.poll() is None
        starting.send_signal(number)
        assert starting.wait(20) == 128 + number
    assert not Instance("edge").is_running()
    assert left() in ([], ["edge/log"])


def test_the_same_configuration_runs_once(host: Host) -> None:
    settings = host.settings()
    assert not launch.running_alike(settings)
    host.start(settings)
    assert launch.running_alike(host.settings())
    with pytest.raises(
        InstanceError, match=r"with what .*edge.json said before: run `rsock-nf down --name edge` first"
    ):
        launch.running_alike(host.settings(ports="20000-20009"))
    with pytest.raises(TunnelError, match=r"^instance edge is already running$"):
        host.start(settings)
    assert Instance("edge").is_running(), "a second start must not take down the first"


def test_the_same_name_from_another_file_is_refused(host: Host) -> None:
    host.start(host.settings())
    with pytest.raises(InstanceError, match=r'already running, from .*edge\.json: give .*other\.json another "name"'):
        launch.running_alike(host.settings("other", name="edge"))


def test_several_instances_live_side_by_side(host: Host) -> None:
    for name in ("one", "two"):
        host.start(host.settings(name))
    assert [instance.name for instance in instances() if instance.is_running()] == ["one", "two"]
    host.stop("one")
    assert [instance.name for instance in instances() if instance.is_running()] == ["two"]


def test_down_after_kill_9_removes_what_is_left_and_up_works_too(host: Host) -> None:
    settings = host.settings()
    instance = host.start(settings)
    kill(pid_of(instance), signal.SIGKILL)
    assert not instance.is_running()
    assert instance.directory.exists()
    assert host.start(settings).is_running(), "up takes over what a killed one left"
    kill(pid_of(instance), signal.SIGKILL)
    assert host.stop() == "edge: was not running; removed the files that it left"
    assert host.stop() == "edge: was not running"
    assert left() == ["edge/log"]


def test_down_does_not_signal_a_reused_pid(host: Host) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        instance = Instance("edge")
        instance.directory.mkdir(parents=True)
        record = {"pid": bystander.pid, "started": "1", "config": "/x", "digest": "y"}
        (instance.directory / "state.json").write_text(json.dumps(record))
        assert host.stop() == "edge: was not running; removed the files that it left"
        assert bystander.poll() is None


def left() -> list[str]:
    """Every file in the state directory."""
    return sorted(str(path.relative_to(run_dir())) for path in run_dir().rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    "write",
    [
        lambda path, _: path.unlink(),
        lambda path, _: path.write_text("{"),
        lambda path, _: path.write_text('{"pid": "many", "started": [], "config": 1, "digest": null}'),
        lambda path, _: path.write_text('{"pid": -1, "started": null, "config": "/x", "digest": "y"}'),
        lambda path, _: path.write_text(f'{{"pid": {1 << 70}, "started": null, "config": "/x", "digest": "y"}}'),
        lambda path, _: path.write_text("[" * 100_000),
        lambda path, pid: path.write_text(json.dumps({"pid": pid, "started": "1", "config": "/x", "digest": "y"})),
    ],
)
def test_down_asks_the_kernel_who_holds_an_instance_whose_record_is_lost(
    host: Host, write: Callable[[Path, int], object]
) -> None:
    settings = host.settings()
    instance = host.start(settings)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        write(instance.state_path, bystander.pid)
        if instance.record() is None:
            fault = (
                r"state.json (is missing|does not say what an instance writes): run `rsock-nf down --name edge` first"
            )
            with pytest.raises(InstanceError, match=fault):
                launch.running_alike(settings)
        assert host.stop() == "edge: stopped"
        assert bystander.poll() is None, "a reused pid is not signalled"
    assert left() == ["edge/log"]


def test_a_directory_that_cannot_be_changed_is_one_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that became read-only: the directory is there, and its lock can be had."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fchmod", refuse)
    instance = Instance("edge")
    with (
        pytest.raises(InstanceError, match=r"run/edge: cannot be ours alone: Read-only file system$"),
        instance.claim(host.directory / "edge.json", "digest"),
    ):
        pytest.fail("it is not ours")
    assert not instance.is_running()


def test_the_record_of_a_later_version_is_understood(host: Host) -> None:
    settings = host.settings()
    instance = host.start(settings)
    written = json.loads(instance.state_path.read_text())
    instance.state_path.write_text(json.dumps({**written, "mood": "fine"}))
    assert pid_of(instance) == written["pid"]
    assert launch.running_alike(settings)


def test_a_lock_that_nobody_can_be_named_for_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no /proc to ask, and the record is gone."""
    instance = host.start(host.settings())
    pid = pid_of(instance)
    instance.state_path.unlink()
    monkeypatch.setattr("rsock_nf.ops.instances.lock._LOCKS", Path("/nowhere"))
    with pytest.raises(InstanceError, match=r"somebody holds a lock on .*edge, and nothing tells whose"):
        instance.stop(grace=0.1)
    kill(pid, signal.SIGKILL)


def test_an_instance_whose_directory_was_deleted_is_found_and_named(host: Host) -> None:
    settings = host.settings()
    instance = host.start(settings)
    pid = pid_of(instance)
    shutil.rmtree(run_dir())
    with pytest.raises(
        InstanceError, match=rf"edge still runs, as process {pid}, though .*edge was deleted: run `rsock-nf down"
    ):
        launch.running_alike(settings)
    assert overview(None) == [
        {
            "name": "edge",
            "state": "lost",
            "reason": f"process {pid} runs, but {instance.directory} was deleted: rsock-nf down --name edge",
            "pid": pid,
        }
    ]
    assert host.stop() == "edge: stopped"
    assert list(instance_processes()) == []
    assert host.stop() == "edge: was not running"


def test_one_that_lost_its_directory_does_not_touch_its_successors(host: Host) -> None:
    settings = host.settings()
    pid = pid_of(host.start(settings))
    shutil.rmtree(run_dir())
    successor = host.start(settings)
    kill(pid, signal.SIGTERM)
    assert ask(successor, "status")["pid"] == pid_of(successor)


def test_an_instance_of_another_network_namespace_is_not_this_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = host.settings()
    host.start(settings)
    monkeypatch.setattr(namespaces, "current", lambda: 1)
    with pytest.raises(
        InstanceError, match=r'in another network namespace: give .*edge.json another "name", or set RSOCK_NF_RUN_DIR'
    ):
        launch.running_alike(settings)


def test_a_control_socket_that_is_gone_is_named(host: Host) -> None:
    instance = host.start(host.settings())
    instance.control_path.unlink()
    (found,) = overview(None)
    assert found["state"] == "silent"
    assert found["reason"] == (
        f"instance edge runs, but {instance.control_path} is gone: rsock-nf down --name edge, then up"
    )
    assert host.stop() == "edge: stopped"


def test_a_start_that_is_not_yet_to_be_asked_is_still_starting(host: Host) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(
        TunnelError, match=r"^instance edge is not up within 0.1 s: its process is still starting \(log: "
    ):
        launch.start(host.configuration(), command, timeout=0.1, clear=host.clear)


def test_one_that_does_not_answer_is_listed_beside_those_that_do(host: Host) -> None:
    host.start(host.settings("one"))
    host.start(host.settings("two"), "secretive")
    found = overview(None)
    assert [runs(snapshot) for snapshot in found] == [True, False]
    assert found[1]["state"] == "silent"
    assert "no such table" in found[1]["reason"]


@pytest.mark.parametrize(("given", "expected"), [("run", "run"), ("./a/../b", "a/../b")])
def test_a_run_directory_may_be_relative(
    host: Host, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    """The background process stands in / and has to mean the same directory."""
    monkeypatch.chdir(host.directory)
    (host.directory / "a").mkdir()
    monkeypatch.setenv(RUN_DIR_VARIABLE, given)
    instance = host.start(host.settings())
    assert instance.directory == host.directory / expected / "edge"
    assert instance.is_running()
    assert host.stop() == "edge: stopped"


def test_an_empty_run_directory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    empty = run_dir()
    monkeypatch.delenv(RUN_DIR_VARIABLE)
    assert empty == run_dir()


def test_up_while_down_removes_the_last_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """``down`` holds the lock for that moment, and then there is nothing left."""
    answers = iter([True, False])
    monkeypatch.setattr(Instance, "is_running", lambda _: next(answers, False))
    assert not launch.running_alike(host.settings())


def test_the_log_goes_on_after_down(host: Host) -> None:
    instance = Instance("edge")
    for _ in range(2):
        host.start(host.settings())
        host.stop()
    assert instance.log_path.read_text().count(" up: pid ") == 2
    assert instance.log_path.stat().st_mode & 0o777 == 0o600


def test_the_log_in_the_state_directory_is_kept_small(tmp_path: Path) -> None:
    log = InstanceLog("edge", Log(), tmp_path / "log")
    for number in range(3000):
        log.logger.info("%04d%s", number, "x" * 1000)
        assert (tmp_path / "log").stat().st_size <= (1 << 20) + 2000
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    kept = [int(line.split()[2][:4]) for line in (tmp_path / "log").read_text().splitlines()]
    assert kept == list(range(3000 - len(kept), 3000)), "the latest, all of them whole"
    assert len(kept) > 400


def test_a_full_disk_under_the_log_is_told_once_and_ends_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = InstanceLog("full", Log(file=Path("/dev/full")), None)
    for _ in range(3):
        log.logger.info("a line")
    log.apply(Log(file=tmp_path / "elsewhere"))  # SIGHUP; what the full one still holds has to be given up
    log.logger.info("another")
    log.close()
    assert capfd.readouterr().err == "rsock-nf: log lines are lost: No space left on device\n"
    assert (tmp_path / "elsewhere").read_text().endswith(" another\n")
    with contextlib.closing(InstanceLog("full", Log(file=Path("/dev/full")), None)) as full:
        full.logger.info("a line")


@pytest.mark.parametrize("named", ["new/and newer/x.log", "there", "there/x.log"])
def test_a_named_log_may_be_in_a_directory_that_is_not_there_or_be_one(tmp_path: Path, named: str) -> None:
    """As with the original: it makes the directory; and one that is there gets a file of its own."""
    (tmp_path / "there").mkdir()
    file = tmp_path / named
    with contextlib.closing(InstanceLog("edge", Log(file=file), None)) as log:
        log.logger.info("a line")
        expected = file / "rsock.log" if named == "there" else file
        assert log.file == str(expected)
        told = [f"log.file: {file} is a directory: log lines go to {expected}"] if named == "there" else []
        assert [line.split(maxsplit=2)[2] for line in expected.read_text().splitlines()] == [*told, "a line"]


def test_a_named_log_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TunnelError, match=r"^log.file: \S*/file/x.log: cannot be written: Not a directory"):
        InstanceLog("edge", Log(file=tmp_path / "file/x.log"), None)


def test_a_log_that_is_a_fifo_without_a_reader_is_refused_at_once(host: Host) -> None:
    os.mkfifo(host.directory / "edge.log")
    with pytest.raises(TunnelError, match=r"^log.file: \S*/edge.log: cannot be written: "):
        host.start(host.settings(log={"file": "edge.log"}), timeout=10)
    assert left() == []


@pytest.mark.parametrize("what", ["log", "state.json.new"])
def test_a_file_that_cannot_be_written_is_one_line_that_names_it(host: Host, what: str) -> None:
    """A directory in the place of a file is as good as a full /run."""
    (run_dir() / "edge" / what).mkdir(parents=True)
    with pytest.raises(TunnelError, match=r"edge/(state.json|log): cannot be written: Is a directory"):
        host.start(host.settings())


def test_one_that_ignores_sigterm_is_killed(host: Host) -> None:
    instance = host.start(host.settings(), "stubborn")
    assert instance.stop(grace=0.3)
    assert not instance.is_running()


def test_a_tunnel_that_fails_later_leaves_its_log(host: Host) -> None:
    instance = host.start(host.settings(), "late-failure")
    wait_for_end(instance)
    assert "ERROR   device eth0 is gone" in instance.log_path.read_text()
    assert not instance.control_path.exists()
    record = instance.record()
    assert record is not None
    assert record.ended == "device eth0 is gone"
    assert host.stop() == "edge: was not running; removed the files that it left"


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """What key ``user`` does, for a while."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.root
def test_one_that_has_become_another_user_and_ends_in_order_is_forgotten(host: Host) -> None:
    """It can remove nothing from root's directory."""
    instance = Instance("edge")
    with instance.claim(Path("/x"), "digest"):
        instance.control_path.touch()
        os.seteuid(65534)
    os.seteuid(0)
    assert instance.control_path.exists()
    assert (instance.exists(), instance.record(), instances()) == (False, None, [])
    assert host.stop() == "edge: was not running; removed the files that it left"
    with instance.claim(Path("/x"), "digest"):
        assert instance.record() is not None
    assert left() == []


@pytest.mark.root
def test_one_that_has_become_another_user_and_fails_tells_why(host: Host) -> None:
    instance = Instance("edge")
    with instance.claim(Path("/x"), "digest"):
        instance.fail("device eth0 is gone")
        os.seteuid(65534)
    os.seteuid(0)
    record = instance.record()
    assert record is not None
    assert record.ended == "device eth0 is gone"
    assert host.stop() == "edge: was not running; removed the files that it left"


@pytest.mark.root
def test_the_log_in_the_state_directory_stays_open_for_another_user(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    with contextlib.closing(InstanceLog("edge", Log(), directory / "log")) as log, another_user():
        log.apply(Log(level="debug"))
        for number in range(1500):
            log.logger.debug("%04d%s", number, "x" * 1000)
        with pytest.raises(TunnelError, match=r"^log.file: \S*/run/other: cannot be written: Permission denied$"):
            log.apply(Log(file=directory / "other"))
        log.logger.debug("the last")
    written = (directory / "log").read_text()
    assert written.endswith("the last\n")
    assert len(written) < 1 << 20, "the older half went"


def wait_for_end(instance: Instance) -> None:
    descriptor = os.open(instance.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # blocks as long as the instance lives
    finally:
        os.close(descriptor)


def test_sighup_reads_the_log_level_again_and_reopens_the_file(host: Host) -> None:
    instance = host.start(host.settings(log={"level": "warning", "file": "edge.log"}))
    log = host.directory / "edge.log"
    assert "a line for those" not in log.read_text()
    rotated = log.rename(host.directory / "edge.log.1")
    host.settings(log={"level": "info", "file": "edge.log"})
    os.kill(pid_of(instance), signal.SIGHUP)
    # The control socket is served by the same loop, after the signal.
    while not (log.exists() and "SIGHUP: log level info" in log.read_text()):
        ask(instance, "status")
    assert "SIGHUP" not in rotated.read_text()
    assert "pydantic" not in Path(f"/proc/{pid_of(instance)}/maps").read_text(), "not for the log either"
    instance_path = host.directory / "edge.json"
    instance_path.write_text("{")
    os.kill(pid_of(instance), signal.SIGHUP)
    while "SIGHUP: nothing changed:" not in log.read_text():
        ask(instance, "status")
    assert instance.is_running()


def test_no_secret_in_the_most_talkative_log(host: Host) -> None:
    settings = host.settings(log={"level": "debug", "file": "edge.log"})
    host.start(settings)
    host.stop()
    text = (host.directory / "edge.log").read_text()
    assert isinstance(settings.wire, NativeParameters)
    assert "a line for those who want to know everything" in text
    assert SECRET not in text
    assert repr(settings.wire.secret) not in text


def test_the_control_socket(host: Host) -> None:
    instance = host.start(host.settings())
    assert ask(instance, "reconnect") == {"dials": False}, "a server"
    assert ask(instance, "status")["reconnects"] == 0
    with pytest.raises(ControlError, match=r'^instance edge: unknown verb "fly"$'):
        ask(instance, "fly")


def test_a_status_that_fails_is_told_and_logged_and_ends_nothing(host: Host) -> None:
    instance = host.start(host.settings(), "secretive")
    for _ in range(2):
        with pytest.raises(ControlError) as caught:
            ask(instance, "status")
        assert str(caught.value) == "instance edge: status failed: FirewallError: nftables refused: no such table"
    assert ask(instance, "reconnect") == {"dials": False}
    assert "ERROR   control: status failed" in instance.log_path.read_text()
    assert host.stop() == "edge: stopped"


def test_sighup_resolves_no_name_itself(host: Host) -> None:
    """The resolver may take half a minute: another process waits for it, and the instance answers meanwhile."""
    settings = host.settings(log={"level": "warning", "file": "edge.log"})
    instance = host.start(settings)
    keys = {"role": "server", "target": "no.such.host.invalid:9", "secret": SECRET}
    settings.path.write_text(json.dumps({**keys, "log": {"level": "info", "file": "edge.log"}}))
    os.kill(pid_of(instance), signal.SIGHUP)
    log = host.directory / "edge.log"
    while "SIGHUP" not in log.read_text():
        ask(instance, "status")
    assert "SIGHUP: nothing changed: " in log.read_text()
    assert "cannot resolve" in log.read_text()


def test_a_client_dials_anew_when_asked(host: Host) -> None:
    path = host.directory / "c.json"
    path.write_text(json.dumps({"role": "client", "server": "192.0.2.1", "listen": "127.0.0.1:9", "secret": SECRET}))
    instance = host.start(config.load(path).settings)
    assert ask(instance, "reconnect") == {"dials": True}
    assert ask(instance, "status")["reconnects"] == 1


@pytest.mark.parametrize("question", [b"\n", b"[]\n", b"{}\n", b'{"verb": []}\n', b"\xff\n", b"[" * 60_000 + b"\n"])
def test_the_control_socket_answers_nonsense_with_an_error(host: Host, question: bytes) -> None:
    instance = host.start(host.settings())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(instance.control_path))
        connection.sendall(question)
        assert json.loads(connection.makefile().readline())["ok"] is False
    assert ask(instance, "status")["name"] == "edge"


def test_the_control_socket_hangs_up_on_an_endless_question(host: Host) -> None:
    instance = host.start(host.settings())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(instance.control_path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"x" * (4 << 20))
    assert ask(instance, "status")["name"] == "edge"


def test_asking_one_that_does_not_run(host: Host) -> None:
    assert not run_dir().exists()
    with pytest.raises(InstanceError, match=r"^instance edge is not running$"):
        ask(Instance("edge"), "status")
    kill(pid_of(host.start(host.settings())), signal.SIGKILL)
    with pytest.raises(InstanceError, match=r"^instance edge is not running$"):
        ask(Instance("edge"), "status")


@pytest.mark.parametrize("write", [Path.unlink, lambda path: path.write_text("{")])
def test_down_by_a_configuration_file_that_is_gone_or_broken(host: Host, write: Callable[[Path], object]) -> None:
    settings = host.settings("odd", name="edge")
    host.start(settings)
    write(settings.path)
    assert launch.name_of(settings.path) == "edge"


def test_a_path_too_long_for_a_socket_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(host.directory / ("x" * 120)))
    with pytest.raises(TunnelError, match="no control socket can be made: AF_UNIX path too long"):
        host.start(host.settings())


def test_rules_that_cannot_be_removed_do_not_hide_why_the_start_failed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without root nobody may look at the rules, but the process may have failed for another reason."""

    def refuse(_: str) -> list[str]:
        raise TunnelError("changing firewall rules needs root or CAP_NET_ADMIN")

    monkeypatch.setattr(host, "clear", refuse)
    told: list[str] = []
    with pytest.raises(TunnelError) as failure:
        host.start(host.settings(), "refused", tell=told.append)
    assert "CAP_NET_ADMIN" not in str(failure.value)
    assert told[-1] == "what it left cannot be removed: changing firewall rules needs root or CAP_NET_ADMIN"
