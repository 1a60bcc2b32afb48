r"""Asking a running instance: a Unix stream socket in its directory, one JSON line in, one out.

    {"verb": "status"}                  →  {"ok": true, "answer": {…}}
    {"verb": "fly"}                     →  {"ok": false, "error": "unknown verb \"fly\""}

This side blocks and is cheap to import; the instance's side is ``control_server``.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.ops.instances.instance import Instance


def ask(instance: Instance, verb: str, *, timeout: float = 3.0) -> dict[str, Any]:
    """The instance's answer.

    Raises ``InstanceError`` when it does not run, ``ControlError`` when it does not answer within ``timeout`` seconds,
    or answers with an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(instance.control_path))
            connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
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
    try:
        reply = json.loads(line)
        if reply["ok"]:
            answer: dict[str, Any] = reply["answer"]
            return answer
        reason = str(reply["error"])
    except (ValueError, TypeError, KeyError):
        reason = "its answer is cut off" if line else "it hung up"
    raise ControlError(f"instance {instance.name}: {reason}")
