"""What a host needs for any tunnel, and for this one: kernel, privileges, firewall, device, data path."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator

from rsock_firewall import FirewallError, select
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import RsockError
from rsock_nf.link import (
    OWN_ADDRESS,
    Detour,
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
from rsock_nf.ops import privileges
from rsock_nf.ops.doctor import running, ways
from rsock_nf.ops.rules import policy_now
from rsock_nf.policy import carrier_ports, fake_tcp_ports
from rsock_nf.settings import Settings
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.words import over_ipv4, vpn_numbers, which_pump


def examine(settings: Settings | None) -> list[Finding]:
    """In the order in which ``up`` would stumble over it; without settings, what every instance needs."""
    if settings and not fake_tcp_ports(settings):
        text = "neither privileges, packet sockets nor rules are needed, but for ports below 1024"
        findings = [Finding(Verdict.OK, "type udp", text)]
    else:
        findings = [*system().examine_host(), _privileges(settings), *_firewall(settings)]
    detour = ways.taken(settings)
    if detour is not None:
        findings.append(ways.route(detour))
    device = _device(settings, detour)
    if not isinstance(device, Finding):
        # Without "device" packets are taken from every device, so it does not matter which kind this one is of.
        bound = settings is not None and settings.device is not None and bool(fake_tcp_ports(settings))
        findings += system().examine_device(device, tap=bound or not system().taps_every_device)
    elif not settings or settings.device or fake_tcp_ports(settings) or isinstance(settings.tunnel, ClientParameters):
        findings.append(device)  # a server of UDP alone needs none
    name = "" if isinstance(device, Finding) else device
    if settings:
        findings += _numbers(settings, name)
    return [*findings, _pump(settings), *_surroundings(settings, name)]


def _surroundings(settings: Settings | None, device: str) -> list[Finding]:
    """Firewalls of others, filters and limits of the kernel."""
    if settings is None:
        return []
    serves = not isinstance(settings.tunnel, ClientParameters)
    chosen = bool(settings.device or settings.fwmark or settings.addresses)
    return system().examine_surroundings(
        device if carrier_ports(settings) and chosen else "", carrier_ports(settings) if serves else ()
    )


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
        yield Finding(Verdict.OK, "firewall", text, quiet=True)
    if settings:
        with contextlib.suppress(FirewallError, LinkError, RsockError):  # the device's own finding says it
            for obstacle in chosen.obstacles(policy_now(settings, settings.client_ports)):
                yield Finding(Verdict.WARN, "firewall", obstacle)


def _device(settings: Settings | None, detour: Detour | None) -> str | Finding:
    """The device that the instance would take, or why there is none.  ``detour``: see ``ways.taken``."""
    client = settings.tunnel if settings and isinstance(settings.tunnel, ClientParameters) else None
    try:
        if client and client.kinds.tcp and (own := own_address(client.server)) is not None:
            return Finding(Verdict.FAIL, "server", f"{own} {OWN_ADDRESS}")
        if settings and settings.device:
            return settings.device
        if client:
            chosen = running.device_in_use(settings) or (detour.used if detour else "")
            return chosen or device_to(client.server, settings.fwmark if settings else 0)
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
    # Of the device that is used: a VPN may have taken the route.
    way = settings.device or (device if client else "") or None
    mtu = route_mtu(client.server if client else abroad(), way) or ETHERNET_MTU
    version = max((address.version for address in served if not address.is_link_local), default=4)
    for tunnel, wire in zip(settings.tunnels, settings.wires, strict=True):
        largest = largest_datagram(mtu, version, tunnel, wire)
        which = f" (wire {wire.name.value})" if settings.second else ""
        text = f"{mtu} on the way out: datagrams of up to {largest} bytes are not cut{which}: {vpn_numbers(largest)}"
        if (ipv4 := largest_datagram(mtu, 4, tunnel, wire)) != largest and any(one.version == 4 for one in served):
            text = f"{text}; {over_ipv4(ipv4)}"
        yield Finding(Verdict.OK, "MTU", text)


def _pump(settings: Settings | None) -> Finding:
    """Which data path ``up`` would take; without settings: whether there is a native one."""
    from rsock_nf.native.library import LINUX_ONLY, load
    from rsock_nf.runtime.pump_choice import why_python

    library = load() if system().has_native_path else LINUX_ONLY
    why = why_python(settings) if settings else library if isinstance(library, str) else ""
    refused = bool(why) and settings is not None and settings.pump == "native"
    return Finding(Verdict.FAIL if refused else Verdict.OK, "pump", which_pump(why))
