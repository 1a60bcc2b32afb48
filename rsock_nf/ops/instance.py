"""One instance's directory, ``/run/rsock-nf/<name>/``: who holds it, and since when.

Whether an instance runs is told by one thing only: somebody holds an ``flock(2)`` on the directory.  The kernel drops
it with its holder, so a crash, ``kill -9`` or a reboot leaves files, but never a lock.  ``state.json`` says more about
the holder; it is believed only while the lock is held.

Not here: starting and stopping (``launch``), and talking to the holder (``control``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rsock_nf.errors import InstanceError

RUN_DIR_VARIABLE = "RSOCK_NF_RUN_DIR"
"""Overrides ``/run/rsock-nf``: for tests, and for instances in network namespaces."""
_UNSETTLED = 0.01
"""Seconds to look again: between a holder's lock and its record, or a look at the lock and its end, microseconds pass."""


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


class Instance:
    """The name of an instance, and what the file system knows of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = run_dir() / name
        self.control_path = self.directory / "control"
        self.log_path = self.directory / "log"
        self._state_path = self.directory / "state.json"

    def __repr__(self) -> str:
        return f"Instance({self.name!r})"

    @contextlib.contextmanager
    def claim(self, config: Path, digest: str) -> Iterator[None]:
        """Be the instance: hold the lock, and remove the directory at the end.  After an exception the log stays.

        Raises ``InstanceError`` when somebody else is, or when the directory cannot be made.
        """
        descriptor = self._lock_new()
        try:
            self.control_path.unlink(missing_ok=True)
            record = Record(os.getpid(), _start_time(os.getpid()), str(config), digest)
            temporary = self._state_path.with_suffix(".new")
            temporary.write_text(json.dumps(dataclasses.asdict(record)) + "\n")
            temporary.replace(self._state_path)
            try:
                yield
            except BaseException:
                for path in (self.control_path, self._state_path):
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: there is a log
                    self.directory.rmdir()
                raise
            shutil.rmtree(self.directory, ignore_errors=True)
        finally:
            os.close(descriptor)

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
        """What the holder wrote; None when it has not yet, or when there is nothing to read."""
        try:
            return Record(**json.loads(self._state_path.read_text()))
        except (OSError, ValueError, TypeError):
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
            raise InstanceError(f"instance {self.name}: its process does not end")
        return True

    def discard(self) -> bool:
        """Remove what a dead holder left; False when there was nothing.  A live one's files are not touched."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.directory)
        except BlockingIOError:
            return False
        except OSError as error:
            raise InstanceError(f"{self.directory}: cannot be removed: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return True

    def _signal_and_wait(self, number: signal.Signals, timeout: float) -> None:
        """Send to the holder and wait for its end, at most ``timeout`` seconds; returns early if it is not known yet."""
        record = self.record()
        try:
            process = os.pidfd_open(record.pid) if record else -1
        except ProcessLookupError:
            process = -1
        if record is None or process < 0:
            time.sleep(_UNSETTLED)
            return
        try:
            # The descriptor stands for one process.  If that one is what the record says, and the lock is still held,
            # no reused pid can be hit.
            if _start_time(record.pid) == record.started and self.is_running():
                signal.pidfd_send_signal(process, number)
                select.select([process], [], [], timeout)
            else:
                time.sleep(_UNSETTLED)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise InstanceError(f"instance {self.name}: process {record.pid} belongs to another user") from None
        finally:
            os.close(process)

    def _open(self) -> int | None:
        try:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InstanceError(f"{self.directory}: {error.strerror} (are you root?)") from None

    def _lock_new(self) -> int:
        """Lock the directory, made if it is not there, for ourselves alone."""
        deadline = time.monotonic() + 0.5
        while True:
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise InstanceError(f"{self.directory}: cannot be made: {error.strerror} (are you root?)") from None
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
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == self.directory.stat().st_ino:
                    self.directory.chmod(0o700)
                    return descriptor
            os.close(descriptor)


def run_dir() -> Path:
    """Where the instances' directories are."""
    return Path(os.environ.get(RUN_DIR_VARIABLE, "/run/rsock-nf"))


def instances() -> list[Instance]:
    """Every instance that has a directory, running or not, by name."""
    try:
        return [Instance(entry.name) for entry in sorted(run_dir().iterdir()) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InstanceError(f"{run_dir()}: {error.strerror} (are you root?)") from None


def remove_run_dir() -> None:
    """Remove the parent directory when the last instance is gone."""
    with contextlib.suppress(OSError):
        run_dir().rmdir()


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/pid/stat, clock ticks since boot; None where there is no such file."""
    try:
        # The second field is the command in parentheses, which may itself hold blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
