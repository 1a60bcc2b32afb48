"""Log lines of one instance: to standard error or to a file, from a level on.

The level and the file can change while it runs (SIGHUP).  Nothing secret is ever passed to a logger: ``Settings`` has
no secret in its representation, and keys are never formatted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rsock_nf.errors import TunnelError
from rsock_nf.printable import printable
from rsock_nf.settings import Log

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_KEPT_BYTES = 1 << 20
"""The most bytes of each of the two files of the default log: /run is memory."""
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

        Raises ``TunnelError`` when it cannot be opened; the old one then stays.
        """
        file = settings.file or self._default
        handler = _open(file, rotate=file != settings.file) if file else logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable(_FORMAT, _TIME))
        self.logger.setLevel(settings.level.upper())
        self.logger.addHandler(handler)
        self.close()
        self._handler = handler
        if settings.file and self.file != str(settings.file.absolute()):
            self.logger.info("log.file: %s is a directory: log lines go to %s", settings.file, self.file)

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


class _SmallFile(_Tolerant, RotatingFileHandler):
    """The default in /run, which nobody else rotates."""


def _open(file: Path, *, rotate: bool) -> logging.Handler:
    try:
        if not rotate:
            file = _named(file)
        # For the owner only: peers' addresses are nobody else's business.
        # A FIFO that nobody reads is an error here; without O_NONBLOCK it would stop us, on SIGHUP the event loop too.
        there = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            if rotate:
                return _SmallFile(file, encoding="utf-8", maxBytes=_KEPT_BYTES, backupCount=1)
            return _File(file, encoding="utf-8")
        finally:
            # Not before: a FIFO's reader that saw its writer go might go as well, and the second opening would wait.
            os.close(there)
    except OSError as error:
        field = "log" if rotate else "log.file"
        raise TunnelError(f"{field}: {file}: cannot be written: {error.strerror}") from None


def _named(file: Path) -> Path:
    """The file to open for the one that the settings name.  Makes the directories above it, as the original does."""
    if file.is_dir():
        return file / _IN_DIRECTORY
    if not file.parent.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
    return file
