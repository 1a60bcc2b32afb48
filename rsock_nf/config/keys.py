"""The keys of the configuration file: which there are, what each may hold, its default, and one sentence about it.

Defaults are taken from the dataclasses that the file ends in.  The JSON schema (``json_schema``) and the reference
(``reference``) are made from them.
Not here: what keys mean together, and how they become ``Settings`` (``assemble``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsock_nf.config import kinds
from rsock_nf.config.kinds import Kind
from rsock_nf.config.values import HostPort
from rsock_nf.core.parameters import Carriers, Cipher, ClientParameters, OnProbe, ServerParameters, Spread
from rsock_nf.core.types import Endpoint, IPAddress, PortRange
from rsock_nf.settings import Log, Settings
from rsock_nf.wire.parameters import DEFAULT_HASH, DEFAULT_WIRE, RSOCK_KEEPALIVE, RsockParameters, WireName

_SLOT = "key"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one key beside its name and its default."""

    kind: Kind[Any] | None
    """None = it holds ``objects``."""
    meaning: str
    otherwise: str = ""
    """What is used when it is not given, in words, where that is not a value of the file."""
    missing: str = ""
    """It must be given; what the complaint says is wanted."""
    objects: type[Keys] | None = None
    """It holds an object with these keys."""
    is_list: bool = False
    """It holds a list of such objects."""


def _key(kind: Kind[Any] | None, default: Any, meaning: str, *, in_repr: bool = True, **more: Any) -> Any:
    """A field of a class of keys; ``in_repr``: its value may be seen in a log or a traceback."""
    return dataclasses.field(default=default, repr=in_repr, metadata={_SLOT: Key(kind, meaning, **more)})


def _default(owner: type, name: str) -> Any:
    """The default of a dataclass field: each has its home there."""
    field = next(field for field in dataclasses.fields(owner) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@dataclass(frozen=True, kw_only=True, eq=False)
class Keys:
    """An object of the file."""

    given: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)
    """The keys that were given.  Not in the representation, which ``Settings.digest`` is made from."""


def keys_of(owner: type[Keys]) -> Iterator[tuple[str, Any, Key]]:
    """Name, default and the rest of each key, in their order."""
    for field in dataclasses.fields(owner):
        if _SLOT in field.metadata:
            yield field.name, field.default, field.metadata[_SLOT]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogKeys(Keys):
    """Where log lines go and which."""

    level: str = _key(
        kinds.literal("debug", "info", "warning", "error"),
        _default(Log, "level"),
        "The least important line that is written; SIGHUP reads it again.",
    )
    file: str | None = _key(
        kinds.FILE,
        None,
        "A file to append to, relative to the configuration file.",
        otherwise="standard error with `--foreground`, else `log` in the instance's directory under /run/rsock-nf",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CommonKeys(Keys):
    """Keys of both roles."""

    name: str | None = _key(
        kinds.NAME, None, "The instance's name.", otherwise="the configuration file's name without `.json`"
    )
    secret: bytes = _key(kinds.SECRET, b"", "What `rsock-nf genkey` printed; the same on both sides.", in_repr=False)
    secret_file: str | None = _key(
        kinds.FILE, None, "Instead of `secret`: a file with it, relative to the configuration file."
    )
    ports: tuple[PortRange, ...] = _key(
        kinds.PORTS,
        _default(ServerParameters, "ports"),
        "The server's ports, the same on both sides; one flow leads to each.",
    )
    type: Carriers = _key(
        kinds.one_of(Carriers),
        _default(ServerParameters, "carriers"),
        "What the flows are: fake TCP; ordinary UDP sockets on the same ports, which need no rules and no root; or "
        "both at once, and what one kind cannot carry goes over the other.",
    )
    wire: WireName = _key(
        kinds.one_of(WireName),
        DEFAULT_WIRE,
        "Whose frames are spoken: rsock-nf's own, or those of the original rsock (IPv4 only); the same on both sides.",
    )
    hash: str = _key(
        kinds.HASH,
        DEFAULT_HASH,
        'With `"wire": "rsock"`: its key, the same on both sides. It is no authentication.',
    )
    cipher: Cipher = _key(
        kinds.one_of(Cipher),
        _default(ServerParameters, "cipher"),
        "How datagrams are protected, the same on both sides; `none` leaves encryption to the application.",
    )
    spread: Spread = _key(
        kinds.one_of(Spread),
        _default(ServerParameters, "spread"),
        "Which flow a datagram takes: `burst` a random one for each burst, `packet` a random one for each datagram, "
        "`conversation` always the same one, which keeps order.",
    )
    duration: float = _key(
        kinds.seconds(above=0, most=86400),
        _default(ServerParameters, "duration"),
        "Seconds that a conversation lives without a datagram in either direction.",
    )
    keepalive: float = _key(
        kinds.seconds(least=0.5, most=3600),
        _default(ServerParameters, "keepalive"),
        f'Seconds between probes of an idle flow; with `"wire": "rsock"` the default is {RSOCK_KEEPALIVE:g}.',
    )
    device: str | None = _key(kinds.DEVICE, None, "The network device.", otherwise="the one that the route takes")
    addresses: tuple[IPAddress, ...] = _key(
        kinds.ADDRESSES, (), "The local addresses that are used.", otherwise="those of the device"
    )
    backend: str = _key(
        kinds.literal("auto", "nftables", "iptables", "pf", "ipfw", "manual"),
        _default(Settings, "backend"),
        "What installs the drop rules; with `manual` you install what `rules` prints, and a client needs "
        "`client_ports`.",
    )
    log: LogKeys = _key(None, LogKeys(), "Where log lines go and which.", objects=LogKeys)


@dataclass(frozen=True, kw_only=True, eq=False)
class RsockKeys(Keys):
    """A server's second wire, for clients of the original, on ports of its own.

    What is not given is as the server's own; `keepalive` and `hash` have defaults of theirs.
    """

    ports: tuple[PortRange, ...] = _key(
        kinds.PORTS,
        (),
        "The ports of this wire; none of the server's other ones.",
        missing="the ports of this wire",
    )
    hash: str = _key(kinds.HASH, DEFAULT_HASH, "The key of the original's frames. It is no authentication.")
    type: Carriers = _key(
        kinds.one_of(Carriers), _default(ServerParameters, "carriers"), "What its flows are.", otherwise="the server's"
    )
    target: HostPort | None = _key(
        kinds.HOST_PORT, None, "Where its datagrams go.", otherwise="the server's first target"
    )
    spread: Spread = _key(
        kinds.one_of(Spread),
        _default(ServerParameters, "spread"),
        "Which flow a datagram takes.",
        otherwise="the server's",
    )
    duration: float = _key(
        kinds.seconds(above=0, most=86400),
        _default(ServerParameters, "duration"),
        "Seconds that a conversation lives without a datagram in either direction.",
        otherwise="the server's",
    )
    keepalive: float = _key(
        kinds.seconds(least=0.5, most=3600), RSOCK_KEEPALIVE, "Seconds between probes of an idle flow."
    )
    max_sessions: int = _key(
        kinds.COUNT, _default(ServerParameters, "max_sessions"), "Clients at a time.", otherwise="the server's"
    )
    max_conversations: int = _key(
        kinds.COUNT,
        _default(ServerParameters, "max_conversations"),
        "Conversations over all sessions; each is a UDP socket.",
        otherwise="the server's",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerKeys(CommonKeys):
    """The server's configuration file."""

    role: Literal["server"] = "server"
    target: tuple[HostPort, ...] = _key(
        kinds.HOST_PORTS,
        (),
        "Where datagrams go: where the application's server listens.",
        otherwise="this or `targets` must be given",
    )
    targets: tuple[HostPort, ...] = _key(
        kinds.HOST_PORTS, (), "Instead of `target`: a list, from which clients choose by index."
    )
    rsock: RsockKeys | None = _key(
        None, None, "A second wire on ports of its own: the original's, beside the native one.", objects=RsockKeys
    )
    on_probe: OnProbe = _key(
        kinds.one_of(OnProbe),
        _default(ServerParameters, "on_probe"),
        "What a stranger's first payload gets after the TCP handshake: nothing, or a reset (`closed`).",
    )
    max_sessions: int = _key(kinds.COUNT, _default(ServerParameters, "max_sessions"), "Clients at a time.")
    max_conversations: int = _key(
        kinds.COUNT,
        _default(ServerParameters, "max_conversations"),
        "Conversations over all sessions; each is a UDP socket.",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TunnelKeys(Keys):
    """One of a client's local ends."""

    listen: Endpoint | Path = _key(
        kinds.LISTEN,
        Path(),
        "Where the application sends its datagrams.",
        missing='where the application sends its datagrams, as "127.0.0.1:30000"',
    )
    target: int = _key(kinds.integer(0, 65535), 0, "Which of the server's targets gets them, counted from 0.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClientKeys(CommonKeys):
    """The client's configuration file."""

    role: Literal["client"] = "client"
    server: tuple[str, ...] = _key(
        kinds.HOSTS,
        (),
        "The server's address, or its name, looked up once, at `up`; or a list in order of preference.",
        missing="the server's address or name",
    )
    listen: tuple[Endpoint | Path, ...] = _key(
        kinds.LISTENS,
        (),
        "Where the application sends its datagrams; they go to the server's first target.",
        otherwise="this or `tunnels` must be given",
    )
    tunnels: tuple[TunnelKeys, ...] = _key(
        None,
        (),
        "Instead of `listen`: a list of local ends, each with a target of its own.",
        objects=TunnelKeys,
        is_list=True,
    )
    rsock_version: int = _key(
        kinds.literal(1, 2),
        _default(RsockParameters, "version"),
        'With `"wire": "rsock"`: 2 for rsock 2.x, 1 for rsock 1.x.',
    )
    flows: int = _key(
        kinds.integer(1, 1024),
        _default(ClientParameters, "flows"),
        'At most so many flows (with `"type": "all"`: of each kind), and at most one for each of the server\'s ports.',
    )
    client_ports: tuple[PortRange, ...] = _key(
        kinds.PORTS, (), "Where source ports come from, TCP's and UDP's.", otherwise="the kernel chooses"
    )
    idle_timeout: float = _key(
        kinds.seconds(least=0, most=86400),
        _default(ClientParameters, "idle_timeout"),
        "Seconds after the last conversation until the flows close; 0 = never.",
    )


ROLES: dict[str, type[ServerKeys | ClientKeys]] = {"server": ServerKeys, "client": ClientKeys}
