"""The original's flags, on ``rsock-nf server`` and ``rsock-nf client``: from the command line to its JSON, and back.

Not here: what they mean (``rsock_nf.config.original``), and how an instance is started (``launch``).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsock_nf.config.original import DURATION
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.ops.program import program
from rsock_nf.wire.parameters import DEFAULT_HASH, RSOCK_KEEPALIVE

_PARAM = ("dev", "taddr", "ludp", "ports", "type", "hash", "duration", "keepalive", "lcapIp", "cap_timeout", "unPath")
"""The flags that are keys of ``param``."""
_TOP = ("verbose", "daemon", "log", "name")


def add_flags(parser: argparse.ArgumentParser, role: str) -> None:
    """The flags that the original's program for ``role`` takes, and a name for the instance."""
    ports = ",".join(map(str, ServerParameters().ports))
    target = "the server's address" if role == "client" else "where datagrams go, as 127.0.0.1:9999"
    for words, options in (
        (("-d", "--dev"), {"metavar": "DEVICE", "help": "the network device (default: the route's)"}),
        (("-t", "--taddr"), {"metavar": "ADDRESS", "help": target}),
        (("-l", "--ludp"), {"metavar": "ADDRESS", "help": "client: where the application sends, as 127.0.0.1:30000"}),
        (("-p", "--ports"), {"help": f"the server's ports (default {ports})"}),
        (("-f",), {"dest": "file", "type": Path, "metavar": "FILE", "help": "a JSON file instead of all other flags"}),
        (("-v",), {"dest": "verbose", "action": "store_true", "default": None, "help": "log more"}),
        (("--type",), {"help": "tcp (default), udp or all"}),
        (("--hash",), {"metavar": "KEY", "help": f'the key of the frames (default: everybody\'s, "{DEFAULT_HASH}")'}),
        (
            ("--duration",),
            {"type": int, "metavar": "S", "help": f"how long a silent conversation lives (default {DURATION})"},
        ),
        (
            ("--keepalive",),
            {"type": int, "metavar": "S", "help": f"how often a flow is probed (default {RSOCK_KEEPALIVE:g})"},
        ),
        (("--daemon",), {"type": int, "metavar": "0|1", "help": "0: stay in the foreground (default 1)"}),
        (("--log",), {"metavar": "FILE", "help": "where log lines go"}),
        (("--lcapIp",), {"metavar": "ADDRESS", "help": "the local address"}),
        (("--unPath",), {"metavar": "PATH", "help": "client: a Unix-domain datagram socket for the application"}),
        (("--cap_timeout",), {"metavar": "MS", "help": "has no meaning here"}),
        (("-n", "--name"), {"help": "the instance's name (default: the role and its first port)"}),
        (("--ready-fd",), {"type": int, "help": argparse.SUPPRESS}),  # how the background process is started
    ):
        parser.add_argument(*words, **options)
    parser.set_defaults(timeout=None)


def given(arguments: argparse.Namespace) -> list[str]:
    """The flags on the command line, but ``-f``."""
    found = [key for key in (*_PARAM, *_TOP) if getattr(arguments, key) is not None]
    return ["-v" if key == "verbose" else f"--{key}" for key in found]


def to_json(arguments: argparse.Namespace, role: str) -> dict[str, Any]:
    """The flags as the original's JSON would say them, with relative paths made absolute, and a ``name``."""
    param = {key: getattr(arguments, key) for key in _PARAM if getattr(arguments, key) is not None}
    if param.get("unPath"):
        param["unPath"] = str(Path(param["unPath"]).absolute())
    found = {key: getattr(arguments, key) for key in _TOP if getattr(arguments, key) is not None}
    if found.get("log"):
        directory = "/" if found["log"].endswith("/") else ""
        found["log"] = f"{Path(found['log']).absolute()}{directory}"
    return {**found, "name": found.get("name") or default_name(role, param), "param": param}


def flags_command(name: str, role: str) -> list[str]:
    """The command that runs the instance of the flags; see ``launch.start``, which hands over what they said."""
    return [*program(), role, "--name", name]


def file_command(file: Path, role: str) -> list[str]:
    """The command that runs the instance of a file."""
    return [*program(), role, "-f", str(file.absolute())]


def default_name(role: str, param: Mapping[str, Any]) -> str:
    """``client-30000``, ``server-10001``: by ports that no second instance of the host can have."""
    where = param.get("ludp", "unix") if role == "client" else param.get("ports", ServerParameters().ports[0].first)
    first = str(where).rpartition(":")[2].replace(",", "-").partition("-")[0]
    return f"{role}-{first}" if first.isalnum() and first.isascii() and len(first) < 50 else role
