"""What running instances say of themselves, and what dead ones left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rsock_nf.config.values import parse_ports
from rsock_nf.errors import InstanceError, RsockError
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import Instance, instances
from rsock_nf.ops.instances.overview import overview, runs
from rsock_nf.settings import Settings


def own(settings: Settings) -> Instance | None:
    """The instance of this configuration, if it runs in this network namespace."""
    with contextlib.suppress(InstanceError):
        instance = Instance(settings.name)
        record = instance.record() if instance.is_running() else None
        if record is not None and record.netns == namespaces.current():
            return instance
    return None


def statuses(settings: Settings | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and status of instances that run in this network namespace: this one, or all."""
    try:
        found = instances()
    except InstanceError:  # ``leftovers`` says why
        return
    for instance in found:
        record = instance.record()
        if record is None or record.netns != namespaces.current() or (settings and instance.name != settings.name):
            continue
        with contextlib.suppress(RsockError):
            yield instance.name, ask(instance, "status")


def servers_on(taken: list[int]) -> dict[str, str]:
    """The running servers of this network namespace that have one of these ports, and all ports that they have."""
    return {
        name: status["ports"]
        for name, status in statuses(None)
        if status.get("role") == "server"
        and any(port in span for span in parse_ports(status["ports"]) for port in taken)
    }


def said(settings: Settings | None) -> Iterator[Finding]:
    """Reasons and notes of instances: of this one, or of all of this network namespace."""
    for name, status in statuses(settings):
        if status.get("reason"):
            yield Finding(Verdict.WARN, f"instance {name}", status["reason"])
        for note in status.get("notes", ()):
            yield Finding(Verdict.OK, f"instance {name}", note)


def device_in_use(settings: Settings | None) -> str:
    """The device that the running instance sends by, which may be another one than that of the route: a VPN may have
    taken that.  "" = it does not run."""
    for _, status in statuses(settings):
        return str(status["link"]["device"]).partition(", ")[0]
    return ""


def leftovers() -> Iterator[Finding]:
    """Instances that have ended without removing all that was theirs."""
    try:
        for snapshot in overview(None):
            if not runs(snapshot):
                text = f"{snapshot['name']} {snapshot['state']}: {snapshot['reason']}"
                yield Finding(Verdict.WARN, "leftovers", text)
    except RsockError as error:
        yield Finding(Verdict.WARN, "leftovers", str(error))
