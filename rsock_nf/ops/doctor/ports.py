"""Whether a server can have its ports."""

from __future__ import annotations

from collections.abc import Iterator

from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import PortRange
from rsock_nf.link import LinkError, system
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.port_use import overlap_warning
from rsock_nf.ops.doctor import running
from rsock_nf.policy import carrier_ports, fake_tcp_ports, served_ports
from rsock_nf.settings import Settings


def examine(settings: Settings) -> Iterator[Finding]:
    """Of both kinds; nothing of a client."""
    if not isinstance(settings.tunnel, ServerParameters):
        return
    if warning := overlap_warning(served_ports(settings), system()):
        yield Finding(Verdict.WARN, "ports", warning.removeprefix("ports: "))
    if fake_tcp_ports(settings):
        yield _ports(settings, fake_tcp_ports(settings))
    if carrier_ports(settings):
        yield _udp_ports(settings, carrier_ports(settings))


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
    holding = running.servers_on(taken)
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
        if settings.name in running.servers_on([port for span in ports for port in range(span.first, span.last + 1)]):
            return Finding(Verdict.OK, "UDP ports", f"{text}: held by this instance, which is running")
        return Finding(Verdict.FAIL, "UDP ports", f'{error}: choose other "ports", or stop who has them')
    return Finding(Verdict.OK, "UDP ports", f"free: {text}")
