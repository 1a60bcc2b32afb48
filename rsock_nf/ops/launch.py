"""Starting an instance in the background, and stopping it: what ``up`` and ``down`` do.

``up`` starts a process, gives it the settings, and reads one line from it through a pipe: ``ready``, or ``error:
why``.  After an error it removes everything that was made.  ``down`` trusts only the lock on the instance's directory
and the tables of the kernel; so it also works after a crash, a reboot, or twice.

Not here: what the started process does (``rsock_nf.daemon``).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from rsock_nf.config.configuration import Configuration
from rsock_nf.errors import InstanceError, RsockError
from rsock_nf.ops import handover
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import Instance, Record, forget_old_logs, instances, remove_run_dir
from rsock_nf.ops.instances.processes import end, lost_processes
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir
from rsock_nf.ops.launched import Launched, Watch
from rsock_nf.ops.program import program
from rsock_nf.ops.signals import leaving_in_order
from rsock_nf.settings import Settings

Clear: TypeAlias = Callable[[str], list[str]]
"""Removes the rules of an instance (``leftovers.clear_rules``)."""

_GRACE = 5.0


def running_alike(settings: Settings) -> bool:
    """Whether this very configuration runs already.

    Raises ``InstanceError`` when the name is taken: by an instance with another one, by one in another network
    namespace, be it alive or dead, or by a process whose directory was deleted.
    """
    instance = Instance(settings.name)
    instance.await_workers(_GRACE)
    if not instance.is_running():
        _refuse_remains(instance)
        return False
    record = _settled_record(instance)
    if record is None:
        return False
    if record.netns not in (None, namespaces.current()):
        raise InstanceError(
            f"instance {settings.name} is already running, in another network namespace: "
            f'give {settings.path} another "name", '
            f"or set {RUN_DIR_VARIABLE} to a directory for this namespace"
        )
    if record.config != str(settings.path):
        raise InstanceError(
            f'instance {settings.name} is already running, from {record.config}: give {settings.path} another "name"'
        )
    if record.digest != settings.digest:
        raise InstanceError(
            f"instance {settings.name} is already running, with what {settings.path} said before: "
            f"run `rsock-nf down --name {settings.name}` first"
        )
    return True


def _settled_record(instance: Instance) -> Record | None:
    """The record of a running instance; None = it has just ended.

    Raises ``InstanceError`` when it stays missing or makes no sense.
    """
    deadline = time.monotonic() + 0.5
    while (record := instance.record()) is None:  # it is written a moment after the lock is taken
        if not instance.is_running():  # a `down` that removes what is left holds the lock as well
            return None
        if time.monotonic() > deadline:
            fault = "does not say what an instance writes" if instance.has_record() else "is missing"
            raise InstanceError(
                f"instance {instance.name} is running, but {instance.state_path} {fault}: "
                f"run `rsock-nf down --name {instance.name}` first"
            )
        time.sleep(0.01)
    return record


def _refuse_remains(instance: Instance) -> None:
    """Raise ``InstanceError`` for what a start under this name would bury: a process, or rules elsewhere."""
    name = instance.name
    lost = next((found for found in lost_processes() if found.name == name), None)
    if lost:
        raise InstanceError(
            f"instance {name} still runs, as process {lost.pid}, though {instance.directory} was deleted: "
            f"run `rsock-nf down --name {name}` first"
        )
    _refuse_elsewhere(instance)


def _refuse_elsewhere(instance: Instance) -> None:
    """Raise ``InstanceError`` if the instance is dead and its rules stand in another network namespace."""
    record = instance.record()
    if record is None or record.ended is not None or instance.is_running():
        return
    command = f"rsock-nf down --name {instance.name}"
    remedy = namespaces.remedy(record.netns, command)
    if remedy not in (None, command):
        raise InstanceError(
            f"instance {instance.name} died in another network namespace, where its rules still stand: run `{remedy}`"
        )


def background_command(path: Path, *, wait: bool = False) -> list[str]:
    """The command that runs the instance of configuration file ``path``; see ``start``.

    ``wait``: see ``daemon.run``."""
    return [*program(), "up", "--foreground", *(["--wait"] if wait else []), "--config", str(path)]


def start(  # noqa: PLR0913 - each is an option of `up`, or an end of it
    configuration: Configuration,
    command: Sequence[str],
    *,
    timeout: float | None,
    clear: Clear,
    tell: Callable[[str], None] = lambda _: None,
    patient: bool = False,
    watch: Watch | None = None,
) -> None:
    """Run ``command`` with ``--ready-fd N`` appended, and return when it writes ``ready`` to that descriptor.

    ``timeout``: in seconds; None = as long as it takes.  ``tell`` gets each line ``waiting: why``, and ``watch``, a few
    times a second, what ``status`` would show.  ``patient``: also wait for what will not heal by itself
    (``Dialling.hopeless``).  The process gets the configuration on its standard input (``handover``).
    Raises ``TunnelError`` with the reason when it ends, says ``error: reason``, or is not ready within ``timeout``
    seconds.  Then, as on any other exception, it has been stopped, and its rules and files are removed.  SIGTERM and
    SIGHUP become such an exception, ``SystemExit``.
    """
    settings = configuration.settings
    read_end, write_end = os.pipe()
    with leaving_in_order(), os.fdopen(read_end, "rb", buffering=0) as announcement:
        try:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write_end,),
                cwd="/",
                env={**os.environ, RUN_DIR_VARIABLE: str(run_dir())},  # it may be given relative to where we stand
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        try:
            _hand_over(configuration, process)
            Launched(settings, process, announcement, tell, patient=patient, watch=watch).await_ready(timeout)
        except BaseException:
            _end(process)
            try:
                undo(settings.name, clear)
            except RsockError as second:  # the first error says more
                tell(f"what it left cannot be removed: {second}")
            raise
        finally:
            if process.stderr:
                process.stderr.close()
    process.returncode = 0  # it lives on; Popen would warn of a child that nobody waits for


def _hand_over(configuration: Configuration, process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it has ended: ``_await_ready`` tells why
            process.stdin.write(handover.pack(configuration))


def _end(process: subprocess.Popen[bytes]) -> None:
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
    forget_old_logs()
    remove_run_dir()
    return found


def stop(name: str, clear: Clear, *, unseen: str = "") -> str:
    """Stop an instance and remove whatever is left of it; what was done, in one line.

    ``unseen``: what that line adds when there was nothing to do.
    Raises ``InstanceError`` when it does not end, or when its rules cannot be removed.
    """
    instance = Instance(name)
    was_running = instance.stop(grace=_GRACE)
    for lost in [found for found in lost_processes() if found.name == name]:
        was_running = True
        if not end(lost, grace=_GRACE) and lost.netns != namespaces.current():
            raise InstanceError(
                f"instance {name}: process {lost.pid} had to be killed; its rules stand in its network namespace"
            )
    _refuse_elsewhere(instance)
    left = undo(name, clear)
    if was_running:
        return f"{name}: stopped"
    if left:
        return f"{name}: was not running; removed the {' and '.join(left)} that it left"
    return f"{name}: was not running{unseen}"


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
