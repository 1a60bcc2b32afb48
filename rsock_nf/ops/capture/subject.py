"""Whose packets are captured: from a configuration file, or from what a running instance says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rsock_nf import config
from rsock_nf.config.configuration import COMMAND_LINE
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import IPAddress
from rsock_nf.errors import InstanceError, RsockError, TunnelError
from rsock_nf.link import LinkError, Watch, Watched, open_watch, own_addresses
from rsock_nf.ops.capture.clear import Clear
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.instances.running import only_running
from rsock_nf.policy import MANY_ADDRESSES, carrier_ports, fake_tcp_ports
from rsock_nf.settings import Settings
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.parameters import NativeParameters


@dataclass(frozen=True, slots=True)
class Subject:
    """A tunnel whose packets are captured."""

    settings: Settings
    instance: Instance
    running: bool

    @property
    def serves(self) -> bool:
        """It is a server."""
        return isinstance(self.settings.tunnel, ServerParameters)

    def text(self) -> str:
        """In words, for people and for the file."""
        spans = [
            f"{kind} {','.join(map(str, ports))}"
            for kind, ports in (("tcp", fake_tcp_ports(self.settings)), ("udp", carrier_ports(self.settings)))
            if ports
        ]
        role = "server" if self.serves else "client"
        return f"tunnel {self.settings.name} ({role}; the server's ports: {', '.join(spans)})"


def find(instance: Instance | None, path: Path | None) -> Subject:
    """The tunnel of the file ``path``, or that instance, or else the only one that runs.

    Raises ``InstanceError``, ``ConfigError``, ``ControlError``.
    """
    if path is None or instance is None:
        instance = only_running(instance, otherwise="--config FILE captures all the same")
    if path is None:
        _refuse_other_namespace(instance)
        path = Path(ask(instance, "status")["config"])
        if path == COMMAND_LINE:
            raise InstanceError(f"instance {instance.name} was started by flags: capture wants a configuration file")
    return Subject(config.load(path, patient=True).settings, instance, instance.is_running())


def watch(subject: Subject, *, snap: int) -> Watch:
    """Look on at its packets.  Raises ``TunnelError``."""
    settings = subject.settings
    try:
        watched = Watched(_server_addresses(subject), fake_tcp_ports(settings), carrier_ports(settings))
        return open_watch(watched, settings.device, snap=snap)
    except LinkError as error:
        raise TunnelError(str(error)) from None


def clear(subject: Subject) -> Clear:
    """What opens its packets.  Raises ``RsockError`` if it hands out no keys."""
    if not subject.running:
        raise InstanceError(f"instance {subject.instance.name} is not running: --decrypt asks it for the keys")
    _refuse_other_namespace(subject.instance)
    secrets = [one for wire in subject.settings.wires if isinstance(wire, NativeParameters) for one in wire.all_secrets]
    if not secrets:
        raise TunnelError('--decrypt: with "wire": "rsock" nothing is encrypted')
    opened = Clear(
        lambda: ask(subject.instance, "keys"),
        [NativeHandshake(secret) for secret in secrets],
        serves=subject.serves,
    )
    opened.learn()
    return opened


def _refuse_other_namespace(instance: Instance) -> None:
    """Raises ``InstanceError`` if its packets cannot be seen from here."""
    record = instance.record()
    if record is None or record.netns is None or record.netns == namespaces.current():
        return
    way = namespaces.way_into(record.netns)
    remedy = f": {way} rsock-nf capture {instance.name}" if way else ""
    raise InstanceError(f"instance {instance.name} runs in another network namespace{remedy}")


def _server_addresses(subject: Subject) -> tuple[IPAddress, ...]:
    """The server's addresses.  Raises ``TunnelError``, ``LinkError``."""
    settings = subject.settings
    if isinstance(settings.tunnel, ServerParameters):
        addresses = settings.addresses or own_addresses(settings.device)
        return () if len(addresses) > MANY_ADDRESSES else addresses
    found = dict.fromkeys([*settings.tunnel.server, *_dialled(subject)])
    if not found:
        raise TunnelError(f"cannot resolve {', '.join(settings.unresolved)}")
    return tuple(found)


def _dialled(subject: Subject) -> list[IPAddress]:
    """Where the flows of a running client lead now: names may have had other addresses when it began."""
    if not subject.running:
        return []
    try:
        sessions: list[dict[str, Any]] = ask(subject.instance, "status")["sessions"]
        remotes = [flow["remote"] for session in sessions for flow in session["flows"]]
    except (RsockError, KeyError, TypeError):
        return []
    return [ip_address(remote.rpartition(":")[0].strip("[]")) for remote in remotes]
