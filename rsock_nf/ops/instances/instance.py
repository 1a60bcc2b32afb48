"""One instance's directory, ``/run/rsock-nf/<name>/``: who holds it, and since when.

Whether an instance runs is told by one thing only: somebody holds an ``flock(2)`` on the directory.  The kernel drops
it with its holder and the workers of that, so a crash, ``kill -9`` or a reboot leaves files, but never a lock.
``state.json`` says more about the holder, or about the last one, if that did not end in order.  The log outlives the
instance, and ``down``.

The directory is opened only where nobody else can change it (``trust``), and its files only by its descriptor.  A
holder that root has started may have become another user, who can change nothing in there.  So its record stays open;
when the holder ends in order, and cannot remove the record, it empties it.

Not here: starting and stopping (``launch``), talking to the holder (``control_socket``), the holder's number
(``lock``), and finding one whose directory was deleted (``processes``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsock_nf import trust
from rsock_nf.errors import InstanceError
from rsock_nf.link import system
from rsock_nf.ops.instances import lock, namespaces
from rsock_nf.ops.instances.processes import InstanceProcess, instance_processes, signal_and_wait, start_time
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir

_STATE = "state.json"
_CONTROL = "control"
_LOGS = {"log", "log.1"}
_RECORD_BYTES = 64 << 10
_PID_MAX = (1 << 31) - 1  # pid_t is an int
KEPT_LOGS = 5
"""Instances that have ended, of which the logs are kept: the newest ones."""
_UNSETTLED = 0.01
"""Seconds until another look, where microseconds would do: a record follows its lock, a look at a lock ends."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the holder of an instance says about itself."""

    pid: int
    started: str | None
    """``processes.start_time`` of the process, or None: tells a reused pid."""
    config: str
    """The configuration file, absolute."""
    digest: str
    """``Settings.digest``."""
    netns: int | None = None
    """``namespaces.current()`` of the holder: where its rules are."""
    ended: str | None = None
    """Why it ended, if by an error of its own after it had stood; its rules went with it."""


_REQUIRED = {"pid": int, "config": str, "digest": str}
_OPTIONAL = {"started": str, "netns": int, "ended": str}


class Instance:
    """The name of an instance, and what the file system knows of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = run_dir() / name
        self.control_path = self.directory / _CONTROL
        self.log_path = self.directory / "log"
        self.state_path = self.directory / _STATE
        self.lock = -1
        """Of the holder: the descriptor that holds the lock.  A child that has it holds it, too."""
        self._ended: str | None = None
        self._own: tuple[int, Record] | None = None
        """Of the holder: its record, and a descriptor of it."""

    def __repr__(self) -> str:
        return f"Instance({self.name!r})"

    @contextlib.contextmanager
    def claim(self, config: Path, digest: str) -> Iterator[None]:
        """Be the instance: hold the lock, and at the end remove all but the log, and after ``fail`` but the record.

        Raises ``InstanceError`` when somebody else is, or when the files cannot be made.
        """
        descriptor = self._lock_new()
        record = Record(os.getpid(), start_time(os.getpid()), str(config), digest, namespaces.current())
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            self.lock = descriptor
            try:
                _unlink(_CONTROL, descriptor)
                written = _write(descriptor, record)
            except OSError as error:
                raise InstanceError(f"{self.state_path}: cannot be written: {error.strerror}") from None
            stack.callback(os.close, written)
            self._own = written, record
            stack.callback(self._leave, descriptor)
            yield

    def renew(self, digest: str) -> None:
        """To be called by the holder: it follows another configuration now."""
        if self._own is None:
            return
        written, record = self._own
        record = dataclasses.replace(record, digest=digest)
        self._own = written, record
        with contextlib.suppress(OSError):  # of a full disk; digests have one length, so it is in its place
            os.pwrite(written, _packed(record), 0)

    def _leave(self, descriptor: int) -> None:
        """Be no longer the instance whose directory this is."""
        if self._own is None:
            return
        (written, record), self._own = self._own, None
        with contextlib.suppress(OSError):
            if self._ended is None:
                os.ftruncate(written, 0)
            else:  # in its place, which a full disk has
                os.pwrite(written, _packed(dataclasses.replace(record, ended=self._ended)), 0)
        with contextlib.suppress(OSError, InstanceError):  # of root's files, if we are somebody else by now
            if self._is_here(descriptor):  # it was not deleted, and no other has its name by now
                if self._ended is None:
                    self._remove_files(descriptor)
                else:  # the directory stays: one that is made anew could be another holder's
                    _unlink(_CONTROL, descriptor)

    def fail(self, reason: str) -> None:
        """To be called by the holder: it ends by an error, which the record is to tell."""
        self._ended = reason

    def exists(self) -> bool:
        """Whether it runs, or has left more than a log.

        Raises ``InstanceError`` when its directory is another user's, as every method does that looks into it.
        """
        with self._opened() as descriptor:
            return descriptor is not None and (_is_locked(descriptor) or _has_left(descriptor))

    def has_record(self) -> bool:
        """Whether there is a record, be it one that makes sense or not."""
        with self._opened() as descriptor:
            return descriptor is not None and _holds(descriptor, _STATE)

    def is_own(self) -> bool:
        """Whether its directory is this user's, or there is none."""
        with self._opened() as descriptor:
            return descriptor is None or os.fstat(descriptor).st_uid == os.geteuid()

    def is_running(self) -> bool:
        """Whether somebody holds the lock at this moment."""
        with self._opened() as descriptor:
            return descriptor is not None and _is_locked(descriptor)

    def await_workers(self, patience: float) -> None:
        """Of an instance that was killed, wait for the end of its workers, at most ``patience`` seconds.

        They hold the lock, too, and end by themselves.  Raises ``InstanceError`` if they do not.
        """
        deadline = time.monotonic() + patience
        while self.is_running() and self._is_outlived():
            if time.monotonic() > deadline:
                raise InstanceError(
                    f"instance {self.name}: its workers have not ended: rsock-nf down --name {self.name}"
                )
            time.sleep(_UNSETTLED)

    def _is_outlived(self) -> bool:
        """Whether the process that wrote the record has gone: who holds the lock now is a worker of it."""
        record = self.record()
        return record is not None and record.started is not None and start_time(record.pid) != record.started

    def record(self) -> Record | None:
        """What the holder wrote, or the last one; None when there is nothing, or when it makes no sense."""
        with self._opened() as descriptor:
            return None if descriptor is None else _read(descriptor)

    def stop(self, *, grace: float = 5.0) -> bool:
        """End the holder: SIGTERM, after ``grace`` seconds SIGKILL.  False when nobody held the instance.

        Raises ``InstanceError`` when it may not be signalled or does not go.
        """
        if not self.is_running():
            return False
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
            deadline = time.monotonic() + patience
            while self.is_running() and (left := deadline - time.monotonic()) > 0:
                self._signal_and_wait(number, left)
        if self.is_running():
            holder = self._holder()
            whose = f"process {holder} does" if holder else "somebody holds a lock on"
            what = "not end" if holder else f"{self.directory}, and nothing tells whose: fuser -v there does"
            raise InstanceError(f"instance {self.name}: {whose} {what}")
        return True

    def discard(self) -> bool:
        """Remove what a dead holder left, except its log.  False when there was nothing, or when the holder lives."""
        with self._opened() as descriptor:
            if descriptor is None:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._remove_files(descriptor)
            except BlockingIOError:
                return False
            except OSError as error:
                raise InstanceError(f"{self.directory}: cannot be removed: {error.strerror}") from None

    def forget(self) -> None:
        """Remove all that a dead holder left, also its log."""
        with contextlib.suppress(OSError, InstanceError), self._opened() as descriptor:
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in _LOGS:
                    _unlink(name, descriptor)
                self._remove_files(descriptor)

    def _remove_files(self, descriptor: int) -> bool:
        """All but logs, and the directory if there is none; whether there was anything.  Raises ``OSError``."""
        others = [name for name in os.listdir(descriptor) if name not in _LOGS]
        for name in others:
            trust.remove(descriptor, name)
        with contextlib.suppress(OSError), _opened_run_dir() as parent:  # not empty: there is a log
            os.rmdir(self.name, dir_fd=parent)
            return True
        return bool(others)

    def _is_here(self, descriptor: int) -> bool:
        """Whether the name stands for this very directory."""
        with _opened_run_dir() as parent:
            found, own = os.stat(self.name, dir_fd=parent, follow_symlinks=False), os.fstat(descriptor)
            return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def _holder(self) -> int | None:
        """The process that holds the lock, as the kernel says; where that cannot be asked, as the record says."""
        with self._opened() as descriptor:
            if descriptor is None or not _is_locked(descriptor):
                return None
            if lock.kernel_names_holders():
                return lock.holder(descriptor)
            record = _read(descriptor)
            return record.pid if record and start_time(record.pid) == record.started else None

    def _signal_and_wait(self, number: signal.Signals, timeout: float) -> None:
        """Signal the holder and wait for its end, at most ``timeout`` seconds; return early if it is not known yet."""
        pid = self._holder()
        if number is signal.SIGKILL and self._is_outlived():  # a killed instance, of which workers hang
            own = os.getpid()
            for worker in [one for one in instance_processes() if one.name == self.name and one.pid != own]:
                signal_and_wait(worker.pid, number, timeout, functools.partial(_is_there, worker))
        # ``signal_and_wait`` asks again once it has a descriptor of the process: so a reused pid cannot be hit.
        if pid in (None, os.getpid()) or not signal_and_wait(pid, number, timeout, lambda: self._holder() == pid):
            time.sleep(_UNSETTLED)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor of the directory; None = there is none.  Raises ``InstanceError`` if it is not to be trusted."""
        try:
            with _opened_run_dir() as parent:
                descriptor = self._open(parent)
        except FileNotFoundError:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock_new(self) -> int:
        """Lock the directory, made if it is not there, for ourselves alone."""
        deadline = time.monotonic() + 0.5
        while True:
            descriptor = self._made()
            if descriptor is None:
                continue  # removed by its last holder just now
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                # A look by ``is_running`` holds the lock for microseconds; a running instance for good.
                if time.monotonic() > deadline:
                    raise InstanceError(f"instance {self.name} is already running") from None
                time.sleep(_UNSETTLED)
                continue
            # The name may stand for a newer directory by now.
            try:
                if self._is_here(descriptor):
                    os.fchmod(descriptor, 0o700)
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(descriptor)
                raise InstanceError(f"{self.directory}: cannot be ours alone: {error.strerror}") from None
            os.close(descriptor)

    def _open(self, parent: int, *, make: bool = False) -> int:
        with _refusals_told(self.directory):
            return trust.open_inside(parent, self.name, self.directory, make=make)

    def _made(self) -> int | None:
        try:
            with _opened_run_dir(make=True) as parent:
                return self._open(parent, make=True)
        except FileNotFoundError:
            return None


def instances() -> list[Instance]:
    """Every instance that runs or has left more than a log, by name.

    Raises ``InstanceError`` when the run directory, or one in it, belongs to somebody else or can be written by others.
    """
    try:
        with _opened_run_dir() as parent:
            entries = sorted(os.listdir(parent))  # noqa: PTH208 - of a descriptor
            names = [name for name in entries if _is_directory(parent, name)]
    except FileNotFoundError:
        return []
    return [instance for instance in map(Instance, names) if instance.exists()]


def forget_old_logs() -> None:
    """Forget the instances that have left a log alone, all but ``KEPT_LOGS`` of them."""
    found = []
    with contextlib.suppress(OSError, InstanceError), _opened_run_dir() as parent:
        for name in os.listdir(parent):  # noqa: PTH208 - of a descriptor
            with contextlib.suppress(OSError, InstanceError):
                if _is_directory(parent, name) and not (one := Instance(name)).exists():
                    found.append((one.log_path.stat().st_mtime, name))
    for _, name in sorted(found)[:-KEPT_LOGS]:
        Instance(name).forget()


def clear_ended() -> None:
    """Remove what instances left that have ended in order as another user, who can remove nothing.  Logs stay."""
    with contextlib.suppress(OSError, InstanceError), _opened_run_dir() as parent:
        for name in os.listdir(parent):  # noqa: PTH208 - of a descriptor
            with contextlib.suppress(OSError, InstanceError):
                if _is_directory(parent, name) and not (one := Instance(name)).exists():
                    one.discard()


def remove_run_dir() -> None:
    """Remove the parent directory when the last instance is gone."""
    with contextlib.suppress(OSError, InstanceError), _opened_run_dir():
        run_dir().rmdir()


@contextlib.contextmanager
def _opened_run_dir(*, make: bool = False) -> Iterator[int]:
    """A descriptor of the run directory.  Raises ``FileNotFoundError``, ``InstanceError``."""
    with _refusals_told(run_dir()):
        descriptor = trust.open_path(run_dir(), make=make, groups=system().run_directory_groups)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    """Make an ``InstanceError`` of every reason why directory ``path`` cannot be used, but of its absence."""
    elsewhere = f"name a directory of your own in {RUN_DIR_VARIABLE}"
    try:
        yield
    except FileNotFoundError:
        raise
    except trust.DistrustError as error:
        raise InstanceError(f"{error}: {', or '.join([*error.remedies, elsewhere])}") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):  # FreeBSD's open(2) says EMLINK
            what = "a link or a file stands where a directory should: remove it"
            raise InstanceError(f"{path}: {what}, or {elsewhere}") from None
        denied = error.errno in (errno.EACCES, errno.EPERM)
        remedy = f" (are you root? Otherwise {elsewhere})" if denied else ""
        raise InstanceError(f"{path}: {error.strerror}{remedy}") from None


def _is_there(process: InstanceProcess) -> bool:
    return process in instance_processes()


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _is_locked(descriptor: int) -> bool:
    """Whether somebody else holds the lock.  Whoever holds it with another descriptor is somebody else."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _holds(descriptor: int, name: str) -> bool:
    return name in os.listdir(descriptor)


def _has_left(descriptor: int) -> bool:
    """Whether a holder that ended has left more here than a log.  An empty record says that it ended in order."""
    try:
        return os.stat(_STATE, dir_fd=descriptor, follow_symlinks=False).st_size > 0
    except FileNotFoundError:
        return _holds(descriptor, _CONTROL)


def _unlink(name: str, descriptor: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=descriptor)


def _read(descriptor: int) -> Record | None:
    """The record in this directory; None when there is none, or when it makes no sense."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(_STATE, flags, dir_fd=descriptor), "rb") as file:
            written: dict[str, Any] = json.loads(file.read(_RECORD_BYTES))
        well = all(isinstance(written[name], kind) for name, kind in _REQUIRED.items()) and all(
            written.get(name) is None or isinstance(written[name], kind) for name, kind in _OPTIONAL.items()
        )
        if not well or not 0 < written["pid"] <= _PID_MAX:
            return None
        known = _REQUIRED.keys() | _OPTIONAL.keys()  # a later version says more
        return Record(**{name: value for name, value in written.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _packed(record: Record) -> bytes:
    return json.dumps(dataclasses.asdict(record)).encode() + b"\n"


def _write(descriptor: int, record: Record) -> int:
    """Put the record in the place of the one that is there.  A descriptor of it.  Raises ``OSError``."""
    temporary = f"{_STATE}.new"
    _unlink(temporary, descriptor)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    written = os.open(temporary, flags, 0o600, dir_fd=descriptor)
    try:
        os.write(written, _packed(record))
        os.replace(temporary, _STATE, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except BaseException:
        os.close(written)
        raise
    return written
