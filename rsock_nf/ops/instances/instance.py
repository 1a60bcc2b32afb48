"""One instance's directory, ``/run/rsock-nf/<name>/``: who holds it, and since when.

Whether an instance runs is told by one thing only: somebody holds an ``flock(2)`` on the directory.  The kernel drops
it with its holder, so a crash, ``kill -9`` or a reboot leaves files, but never a lock.  ``state.json`` says more about
the holder, or about the last one, if that did not end in order.  The log outlives the instance, and ``down``.

Not here: starting and stopping (``launch``), talking to the holder (``control_socket``), and finding one whose
directory was deleted (``processes``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsock_nf.errors import InstanceError
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.processes import instance_processes, signal_and_wait
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir

_LOGS = {"log", "log.1"}
_PID_MAX = (1 << 31) - 1  # pid_t is an int
_UNSETTLED = 0.01
"""Seconds until another look, where microseconds would do: a record follows its lock, a look at a lock ends."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the holder of an instance says about itself."""

    pid: int
    started: str | None
    """The process's start time as the kernel writes it (proc(5), stat field 22), or None: tells a reused pid."""
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
        self.control_path = self.directory / "control"
        self.log_path = self.directory / "log"
        self.state_path = self.directory / "state.json"
        self._ended: str | None = None

    def __repr__(self) -> str:
        return f"Instance({self.name!r})"

    @contextlib.contextmanager
    def claim(self, config: Path, digest: str) -> Iterator[None]:
        """Be the instance: hold the lock, and at the end remove all but the log, and after ``fail`` but the record.

        Raises ``InstanceError`` when somebody else is, or when the files cannot be made.
        """
        descriptor = self._lock_new()
        record = Record(os.getpid(), _start_time(os.getpid()), str(config), digest, namespaces.current())
        try:
            try:
                self.control_path.unlink(missing_ok=True)
                self._write(record)
            except OSError as error:
                raise InstanceError(f"{self.state_path}: cannot be written: {error.strerror}") from None
            yield
        finally:
            try:
                # Unless the directory was deleted, and another holds its name by now.
                with contextlib.suppress(OSError):
                    if os.fstat(descriptor).st_ino == self.directory.stat().st_ino:
                        if self._ended is None:
                            self._remove_files()
                        else:  # the directory stays: one that is made anew could be another holder's
                            for path in (self.control_path, self.state_path):  # on a full disk that makes room
                                path.unlink(missing_ok=True)
                            self._write(dataclasses.replace(record, ended=self._ended))
            finally:
                os.close(descriptor)

    def fail(self, reason: str) -> None:
        """To be called by the holder: it ends by an error, which the record is to tell."""
        self._ended = reason

    def exists(self) -> bool:
        """Whether it runs, or has left more than a log.

        Raises ``InstanceError`` when its directory is another user's.
        """
        return self.is_running() or self.state_path.exists() or self.control_path.exists()

    def is_running(self) -> bool:
        """Whether somebody holds the lock at this moment."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def record(self) -> Record | None:
        """What the holder wrote, or the last one; None when there is nothing, or when it makes no sense."""
        try:
            written: dict[str, Any] = json.loads(self.state_path.read_text())
            well = all(isinstance(written[name], kind) for name, kind in _REQUIRED.items()) and all(
                written.get(name) is None or isinstance(written[name], kind) for name, kind in _OPTIONAL.items()
            )
            if not well or not 0 < written["pid"] <= _PID_MAX:
                return None
            known = _REQUIRED.keys() | _OPTIONAL.keys()  # a later version says more
            return Record(**{name: value for name, value in written.items() if name in known})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

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
            what = (
                "not end"
                if holder
                else f"{self.directory}, and {self.state_path.name} does not tell who: fuser -v there does"
            )
            raise InstanceError(f"instance {self.name}: {whose} {what}")
        return True

    def discard(self) -> bool:
        """Remove what a dead holder left, except its log.  False when there was nothing, or when the holder lives."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._remove_files()
        except BlockingIOError:
            return False
        except OSError as error:
            raise InstanceError(f"{self.directory}: cannot be removed: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _remove_files(self) -> bool:
        """All but logs, and the directory if there is none; whether there was anything.  Raises ``OSError``."""
        others = [entry for entry in self.directory.iterdir() if entry.name not in _LOGS]
        for entry in others:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        with contextlib.suppress(OSError):  # not empty: there is a log
            self.directory.rmdir()
            return True
        return bool(others)

    def _write(self, record: Record) -> None:
        temporary = self.state_path.with_suffix(".new")
        temporary.write_text(json.dumps(dataclasses.asdict(record)) + "\n")
        temporary.replace(self.state_path)

    def _holder(self) -> int | None:
        """The process that holds the lock: from the record or, if that is lost or wrong, from the kernel."""
        record = self.record()
        if record and _start_time(record.pid) == record.started:
            return record.pid
        return next(
            (found.pid for found in instance_processes() if found.name == self.name and not found.deleted), None
        )

    def _signal_and_wait(self, number: signal.Signals, timeout: float) -> None:
        """Signal the holder and wait for its end, at most ``timeout`` seconds; return early if it is not known yet."""
        pid = self._holder()
        # ``signal_and_wait`` asks again once it has a descriptor of the process: so a reused pid cannot be hit.
        if pid in (None, os.getpid()) or not signal_and_wait(
            pid, number, timeout, lambda: self._holder() == pid and self.is_running()
        ):
            time.sleep(_UNSETTLED)

    def _open(self) -> int | None:
        try:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InstanceError(f"{self.directory}: {error.strerror}{_remedy(error)}") from None

    def _lock_new(self) -> int:
        """Lock the directory, made if it is not there, for ourselves alone."""
        deadline = time.monotonic() + 0.5
        while True:
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise InstanceError(f"{self.directory}: cannot be made: {error.strerror}{_remedy(error)}") from None
            descriptor = self._open()
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
                if os.fstat(descriptor).st_ino == self.directory.stat().st_ino:
                    os.fchmod(descriptor, 0o700)
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(descriptor)
                raise InstanceError(f"{self.directory}: cannot be ours alone: {error.strerror}") from None
            os.close(descriptor)


def instances() -> list[Instance]:
    """Every instance that runs or has left more than a log, by name."""
    try:
        found = [Instance(entry.name) for entry in sorted(run_dir().iterdir()) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InstanceError(f"{run_dir()}: {error.strerror}{_remedy(error)}") from None
    return [instance for instance in found if instance.exists()]


def remove_run_dir() -> None:
    """Remove the parent directory when the last instance is gone."""
    with contextlib.suppress(OSError):
        run_dir().rmdir()


def _remedy(error: OSError) -> str:
    if error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    return f" (are you root? Otherwise name a directory of your own in {RUN_DIR_VARIABLE})"


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/pid/stat, clock ticks since boot; None where there is no such file."""
    try:
        # The second field is the command in parentheses, which may itself hold blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
