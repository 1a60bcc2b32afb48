r"""Asking a running instance: a Unix stream socket in its directory, one JSON line in, one out.

    {"verb": "status"}                  →  {"ok": true, "answer": {…}}
    {"verb": "fly"}                     →  {"ok": false, "error": "unknown verb \"fly\""}

This side blocks and is cheap to import; the instance's side is ``serve``.
The socket is named by its path: nobody else can swap it, because ``Instance.is_running`` has looked at all directories.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.ops.instances.instance import Instance

_MOST_BYTES = 16 << 20
"""Of an answer: about 60,000 flows."""
_READ_BYTES = 64 << 10


def ask(
    instance: Instance, verb: str, fields: Mapping[str, Any] | None = None, *, timeout: float = 3.0
) -> dict[str, Any]:
    """The instance's answer.  ``fields``: what the question has besides the verb.

    Raises ``InstanceError`` when it does not run, ``ControlError`` when its whole answer has not come within
    ``timeout`` seconds, is larger than 16 MiB, or is an error.
    """
    if not instance.is_running():
        raise InstanceError(f"instance {instance.name} is not running")
    try:
        line = _exchange(
            str(instance.control_path), json.dumps({**(fields or {}), "verb": verb}).encode() + b"\n", timeout
        )
    except TimeoutError:
        raise ControlError(f"instance {instance.name} does not answer within {timeout:g} s") from None
    except OSError as error:
        if not instance.is_running():
            raise InstanceError(f"instance {instance.name} is not running") from None
        if isinstance(error, FileNotFoundError):
            remedy = f"rsock-nf down --name {instance.name}, then up"
            raise ControlError(
                f"instance {instance.name} runs, but {instance.control_path} is gone: {remedy}"
            ) from None
        raise ControlError(f"instance {instance.name} cannot be asked: {error.strerror or error}") from None
    return read_answer(instance.name, line)


def read_answer(name: str, line: bytes) -> dict[str, Any]:
    """What instance ``name`` answers by ``line``.  Raises ``ControlError`` as ``ask``."""
    if len(line) > _MOST_BYTES:
        raise ControlError(f"instance {name}: its answer is larger than {_MOST_BYTES >> 20} MiB")
    try:
        reply = json.loads(line)
        if reply["ok"]:
            return dict(reply["answer"].items())
        reason = str(reply["error"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        reason = "its answer is cut off" if line else "it hung up"
    raise ControlError(f"instance {name}: {reason}")


def _exchange(path: str, question: bytes, timeout: float) -> bytes:
    """Send a line, and return the one that comes, or what came of it; at most one read more than ``_MOST_BYTES``.

    Raises ``TimeoutError`` after ``timeout`` seconds in all, ``OSError``.
    """
    end = time.monotonic() + timeout
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(question)
        while len(answer) <= _MOST_BYTES:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            read = connection.recv(_READ_BYTES)
            answer += read
            if not read or read.endswith(b"\n"):
                break
    return bytes(answer)
