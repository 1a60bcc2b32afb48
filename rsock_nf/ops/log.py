"""Log lines of one instance: to standard error or to a file, from a level on.

The level and the file can change while it runs (SIGHUP).  Nothing secret is ever passed to a logger: ``Settings`` has
no secret in its representation, and keys are never formatted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

from rsock_nf.errors import TunnelError
from rsock_nf.ops.journald import DEBUG, ERROR, INFO, WARNING, marked, on_journal
from rsock_nf.printable import printable
from rsock_nf.settings import Log

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_KEPT_BYTES = 1 << 20
"""The most bytes of the default log: /run is memory."""
_IN_DIRECTORY = "rsock.log"
"""The file's name when the settings name a directory: the original rsock's."""
_TIME = "%Y-%m-%dT%H:%M:%S%z"


class InstanceLog:
    """The logger of one instance, and where its lines go."""

    def __init__(self, name: str, settings: Log, default: Path | None) -> None:
        """``default``: the file when the settings name none, kept small; None = standard error.

        Raises ``TunnelError``.
        """
        self._default = default
        self._handler: logging.Handler = logging.NullHandler()
        self.logger = logging.getLogger(f"rsock_nf.{name}")
        self.logger.propagate = False
        self.apply(settings)

    def apply(self, settings: Log) -> None:
        """Take this level, and open the file anew (which is what log rotation wants).

        The default log stays open if it is root's and we are another user by now.
        Raises ``TunnelError`` when a file cannot be opened; the old one then stays.
        """
        handler = self._opened(settings.file)
        self.logger.setLevel(settings.level.upper())
        if handler is None:
            return
        on_stderr = not isinstance(handler, logging.FileHandler)
        handler.setFormatter(_ForJournal() if on_stderr and on_journal() else _Printable(_FORMAT, _TIME))
        self.logger.addHandler(handler)
        self.close()
        self._handler = handler
        if settings.file and self.file != str(settings.file.absolute()):
            self.logger.info("log.file: %s is a directory: log lines go to %s", settings.file, self.file)

    def _opened(self, named: Path | None) -> logging.Handler | None:
        """What writes to the named file; None = it goes on with what it has."""
        if named:
            return _open(_File, named, "log.file")
        if self._default is None:
            return logging.StreamHandler(sys.stderr)
        try:
            return _open(_SmallFile, self._default, "log")
        except _DeniedError:
            if isinstance(self._handler, _SmallFile):
                return None
            raise

    @property
    def file(self) -> str:
        """Where lines go, for people."""
        return self._handler.baseFilename if isinstance(self._handler, logging.FileHandler) else "standard error"

    @property
    def on_stderr(self) -> bool:
        """Whether lines go to standard error."""
        return not isinstance(self._handler, logging.FileHandler)

    def close(self) -> None:
        """Write out and let go of the file.  Idempotent."""
        self.logger.removeHandler(self._handler)
        with contextlib.suppress(OSError):  # of a full disk: what could not be written was told by then
            self._handler.close()


class _Printable(logging.Formatter):
    """Lines that are safe to look at with a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """As the library does; a traceback keeps its lines."""
        return printable(super().format(record), keep="\n")


class _ForJournal(logging.Formatter):
    """The same for systemd's journal, which knows the time and wants a priority before each line."""

    def format(self, record: logging.LogRecord) -> str:
        """As the library does."""
        return marked(printable(super().format(record), keep="\n"), _priority_of(record.levelno))


def _priority_of(level: int) -> int:
    steps = ((logging.ERROR, ERROR), (logging.WARNING, WARNING), (logging.INFO, INFO))
    return next((priority for least, priority in steps if level >= least), DEBUG)


class _Tolerant(logging.Handler):
    """A line that cannot be written, as on a full disk, is no traceback for every one that follows: it is told once."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        """Called where ``emit`` caught an exception."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                print(f"rsock-nf: log lines are lost: {error.strerror}", file=sys.stderr)


class _File(_Tolerant, logging.FileHandler):
    """What the configuration names: logrotate(8) is told of it."""


class _SmallFile(_Tolerant, logging.FileHandler):
    """The default in /run, which nobody else rotates.  When it is full, its older half goes.

    All by its descriptor: whoever became another user cannot open or rename it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """As the library does."""
        try:
            if self.stream is not None:
                _forget_half(self.stream.fileno())
        except OSError:
            self.handleError(record)
        super().emit(record)


def _forget_half(descriptor: int) -> None:
    """Of a log that is full.  Raises ``OSError``."""
    size = os.fstat(descriptor).st_size
    if size >= _KEPT_BYTES:
        recent = os.pread(descriptor, _KEPT_BYTES // 2, size - _KEPT_BYTES // 2)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, recent.partition(b"\n")[2])


class _DeniedError(TunnelError):
    """We may not open it."""


def _open(kind: type[_File | _SmallFile], file: Path, field: str) -> _File | _SmallFile:
    try:
        if kind is _File:
            file = _named(file)
        # For the owner only: peers' addresses are nobody else's business.
        # A FIFO that nobody reads is an error here; without O_NONBLOCK it would stop us, on SIGHUP the event loop too.
        there = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            return kind(file, mode="a" if kind is _File else "a+", encoding="utf-8")
        finally:
            # Not before: a FIFO's reader that saw its writer go might go as well, and the second opening would wait.
            os.close(there)
    except OSError as error:
        denied = _DeniedError if isinstance(error, PermissionError) else TunnelError
        raise denied(f"{field}: {file}: cannot be written: {error.strerror}") from None


def _named(file: Path) -> Path:
    """The file to open for the one that the settings name.  Makes the directories above it, as the original does."""
    if file.is_dir():
        return file / _IN_DIRECTORY
    if not file.parent.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
    return file
