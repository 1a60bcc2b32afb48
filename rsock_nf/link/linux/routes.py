"""Where packets to an address would go: questions that are asked once, before there is a link.

``route_to``, ``default_device``, ``device_addresses`` and ``host_addresses`` each open and close a netlink socket.  The
other functions are shared with ``route_choice`` and ``devices``, which follow what changes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from ipaddress import IPv6Address

from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.rtnetlink import Device, DeviceAddress, RouteQuestion, RouteReply, RouteSocket
from rsock_nf.link.protocol import AbsentError, LinkError, Route, abroad


def route_to(remote: IPAddress, mark: int = 0) -> Route:
    """How packets to ``remote`` leave this host.  Raises ``LinkError`` when there is no route."""
    with contextlib.closing(RouteSocket()) as kernel:
        scope = getattr(remote, "scope_id", None)
        if remote.is_link_local and remote.version == 6 and not scope:
            raise LinkError(f"{remote}: a link-local address needs its device, as in {remote}%eth0")
        question = RouteQuestion(remote, mark=mark, ifindex=find_device(kernel, scope).ifindex if scope else 0)
        found = find_route(kernel, question)
        device = name_of(kernel, found.ifindex) if found else None
        if found is None or device is None:
            raise AbsentError(f"no route to {remote}; `ip route get {remote}` says why")
        return Route(device, found.source, found.gateway, found.kind == rtnl.RTN_LOCAL)


def default_device(version: int | None = None) -> str | None:
    """See ``rsock_nf.link.default_device``."""
    with contextlib.closing(RouteSocket()) as kernel:
        return find_default_device(kernel, version)


def find_default_device(kernel: RouteSocket, version: int | None = None) -> str | None:
    """The same, asked with a socket that there is.  Raises ``OSError``."""
    for probe in abroad(version):
        found = find_route(kernel, RouteQuestion(probe))
        device = name_of(kernel, found.ifindex) if found else None
        if device is not None:
            return device
    indexes = {
        a.ifindex for a in kernel.addresses() if a.scope == rtnl.SCOPE_GLOBAL and version in (None, a.address.version)
    }
    devices = [_device_of(kernel, index) for index in indexes]
    names = [device.name for device in devices if device is not None and not device.flags & rtnl.IFF_LOOPBACK]
    return names[0] if len(names) == 1 else None


def device_addresses(device: str) -> tuple[IPAddress, ...]:
    """Its addresses of global scope (the loopback device: of host scope too), lasting and usable ones first.

    Raises ``LinkError`` when there is no such device.
    """
    with contextlib.closing(RouteSocket()) as kernel:
        link = find_device(kernel, device)
        scopes = (rtnl.SCOPE_GLOBAL, rtnl.SCOPE_HOST) if link.flags & rtnl.IFF_LOOPBACK else (rtnl.SCOPE_GLOBAL,)
        return tuple(a.address for a in ranked(kernel.addresses(), link.ifindex) if a.scope in scopes)


def host_addresses() -> tuple[IPAddress, ...]:
    """See ``rsock_nf.link.host_addresses``."""
    with contextlib.closing(RouteSocket()) as kernel:
        able = [one for one in kernel.addresses() if one.scope == rtnl.SCOPE_GLOBAL]
        able = [one for one in able if not one.flags & rtnl.IFA_F_DADFAILED]
        return tuple(dict.fromkeys(one.address for one in able))


def ranked(addresses: Iterable[DeviceAddress], ifindex: int) -> list[DeviceAddress]:
    """Those of a device that can be used: global before others, settled before tentative, lasting before temporary."""
    own = [a for a in addresses if a.ifindex == ifindex and not a.flags & rtnl.IFA_F_DADFAILED]
    return sorted(
        own, key=lambda a: (a.scope, a.flags & (rtnl.IFA_F_TENTATIVE | rtnl.IFA_F_DEPRECATED) != 0, is_temporary(a))
    )


def is_temporary(address: DeviceAddress) -> bool:
    """RFC 8981.  On IPv4 the same bit marks a second address of a subnet."""
    return isinstance(address.address, IPv6Address) and address.flags & rtnl.IFA_F_TEMPORARY != 0


def find_device(kernel: RouteSocket, device: str) -> Device:
    """The device of that name.  Raises ``LinkError`` when there is none."""
    try:
        return kernel.device(device)
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ERANGE, errno.EINVAL}:
            raise AbsentError(f"{device}: no such device; `ip link` lists them") from error
        raise LinkError(f"{device}: {error.strerror}") from error


def name_of(kernel: RouteSocket, ifindex: int) -> str | None:
    """The name of a device; None = it is gone."""
    device = _device_of(kernel, ifindex)
    return device.name if device else None


def _device_of(kernel: RouteSocket, ifindex: int) -> Device | None:
    try:
        return kernel.device(index=ifindex)
    except OSError:
        return None


def find_route(kernel: RouteSocket, question: RouteQuestion) -> RouteReply | None:
    """The route of such a packet.

    None = there is none, or it leads nowhere (unreachable, blackhole, prohibit) or to many hosts.  If the question
    names a device, an answer for which no routing table has an entry is none: the kernel assumes that every address is
    on-link there, and would ask that network for it in vain.
    """
    if question.ifindex:
        found = _out_of(kernel, question) or _ask(kernel, question._replace(ifindex=0))
        return found if found is not None and found.ifindex == question.ifindex else None
    return _ask(kernel, question)


def _out_of(kernel: RouteSocket, question: RouteQuestion) -> RouteReply | None:
    """The route out of the device that the question names, if a routing table has an entry for it."""
    found = _ask(kernel, question)
    if found is None or found.gateway is not None:
        return found
    try:
        kernel.entry(question)
    except OSError:
        return None
    return found


def _ask(kernel: RouteSocket, question: RouteQuestion) -> RouteReply | None:
    try:
        found = kernel.route(question)
    except OSError:
        return None
    return found if found.kind in {rtnl.RTN_UNICAST, rtnl.RTN_LOCAL} else None
