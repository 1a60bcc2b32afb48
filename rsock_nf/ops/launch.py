"""Starting an instance in the background, and stopping it: what ``up`` and ``down`` do.

``up`` starts a process and reads one line from it through a pipe: ``ready``, or ``error: why``.  Everything that stands
when it returns an error is taken down again.  ``down`` trusts nothing but the lock on the instance's directory and the
tables of the kernel, and so also works after a crash, a reboot, or twice.

Not here: what the started process does (``rsock_nf.daemon``).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeAlias

from rsock_nf.errors import InstanceError, RsockError, TunnelError
from rsock_nf.ops.control import ask
from rsock_nf.ops.instance import Instance, instances, remove_run_dir
from rsock_nf.settings import Settings

Clear: TypeAlias = Callable[[str], list[str]]
"""Removes the rules of an instance (``leftovers.clear_rules``)."""

_GRACE = 5.0


def running_alike(settings: Settings) -> bool:
    """Whether this very configuration runs already.

    Raises ``InstanceError`` when the name is taken by an instance with another one.
    """
    instance = Instance(settings.name)
    if not instance.is_running():
        return False
    record = instance.record()
    if record and record.config != str(settings.path):
        raise InstanceError(
            f'instance {settings.name} is already running, from {record.config}: give {settings.path} another "name"'
        )
    if record and record.digest != settings.digest:
        raise InstanceError(
            f"instance {settings.name} is already running, with what {settings.path} said before: "
            f"run `rsock-nf down --name {settings.name}` first"
        )
    return True


def background_command(path: Path) -> list[str]:
    """The command that runs the instance of configuration file ``path``; see ``start``."""
    program = Path(__file__).resolve().parent.parent / "__main__.py"
    # -P: nothing is imported from the directory of the script or from where root happens to stand.
    return [sys.executable, "-P", str(program), "up", "--foreground", "--config", str(path)]


def start(settings: Settings, command: Sequence[str], *, timeout: float, clear: Clear) -> None:
    """Run ``command`` with ``--ready-fd N`` appended, and return when it writes ``ready`` to that descriptor.

    Raises ``TunnelError`` with the reason when it ends, says ``error: reason``, or is not ready within ``timeout``
    seconds; then, as on any other exception, it has been stopped, and its rules and files are removed.
    """
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as announcement:
        try:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(write_end)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write_end,),
                cwd="/",
                start_new_session=True,
                text=True,
            )
        finally:
            os.close(write_end)
        try:
            _await_ready(settings, process, announcement, timeout)
        except BaseException:
            _end(process)
            undo(settings.name, clear)
            raise
        finally:
            if process.stderr:
                process.stderr.close()
    process.returncode = 0  # it lives on; Popen would warn of a child that nobody waits for


def _await_ready(settings: Settings, process: subprocess.Popen[str], announcement: IO[str], timeout: float) -> None:
    ready, _, _ = select.select([announcement], [], [], timeout)
    if not ready:
        raise TunnelError(f"instance {settings.name} is not up within {timeout:g} s: {_reason(settings.name)}")
    line = announcement.readline().rstrip("\n")
    if line == "ready":
        return
    if line.startswith("error: "):
        raise TunnelError(line.removeprefix("error: "))
    process.wait(_GRACE)
    last_words = (process.stderr.read().strip().splitlines() if process.stderr else []) or ["without a word"]
    raise TunnelError(f"instance {settings.name} ended while starting (status {process.returncode}): {last_words[-1]}")


def _reason(name: str) -> str:
    """Why a tunnel that starts is not up yet, in its own words."""
    try:
        status = ask(Instance(name), "status")
    except RsockError as error:
        return str(error)
    return str(status.get("reason") or status.get("state"))


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def undo(name: str, clear: Clear) -> list[str]:
    """Remove what a dead instance left: rules, then files.  What there was, in words."""
    if Instance(name).is_running():  # somebody else's by now
        return []
    found = [f"{backend} rules" for backend in clear(name)]
    if Instance(name).discard():
        found.append("files")
    remove_run_dir()
    return found


def stop(name: str, clear: Clear) -> str:
    """Stop an instance and remove whatever is left of it; what was done, in one line.

    Raises ``InstanceError`` when it does not end, or when its rules cannot be removed.
    """
    was_running = Instance(name).stop(grace=_GRACE)
    left = undo(name, clear)
    if was_running:
        return f"{name}: stopped"
    if left:
        return f"{name}: was not running; removed the {' and '.join(left)} that it left"
    return f"{name}: was not running"


def name_of(path: Path) -> str:
    """The instance that a configuration file is for; of a file that has gone, what runs or ran from it.

    Raises ``ConfigError``.
    """
    from rsock_nf.config import source

    for instance in instances():
        record = instance.record()
        if record and record.config == str(path.absolute()):
            return instance.name
    return source.instance_name(path.absolute(), source.read_object(path.absolute()))
