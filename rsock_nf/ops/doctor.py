"""``rsock-nf doctor``: what of this host a tunnel needs, looked at one by one, each with its remedy.

It reads, and opens sockets for a moment; it changes nothing.  It cannot promise that ``up`` will succeed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from rsock_firewall import FirewallError, select
from rsock_nf.config.values import parse_ports
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import PortRange
from rsock_nf.errors import InstanceError, RsockError
from rsock_nf.link import (
    OWN_ADDRESS,
    LinkError,
    abroad,
    default_device,
    device_addresses,
    device_to,
    own_address,
    system,
)
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.ethernet import ETHERNET_MTU
from rsock_nf.link.port_use import overlap_warning
from rsock_nf.ops import privileges
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import instances
from rsock_nf.ops.instances.overview import overview, runs
from rsock_nf.ops.rules import policy_now
from rsock_nf.policy import carrier_ports, fake_tcp_ports, served_ports
from rsock_nf.settings import Settings
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.words import vpn_numbers, which_pump

__all__ = ["Finding", "Verdict", "examine"]


def examine(settings: Settings | None) -> list[Finding]:
    """Everything, in the order in which ``up`` would stumble over it; without settings, what every instance needs."""
    if settings and not fake_tcp_ports(settings):
        text = "neither privileges, packet sockets nor rules are needed, but for ports below 1024"
        findings = [Finding(Verdict.OK, "type udp", text)]
    else:
        findings = [*system().examine_host(), _privileges(settings), *_firewall(settings)]
    device = _device(settings)
    if not isinstance(device, Finding):
        # Without "device" packets are taken from every device, so it does not matter which kind this one is of.
        bound = settings is not None and settings.device is not None and bool(fake_tcp_ports(settings))
        findings += system().examine_device(device, tap=bound or not system().taps_every_device)
    elif not settings or settings.device or fake_tcp_ports(settings) or isinstance(settings.tunnel, ClientParameters):
        findings.append(device)  # a server of UDP alone needs none
    if settings:
        findings += _numbers(settings, "" if isinstance(device, Finding) else device)
    findings.append(_pump(settings))
    if settings and isinstance(settings.tunnel, ServerParameters):
        if warning := overlap_warning(served_ports(settings), system()):
            findings.append(Finding(Verdict.WARN, "ports", warning.removeprefix("ports: ")))
        if fake_tcp_ports(settings):
            findings.append(_ports(settings, fake_tcp_ports(settings)))
        if carrier_ports(settings):
            findings.append(_udp_ports(settings, carrier_ports(settings)))
    return [*findings, *_running(settings), *_leftovers()]


def _privileges(settings: Settings | None) -> Finding:
    backend = settings.backend if settings else "auto"
    refusal = privileges.refusal("a tunnel", backend)
    if refusal:
        return Finding(
            Verdict.FAIL, "privileges", f"{refusal}; {privileges.WITHOUT}, and without packet socket and rules"
        )
    return Finding(Verdict.OK, "privileges", privileges.needed(backend))


def _firewall(settings: Settings | None) -> Iterator[Finding]:
    try:
        chosen = select(settings.backend if settings else "auto")
    except FirewallError as error:
        yield Finding(Verdict.FAIL, "firewall", str(error))
        return
    yield Finding(Verdict.OK, "firewall", f"{chosen.name} works here")
    if chosen.name == "nftables" and importlib.util.find_spec("iptc") is None:
        text = f"no iptables backend (optional: {sys.executable} -m pip install python-iptables)"
        yield Finding(Verdict.OK, "firewall", text)
    if settings:
        with contextlib.suppress(FirewallError, LinkError, RsockError):  # the device's own finding says it
            for obstacle in chosen.obstacles(policy_now(settings, settings.client_ports)):
                yield Finding(Verdict.WARN, "firewall", obstacle)


def _device(settings: Settings | None) -> str | Finding:
    """The device that the instance would take, or why there is none."""
    client = settings.tunnel if settings and isinstance(settings.tunnel, ClientParameters) else None
    try:
        if client and client.kinds.tcp and (own := own_address(client.server)) is not None:
            return Finding(Verdict.FAIL, "server", f"{own} {OWN_ADDRESS}")
        if settings and settings.device:
            return settings.device
        if client:
            return _device_in_use(settings) or device_to(client.server, settings.fwmark if settings else 0)
        found = default_device()
    except (LinkError, RsockError) as error:
        return Finding(Verdict.FAIL, "device", str(error))
    if found is None:
        return Finding(Verdict.FAIL, "device", 'no default route tells which one: set "device" in the configuration')
    return found


def _numbers(settings: Settings, device: str) -> Iterator[Finding]:
    """What applications should set.  A path may be narrower than its first link: ``status`` tells that."""
    from rsock_nf.sockets.carriers import route_mtu

    client = settings.tunnel if isinstance(settings.tunnel, ClientParameters) else None
    served = client.server if client else settings.addresses
    if not served and device:
        with contextlib.suppress(LinkError):  # the device's own finding says it
            served = device_addresses(device)
    mtu = route_mtu(client.server if client else abroad(), settings.device) or ETHERNET_MTU
    version = max((address.version for address in served if not address.is_link_local), default=4)
    for tunnel, wire in zip(settings.tunnels, settings.wires, strict=True):
        largest = largest_datagram(mtu, version, tunnel, wire)
        which = f" (wire {wire.name.value})" if settings.second else ""
        text = f"{mtu} on the way out: datagrams of up to {largest} bytes are not cut{which}: {vpn_numbers(largest)}"
        yield Finding(Verdict.OK, "MTU", text)


def _pump(settings: Settings | None) -> Finding:
    """Which data path ``up`` would take; without settings: whether there is a native one."""
    from rsock_nf.native.library import LINUX_ONLY, load
    from rsock_nf.runtime.pump_choice import why_python

    library = load() if system().has_native_path else LINUX_ONLY
    why = why_python(settings) if settings else library if isinstance(library, str) else ""
    refused = bool(why) and settings is not None and settings.pump == "native"
    return Finding(Verdict.FAIL if refused else Verdict.OK, "pump", which_pump(why))


def _ports(settings: Settings, ports: tuple[PortRange, ...]) -> Finding:
    """Whether ``up`` could hold them now.

    It is tried: not every system lists a held port.
    """
    from rsock_nf.sockets.held_ports import hold_port

    taken, why = [], ""
    for port in (port for span in ports for port in range(span.first, span.last + 1)):
        try:
            hold_port(port, settings.addresses).close()
        except LinkError as error:
            taken.append(port)
            why = why or str(error)
    if not taken:
        return Finding(Verdict.OK, "ports", f"free: {','.join(map(str, ports))}")
    holding = _instances_on(taken)
    if settings.name in holding:
        return Finding(Verdict.OK, "ports", f"{','.join(map(str, ports))}: held by this instance, which is running")
    if holding:
        other = min(holding)
        text = f'instance {other} holds {holding[other]}: choose other "ports", or rsock-nf down --name {other}'
        return Finding(Verdict.FAIL, "ports", text)
    more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
    return Finding(Verdict.FAIL, "ports", f'{why}{more}: choose other "ports", or stop who has them')


def _udp_ports(settings: Settings, ports: tuple[PortRange, ...]) -> Finding:
    """The same for the UDP ports that it serves."""
    from rsock_nf.sockets.carriers import serve_ports

    text = ",".join(map(str, ports))
    try:
        for carrier in serve_ports(ports, settings.addresses, device=settings.device):
            carrier.close()
    except LinkError as error:
        if settings.name in _instances_on([port for span in ports for port in range(span.first, span.last + 1)]):
            return Finding(Verdict.OK, "UDP ports", f"{text}: held by this instance, which is running")
        return Finding(Verdict.FAIL, "UDP ports", f'{error}: choose other "ports", or stop who has them')
    return Finding(Verdict.OK, "UDP ports", f"free: {text}")


def _instances_on(taken: list[int]) -> dict[str, str]:
    """The running servers of this network namespace that have one of these ports, and all ports that they have."""
    return {
        name: status["ports"]
        for name, status in _statuses(None)
        if status.get("role") == "server"
        and any(port in span for span in parse_ports(status["ports"]) for port in taken)
    }


def _running(settings: Settings | None) -> Iterator[Finding]:
    """What instances that run say of themselves: this one, or all of this network namespace."""
    for name, status in _statuses(settings):
        if status.get("reason"):
            yield Finding(Verdict.WARN, f"instance {name}", status["reason"])
        for note in status.get("notes", ()):
            yield Finding(Verdict.OK, f"instance {name}", note)


def _device_in_use(settings: Settings | None) -> str:
    """The device that the running instance sends by, which may be another one than that of the route: a VPN may have
    taken that.  "" = it does not run."""
    for _, status in _statuses(settings):
        return str(status["link"]["device"]).partition(", ")[0]
    return ""


def _statuses(settings: Settings | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and status of instances that run in this network namespace: this one, or all."""
    try:
        found = instances()
    except InstanceError:  # ``_leftovers`` says why
        return
    for instance in found:
        record = instance.record()
        if record is None or record.netns != namespaces.current() or (settings and instance.name != settings.name):
            continue
        with contextlib.suppress(RsockError):
            yield instance.name, ask(instance, "status")


def _leftovers() -> Iterator[Finding]:
    try:
        for snapshot in overview(None):
            if not runs(snapshot):
                text = f"{snapshot['name']} {snapshot['state']}: {snapshot['reason']}"
                yield Finding(Verdict.WARN, "leftovers", text)
    except RsockError as error:
        yield Finding(Verdict.WARN, "leftovers", str(error))
