"""What the keys mean together, and how they become ``Settings``: names are resolved and secrets read here.

Not here: what one key may hold (``model``), and the original's files (``original``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rsock_nf.config import original, source, values, workers
from rsock_nf.config.configuration import COMMAND_LINE, Configuration
from rsock_nf.config.hosts import Hosts
from rsock_nf.config.keys import ClientKeys, CommonKeys, KnownClientKeys, ServerKeys
from rsock_nf.config.plausible import refuse_impossible
from rsock_nf.config.validate import validate
from rsock_nf.core.parameters import Cipher, ClientLimits, ClientParameters, ServerParameters
from rsock_nf.core.types import PortRange, TransportAddress
from rsock_nf.errors import ConfigError
from rsock_nf.link import system
from rsock_nf.settings import Log, SecondWire, Settings
from rsock_nf.wire.parameters import (
    DEFAULT_HASH,
    RSOCK_KEEPALIVE,
    KnownClient,
    NativeParameters,
    RsockParameters,
    WireName,
    WireParameters,
)

T = TypeVar("T")

_NATIVE_ONLY = ("secret", "secret_file", "clients", "cipher", "targets", "rsock")
_RSOCK_ONLY = ("hash", "rsock_version")


def load(path: Path, role: str | None = None, *, patient: bool = False) -> Configuration:
    """See ``rsock_nf.config.load``."""
    path = path.absolute()
    raw = source.read_object(path)
    if not original.is_original(raw):
        found = assemble(path, raw, patient=patient)
        if role and raw["role"] != role:
            raise ConfigError(path, "role", f"this is a {raw['role']}'s file, and a {role} is wanted")
        return found
    converted = _converted(path, raw, role)
    configuration = _assemble_converted(path, converted, patient=patient)
    heading = f"a {converted.keys['role']}'s configuration of the original rsock; `rsock-nf convert` writes it as ours"
    notes = [heading, *converted.understood, *converted.remarks]
    if converted.foreground:
        notes.append(
            f"daemon: 0: `rsock-nf {converted.keys['role']} -f` stays in the foreground; `up` wants --foreground"
        )
    return dataclasses.replace(
        configuration, notes=tuple(f"{path}: {line}" for line in notes), foreground=converted.foreground
    )


def from_flags(role: str, given: Mapping[str, Any]) -> Configuration:
    """See ``rsock_nf.config.from_flags``."""
    try:
        converted = _converted(COMMAND_LINE, given, role)
        configuration = _assemble_converted(COMMAND_LINE, converted)
    except ConfigError as error:
        raise ConfigError(COMMAND_LINE, _flag(error.field), error.message) from None
    notes = tuple(f"{_flag(field)}:{text}" for field, _, text in (line.partition(":") for line in converted.remarks))
    warnings = tuple(line.replace(" param.", " --", 1) for line in configuration.warnings)
    return dataclasses.replace(configuration, warnings=warnings, notes=notes, foreground=converted.foreground)


def convert(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """See ``rsock_nf.config.convert``."""
    path = path.absolute()
    raw = source.read_object(path)
    if not original.is_original(raw):
        raise ConfigError(path, "param", "missing: this is no configuration of the original rsock")
    converted = _converted(path, raw, None)
    _assemble_converted(path, converted)
    return converted.keys, tuple(f"{path}: {line}" for line in (*converted.understood, *converted.remarks))


def _converted(path: Path, raw: Mapping[str, Any], role: str | None) -> original.Converted:
    try:
        return original.convert(raw, role)
    except original.UnusableError as error:
        raise ConfigError(path, error.field, str(error)) from None


def _assemble_converted(path: Path, converted: original.Converted, *, patient: bool = False) -> Configuration:
    """As ``assemble``; errors and warnings name the field of the original."""
    try:
        found = assemble(path, converted.keys, patient=patient)
    except ConfigError as error:
        raise ConfigError(path, converted.origins.get(error.field, error.field), error.message) from None
    ours, theirs = f"{path}: hash:", f"{path}: {converted.origins['hash']}:"
    return dataclasses.replace(found, warnings=tuple(line.replace(ours, theirs, 1) for line in found.warnings))


def _flag(field: str) -> str:
    return field.replace("param.", "--") if "param." in field else f"--{field}"


def assemble(path: Path, raw: dict[str, Any], *, patient: bool = False) -> Configuration:
    """The settings that the object ``raw`` means; ``path`` is its file.  Raises ``ConfigError``."""
    name = source.instance_name(path, raw)
    keys = validate(path, raw)
    _check_wire(path, keys)
    secrets, warnings = _secrets(path, keys) if keys.wire is WireName.NATIVE else ((), [])
    warnings += _weaknesses(keys)
    client = keys if isinstance(keys, ClientKeys) else None
    hosts = Hosts(path, patient=patient)
    tunnel = _server(path, keys, hosts) if isinstance(keys, ServerKeys) else _client(path, keys, hosts)
    settings = Settings(
        name=name,
        path=path,
        digest=_digest(keys, secrets),
        tunnel=tunnel,
        wire=_wire(keys, secrets),
        second=_second_wire(path, keys, tunnel, hosts) if isinstance(tunnel, ServerParameters) else None,
        device=_device(path, keys.device, {one.zone for host in hosts.servers for one in host.addresses if one.zone}),
        fwmark=keys.fwmark or 0,
        addresses=keys.addresses,
        listen=tuple(_listen(path, field, listen) for field, listen, _ in _local_ends(path, client)) if client else (),
        client_ports=client.client_ports if client else (),
        server_hosts=hosts.servers,
        target_hosts=tuple(hosts.targets),
        backend=keys.backend,
        workers=workers.how_many(path, keys),
        pump=keys.pump,
        metrics=_listen(path, "metrics", keys.metrics) if keys.metrics is not None else None,
        user=keys.user,
        key_log=keys.key_log,
        log=_log(path, keys),
    )
    refuse_impossible(settings)
    return Configuration(settings, tuple(f"{path}: {line}" for line in warnings))


def _log(path: Path, keys: CommonKeys) -> Log:
    return Log(keys.log.level, path.parent / keys.log.file if keys.log.file else None)


def _check_wire(path: Path, keys: ServerKeys | ClientKeys) -> None:
    """Raises ``ConfigError`` about a key that has no meaning with the wire, or that asks for what it cannot do."""
    given = keys.model_fields_set
    other = _RSOCK_ONLY if keys.wire is WireName.NATIVE else _NATIVE_ONLY
    for field in (field for field in other if field in given):
        if field == "targets":
            raise ConfigError(path, field, 'with "wire": "rsock" there is one: give it as "target"')
        wanted = WireName.RSOCK if keys.wire is WireName.NATIVE else WireName.NATIVE
        raise ConfigError(path, field, f'has a meaning with "wire": "{wanted.value}" only')
    if keys.wire is WireName.NATIVE:
        return
    if any(address.version != 4 for address in keys.addresses):
        raise ConfigError(path, "addresses", '"wire": "rsock" is IPv4 only')
    if isinstance(keys, ServerKeys) and len(keys.target) > 1:
        raise ConfigError(path, "target", '"wire": "rsock" has one target')
    if isinstance(keys, ClientKeys) and any(tunnel.target for tunnel in keys.tunnels):
        raise ConfigError(path, "tunnels", '"wire": "rsock" has one target: its number is 0')


def _weaknesses(keys: CommonKeys) -> list[str]:
    """What the wires that are configured do not give."""
    found = []
    second = keys.rsock if isinstance(keys, ServerKeys) else None
    undecided = "cipher" not in keys.model_fields_set  # who writes "none" has decided it
    if keys.wire is WireName.NATIVE and keys.cipher is Cipher.NONE and undecided:
        found.append(
            'cipher "none": the application must encrypt; anyone who can capture the traffic can inject and replay '
            'datagrams (write "cipher": "none" into the file if that is meant)'
        )
    if keys.key_log:
        found.append("key_log: who may ask the control socket can read what the tunnel carries; leave it out again")
    if keys.wire is WireName.RSOCK or second:
        where, key = ("rsock", second.hash) if second else ('wire "rsock"', keys.hash)
        found.append(
            f"{where}: hash is no authentication: anyone who can guess it, or capture the traffic, "
            "can use the server and inject datagrams"
        )
        if key == DEFAULT_HASH:
            found.append(
                f'{"rsock.hash" if second else "hash"}: "{key}" is what everybody has: choose another, on both sides'
            )
    return found


def _known(keys: CommonKeys) -> tuple[KnownClientKeys, ...]:
    """The clients that a server knows by name."""
    return keys.clients if isinstance(keys, ServerKeys) else ()


def _secrets(path: Path, keys: ServerKeys | ClientKeys) -> tuple[tuple[bytes, ...], list[str]]:
    """The secrets that are nobody's in particular, and warnings about the file that holds them or those of clients."""
    known = _known(keys)
    if keys.secret and keys.secret_file is not None:
        raise ConfigError(path, "secret_file", 'give either this or "secret", not both')
    field, secrets = "secret", keys.secret
    exposed = _exposed(path, "secret: ") if keys.secret or known else []
    if keys.secret_file is not None:
        field, (secrets, more) = "secret_file", _secret_file(path, keys.secret_file)
        exposed += more
    elif not secrets and not known:
        what = (
            ", the same for both sides"
            if isinstance(keys, ClientKeys)
            else ', the same for both sides, or give "clients"'
        )
        raise ConfigError(path, "secret", f'missing: make one with "rsock-nf genkey"{what}')
    if isinstance(keys, ClientKeys) and len(secrets) > 1:
        raise ConfigError(path, field, "a client has one; its server may have two while one replaces the other")
    _refuse_twice(path, field, secrets, known)
    return secrets, exposed


def _secret_file(path: Path, name: str) -> tuple[tuple[bytes, ...], list[str]]:
    if values.is_secret(name):  # which must not appear in a message about a file
        raise ConfigError(path, "secret_file", 'this is a secret itself, not the path of a file: give it as "secret"')
    file = path.parent / name
    text = source.read_text(file, "secret_file", owner=path)
    try:
        return values.parse_secrets(text.split() or [""]), _exposed(file, f"secret_file: {file}: ")
    except ValueError as error:
        raise ConfigError(path, "secret_file", f"{file}: {error}") from None


def _refuse_twice(path: Path, field: str, own: tuple[bytes, ...], known: Sequence[KnownClientKeys]) -> None:
    """Raises ``ConfigError`` about a client whose name or secret is another's, too: nobody could tell them apart."""
    names: set[str] = set()
    whose = dict.fromkeys(own, f'"{field}"')
    for index, client in enumerate(known):
        where = f"clients[{index}]"
        if client.name in names:
            raise ConfigError(path, f"{where}.name", f"{client.name} is given twice")
        names.add(client.name)
        for secret in client.secret:
            if secret in whose:
                raise ConfigError(path, f"{where}.secret", f"it is also that of {whose[secret]}")
            whose[secret] = client.name


def _exposed(path: Path, field: str) -> list[str]:
    return [f"{field}everyone on this host can read it: chmod o-r {path}"] if source.others_can_read(path) else []


def _server(path: Path, keys: ServerKeys, hosts: Hosts) -> ServerParameters:
    if keys.target and keys.targets:
        raise ConfigError(path, "targets", 'give either this or "target", not both')
    targets = keys.target or keys.targets
    if not targets:
        raise ConfigError(path, "target", 'missing: where datagrams go, as "127.0.0.1:9999"')
    field = "target" if keys.target else "targets"
    return ServerParameters(
        **_common(keys),
        targets=tuple(hosts.target(field, target) for target in targets),
        on_probe=keys.on_probe,
        allow=keys.allow,
        max_sessions=keys.max_sessions,
        max_conversations=keys.max_conversations,
        speedtest=keys.speedtest,
    )


def _second_wire(path: Path, keys: CommonKeys, native: ServerParameters, hosts: Hosts) -> SecondWire | None:
    """The original's wire beside the native one; what is not given is as there."""
    second = keys.rsock if isinstance(keys, ServerKeys) else None
    if second is None:
        return None
    for ports in second.ports:
        for taken in native.ports:
            if ports.first <= taken.last and taken.first <= ports.last:
                both = PortRange(max(ports.first, taken.first), min(ports.last, taken.last))
                remedy = "it is by its port that the wire of a packet is known"
                raise ConfigError(path, "rsock.ports", f'{both} is also in "ports": {remedy}')
    if keys.addresses and all(address.version != 4 for address in keys.addresses):
        raise ConfigError(path, "rsock", 'this wire is IPv4 only, and "addresses" has no IPv4 address')
    given = second.model_fields_set
    targets = (hosts.target("rsock.target", second.target),) if second.target else native.targets[:1]
    if not second.target:
        hosts.targets.append(hosts.targets[0])

    def chosen(field: str, inherited: T) -> T:
        return getattr(second, field) if field in given else inherited

    tunnel = ServerParameters(
        kinds=chosen("type", native.kinds),
        ports=second.ports,
        spread=chosen("spread", native.spread),
        duration=chosen("duration", native.duration),
        keepalive=second.keepalive,
        targets=targets,
        on_probe=native.on_probe,
        allow=native.allow,
        max_sessions=chosen("max_sessions", native.max_sessions),
        max_conversations=chosen("max_conversations", native.max_conversations),
    )
    return SecondWire(tunnel, RsockParameters(second.hash.encode()))


def _wire(keys: ServerKeys | ClientKeys, secrets: tuple[bytes, ...]) -> WireParameters:
    if keys.wire is WireName.NATIVE:
        known = _known(keys)
        clients = tuple(KnownClient(one.name, one.secret, _limits(one)) for one in known)
        first, second = (*secrets, b"", b"")[: values.MAX_SECRETS]
        return NativeParameters(first, second, clients)
    versions = {"version": keys.rsock_version} if isinstance(keys, ClientKeys) else {}
    return RsockParameters(keys.hash.encode(), **versions)


def _limits(client: KnownClientKeys) -> ClientLimits:
    return ClientLimits(max_conversations=client.max_conversations, rate=client.rate)


def _common(keys: CommonKeys) -> dict[str, Any]:
    """The parameters of either role."""
    rsock = keys.wire is WireName.RSOCK
    return {
        "kinds": keys.type,
        "ports": keys.ports,
        "cipher": keys.cipher,
        "spread": keys.spread,
        "duration": keys.duration,
        "keepalive": RSOCK_KEEPALIVE if rsock and "keepalive" not in keys.model_fields_set else keys.keepalive,
    }


def _client(path: Path, keys: ClientKeys, hosts: Hosts) -> ClientParameters:
    wanted = min(keys.flows, values.count_ports(keys.ports))
    held = values.count_ports(keys.client_ports)
    if keys.client_ports and held < wanted:
        raise ConfigError(path, "client_ports", f"{held} ports are too few for {wanted} flows")
    if keys.flow_age and keys.client_ports and held < 2 * wanted:
        remedy = f'{held} ports are too few to renew {wanted} flows: name {2 * wanted}, or leave out "flow_age"'
        raise ConfigError(path, "client_ports", remedy)
    if keys.backend == "manual" and keys.type.tcp and not keys.client_ports:
        remedy = 'with "backend": "manual" name the source ports that your rules cover, for example "20000-20099"'
        raise ConfigError(path, "client_ports", remedy)
    return ClientParameters(
        **_common(keys),
        server=hosts.server(keys.server, keys.wire),
        flows=keys.flows,
        idle_timeout=keys.idle_timeout,
        flow_age=keys.flow_age,
        targets=tuple(target for _, _, target in _local_ends(path, keys)),
    )


def _local_ends(path: Path, keys: ClientKeys) -> list[tuple[str, TransportAddress | Path, int]]:
    """Field, where the application sends to, target: for each local end, whichever way they are written."""
    if not keys.tunnels:
        if not keys.listen:
            raise ConfigError(
                path, "listen", 'missing: where the application sends its datagrams, as "127.0.0.1:30000"'
            )
        return [("listen", listen, 0) for listen in keys.listen]
    if "listen" in keys.model_fields_set:
        raise ConfigError(path, "listen", 'give either this or "tunnels", not both')
    listens = [tunnel.listen for tunnel in keys.tunnels]
    for index, listen in enumerate(listens):
        if listen in listens[:index]:
            raise ConfigError(path, f"tunnels[{index}].listen", f"{listen} is given twice")
    return [(f"tunnels[{index}].listen", one.listen, one.target) for index, one in enumerate(keys.tunnels)]


def _listen(path: Path, field: str, listen: TransportAddress | Path) -> TransportAddress | Path:
    """A socket's path is absolute from here on."""
    if not isinstance(listen, Path):
        return listen
    absolute = path.parent / listen
    most = system().socket_path_bytes
    if len(os.fsencode(absolute)) > most:
        raise ConfigError(path, field, f"{absolute}: too long for a socket: at most {most} bytes")
    return absolute


def _device(path: Path, device: str | None, zones: set[str]) -> str | None:
    """The configured device, or the one in the zones of link-local server addresses; they must agree."""
    devices = zones | ({device} if device else set())
    if len(devices) > 1:
        raise ConfigError(path, "server", f"the address lies on one device, but several are named: {sorted(devices)}")
    return devices.pop() if devices else None


def _digest(keys: CommonKeys, secrets: tuple[bytes, ...]) -> str:
    """Equal for files that mean the same: order, white space, log level and the place of the secret do not matter.

    Names are hashed as written, not as resolved: a rotating DNS answer is not another configuration.
    """
    meaning = {name: value for name, value in keys if name not in {"name", "secret", "secret_file", "clients", "log"}}
    known = _known(keys)
    clients = [(one.name, _hashed(one.secret), _limits(one)) for one in known]
    text = repr((meaning, keys.log.file, _hashed(secrets), clients))
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed(secrets: tuple[bytes, ...]) -> list[str]:
    return [hashlib.sha256(secret).hexdigest() for secret in secrets]
