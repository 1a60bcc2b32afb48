"""The keys of the configuration file: what each may hold, and how they become ``Settings``.

The only module that imports pydantic.  Ranges stand here; defaults are taken from the dataclasses that the file ends in.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from rsock_nf.config import Configuration, source, values
from rsock_nf.config.values import HostPort, shown
from rsock_nf.core.parameters import Cipher, ClientParameters, OnProbe, ServerParameters, Spread
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


def _carrier(value: object) -> str:
    if value in ("udp", "all"):
        raise ValueError(f'{shown(value)} is not available yet: only "tcp" is')
    if value != "tcp":
        raise ValueError(f'must be "tcp", not {shown(value)}')
    return "tcp"


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
Endpoints: TypeAlias = Annotated[
    tuple[Endpoint, ...], PlainValidator(_many(values.parse_endpoint)), WithJsonSchema(_TEXTS)
]
Secret: TypeAlias = Annotated[bytes, PlainValidator(values.parse_secret), WithJsonSchema(_TEXT)]
Device: TypeAlias = Annotated[str | None, PlainValidator(values.parse_device), WithJsonSchema(_TEXT)]
Name: TypeAlias = Annotated[str | None, PlainValidator(values.parse_name), WithJsonSchema(_TEXT)]
File: TypeAlias = Annotated[str | None, PlainValidator(_file), WithJsonSchema(_TEXT)]
Carrier: TypeAlias = Annotated[str, PlainValidator(_carrier), WithJsonSchema({"const": "tcp"})]
TargetIndex: TypeAlias = Annotated[
    tuple[int, ...],
    PlainValidator(_target_index),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}),
]
_PORTS_DEFAULT: tuple[PortRange, ...] = _default(ServerParameters, "ports")
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86400)]


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
    type: Carrier = "tcp"
    """What the flows look like."""
    cipher: Cipher = _default(ServerParameters, "cipher")
    """How datagrams are protected; the same on both sides."""
    spread: Spread = _default(ServerParameters, "spread")
    """Which flow a datagram takes."""
    duration: Seconds = _default(ServerParameters, "duration")
    """Seconds that a conversation lives without a datagram in either direction."""
    keepalive: Annotated[float, Field(ge=0.5, le=3600)] = _default(ServerParameters, "keepalive")
    """Seconds between probes of an idle flow."""
    device: Device = _absent()
    """The network device; default: the one that the route takes."""
    addresses: Addresses = _absent(())
    """The local addresses that are used; default: those of the device."""
    backend: Literal["auto", "nftables", "iptables", "manual"] = _default(Settings, "backend")
    """What installs the drop rule."""
    log: LogKeys = Field(default_factory=LogKeys)


class ServerKeys(CommonKeys):
    """The server's configuration file."""

    role: Literal["server"]
    target: HostPorts = _absent(())
    """Where datagrams go, as host:port."""
    targets: HostPorts = _absent(())
    """Instead of ``target``: a list, from which clients choose by index."""
    on_probe: OnProbe = _default(ServerParameters, "on_probe")
    """What follows a TCP handshake without a valid hello: nothing, or a reset."""
    max_sessions: Annotated[int, Field(ge=1, le=65535)] = _default(ServerParameters, "max_sessions")
    """Clients at a time."""
    max_conversations: Annotated[int, Field(ge=1, le=65535)] = _default(ServerParameters, "max_conversations")
    """Over all sessions; each is a UDP socket."""


class ClientKeys(CommonKeys):
    """The client's configuration file."""

    role: Literal["client"]
    server: Hosts
    """The server's address or name, or a list in order of preference."""
    listen: Endpoints
    """Where the application sends its datagrams: an address and port, or a list."""
    target_index: TargetIndex = Field(_default(ClientParameters, "targets"), json_schema_extra={"default": 0})
    """For each ``listen`` (or for all alike): which of the server's targets."""
    flows: Annotated[int, Field(ge=1, le=1024)] = _default(ClientParameters, "flows")
    """At most this many flows, and at most one for each of the server's ports."""
    client_ports: Ports = _absent(())
    """Where source ports come from; default: the kernel chooses."""
    idle_timeout: Annotated[float, Field(ge=0, le=86400)] = _default(ClientParameters, "idle_timeout")
    """Seconds after the last conversation until the flows close; 0 = never."""


_ROLES: dict[object, type[ServerKeys | ClientKeys]] = {"server": ServerKeys, "client": ClientKeys}
_REMEDIES = {
    "server": "the server's address or name",
    "listen": 'where the application sends its datagrams, as "127.0.0.1:30000"',
}


def schema() -> dict[str, Any]:
    """See ``rsock_nf.config.schema``."""
    either: TypeAdapter[Any] = TypeAdapter(Annotated[ServerKeys | ClientKeys, Field(discriminator="role")])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rsock-nf", **either.json_schema()}


def load(path: Path) -> Configuration:
    """See ``rsock_nf.config.load``."""
    path = path.absolute()
    raw = source.read_object(path)
    name = source.instance_name(path, raw)
    keys = _validate(path, raw)
    secret, warnings = _secret(path, keys)
    if keys.cipher is Cipher.NONE:
        warnings.append(
            'cipher "none": the application must encrypt; who reads the wire can inject and replay datagrams'
        )
    device, tunnel = _client(path, keys, secret) if isinstance(keys, ClientKeys) else _server(path, keys, secret)
    settings = Settings(
        name=name,
        path=path,
        digest=_digest(keys, secret),
        tunnel=tunnel,
        device=device,
        addresses=keys.addresses,
        listen=keys.listen if isinstance(keys, ClientKeys) else (),
        client_ports=keys.client_ports if isinstance(keys, ClientKeys) else (),
        backend=keys.backend,
        log=_log(path, keys),
    )
    return Configuration(settings, tuple(f"{path}: {line}" for line in warnings))


def load_log(path: Path) -> Log:
    """See ``rsock_nf.config.load_log``."""
    path = path.absolute()
    return _log(path, _validate(path, source.read_object(path)))


def _log(path: Path, keys: CommonKeys) -> Log:
    return Log(keys.log.level, path.parent / keys.log.file if keys.log.file else None)


def _validate(path: Path, raw: dict[str, Any]) -> ServerKeys | ClientKeys:
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
            known = LogKeys.model_fields if len(error["loc"]) > 1 else model.model_fields
            close = difflib.get_close_matches(field, known, n=1)
            return f'unknown key (did you mean "{close[0]}"?)' if close else "unknown key"
        case "missing":
            return f"missing: {_REMEDIES[field]}"
        case "value_error":
            return str(context["error"])
        case "enum" | "literal_error":
            return f"must be {context['expected']}, not {shown(error['input'])}".replace("'", '"')
        case _:
            return f"{error['msg'].replace('Input should be', 'must be')}, not {shown(error['input'])}"


def _secret(path: Path, keys: CommonKeys) -> tuple[bytes, list[str]]:
    """The secret, and what is to be said about where it stands."""
    if keys.secret and keys.secret_file is not None:
        raise ConfigError(path, "secret_file", 'give either this or "secret", not both')
    if keys.secret:
        return keys.secret, _exposed(path, "secret: ")
    if keys.secret_file is None:
        raise ConfigError(path, "secret", 'missing: make one with "rsock-nf genkey", the same for both sides')
    file = path.parent / keys.secret_file
    text = source.read_text(file, "secret_file", owner=path)
    try:
        return values.parse_secret(text), _exposed(file, f"secret_file: {file}: ")
    except ValueError as error:
        raise ConfigError(path, "secret_file", f"{file}: {error}") from None


def _exposed(path: Path, field: str) -> list[str]:
    return [f"{field}everyone on this host can read it: chmod o-r {path}"] if source.others_can_read(path) else []


def _server(path: Path, keys: ServerKeys, secret: bytes) -> tuple[str | None, ServerParameters]:
    if keys.target and keys.targets:
        raise ConfigError(path, "targets", 'give either this or "target", not both')
    targets = keys.target or keys.targets
    if not targets:
        raise ConfigError(path, "target", 'missing: where datagrams go, as "127.0.0.1:9999"')
    field = "target" if keys.target else "targets"
    return keys.device, ServerParameters(
        secret=secret,
        ports=keys.ports,
        cipher=keys.cipher,
        spread=keys.spread,
        duration=keys.duration,
        keepalive=keys.keepalive,
        targets=tuple(
            Endpoint(address, port, zone) for host, port in targets for address, zone in _resolve(path, field, host)[:1]
        ),
        on_probe=keys.on_probe,
        max_sessions=keys.max_sessions,
        max_conversations=keys.max_conversations,
    )


def _client(path: Path, keys: ClientKeys, secret: bytes) -> tuple[str | None, ClientParameters]:
    indices = keys.target_index * len(keys.listen) if len(keys.target_index) == 1 else keys.target_index
    if len(indices) != len(keys.listen):
        raise ConfigError(path, "target_index", f'{len(indices)} indices for {len(keys.listen)} addresses in "listen"')
    wanted = min(keys.flows, values.count_ports(keys.ports))
    if keys.client_ports and (held := values.count_ports(keys.client_ports)) < wanted:
        raise ConfigError(path, "client_ports", f"{held} ports are too few for {wanted} flows")
    if keys.backend == "manual" and not keys.client_ports:
        remedy = 'with "backend": "manual" name the source ports that your rules cover, for example "20000-20099"'
        raise ConfigError(path, "client_ports", remedy)
    found = [pair for host in keys.server for pair in _resolve(path, "server", host)]
    device = _device(path, keys.device, {zone for _, zone in found if zone})
    return device, ClientParameters(
        secret=secret,
        ports=keys.ports,
        cipher=keys.cipher,
        spread=keys.spread,
        duration=keys.duration,
        keepalive=keys.keepalive,
        server=tuple(dict.fromkeys(address for address, _ in found)),
        flows=keys.flows,
        idle_timeout=keys.idle_timeout,
        targets=indices,
    )


def _device(path: Path, device: str | None, zones: set[str]) -> str | None:
    """The configured device, which the zones of link-local server addresses must agree with, or stand in for."""
    devices = zones | ({device} if device else set())
    if len(devices) > 1:
        raise ConfigError(path, "server", f"the address lies on one device, but several are named: {sorted(devices)}")
    return devices.pop() if devices else None


def _resolve(path: Path, field: str, host: str) -> list[tuple[IPAddress, str]]:
    """Addresses and zones of a host, in the resolver's order of preference (RFC 6724)."""
    literal, zone = values.split_zone(host)
    if literal is not None:
        return [(literal, zone)]
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(path, field, f"cannot resolve {shown(host)}: {reason}") from None
    found = [values.split_zone(str(answer[4][0])) for answer in answers]
    return list(dict.fromkeys((address, zone) for address, zone in found if address is not None))


def _digest(keys: CommonKeys, secret: bytes) -> str:
    """Equal for files that mean the same: order, white space, log level and where the secret stands do not matter.

    Names are hashed as written, not as resolved: a rotating DNS answer is not another configuration.
    """
    meaning = {name: value for name, value in keys if name not in {"name", "secret", "secret_file", "log"}}
    text = repr((meaning, keys.log.file, hashlib.sha256(secret).hexdigest()))
    return hashlib.sha256(text.encode()).hexdigest()
