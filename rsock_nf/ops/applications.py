"""The applications that ``init`` and ``join`` know: defaults for the tunnel, and what to set in the application.

Every number is computed from the tunnel's own arithmetic (``wire.largest``, ``words.vpn_settings``).
Not here: the files (``new_tunnel``), and whole recipes (``docs/recipes.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rsock_nf.config.invitation import Invitation
from rsock_nf.config.values import split_zone
from rsock_nf.core.parameters import Cipher, Common, Spread
from rsock_nf.core.types import IPAddress
from rsock_nf.link.ethernet import ETHERNET_MTU
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.wire.parameters import NativeParameters
from rsock_nf.words import vpn_settings

LISTEN_PORT: Final = 30000
"""Where a client listens for the application, unless it has a port of its own."""


@dataclass(frozen=True, slots=True)
class Application:
    """One of them.  In the advice ``{…}`` stands for a number or an address: see ``advice``."""

    name: str
    """As it is said on the command line, and in an invitation."""
    title: str
    tunnel: str
    """What a tunnel for it is called, if nothing is said."""
    port: int | None
    """Where its server listens, if nothing is said; None = that has to be said."""
    listen: int
    """The client's port for it."""
    cipher: Cipher
    about_cipher: str
    """Why, for the file."""
    at_server: str
    at_client: str
    spread: Spread = Spread.BURST
    about_spread: str = ""


_OWN_CIPHER: Final = "{title} encrypts and authenticates by itself."
_SEALED: Final = 'If the application encrypts and authenticates by itself, "none" is faster.'

APPLICATIONS: Final = (
    Application(
        "wireguard",
        "WireGuard",
        tunnel="wg",
        port=51820,
        listen=LISTEN_PORT,
        cipher=Cipher.NONE,
        about_cipher=_OWN_CIPHER,
        at_server="""\
[Interface]
ListenPort = {target_port}
MTU = {wireguard_mtu}""",
        at_client="""\
[Interface]
MTU = {wireguard_mtu}

[Peer]
Endpoint = {listen}
PersistentKeepalive = 25

FwMark is not needed, also with AllowedIPs = 0.0.0.0/0, ::/0: rsock-nf
goes around the VPN that runs over it.""",
    ),
    Application(
        "openvpn",
        "OpenVPN",
        tunnel="openvpn",
        port=1194,
        listen=LISTEN_PORT,
        cipher=Cipher.NONE,
        about_cipher=_OWN_CIPHER,
        at_server="""\
proto udp
port {target_port}
mssfix {openvpn_mssfix}""",
        at_client="""\
remote {listen_host} {listen_port} udp
mssfix {openvpn_mssfix}

For large UDP inside the VPN, in place of mssfix: tun-mtu {openvpn_tun_mtu}
redirect-gateway needs no route of yours: rsock-nf goes around the VPN
that runs over it.""",
    ),
    Application(
        "kcptun",
        "kcptun",
        tunnel="kcptun",
        port=29900,
        listen=LISTEN_PORT,
        cipher=Cipher.NONE,
        about_cipher="{title} encrypts by itself (its --crypt, which must not be null or none).",
        at_server="kcptun-server -l {target} -t HOST:PORT --mtu {largest} --key KEY",
        at_client="kcptun-client -r {listen} -l :12948 --mtu {largest} --key KEY",
    ),
    Application(
        "game",
        "the game",
        tunnel="game",
        port=27015,
        listen=27015,
        cipher=Cipher.AES_256_GCM,
        about_cipher=_SEALED,
        at_server="The game's server listens on {target} (UDP).",
        at_client="""\
Connect the game to {listen}.
Datagrams of up to {largest} bytes are not cut.""",
        spread=Spread.CONVERSATION,
        about_spread="Keeps the order of a player's datagrams, as long as their flow is healthy.",
    ),
    Application(
        "custom",
        "the application",
        tunnel="tunnel",
        port=None,
        listen=LISTEN_PORT,
        cipher=Cipher.AES_256_GCM,
        about_cipher=_SEALED,
        at_server="The application's server listens on {target} (UDP).",
        at_client="""\
Send the application's datagrams to {listen}.
Datagrams of up to {largest} bytes are not cut: set its MTU to that, if it has one.""",
    ),
)


def application(name: str) -> Application:
    """The one of that name; of a name that is not known here, ``custom``."""
    return next((one for one in APPLICATIONS if one.name == name), APPLICATIONS[-1])


def advice(text: str, end: str, numbers: dict[str, int]) -> str:
    """``text`` of an application with its numbers, and with ``end``: the server's target, or where the client listens,
    as the file says it."""
    host, _, port = end.rpartition(":")
    places = {"target": end, "target_port": port, "listen": end, "listen_host": host.strip("[]"), "listen_port": port}
    return text.format(**places, **numbers)


def numbers_for(invitation: Invitation, mtu: int) -> dict[str, int]:
    """What to set so that no datagram is cut: ``largest`` and ``vpn_settings``, for a path that takes IP packets of
    ``mtu`` bytes.  If the server may be reached over IPv6: what fits that."""
    tunnel = Common(kinds=invitation.kinds, cipher=invitation.cipher)
    wire = NativeParameters(invitation.secret)
    path = min(mtu or ETHERNET_MTU, ETHERNET_MTU)
    largest = min(largest_datagram(path, version, tunnel, wire) for version in versions(invitation.servers))
    return {"largest": largest, **vpn_settings(largest)}


def versions(servers: Sequence[str]) -> set[int]:
    """The IP versions over which one of them may be reached; a name may have addresses of both."""
    found: set[int] = set()
    for server in servers:
        address = split_zone(server)[0]
        found |= {4, 6} if address is None else {address.version}
    return found


def addresses(servers: Sequence[str]) -> list[IPAddress]:
    """Those that are no names."""
    return [address for address, _ in map(split_zone, servers) if address is not None]
