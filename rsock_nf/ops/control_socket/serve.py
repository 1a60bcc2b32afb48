"""Answering ``control``: the instance's end of the socket in its directory, on the tunnel's own event loop.

The modes of the directory (0700) and of the socket (0600) decide who can reach it; there is no further check.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rsock_nf.errors import ControlError, RsockError

Handler: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

_LINE_BYTES = 64 << 10
_PATIENCE = 2.0
"""Seconds that a question may take to arrive, and its answer to leave."""


async def serve_control(path: Path, handlers: Mapping[str, Handler], log: logging.Logger) -> asyncio.Server:
    """Listen on ``path``, and call the verb's handler for each question.

    A handler gets the whole question and returns the answer, which JSON can hold; it must not block.  What it raises is
    told to the asker, in one line, and logged by ``log`` unless it is a ``RsockError``: to be asked must not end a
    tunnel.  Raises ``ControlError`` when the socket cannot be made.
    """

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                writer.write(_reply(await reader.readline(), handlers, log) + b"\n")
                await writer.drain()
        except (TimeoutError, ValueError, OSError):
            pass  # an asker that is slow, endless (ValueError: over the limit) or gone is not our trouble
        finally:
            writer.close()

    try:
        server = await asyncio.start_unix_server(converse, path=path, limit=_LINE_BYTES)
    except OSError as error:
        raise ControlError(f"{path}: no control socket can be made: {error.strerror or error}") from None
    os.chmod(path, 0o600)  # noqa: PTH101 - pathlib's twin is held to block, as this does, for microseconds
    return server


def _reply(line: bytes, handlers: Mapping[str, Handler], log: logging.Logger) -> bytes:
    try:
        question = json.loads(line)
        verb = question["verb"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _refusal('a line of JSON with a "verb" is wanted')
    handler = handlers.get(verb) if isinstance(verb, str) else None
    if handler is None:
        return _refusal(f"unknown verb {json.dumps(verb)}")
    try:
        return json.dumps({"ok": True, "answer": handler(question)}).encode()
    except RsockError as error:
        return _refusal(str(error))
    except Exception as error:
        log.exception("control: %s failed", verb)
        return _refusal(f"{verb} failed: {type(error).__name__}: {' '.join(str(error).split())}")


def _refusal(reason: str) -> bytes:
    return json.dumps({"ok": False, "error": reason}).encode()
