"""Settings on their way from ``up`` to the process that it starts.

``up`` reads and validates the file and resolves its names.  The process that it starts gets the result on its standard
input, where no other process can see the secret.  It reads no file again, so both processes have the same settings
even if the file or a name changes in between.  When a running instance has to read its file again, it starts a process
for that: the import of pydantic would hold up its traffic.

The form is pickle, restricted to the classes that settings consist of: reading it cannot call anything else.
"""

from __future__ import annotations

import base64
import enum
import io
import pickle
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path, PosixPath
from typing import Any, BinaryIO

from rsock_nf.config.configuration import Configuration
from rsock_nf.errors import InstanceError
from rsock_nf.ops.program import program

_MODULES = (
    "rsock_nf.config.configuration",
    "rsock_nf.core.parameters",
    "rsock_nf.core.types",
    "rsock_nf.settings",
    "rsock_nf.wire.parameters",
)
_PLAIN = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PosixPath)
_PATIENCE = 60.0
"""Seconds that reading the file again may take on a very busy machine."""


def pack(configuration: Configuration) -> bytes:
    """What ``receive`` reads.  The secret is in it."""
    packed = io.BytesIO()
    _Writer(packed).dump(configuration)
    return packed.getvalue()


def receive(stream: BinaryIO) -> Configuration:
    """What ``pack`` made.  Raises ``InstanceError`` when it is anything else."""
    try:
        configuration = _Reader(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise InstanceError(f"these are no settings: {error}") from None
    if not isinstance(configuration, Configuration):
        raise InstanceError("these are no settings")
    return configuration


class _Writer(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        """A member of an enumeration as its class and value.  Python 3.11.2 (Debian 12) would have ``getattr`` called
        (``Enum.__reduce_ex__``), which the reader refuses."""
        return (type(value), (value.value,)) if isinstance(value, enum.Enum) else NotImplemented


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only classes, and only those of which settings consist."""
        plain = {(one.__module__, one.__qualname__) for one in _PLAIN}  # Python 3.13: pathlib._local.PosixPath
        if (module, name) in plain or (module in _MODULES and "." not in name):
            found = super().find_class(module, name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of settings")


def read_again(path: Path) -> Configuration:
    """The configuration file as it is now.  Another process reads and checks the file, and looks up its names.

    Raises ``InstanceError``: one line that names the file and the field.
    """
    command = [*program(), "check", "--config", str(path), "--print-settings"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstanceError(f"{path}: cannot be read again: {error}") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix("rsock-nf: ")
        raise InstanceError(reason or f"{path}: cannot be read again")
    return receive(io.BytesIO(done.stdout))


def as_text(configuration: Configuration) -> str:
    """What ``from_text`` reads, for a line of JSON.  The secret is in it."""
    return base64.b64encode(pack(configuration)).decode()


def from_text(text: object) -> Configuration:
    """What ``as_text`` made.  Raises ``InstanceError`` when it is anything else."""
    try:
        packed = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        packed = b""
    return receive(io.BytesIO(packed))
