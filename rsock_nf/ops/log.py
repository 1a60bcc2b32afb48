"""Log lines of one instance: to standard error or to a file, from a level on.

The level and the file can change while it runs (SIGHUP).  Nothing secret is ever passed to a logger: ``Settings`` has
no secret in its representation, and keys are never formatted.
"""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rsock_nf.errors import TunnelError
from rsock_nf.settings import Log

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_KEPT_BYTES = 1 << 20
"""Of the log that is nobody's choice, in each of two files: /run is memory."""
_TIME = "%Y-%m-%dT%H:%M:%S%z"


class InstanceLog:
    """The logger of one instance, and where its lines go."""

    def __init__(self, name: str, settings: Log, default: Path | None) -> None:
        """``default``: the file when the settings name none, kept small; None = standard error.  Raises ``TunnelError``."""
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
        handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
        self.logger.setLevel(settings.level.upper())
        self.logger.addHandler(handler)
        self.logger.removeHandler(self._handler)
        self._handler.close()
        self._handler = handler

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
        self._handler.close()


def _open(file: Path, *, rotate: bool) -> logging.Handler:
    try:
        # For the owner only: peers' addresses are nobody else's business.
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if rotate:  # nobody else does: logrotate(8) is told of files that the configuration names
            return RotatingFileHandler(file, encoding="utf-8", maxBytes=_KEPT_BYTES, backupCount=1)
        return logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        field = "log" if rotate else "log.file"
        raise TunnelError(f"{field}: {file}: cannot be written: {error.strerror}") from None
