"""``rsock-nf rules``: the text of the rules that an instance installs, or has installed.  Touches nothing."""

from __future__ import annotations

from rsock_firewall import FirewallError, Policy, render_unprobed, select
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import PortRange
from rsock_nf.errors import RsockError, TunnelError
from rsock_nf.link import LinkError, default_device, device_to, own_addresses, system
from rsock_nf.ops import privileges
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.policy import fake_tcp_ports, policy_for
from rsock_nf.settings import Settings
from rsock_nf.shares import shares


def rules_for(settings: Settings) -> str:
    """As the backend's own tool would load them.

    The source ports of a client are those that its running instance holds; while it does not run, there are none.
    Needs no privilege.  Raises ``TunnelError`` when the device or the backend cannot be told.
    """
    if not fake_tcp_ports(settings):
        return '# "type": "udp": no rules are needed, the flows are ordinary UDP sockets\n'
    try:
        if settings.backend == "manual":  # one set of rules is right for all processes
            return _rendered(settings.backend, policy_now(settings, _held_ports(settings)))
        held = _held_ports(settings)
        mine = [tuple(span for span in held if one.tunnel.shard.has(span.first)) for one in shares(settings)]
        texts = [
            _rendered(one.backend, policy_now(one, ports)) for one, ports in zip(shares(settings), mine, strict=True)
        ]
        return "\n".join(texts)
    except (FirewallError, LinkError) as error:
        raise TunnelError(str(error)) from None


def policy_now(settings: Settings, held_ports: tuple[PortRange, ...]) -> Policy:
    """What the rules say if the instance is brought up now; ``held_ports`` are a client's.

    Raises ``FirewallError``, ``LinkError``, or ``TunnelError`` when the device cannot be told.
    """
    tunnel, at_input = settings.tunnel, system().drops_at_input()
    device = settings.device
    if isinstance(tunnel, ClientParameters):
        if device is None and not system().taps_every_device:
            device = device_to(tunnel.server)
        return policy_for(settings, device=device, local_addresses=(), held_ports=held_ports, at_input=at_input)
    if device is None and not system().taps_every_device:
        device = default_device()
        if device is None:
            raise TunnelError('no default route tells which device to use: set "device" in the configuration')
    addresses = settings.addresses or own_addresses(device)
    return policy_for(settings, device=device, local_addresses=addresses, at_input=at_input)


def _rendered(backend: str, policy: Policy) -> str:
    try:
        return select(backend).render(policy)
    except FirewallError:
        if not privileges.missing():
            raise
    # A user who may not change rules cannot find out which backend works, either.
    return render_unprobed(backend, policy)


def _held_ports(settings: Settings) -> tuple[PortRange, ...]:
    try:
        firewall = ask(Instance(settings.name), "status")["firewall"]
    except (RsockError, KeyError):
        return ()
    return tuple(PortRange(port, port) for port in firewall.get("local_ports", ()))
