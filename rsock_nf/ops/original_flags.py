"""The original's flags, on ``rsock-nf server`` and ``rsock-nf client``: from the command line to the form of its JSON, and back.

Not here: what they mean (``rsock_nf.config.original``), and how an instance is started (``launch``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENDLESS = "SECONDS"


def add_flags(parser: argparse.ArgumentParser, role: str) -> None:
    """The flags that the original's program for ``role`` takes, and a name for the instance."""
    target = "the server's address" if role == "client" else "where datagrams go, as 127.0.0.1:9999"
    parser.add_argument("-d", "--dev", metavar="DEVICE", help="the network device (default: the route's)")
    parser.add_argument("-t", "--taddr", metavar="ADDRESS", help=target)
    parser.add_argument(
        "-l", "--ludp", metavar="ADDRESS", help="client: where the application sends, as 127.0.0.1:30000"
    )
    parser.add_argument("-p", "--ports", help="the server's ports (default 10001-10010)")
    parser.add_argument("-f", dest="file", type=Path, metavar="FILE", help="a JSON file, instead of all other flags")
    parser.add_argument("-v", dest="verbose", action="store_true", help="log more")
    parser.add_argument("--type", help="tcp (default), udp or all")
    parser.add_argument("--hash", metavar="KEY", help='the key of the frames (default: everybody\'s, "hello135")')
    parser.add_argument(
        "--duration", type=int, metavar=_ENDLESS, help="how long a silent conversation lives (default 30)"
    )
    parser.add_argument("--keepalive", type=int, metavar=_ENDLESS, help="between probes of a flow (default 4)")
    parser.add_argument("--daemon", type=int, metavar="0|1", help="0: stay in the foreground (default 1)")
    parser.add_argument("--log", metavar="FILE", help="where log lines go")
    parser.add_argument("--lcapIp", metavar="ADDRESS", help="the local address")
    parser.add_argument("--unPath", metavar="PATH", help="client: a Unix-domain datagram socket for the application")
    parser.add_argument("--cap_timeout", metavar="MS", help="has no meaning here")
    parser.add_argument("-n", "--name", help="the instance's name (default: the role and its first port)")


def to_json(arguments: argparse.Namespace, role: str) -> dict[str, Any]:
    """The flags as the original's JSON would say them, with relative paths made absolute, and a ``name``."""
    given = {key: getattr(arguments, key) for key in _PARAM if getattr(arguments, key) is not None}
    if given.get("unPath"):
        given["unPath"] = str(Path(given["unPath"]).absolute())
    found: dict[str, Any] = {"name": arguments.name or default_name(role, given), "param": given}
    if arguments.verbose:
        found["verbose"] = True
    if arguments.log:
        # Not Path alone: a slash at the end says that it is a directory.
        found["log"] = str(Path(arguments.log).absolute()) + ("/" if arguments.log.endswith("/") else "")
    if arguments.daemon is not None:
        found["daemon"] = arguments.daemon
    return found


def background_command(original: Mapping[str, Any], role: str) -> list[str]:
    """The command that runs the instance of these flags in the foreground; see ``launch.start``."""
    flags = [f"--{key}={value}" for key, value in original["param"].items()]
    flags += [f"--{key}={original[key]}" for key in ("name", "log") if key in original]
    return [*program(), role, *flags, *(["-v"] if original.get("verbose") else []), "--daemon=0"]


def program() -> list[str]:
    """How this very program is called again: nothing is imported from where root happens to stand."""
    return [sys.executable, "-P", str(Path(__file__).resolve().parent.parent / "__main__.py")]


def default_name(role: str, param: Mapping[str, Any]) -> str:
    """``client-30000``, ``server-10001``: ports that no second instance of the host can have."""
    ports = param.get("ludp", "unix") if role == "client" else param.get("ports", "10001")
    return f"{role}-{_first_port(str(ports))}"


def _first_port(text: str) -> str:
    """The port of an address, or the first of a list of ports; of nonsense something that can be a name."""
    last = text.rpartition(":")[2]
    first = last.replace(",", "-").partition("-")[0]
    return first if first.isalnum() else "0"


_PARAM = ("dev", "taddr", "ludp", "ports", "type", "hash", "duration", "keepalive", "lcapIp", "unPath", "cap_timeout")
