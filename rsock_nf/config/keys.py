"""The keys of the configuration file, as pydantic models: one attribute is one key.

It has the key's name, what the key may hold, its default and one sentence about it, from which the JSON schema
(``json_schema``) and the reference (``reference``) are made.  What is used when the key is not given is said behind
``NOT_GIVEN``, where that is not a value of the file.  Defaults are taken from the dataclasses that the file ends in.
Not here: what keys mean together, and how they become ``Settings`` (``assemble``).
"""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rsock_nf.config.kinds import (
    Address,
    ClientName,
    Count,
    Device,
    Duration,
    File,
    FlowAge,
    Hash,
    Host,
    HostPort,
    Keepalive,
    Listen,
    Mark,
    Metrics,
    Name,
    Network,
    OneOrMore,
    OrAbsent,
    Ports,
    Rate,
    RsockVersion,
    Secrets,
    User,
    Wanted,
    Workers,
)
from rsock_nf.core.parameters import Cipher, ClientParameters, Kinds, OnProbe, ServerParameters, Spread
from rsock_nf.settings import Log, Settings
from rsock_nf.wire.parameters import DEFAULT_HASH, DEFAULT_WIRE, RSOCK_KEEPALIVE, RsockParameters, WireName

NOT_GIVEN = " If not given: "
"""In a description: what follows is used when the key is not given."""

_ROLE = "Which end this file is for."
# Otherwise pydantic asks every installed package for plugins: some milliseconds, and foreign code in root's program.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _default(owner: type, name: str) -> Any:
    """The default of a dataclass field: each has its home there."""
    field = next(field for field in dataclasses.fields(owner) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


class Keys(BaseModel):
    """An object of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class LogKeys(Keys):
    """Where log lines go and which."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default=_default(Log, "level"), description="The least important line that is written; SIGHUP reads it again."
    )
    file: OrAbsent[File] = Field(
        default=None,
        description="A file to append to, relative to the configuration file; a directory means `rsock.log` in it. "
        "If not given: standard error with `--foreground`, else `log` in the instance's directory under /run/rsock-nf.",
    )


class CommonKeys(Keys):
    """Keys of both roles."""

    role: Literal["server", "client"] = Field(description=_ROLE)
    name: OrAbsent[Name] = Field(
        default=None, description="The instance's name. If not given: the configuration file's name without `.json`."
    )
    secret: Secrets = Field(
        default=(),
        description="What `rsock-nf genkey` printed; the same on both sides. A server may have two while one replaces "
        "the other, and none where each of its `clients` has one.",
        repr=False,
    )
    secret_file: OrAbsent[File] = Field(
        default=None,
        description="Instead of `secret`: a file with it, relative to the configuration file; two are on two lines.",
    )
    ports: Ports = Field(
        default=_default(ServerParameters, "ports"),
        description="The server's ports, the same on both sides; one flow leads to each.",
    )
    type: Kinds = Field(
        default=_default(ServerParameters, "kinds"),
        description="What the flows are: fake TCP; ordinary UDP sockets on the same ports, which need no rules and no "
        "root; or both at once, and what one kind cannot carry goes over the other.",
    )
    wire: WireName = Field(
        default=DEFAULT_WIRE,
        description="Whose frames are spoken: rsock-nf's own, or those of the original rsock (IPv4 only); the same on "
        "both sides.",
    )
    hash: Hash = Field(
        default=DEFAULT_HASH,
        description='With `"wire": "rsock"`: its key, the same on both sides. It is no authentication.',
    )
    cipher: Cipher = Field(
        default=_default(ServerParameters, "cipher"),
        description="How datagrams are protected, the same on both sides; `none` leaves encryption to the application.",
    )
    spread: Spread = Field(
        default=_default(ServerParameters, "spread"),
        description="Which flow a datagram takes: `burst` a random one for each burst, `packet` a random one for each "
        "datagram, `conversation` always the same one, which keeps order.",
    )
    duration: Duration = Field(
        default=_default(ServerParameters, "duration"),
        description="Seconds that a conversation lives without a datagram in either direction; "
        "at most 30 for one of at most two datagrams each way.",
    )
    keepalive: Keepalive = Field(
        default=_default(ServerParameters, "keepalive"),
        description="Seconds between probes of an idle flow; "
        f'with `"wire": "rsock"` the default is {RSOCK_KEEPALIVE:g}.',
    )
    device: OrAbsent[Device] = Field(
        default=None,
        description="The only network device that is used. If not given: packets leave by the device of their route, "
        "and are taken from any device.",
    )
    fwmark: OrAbsent[Mark] = Field(
        default=None,
        description="The firewall mark of the tunnel's own packets, for routing rules (`ip rule add fwmark`). "
        "With wg-quick's mark (51820) they never go into its WireGuard device. Linux.",
    )
    addresses: OneOrMore[Address] = Field(
        default=(),
        description="The local addresses that are used; other programs may have the same ports on others. If not "
        "given: a server has all addresses of the host (or of `device`), a client the one that its route prefers.",
    )
    backend: Literal["auto", "nftables", "iptables", "pf", "ipfw", "manual"] = Field(
        default=_default(Settings, "backend"),
        description="What installs the drop rules; with `manual` you install what `rules` prints, CAP_NET_RAW is "
        "enough, and a client needs `client_ports`.",
    )
    pump: Literal["auto", "native", "python"] = Field(
        default=_default(Settings, "pump"),
        description="The data path: `native` is compiled code (Linux), `python` needs none; `auto` takes the native "
        "one where there is one. `status --flows` tells which one runs, and why.",
    )
    workers: Workers = Field(
        default=_default(Settings, "workers"),
        description="How many processes carry the traffic, each on a processor of its own: a server's have its ports "
        "among them, a client's its flows and its applications. `auto`: one for each processor, at most 8, and on one "
        "or two processors a single one. A client's workers have a session each. Linux; not with the original's wire.",
    )
    user: OrAbsent[User] = Field(
        default=None,
        description="The system user that the instance becomes once it has opened what takes root. It keeps only the "
        "capabilities that it needs. If not given: it stays who it is.",
    )
    key_log: bool = Field(
        default=_default(Settings, "key_log"),
        strict=True,
        description="Hand the keys of the present flows to `rsock-nf capture --decrypt`: whoever may ask the control "
        "socket (root, or the instance's user) can then read what the tunnel carries.",
    )
    metrics: OrAbsent[Metrics] = Field(
        default=None,
        description="Where metrics for Prometheus are served, as `127.0.0.1:9273`; every user of this host can read "
        "them there. Of a Unix-domain socket the group of its directory can. If not given: nowhere.",
    )
    log: LogKeys = Field(default_factory=LogKeys, description="Where log lines go and which.")


class RsockKeys(Keys):
    """A server's second wire, for clients of the original, on ports of its own.

    What is not given is as the server's own; `keepalive` and `hash` have defaults of theirs.
    """

    ports: Annotated[Ports, Wanted("the ports of this wire")] = Field(
        description="The ports of this wire; none of the server's other ones."
    )
    hash: Hash = Field(default=DEFAULT_HASH, description="The key of the original's frames. It is no authentication.")
    type: OrAbsent[Kinds] = Field(default=None, description="What its flows are. If not given: the server's.")
    target: OrAbsent[HostPort] = Field(
        default=None, description="Where its datagrams go. If not given: the server's first target."
    )
    spread: OrAbsent[Spread] = Field(
        default=None, description="Which flow a datagram takes. If not given: the server's."
    )
    duration: OrAbsent[Duration] = Field(
        default=None,
        description="Seconds that a conversation lives without a datagram in either direction. "
        "If not given: the server's.",
    )
    keepalive: Keepalive = Field(default=RSOCK_KEEPALIVE, description="Seconds between probes of an idle flow.")
    max_sessions: OrAbsent[Count] = Field(default=None, description="Clients at a time. If not given: the server's.")
    max_conversations: OrAbsent[Count] = Field(
        default=None, description="Conversations over all sessions; each is a UDP socket. If not given: the server's."
    )


class KnownClientKeys(Keys):
    """A client with a secret of its own.  Its own file has that secret as `secret`, and nothing more.

    `status` and the log have its name. `rsock-nf reload` lets clients come and go without touching the others.
    """

    name: Annotated[ClientName, Wanted("what status and log call it")] = Field(
        description="What `status` and the log call it."
    )
    secret: Annotated[Secrets, Wanted('make one with "rsock-nf genkey"')] = Field(
        description="What `rsock-nf genkey` printed; nobody else has it. Two while one replaces the other: `status` "
        "tells which one the client uses.",
        repr=False,
    )
    max_conversations: OrAbsent[Count] = Field(
        default=None,
        description="Conversations over all of its sessions. If not given: the server's limit alone.",
    )
    rate: OrAbsent[Rate] = Field(
        default=None,
        description="Bits a second of its datagrams, each way; what is above is dropped. It is moved by Python, also "
        "where the data path is native. With several `workers` of the server, the limits of a client count for each of "
        "its sessions that is at another worker. If not given: no limit.",
    )


class ServerKeys(CommonKeys):
    """The server's configuration file."""

    role: Literal["server"] = Field(description=_ROLE)
    target: OneOrMore[HostPort] = Field(
        default=(),
        description="Where datagrams go: where the application's server listens. A name is looked up again when the "
        "target refuses or is silent, and for a new conversation after 5 minutes. "
        "If not given: this or `targets` must be given.",
    )
    targets: OneOrMore[HostPort] = Field(
        default=(), description="Instead of `target`: a list, from which clients choose by index."
    )
    rsock: OrAbsent[RsockKeys] = Field(
        default=None, description="A second wire on ports of its own: the original's, beside the native one."
    )
    allow: OneOrMore[Network] = Field(
        default=(),
        description="The networks from which clients come. Packets from elsewhere get no answer, on both wires. "
        "The host's input firewall sees no packet of fake TCP, so it cannot do that. If not given: anywhere.",
    )
    clients: tuple[KnownClientKeys, ...] = Field(
        default=(),
        min_length=1,
        description="Clients that have secrets of their own, beside or instead of `secret`. With `secret` alone, "
        "clients have no names.",
        repr=False,
    )
    on_probe: OnProbe = Field(
        default=_default(ServerParameters, "on_probe"),
        description="What a stranger's first payload gets after the TCP handshake: nothing, or a reset (`closed`).",
    )
    speedtest: int = Field(
        default=_default(ServerParameters, "speedtest"),
        strict=True,
        ge=0,
        le=100_000,
        description="Mbit/s at which clients may test the tunnel by `rsock-nf speedtest`, each way, one client at a "
        "time; 0 = not at all. Each of several `workers` has its part of the rate (1 Mbit/s at least), and tests with "
        "one client at a time.",
    )
    max_sessions: Count = Field(
        default=_default(ServerParameters, "max_sessions"),
        description="Clients at a time; each of several `workers` has its part of them.",
    )
    max_conversations: Count = Field(
        default=_default(ServerParameters, "max_conversations"),
        description="Conversations over all sessions; each is a UDP socket. "
        "If there are more, those make room that have their answers, then those nearest to their end. "
        "Each of several `workers` has its part of them.",
    )


class TunnelKeys(Keys):
    """One of a client's local ends."""

    listen: Annotated[Listen, Wanted('where the application sends its datagrams, as "127.0.0.1:30000"')] = Field(
        description="Where the application sends its datagrams."
    )
    target: int = Field(
        default=0, strict=True, ge=0, le=65535, description="Which of the server's targets gets them, counted from 0."
    )


class ClientKeys(CommonKeys):
    """The client's configuration file."""

    role: Literal["client"] = Field(description=_ROLE)
    server: Annotated[OneOrMore[Host], Wanted("the server's address or name")] = Field(
        description="The server's address or name, or a list in order of preference. A name is looked up again when no "
        "flow is up, at `reconnect`, and every 5 minutes while the client is idle."
    )
    listen: OneOrMore[Listen] = Field(
        default=(),
        description="Where the application sends its datagrams; they go to the server's first target. "
        "If not given: this or `tunnels` must be given.",
    )
    tunnels: tuple[TunnelKeys, ...] = Field(
        default=(),
        min_length=1,
        description="Instead of `listen`: a list of local ends, each with a target of its own.",
    )
    rsock_version: RsockVersion = Field(
        default=_default(RsockParameters, "version"),
        description='With `"wire": "rsock"`: 2 for rsock 2.x, 1 for rsock 1.x.',
    )
    flows: int = Field(
        default=_default(ClientParameters, "flows"),
        strict=True,
        ge=1,
        le=1024,
        description='At most so many flows (with `"type": "all"`: of each kind), and at most as many as the '
        "server has ports. Several `workers` have them among them, and each has one at least.",
    )
    client_ports: Ports = Field(
        default=(), description="Where source ports come from, TCP's and UDP's. If not given: the kernel chooses."
    )
    idle_timeout: float = Field(
        default=_default(ClientParameters, "idle_timeout"),
        strict=True,
        ge=0,
        le=86400,
        description="Seconds after the last conversation until the flows close; 0 = never.",
    )
    flow_age: FlowAge = Field(
        default=_default(ClientParameters, "flow_age"),
        description="The age, ± 20 %, at which a flow is renewed, one at a time and without loss; 0 = never. With "
        "`client_ports`, name twice as many ports as flows.",
    )


ROLES: dict[str, type[ServerKeys | ClientKeys]] = {"server": ServerKeys, "client": ClientKeys}
OBJECTS: dict[str, type[Keys]] = {
    "log": LogKeys,
    "rsock": RsockKeys,
    "clients": KnownClientKeys,
    "tunnels": TunnelKeys,
}
"""The keys that hold an object or a list of objects, and which keys these have."""
