"""Running a packet filter's own command-line tool: pfctl(8), ipfw(8), sysctl(8).

It takes an argument list, and never uses a shell.  What to run, and what the output means, is the backends' business.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from rsock_firewall.policy import FirewallError

PATIENCE = 10.0
"""Seconds to wait for a tool, which normally takes milliseconds."""


class NoTool(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """This host does not have the tool, so there cannot be any rules of ours in its packet filter."""


class Done(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    output: str
    """Standard output."""
    errors: str
    """Standard error."""


Run: TypeAlias = Callable[[Sequence[str], str], Done]
"""Runs an argument list with a text on its standard input.  Tests pass a simulated host."""


def run(arguments: Sequence[str], text: str = "") -> Done:
    """``arguments[0]`` is an absolute path.

    Raises ``NoTool`` when there is no such tool, ``FirewallError`` when it cannot be run or does not end.
    """
    try:
        done = subprocess.run(
            arguments,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise NoTool(f"cannot run {arguments[0]}: {error.strerror}") from error
    except OSError as error:
        raise FirewallError(f"cannot run {arguments[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise FirewallError(f"{' '.join(arguments)} did not end within {PATIENCE:g} s") from error
    return Done(done.returncode, done.stdout, done.stderr)
