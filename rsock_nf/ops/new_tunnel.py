"""New configuration files: what ``init`` and ``join`` write.

A file is JSON with comments, mode 0600, in a directory that nobody else can change.  It appears whole or not at all,
and takes the place of another one only if that is wanted.

Not here: the line that goes from one side to the other (``config.invitation``), and what applications need
(``applications``).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rsock_nf import trust
from rsock_nf.config import places, source
from rsock_nf.config.invitation import Invitation
from rsock_nf.config.values import count_ports, format_secret, parse_listen, parse_ports
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import PortRange, TransportAddress
from rsock_nf.errors import ConfigError, InstanceError
from rsock_nf.ops.applications import Application

_DEFAULTS: Final = ServerParameters()
_DOCS: Final = "docs/configuration.md, or `rsock-nf schema`"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a new file."""

    name: str
    value: Any
    about: str = ""
    """A comment before it."""


def server_keys(invitation: Invitation, application: Application, target: str) -> list[Key]:
    """Of the server's file."""
    return [
        Key("role", "server"),
        Key("target", target, f"Where {application.title} listens: on this host, or on another one."),
        *_shared_keys(invitation, application, "Open them in the firewall of the server's provider."),
    ]


def client_keys(invitation: Invitation, application: Application, listen: str) -> list[Key]:
    """Of the client's file."""
    servers = list(invitation.servers)
    return [
        Key("role", "client"),
        Key("server", servers[0] if len(servers) == 1 else servers),
        Key("listen", listen, f"Where {application.title} sends its datagrams."),
        *_shared_keys(invitation, application, "The server's; one flow leads to each."),
    ]


def _shared_keys(invitation: Invitation, application: Application, about_ports: str) -> list[Key]:
    spread = invitation.spread
    about_type = "tcp: flows that look like TCP; udp: plain UDP; all: both.  The same on both sides."
    is_usual = invitation.cipher is application.cipher
    about_cipher = application.about_cipher.format(title=application.title) if is_usual else ""
    return [
        Key("ports", ",".join(map(str, invitation.ports)), about_ports),
        Key("type", invitation.kinds.value, about_type),
        Key("cipher", invitation.cipher.value, f"The same on both sides.  {about_cipher}".strip()),
        *([Key("spread", spread.value, application.about_spread)] if spread is not _DEFAULTS.spread else []),
        Key("secret", format_secret(invitation.secret), "Who has it can use the server.  The same on both sides."),
    ]


def text_of(heading: str, keys: list[Key]) -> str:
    """The file."""
    lines = [f"// {heading}", f"// Every key: {_DOCS}", "{"]
    for key in keys:
        lines += [f"  // {key.about}"] if key.about else []
        lines.append(f"  {json.dumps(key.name)}: {json.dumps(key.value, ensure_ascii=False)},")
    return "\n".join([*lines, "}", ""])


# -- what other tunnels have


def free_ports(name: str) -> tuple[PortRange, ...]:
    """For tunnel ``name`` the default of ``ports``, or, if another server's file here has some of them, as many behind
    it."""
    wanted = _DEFAULTS.ports
    step = count_ports(wanted)
    taken = [ports for raw in _others("server", name) for ports in _ports_of(raw)]
    while any(one.first <= two.last and two.first <= one.last for one in wanted for two in taken):
        moved = tuple(PortRange(ports.first + step, ports.last + step) for ports in wanted)
        if moved[-1].last > 65535:
            break
        wanted = moved
    return wanted


def free_listen(port: int, name: str) -> str:
    """For tunnel ``name`` ``127.0.0.1:port``, or the next port that no other client's file here has and no program."""
    taken = {
        end.port for raw in _others("client", name) for end in _listens_of(raw) if isinstance(end, TransportAddress)
    }
    for candidate in range(port, min(port + 1000, 65536)):
        if candidate not in taken and _is_free(candidate):
            return f"127.0.0.1:{candidate}"
    return f"127.0.0.1:{port}"


def _others(role: str, name: str) -> Iterator[dict[str, Any]]:
    """The files of that role in the directory, as far as they can be read; not the one of tunnel ``name``."""
    try:
        found = sorted(path for path in places.config_dir().iterdir() if path.suffix in places.SUFFIXES)
    except OSError:
        return
    for path in found:
        if path.stem == name:
            continue
        with contextlib.suppress(ConfigError):
            raw = source.read_object(path)
            if raw.get("role") == role:
                yield raw


def _ports_of(raw: dict[str, Any]) -> tuple[PortRange, ...]:
    try:
        return parse_ports(raw["ports"]) if "ports" in raw else _DEFAULTS.ports
    except ValueError:
        return ()


def _listens_of(raw: dict[str, Any]) -> Iterator[TransportAddress | Path]:
    tunnels = raw.get("tunnels")
    listens = [one.get("listen") for one in tunnels if isinstance(one, dict)] if isinstance(tunnels, list) else []
    given = raw.get("listen", [])
    for listen in [*listens, *(given if isinstance(given, list) else [given])]:
        with contextlib.suppress(ValueError):
            yield parse_listen(listen)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# -- writing


def path_for(name: str, *, force: bool) -> Path:
    """Where the file of tunnel ``name`` goes.  Raises ``InstanceError`` if there is one, which ``force`` allows."""
    path = places.config_dir() / f"{name}.json"
    existing = places.files_of(name)
    others = [other for other in existing if other != path]
    if others:
        raise InstanceError(f"{others[0]} is there already: give another --name, or remove it")
    if existing and not force:
        raise InstanceError(f"{path} is there already: give another --name, or --force to write it anew")
    return path


def write(path: Path, text: str, *, force: bool) -> None:
    """Make the file, mode 0600, and its directory (0700) if that is missing.

    ``force``: it may take the place of another one.  Raises ``InstanceError``.
    """
    try:
        directory = trust.open_path(path.parent, make=True)
    except trust.DistrustError as error:
        raise InstanceError(f"{error}: {_elsewhere(', or '.join(error.remedies))}") from None
    except OSError as error:
        raise InstanceError(f"{path.parent}: {error.strerror}{_denied(error)}") from None
    try:
        _place(directory, path.name, text.encode(), force=force)
    except FileExistsError:
        raise InstanceError(f"{path} is there already: give another --name, or --force to write it anew") from None
    except OSError as error:
        raise InstanceError(f"{path}: {error.strerror}{_denied(error)}") from None
    finally:
        os.close(directory)


def _place(directory: int, name: str, data: bytes, *, force: bool) -> None:
    """Write a file beside it, then give it the name: who reads sees all of it or nothing.  Raises ``OSError``."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:  # which, unlike rename(2), refuses where one is
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)


def _denied(error: OSError) -> str:
    return f": {_elsewhere('be root')}" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""


def _elsewhere(first: str) -> str:
    own = f"name a directory of your own in {places.CONFIG_DIR_VARIABLE}"
    return f"{first}, or {own}" if first else own
