"""A process that has been launched, until its instance is ready: what it says on its pipe, and what ``status`` tells.

Not here: starting it, and undoing what it did (``launch``).
"""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from io import FileIO
from typing import Any, Final, TypeAlias

from rsock_nf.errors import RsockError, TunnelError
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.settings import Settings

Watch: TypeAlias = Callable[[dict[str, Any]], None]
"""Gets the state of an instance that starts, as ``status`` has it; empty = it does not answer yet."""

_GRACE: Final = 5.0
"""Seconds for one that has ended, or that stands, to say so."""
_LOOK: Final = 0.2
"""Seconds between two looks at its state."""
_PATIENCE: Final = 1.0
"""Seconds that one look may take."""
_NO_STATE: Final = "its process is still starting"
_STANDS: Final = frozenset({"serving", "connected", "idle"})
"""States of an instance that is up: it says ``ready`` in a moment."""


class Launched:
    """See the module.  ``announcement``: the pipe on which it speaks.  For the rest see ``launch.start``."""

    def __init__(
        self,
        settings: Settings,
        process: subprocess.Popen[bytes],
        announcement: FileIO,
        tell: Callable[[str], None],
        *,
        patient: bool,
        watch: Watch | None,
    ) -> None:
        self._settings = settings
        self._process = process
        self._announcement = announcement
        self._tell = tell
        self._patient = patient
        self._watch = watch

    def await_ready(self, timeout: float | None) -> None:
        """Return when it says that it is ready.  Raises ``TunnelError``."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK if end is None else min(max(end - time.monotonic(), 0.0), _LOOK)
            ready, _, _ = select.select([self._announcement], [], [], left)
            if not ready:
                end = self._look(timeout, end)
                continue
            # Unbuffered: one line is read, not two.
            line = self._announcement.readline().decode(errors="replace").rstrip("\n")
            if line == "ready":
                return
            if line.startswith("error: "):
                raise TunnelError(line.removeprefix("error: "))
            if not line.startswith("waiting: "):
                raise self._ended()
            self._tell(line)

    def _look(self, timeout: float | None, end: float | None) -> float | None:
        """It has said nothing yet: look at its state.  Returns until when it may go on.  Raises ``TunnelError``."""
        late = end is not None and time.monotonic() >= end
        status = _status(self._settings.name)  # before it is told to end
        name, reason = self._settings.name, str(status.get("reason") or status.get("state") or _NO_STATE)
        if not self._patient and status.get("hopeless"):
            remedy = "correct it, or `rsock-nf up --wait` goes on trying"
            raise TunnelError(f"instance {name} does not come up: {reason} {log_hint(self._settings)}; {remedy}")
        if late and status.get("state") in _STANDS:
            return time.monotonic() + _GRACE
        if late:
            said = f"instance {name} is not up within {timeout:g} s: {reason} {log_hint(self._settings)}"
            raise TunnelError(f"{said}; `rsock-nf up --wait` waits as long as it takes")
        if self._watch:
            self._watch(status)
        return end

    def _ended(self) -> TunnelError:
        """Why it has ended without a word on the pipe."""
        name = self._settings.name
        if self._process.wait(_GRACE) == 0:
            return TunnelError(f"instance {name} was stopped before it stood {log_hint(self._settings)}")
        said = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
        last_words = said.strip().splitlines() or ["without a word"]
        return TunnelError(
            f"instance {name} ended while starting (status {self._process.returncode}): "
            f"{last_words[-1]} {log_hint(self._settings)}"
        )


def _status(name: str) -> dict[str, Any]:
    """The state of a tunnel that starts, as it tells it itself; empty = it does not answer yet."""
    try:
        return ask(Instance(name), "status", timeout=_PATIENCE)
    except RsockError:  # no socket to ask, or an event loop that has not begun
        return {}


def log_hint(settings: Settings) -> str:
    """Where its log is."""
    return f"(log: {settings.log.file or Instance(settings.name).log_path})"
