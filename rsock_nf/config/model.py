"""The keys of the configuration file: what each may hold.

The only module that imports pydantic.  Ranges stand here; defaults are taken from the dataclasses that the file ends in.
Not here: what keys mean together, and how they become ``Settings`` (``assemble``).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from rsock_nf.config import values
from rsock_nf.config.values import HostPort, shown
from rsock_nf.core.parameters import (
    DEFAULT_HASH,
    RSOCK_KEEPALIVE,
    Carriers,
    Cipher,
    ClientParameters,
    OnProbe,
    ServerParameters,
    Spread,
    Wire,
)
from rsock_nf.core.types import Endpoint, IPAddress, PortRange
from rsock_nf.errors import ConfigError
from rsock_nf.settings import Log, Settings

T = TypeVar("T")

_TEXT = {"type": "string"}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORTS = {"anyOf": [_TEXT, _PORT, {"type": "array", "items": {"anyOf": [_TEXT, _PORT]}, "minItems": 1}]}


def _many(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """A parser of one value or a list of them: at least one, none twice."""

    def parse_all(value: object) -> tuple[T, ...]:
        parsed = tuple(parse(item) for item in (value if isinstance(value, list) else [value]))
        if not parsed:
            raise ValueError("the list is empty")
        if len(set(parsed)) != len(parsed):
            raise ValueError(f"{next(item for item in parsed if parsed.count(item) > 1)} is given twice")
        return parsed

    return parse_all


def _target_index(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, list) else [value]
    if not items or not all(type(item) is int and 0 <= item <= 65535 for item in items):
        raise ValueError(f"{shown(value)} is not an index (0-65535) or a list of them")
    return tuple(items)


def _default(owner: type, name: str) -> Any:
    """The default of a dataclass field: each has its home there."""
    field = next(field for field in dataclasses.fields(owner) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _absent(value: Any = None) -> Any:
    """A key that may be left out; a factory, so that the schema shows no default."""
    return Field(default_factory=lambda: value)


def _file(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(f"{shown(value)} is not the path of a file")


# A PlainValidator replaces pydantic's own for the whole type, so None is "not given", never null from the file.
Ports: TypeAlias = Annotated[tuple[PortRange, ...], PlainValidator(values.parse_ports), WithJsonSchema(_PORTS)]
Addresses: TypeAlias = Annotated[
    tuple[IPAddress, ...], PlainValidator(_many(values.parse_address)), WithJsonSchema(_TEXTS)
]
Hosts: TypeAlias = Annotated[tuple[str, ...], PlainValidator(_many(values.parse_host)), WithJsonSchema(_TEXTS)]
HostPorts: TypeAlias = Annotated[
    tuple[HostPort, ...], PlainValidator(_many(values.parse_host_port)), WithJsonSchema(_TEXTS)
]
OneHostPort: TypeAlias = Annotated[HostPort | None, PlainValidator(values.parse_host_port), WithJsonSchema(_TEXT)]
Listen: TypeAlias = Annotated[Endpoint | Path, PlainValidator(values.parse_listen), WithJsonSchema(_TEXT)]
Listens: TypeAlias = Annotated[
    tuple[Endpoint | Path, ...], PlainValidator(_many(values.parse_listen)), WithJsonSchema(_TEXTS)
]
Hash: TypeAlias = Annotated[str, PlainValidator(values.parse_hash), WithJsonSchema(_TEXT)]
Secret: TypeAlias = Annotated[bytes, PlainValidator(values.parse_secret), WithJsonSchema(_TEXT)]
Device: TypeAlias = Annotated[str | None, PlainValidator(values.parse_device), WithJsonSchema(_TEXT)]
Name: TypeAlias = Annotated[str | None, PlainValidator(values.parse_name), WithJsonSchema(_TEXT)]
File: TypeAlias = Annotated[str | None, PlainValidator(_file), WithJsonSchema(_TEXT)]
TargetIndex: TypeAlias = Annotated[
    tuple[int, ...],
    PlainValidator(_target_index),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}),
]
_PORTS_DEFAULT: tuple[PortRange, ...] = _default(ServerParameters, "ports")
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86400)]
Keepalive: TypeAlias = Annotated[float, Field(ge=0.5, le=3600)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=65535)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class LogKeys(_Keys):
    """Where log lines go and which."""

    level: Literal["debug", "info", "warning", "error"] = _default(Log, "level")
    """The least important line that is written; SIGHUP reads it again."""
    file: File = _absent()
    """A file to append to, relative to the configuration file.  Default: standard error with ``--foreground``, else
    ``log`` in the instance's directory under /run/rsock-nf."""


class CommonKeys(_Keys):
    """Keys of both roles."""

    name: Name = _absent()
    """The instance's name; default: the configuration file's name without ``.json``."""
    secret: Secret = _absent(b"")
    """What ``rsock-nf genkey`` printed; the same on both sides."""
    secret_file: File = _absent()
    """Instead of ``secret``: a file with it, relative to the configuration file."""
    ports: Ports = Field(_PORTS_DEFAULT, json_schema_extra={"default": ",".join(map(str, _PORTS_DEFAULT))})
    """The server's ports, the same on both sides."""
    type: Carriers = _default(ServerParameters, "carriers")
    """What the flows are: fake TCP, plain UDP, or both at once."""
    wire: Wire = _default(ServerParameters, "wire")
    """Whose frames are spoken: rsock-nf's own, or those of the original rsock; the same on both sides."""
    hash: Hash = DEFAULT_HASH
    """With ``"wire": "rsock"``: its key, the same on both sides.  It is no authentication."""
    cipher: Cipher = _default(ServerParameters, "cipher")
    """How datagrams are protected; the same on both sides."""
    spread: Spread = _default(ServerParameters, "spread")
    """Which flow a datagram takes."""
    duration: Seconds = _default(ServerParameters, "duration")
    """Seconds that a conversation lives without a datagram in either direction."""
    keepalive: Keepalive = _default(ServerParameters, "keepalive")
    """Seconds between probes of an idle flow; with ``"wire": "rsock"`` the default is 4."""
    device: Device = _absent()
    """The network device; default: the one that the route takes."""
    addresses: Addresses = _absent(())
    """The local addresses that are used; default: those of the device."""
    backend: Literal["auto", "nftables", "iptables", "pf", "ipfw", "manual"] = _default(Settings, "backend")
    """What installs the drop rule."""
    log: LogKeys = Field(default_factory=LogKeys)


class RsockKeys(_Keys):
    """A server's second wire, for clients of the original, on ports of its own.

    What is not given is as the server's own; ``keepalive`` and ``hash`` have defaults of theirs.
    """

    ports: Ports
    """The ports of this wire; none of the server's other ones."""
    hash: Hash = DEFAULT_HASH
    """The key of the original's frames.  It is no authentication."""
    type: Carriers = _default(ServerParameters, "carriers")
    """What its flows are."""
    target: OneHostPort = _absent(None)
    """Where its datagrams go, as host:port; default: the server's first target."""
    spread: Spread = _default(ServerParameters, "spread")
    """Which flow a datagram takes."""
    duration: Seconds = _default(ServerParameters, "duration")
    """Seconds that a conversation lives without a datagram in either direction."""
    keepalive: Keepalive = RSOCK_KEEPALIVE
    """Seconds between probes of an idle flow."""
    max_sessions: Count = _default(ServerParameters, "max_sessions")
    """Clients at a time."""
    max_conversations: Count = _default(ServerParameters, "max_conversations")
    """Over all sessions; each is a UDP socket."""


class ServerKeys(CommonKeys):
    """The server's configuration file."""

    role: Literal["server"]
    target: HostPorts = _absent(())
    """Where datagrams go, as host:port."""
    targets: HostPorts = _absent(())
    """Instead of ``target``: a list, from which clients choose by index."""
    rsock: RsockKeys = _absent()
    """A second wire on ports of its own: the original's."""
    on_probe: OnProbe = _default(ServerParameters, "on_probe")
    """What follows a TCP handshake without a valid hello: nothing, or a reset."""
    max_sessions: Count = _default(ServerParameters, "max_sessions")
    """Clients at a time."""
    max_conversations: Count = _default(ServerParameters, "max_conversations")
    """Over all sessions; each is a UDP socket."""

    @property
    def second_wire(self) -> RsockKeys | None:
        """``rsock``, if it is given."""
        return self.rsock if "rsock" in self.model_fields_set else None


class TunnelKeys(_Keys):
    """One of a client's local ends."""

    listen: Listen
    """Where the application sends its datagrams: an address and port, or unix:/path."""
    target: Annotated[int, Field(ge=0, le=65535)] = 0
    """Which of the server's targets gets them, counted from 0."""


class ClientKeys(CommonKeys):
    """The client's configuration file."""

    role: Literal["client"]
    server: Hosts
    """The server's address or name, or a list in order of preference."""
    listen: Listens = _absent(())
    """Where the application sends its datagrams: an address and port, or unix:/path, or a list."""
    tunnels: Annotated[tuple[TunnelKeys, ...], Field(min_length=1)] = _absent(())
    """Instead of ``listen``: a list of local ends, each with a target of its own."""
    target_index: TargetIndex = Field(_default(ClientParameters, "targets"), json_schema_extra={"default": 0})
    """For each ``listen`` (or for all alike): which of the server's targets; ``tunnels`` says it more clearly."""
    rsock_version: Literal[1, 2] = _default(ClientParameters, "rsock_version")
    """With ``"wire": "rsock"``: 2 for rsock 2.x, 1 for rsock 1.x."""
    flows: Annotated[int, Field(ge=1, le=1024)] = _default(ClientParameters, "flows")
    """At most this many flows, and at most one for each of the server's ports."""
    client_ports: Ports = _absent(())
    """Where source ports come from; default: the kernel chooses."""
    idle_timeout: Annotated[float, Field(ge=0, le=86400)] = _default(ClientParameters, "idle_timeout")
    """Seconds after the last conversation until the flows close; 0 = never."""


_ROLES: dict[object, type[ServerKeys | ClientKeys]] = {"server": ServerKeys, "client": ClientKeys}
_OBJECTS: dict[int | str, type[BaseModel]] = {"log": LogKeys, "rsock": RsockKeys, "tunnels": TunnelKeys}
_REMEDIES = {
    "server": "the server's address or name",
    "ports": "the ports of this wire",
    "listen": 'where the application sends its datagrams, as "127.0.0.1:30000"',
}


def schema() -> dict[str, Any]:
    """See ``rsock_nf.config.schema``."""
    either: TypeAdapter[Any] = TypeAdapter(Annotated[ServerKeys | ClientKeys, Field(discriminator="role")])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rsock-nf", **either.json_schema()}


def validate(path: Path, raw: dict[str, Any]) -> ServerKeys | ClientKeys:
    """The keys of the file's object.  Raises ``ConfigError`` about the first mistake."""
    if "role" not in raw:
        raise ConfigError(path, "role", 'missing: "server" or "client"')
    model = _ROLES.get(raw["role"]) if isinstance(raw["role"], str) else None
    if model is None:
        raise ConfigError(path, "role", f'must be "server" or "client", not {shown(raw["role"])}')
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        # An unknown key is often a misspelt one, whose absence is reported first: name the cause.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise ConfigError(path, field, _message(first, model)) from None


def _message(error: ErrorDetails, model: type[ServerKeys | ClientKeys]) -> str:
    if not error["loc"]:  # an escaped lone surrogate: legal for Python's parser only
        return f"not JSON: {error['msg']}"
    field, context = str(error["loc"][-1]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            for role, other in _ROLES.items():
                if other is not model and len(error["loc"]) == 1 and field in other.model_fields:
                    return f"only a {role} has this key"
            known = (_OBJECTS[error["loc"][0]] if len(error["loc"]) > 1 else model).model_fields
            close = difflib.get_close_matches(field, known, n=1)
            return f'unknown key (did you mean "{close[0]}"?)' if close else "unknown key"
        case "missing":
            return f"missing: {_REMEDIES[field]}"
        case "too_short":
            return "the list is empty"
        case "value_error":
            return str(context["error"])
        case "enum" | "literal_error":
            return f"must be {context['expected']}, not {shown(error['input'])}".replace("'", '"')
        case _:
            return f"{error['msg'].replace('Input should be', 'must be')}, not {shown(error['input'])}"
