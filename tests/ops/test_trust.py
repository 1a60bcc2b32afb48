"""A run directory, an instance's files and its control socket, as somebody would make them who wants root's rights."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsock_nf import trust
from rsock_nf.cli import main
from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.ops import launch
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance, instances
from rsock_nf.ops.instances.processes import start_time
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from rsock_nf.ops.log import InstanceLog
from rsock_nf.printable import printable
from rsock_nf.settings import Log

NOBODY = 65534
BELONGS = r"^\S*/run\S*: belongs to user nobody \(mode 07.5\): run the command as user nobody, or name a directory of"
LINK = r"run/x: a link or a file stands where a directory should: remove it, or name a directory of your own"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory."""
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(path))
    return path


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, and ends with the test."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else, as far as flock(2) tells, holds the directory.  The kernel names this very process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_record(directory: Path, pid: int, **more: object) -> None:
    record = {"pid": pid, "started": start_time(pid), "config": "/x", "digest": "y", **more}
    (directory / "state.json").write_text(json.dumps(record))


@pytest.mark.parametrize("whose", ["run", "run/x"])
def test_root_does_not_believe_what_somebody_else_wrote(run: Path, victim: subprocess.Popen[bytes], whose: str) -> None:
    (run / "x").mkdir(mode=0o755)
    write_record(run / "x", victim.pid)
    os.chown(run.parent / whose, NOBODY, NOBODY)
    with locked(run / "x"):
        for command in (instances, lambda: launch.stop("x", lambda _: []), lambda: claim("x")):
            with pytest.raises(InstanceError, match=BELONGS):
                command()
    assert victim.poll() is None


def test_only_who_holds_the_lock_is_signalled(run: Path, victim: subprocess.Popen[bytes]) -> None:
    """The record names a process that lives, with its right start time.  It is another one."""
    (run / "x").mkdir(mode=0o700)
    write_record(run / "x", victim.pid)
    with locked(run / "x"), pytest.raises(InstanceError, match=f"^instance x: process {os.getpid()} does not end$"):
        Instance("x").stop(grace=0.05)
    assert victim.poll() is None


def test_a_number_that_another_process_has_by_now_is_not_signalled(
    run: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel names the process that took the lock, also when it has gone and a child of it holds the lock."""
    (run / "x").mkdir(mode=0o700)
    found = (run / "x").stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    locks = run.parent / "locks"
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE {victim.pid} {device}:{found.st_ino} 0 EOF\n")
    monkeypatch.setattr("rsock_nf.ops.instances.lock._LOCKS", locks)
    monkeypatch.setattr("rsock_nf.ops.instances.lock._identity", lambda _: (divided(found.st_dev), found.st_ino))
    with locked(run / "x"), pytest.raises(InstanceError, match="somebody holds a lock on"):
        Instance("x").stop(grace=0.05)
    assert victim.poll() is None


def divided(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def test_where_the_kernel_names_no_holder_the_start_time_has_to_be_right(
    run: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on BSD and macOS, where ps(1) tells it."""
    monkeypatch.setattr("rsock_nf.ops.instances.lock._LOCKS", Path("/nowhere"))
    monkeypatch.setattr("rsock_nf.ops.instances.processes._PROC", Path("/nowhere"))
    started = start_time(victim.pid)
    assert started is None or re.fullmatch(r"\w{3} \w{3} \d+ [\d:]{8} \d{4}", started)
    (run / "x").mkdir(mode=0o700)
    write_record(run / "x", victim.pid, started="Thu Jan 1 00:00:00 1970")
    with locked(run / "x"), pytest.raises(InstanceError, match="somebody holds a lock on"):
        Instance("x").stop(grace=0.05)
    assert victim.poll() is None


@contextlib.contextmanager
def no_more() -> Iterator[None]:
    yield


def claim(name: str) -> None:
    with Instance(name).claim(Path("/x"), "digest"):
        pass


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        lambda: launch.stop("x", lambda _: []),
        lambda: claim("x"),
        lambda: Instance("x").discard(),
        lambda: Instance("x").exists(),
    ],
    ids=["down", "up", "remains", "status"],
)
def test_a_link_in_the_place_of_a_directory_is_refused(run: Path, command: Callable[[], object], *, held: bool) -> None:
    target = run.parent / "precious"
    target.mkdir(mode=0o755)
    (target / "file").write_text("of root's")
    (run / "x").symlink_to(target)
    with locked(target) if held else no_more(), pytest.raises(InstanceError, match=LINK):
        command()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert target.stat().st_mode & 0o777 == 0o755
    assert instances() == []


def test_what_is_removed_is_removed_without_following_links(run: Path) -> None:
    (run.parent / "precious").mkdir()
    (run.parent / "precious/file").write_text("of root's")
    (run / "x/deep").mkdir(parents=True)
    (run / "x/deep/link").symlink_to(run.parent / "precious")
    (run / "x/link").symlink_to(run.parent / "precious")
    assert Instance("x").discard()
    assert list(run.iterdir()) == []
    assert (run.parent / "precious/file").exists()


def test_directories_are_for_their_owner_whatever_the_mask_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "above/run"))
    before = os.umask(0)
    try:
        with Instance("x").claim(Path("/x"), "digest"):
            made = [tmp_path / "above", tmp_path / "above/run", tmp_path / "above/run/x"]
            assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3
            assert Instance("x").state_path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_directory_that_others_can_write_is_refused(run: Path) -> None:
    (run / "x").mkdir()
    elsewhere = f"name a directory of your own in {RUN_DIR_VARIABLE}"
    for directory, mode in ((run, 0o777), (run, 0o1777), (run / "x", 0o770), (run.parent, 0o777)):
        usual = directory.stat().st_mode & 0o7777
        directory.chmod(mode)
        remedy = elsewhere if mode == 0o1777 else f"chmod go-w {directory}, or {elsewhere}"
        with pytest.raises(InstanceError) as refused:
            Instance("x").exists()
        assert str(refused.value) == f"{directory}: others can write it (owner user root, mode {mode:04o}): {remedy}"
        directory.chmod(usual)
    run.parent.chmod(0o1777)
    assert not Instance("x").exists(), "as /tmp is: nobody else can rename what is in it"


def test_links_above_are_followed_if_they_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/run/x").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/../real")
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "link/run"))
    assert not Instance("x").exists()
    os.lchown(tmp_path / "link", NOBODY, NOBODY)
    with pytest.raises(
        InstanceError, match="link: is a link that belongs to user nobody: name a directory of your own"
    ):
        Instance("x").exists()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "loop/run"))
    with pytest.raises(InstanceError, match="a link or a file stands where a directory should"):
        Instance("x").exists()


def test_a_dot_in_a_link_is_where_the_link_is(tmp_path: Path) -> None:
    (tmp_path / "real/real").mkdir(parents=True)
    (tmp_path / "dotted").symlink_to("././real/.")
    with opened(tmp_path / "dotted/real") as found:
        assert os.path.samestat(os.fstat(found), (tmp_path / "real/real").stat())
    # What has the name of the directory that it is in is not looked at for the dot.
    (tmp_path / "real/real").rmdir()
    (tmp_path / "real/real").symlink_to("/etc")
    with opened(tmp_path / "dotted") as found:
        assert os.path.samestat(os.fstat(found), (tmp_path / "real").stat())


@pytest.mark.parametrize("target", [".", "./", "{tmp_path}/.", "x/.."])
def test_a_link_back_to_a_directory_on_the_way_does_not_make_it_trusted(tmp_path: Path, target: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(target.format(tmp_path=tmp_path))
    tmp_path.chmod(0o1777)
    with pytest.raises(trust.DistrustError, match=r"others can write it \(owner user root, mode 1777\)$"):
        os.close(trust.open_path(tmp_path / "link"))
    os.close(trust.open_path(tmp_path / "link", sticky=True))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = trust.open_path(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_group_of_the_systems_own_may_write_above(run: Path) -> None:
    """As "daemon" may in /var/run of macOS."""
    run.parent.chmod(0o770)
    os.chown(run.parent, 0, 1)
    os.close(trust.open_path(run, groups=(1,)))
    for owner, group, mode in ((0, 4242, 0o770), (0, 1, 0o777), (NOBODY, 1, 0o770)):
        os.chown(run.parent, owner, group)
        run.parent.chmod(mode)
        with pytest.raises(trust.DistrustError):
            trust.open_path(run, groups=(1,))
    os.chown(run, 0, 1)
    run.chmod(0o770)
    run.parent.chmod(0o700)
    os.chown(run.parent, 0, 0)
    with pytest.raises(trust.DistrustError):
        trust.open_path(run, groups=(1,))


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_no_escape_from_a_record_or_a_name_reaches_the_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", f"y{ESCAPES}"):
        (run / name).mkdir()
        write_record(run / name, 1, ended=f"why\n{ESCAPES}", config=ESCAPES)
    for command in (["status"], ["status", "--json"], ["down", "--name", f"y{ESCAPES}"], ["down", "--config", "/x"]):
        main(command)
        said = "".join(capsys.readouterr())
        assert said
        assert said.replace("\n", "").isprintable()
    main(["status"])
    assert r"why\u000a\u001b]0;owned\u0007\u001b[2J\u009b31m\u202e" in capsys.readouterr().out


def test_no_escape_reaches_who_reads_the_log(run: Path) -> None:
    """A traceback keeps its lines."""
    log = InstanceLog("x", Log("info", run / "file"), None)
    try:
        int(ESCAPES)
    except ValueError:
        log.logger.exception("peer %s", ESCAPES)
    log.close()
    lines = (run / "file").read_text().splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith(r"peer \u001b]0;owned\u0007\u001b[2J\u009b31m\u202e")
    assert lines[1] == "Traceback (most recent call last):"


def test_what_is_printable_stays() -> None:
    assert printable("Grüße, 世界: 5 %") == "Grüße, 世界: 5 %"
    assert printable("a\nb\tc", keep="\n") == "a\nb\\u0009c"
    assert printable("\U000e0041\udc80") == r"\U000e0041\udc80"


@contextlib.contextmanager
def lying(run: Path, speak: Callable[[socket.socket, threading.Event], None]) -> Iterator[Instance]:
    """An instance whose control socket says what ``speak`` sends."""
    (run / "x").mkdir(mode=0o700)
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            speak(connection, over)

    with locked(run / "x"), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / "x/control"))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield Instance("x")
        over.set()
        thread.join()


def test_an_endless_answer_is_cut_off(run: Path) -> None:
    def endless(connection: socket.socket, _: threading.Event) -> None:
        for _part in range(1000):
            connection.sendall(bytes(100_000))

    refused = "^instance x: its answer is larger than 16 MiB$"
    with lying(run, endless) as instance, pytest.raises(ControlError, match=refused):
        ask(instance, "status", timeout=60)


def test_an_answer_that_drips_has_to_be_whole_in_time(run: Path) -> None:
    def drip(connection: socket.socket, over: threading.Event) -> None:
        for _part in range(200):
            if not over.wait(0.02):
                connection.sendall(b" ")

    with lying(run, drip) as instance, pytest.raises(ControlError, match=r"^instance x does not answer within 0.2 s$"):
        ask(instance, "status", timeout=0.2)


def test_an_answer_of_escapes_is_spelt_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def escapes(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(json.dumps({"ok": False, "error": ESCAPES}).encode() + b"\n")

    with lying(run, escapes):
        main(["status", "--name", "x"])
    assert r"silent: instance x: \u001b]0;owned\u0007" in capsys.readouterr().out
