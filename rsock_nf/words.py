"""Words that an operator meets in two places, the log and ``status``, and that must be the same there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

STRANGERS: Final = "payloads from strangers"
"""The server's counter of first payloads that do not authenticate."""
NOBODY_LISTENS: Final = "nobody listens there"
"""What a target's ICMP port unreachable means."""
WIREGUARD: Final = 32
"""Bytes that WireGuard adds to a packet: header 16, tag 16.  It pads a packet, but never above its MTU."""
SMALLEST: Final = 576
"""Bytes: with less, no VPN is of use (RFC 791, the least that every host has to accept)."""
OPENVPN: Final = 28
"""Bytes that OpenVPN adds to a packet at most, with an AEAD cipher: opcode and peer id 4, packet id 4 (2.7 on both
sides: 8), tag 16."""


def vpn_settings(largest: int) -> dict[str, int]:
    """What to set so that no datagram of a VPN has more than ``largest`` bytes.

    OpenVPN's ``mssfix`` counts the bytes of its UDP payload.  It is for the TCP connections inside; ``tun-mtu`` is for
    every packet.
    """
    return {
        "wireguard_mtu": largest - WIREGUARD,
        "openvpn_mssfix": largest,
        "openvpn_tun_mtu": largest - OPENVPN,
    }


def vpn_numbers(largest: int) -> str:
    """The same for people, without ``tun-mtu``; of a path that is too small for any VPN: nothing."""
    if largest < SMALLEST:
        return "no VPN fits this path"
    numbers = vpn_settings(largest)
    return f"WireGuard: MTU = {numbers['wireguard_mtu']}; OpenVPN: mssfix {numbers['openvpn_mssfix']}"


def over_ipv4(largest: int) -> str:
    """Where flows may come over IPv6, whose headers are larger: what is enough for those over IPv4."""
    return f"over IPv4 alone {largest} bytes; {vpn_numbers(largest)}"


def which_pump(why_python: str) -> str:
    """Which data path carries established flows.  ``why_python``: why it is Python's; "" = it is the native one."""
    return f"python: {why_python}" if why_python else "native"


def what_happens(*, fragments: bool) -> str:
    """To a datagram that does not fit one frame, on a wire with or without fragments."""
    return "cut" if fragments else "dropped"


def looped(remote: object) -> str:
    """``LoopGuard`` has found packets of ours among the applications' datagrams."""
    return (
        "packets of this tunnel come back to it, and are dropped: a VPN that runs over the tunnel takes the route to "
        f'{remote}; add a route to it, or set "device"'
    )


def narrow_path(passes: int, whole: int) -> str:
    """What this side sends is lost if it is larger than the path takes.  Bytes of payload of one segment."""
    return f"the path out carries segments of {passes} bytes at most, not {whole}"


def missing_kind(*, udp: bool) -> str:
    """With ``type: all``: no flow of one kind passes, and the other kind carries."""
    kind, other = ("UDP", "TCP") if udp else ("TCP", "UDP")
    return f"no flow over {kind}: blocked, or not served there; {other} carries alone"


def who_strangers_are(*, over_udp: bool) -> str:
    """Over UDP no TCP handshake tells a stranger from a client of ours that a NAT has given another address."""
    if over_udp:
        return "another secret, a scan, or over UDP a client whose address has changed"
    return "another secret, or a scan"


def detour_text(remote: object, avoided: str, used: str, over_us: bool) -> str:  # noqa: FBT001 - see ``Detour``
    """That a VPN has taken the route to ``remote``; ``used``: the device in its place."""
    if not over_us:
        return f'the route to {remote} leads into {avoided}, a VPN: {used} is used instead; set "device" to choose'
    text = f"the route to {remote} leads into {avoided}, which runs over this tunnel"
    if used:
        return f"{text}: {used} is used instead"
    return f"{text}, and no other device has a route: add one to {remote}"


def arrives_elsewhere(device: str | None) -> str:
    """The kernel's own TCP gets packets that are ours; ``device``: the only one that the configuration allows."""
    if device is not None:
        return (
            f'packets for our ports come in by another device than {device}: remove "device", or have the kernel '
            "answer ARP by the right one (sysctl net.ipv4.conf.all.arp_ignore=1)"
        )
    return (
        "packets for our ports reach the kernel's TCP, which answers them: no other program may remove our firewall "
        "rules, and a port must belong to one instance (`rsock-nf doctor`)"
    )


TOO_SLOW: Final = "this host is too slow for its load: what waits too long until it is read is dropped"
"""``status`` counts it as "late"."""


def cannot_send(missing: Sequence[str]) -> str:
    """Packets have no way.  ``missing``: for whom, and why."""
    return f"packets cannot be sent to {missing[0]}" if missing else "packets cannot be sent: no route, or no neighbour"


def secret_in_use(number: int) -> str:
    """Of a session whose client has two secrets: which one it uses, 1 or 2."""
    return f"the {('first', 'second')[number - 1]} of two secrets is in use"
