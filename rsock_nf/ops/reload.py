"""What of a configuration file that has changed a running instance can follow, and what it cannot.

``plan`` compares the settings that run with those that the file means now.  What can be followed is followed at once,
all of it or nothing.  The rest is named: it takes ``down`` and ``up``.

Not here: who reads the file (``handover``, and the command ``reload``), and what a running endpoint does with other
parameters (``core.parameters.adopt``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rsock_nf.core.parameters import ClientParameters, Common, adopt
from rsock_nf.errors import InstanceError
from rsock_nf.settings import Host, Settings
from rsock_nf.wire.parameters import NativeParameters, RsockParameters

_FOLLOWED: Final = ("key_log", "log")
"""Settings that a running instance takes over as they are; they have the names of their keys."""
_COMPARED: Final = {"path", "digest", "tunnel", "wire", "second", "server_hosts", "target_hosts", *_FOLLOWED}
"""Settings of which more is to be asked than whether they are the same.  All others have the names of their keys, and
nothing can change them in a running instance."""
_KEYS: Final = {"kinds": "type", "targets": "tunnels"}
"""Parameters whose keys have other names; ``targets``: a client's."""
_DERIVED: Final = {"server", "local_ends"}
"""Parameters that follow from others: addresses of names, for example, which change by themselves."""
_ROLE: Final = "role"
_WIRE: Final = "wire"
_TOLD: Final = 20
"""Names of clients in one line."""
_TARGETS: Final = "targets"
_OF_RSOCK: Final = {_TARGETS: "target"}
"""The same, of the keys in ``rsock``."""
_NEW_FLOWS: Final = "new flows show it to the server; the session goes on"
"""When a client's other secret counts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload comes to."""

    settings: Settings
    """The instance has these from now on."""
    changed: tuple[str, ...]
    """The keys that it follows."""
    left: tuple[str, ...]
    """The keys that take ``down`` and ``up``."""

    @property
    def text(self) -> str:
        """In one line, for people."""
        return outcome(self.changed, self.left)


def outcome(changed: Sequence[str], left: Sequence[str]) -> str:
    """What a reload came to, in one line for people."""
    if not changed and not left:
        return "nothing to change"
    parts = [f"changed: {', '.join(changed)}" if changed else "nothing changed now"]
    if left:
        parts.append(f"until down and up these stay as before: {', '.join(left)}")
    return "; ".join(parts)


def plan(running: Settings, wanted: Settings) -> Plan:
    """What ``wanted`` changes in an instance that runs with ``running``.

    Raises ``InstanceError`` if it can be neither followed nor left: the name of a target has no address.
    """
    if type(running.tunnel) is not type(wanted.tunnel):
        return Plan(running, (), (_ROLE,))
    if running.wire.name is not wanted.wire.name:
        return Plan(running, (), (_WIRE,))
    for host in wanted.target_hosts:
        if not host.addresses:
            raise InstanceError(f"{wanted.path}: target: cannot resolve {host.name} at present")
    fixed = [field.name for field in dataclasses.fields(Settings) if field.name not in _COMPARED]
    left = [name for name in fixed if getattr(running, name) != getattr(wanted, name)]
    if _names(running.server_hosts) != _names(wanted.server_hosts):
        left.append("server")
    left += _fixed_parameters(running.tunnel, wanted.tunnel)
    left += _wire(running, wanted)
    left += _second(running, wanted)
    followed = {name: getattr(wanted, name) for name in _FOLLOWED}
    made = dataclasses.replace(running, tunnel=adopt(running.tunnel, wanted.tunnel), **followed)
    if isinstance(running.wire, NativeParameters) and isinstance(wanted.wire, NativeParameters):
        made = dataclasses.replace(made, wire=wanted.wire)
    if running.second and wanted.second:
        made = dataclasses.replace(
            made,
            second=dataclasses.replace(running.second, tunnel=adopt(running.second.tunnel, wanted.second.tunnel)),
        )
    if _may_have_targets_of(running, wanted):
        made = dataclasses.replace(made, target_hosts=wanted.target_hosts)
    else:
        left += [_TARGETS] if _differ(_TARGETS, made.tunnel, running.tunnel) else []
        made = _with_targets_of(made, running)
    changed = _changed(running, made)
    if not left:
        made = dataclasses.replace(made, digest=wanted.digest)
    return Plan(made, tuple(changed), tuple(dict.fromkeys(left)))


def _names(hosts: Sequence[Host]) -> list[str]:
    return [host.name for host in hosts]


def _fixed_parameters(running: Common, wanted: Common) -> list[str]:
    names = [field.name for field in dataclasses.fields(running)]
    fixed = [name for name in names if name not in {*running.LIVE, *_DERIVED}]
    return [_KEYS.get(name, name) for name in fixed if getattr(running, name) != getattr(wanted, name)]


def _wire(running: Settings, wanted: Settings) -> list[str]:
    """Keys of wire rsock, where it is the only one."""
    if not isinstance(running.wire, RsockParameters) or not isinstance(wanted.wire, RsockParameters):
        return []
    left = ["hash"] if running.wire.key != wanted.wire.key else []
    return left + (["rsock_version"] if running.wire.version != wanted.wire.version else [])


def _secrets(before: NativeParameters, after: NativeParameters, *, client: bool) -> list[str]:
    """What has become of the secrets, by the names of clients: ``clients (+carol, -bob, alice)``."""
    told_when = f"secret ({_NEW_FLOWS})" if client else "secret"
    changed = [told_when] if before.own_secrets != after.own_secrets else []
    old, new = ({client.name: client for client in wire.clients} for wire in (before, after))
    told = [f"+{name}" for name in new if name not in old]
    told += [f"-{name}" for name in old if name not in new]
    told += [name for name in new if name in old and new[name] != old[name]]
    if told:
        more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
        changed.append(f"clients ({', '.join(told[:_TOLD] + more)})")
    return changed


def _second(running: Settings, wanted: Settings) -> list[str]:
    """``rsock``, if anything of it has changed that a running server cannot follow."""
    before, after = running.second, wanted.second
    if before is None or after is None:
        return [] if before is after else ["rsock"]
    fixed = _fixed_parameters(before.tunnel, after.tunnel)
    return ["rsock"] if fixed or before.wire != after.wire else []


def _differ(name: str, one: Common, other: Common) -> bool:
    return bool(getattr(one, name, None) != getattr(other, name, None))


def _may_have_targets_of(running: Settings, wanted: Settings) -> bool:
    """With two wires, targets are numbered one wire after the other: their number stays, and so do the wires."""
    if not running.second and not wanted.second:
        return True
    return bool(running.second and wanted.second) and len(running.target_hosts) == len(wanted.target_hosts)


def _with_targets_of(made: Settings, running: Settings) -> Settings:
    """``made``, with the targets that the instance has now."""

    def targets(parameters: Any, of: Any) -> Any:
        return dataclasses.replace(parameters, targets=of.targets)

    made = dataclasses.replace(made, tunnel=targets(made.tunnel, running.tunnel))
    if made.second and running.second:
        tunnel = targets(made.second.tunnel, running.second.tunnel)
        made = dataclasses.replace(made, second=dataclasses.replace(made.second, tunnel=tunnel))
    return made


def _changed(before: Settings, after: Settings) -> list[str]:
    """The keys that an instance follows which goes on with ``after``."""
    changed = [name for name in before.tunnel.LIVE if _differ(name, before.tunnel, after.tunnel)]
    if before.second and after.second:
        old, new = before.second.tunnel, after.second.tunnel
        alone = [name for name in old.LIVE if name not in changed and _differ(name, old, new)]
        changed += [f"rsock.{_OF_RSOCK.get(name, name)}" for name in alone]
    if isinstance(before.wire, NativeParameters) and isinstance(after.wire, NativeParameters):
        changed += _secrets(before.wire, after.wire, client=isinstance(after.tunnel, ClientParameters))
    return changed + [name for name in _FOLLOWED if getattr(before, name) != getattr(after, name)]
