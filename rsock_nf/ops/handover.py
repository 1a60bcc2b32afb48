"""What one process of ours has read of a configuration file, handed to another one, which need not read it again.

``up`` validates the file, and the process that it starts gets the result on its standard input: nobody else can see it there,
and importing pydantic, which costs more than anything else of a start, is done once.  A running instance that is to read
``log`` again has a process of its own do so.

The form is pickle, but only classes of which settings consist can be in it: what is read can call nothing else.
"""

from __future__ import annotations

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from rsock_nf.config import Configuration
from rsock_nf.errors import InstanceError
from rsock_nf.ops.program import program
from rsock_nf.settings import Log

_MODULES = ("rsock_nf.config", "rsock_nf.core.parameters", "rsock_nf.core.types", "rsock_nf.settings")
_PLAIN = {("ipaddress", "IPv4Address"), ("ipaddress", "IPv6Address"), ("pathlib", "PosixPath")}
_PATIENCE = 60.0
"""Seconds that reading the file again may take, on a very busy machine."""


def pack(configuration: Configuration) -> bytes:
    """What ``receive`` reads.  The secret is in it."""
    return pickle.dumps(configuration)


def receive(stream: BinaryIO) -> Configuration:
    """What ``pack`` made.  Raises ``InstanceError`` when it is anything else."""
    try:
        configuration = _Reader(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise InstanceError(f"no settings on standard input: {error}") from None
    if not isinstance(configuration, Configuration):
        raise InstanceError("no settings on standard input")
    return configuration


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only classes, and only those of which settings consist."""
        if (module, name) in _PLAIN or (module in _MODULES and "." not in name):
            found = super().find_class(module, name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of settings")


def read_log_again(path: Path) -> Log:
    """``log`` of the configuration file as it is now, read and checked by a process of its own: it takes half a second.

    Raises ``RsockError``: one line that names the file and the field.
    """
    command = [*program(), "check", "--config", str(path), "--print-log"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstanceError(f"{path}: cannot be read again: {error}") from None
    if done.returncode:
        raise InstanceError(done.stderr.strip().removeprefix("rsock-nf: ") or f"{path}: cannot be read again")
    said = json.loads(done.stdout)
    return Log(said["level"], Path(said["file"]) if said["file"] else None)
