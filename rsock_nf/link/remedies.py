"""The commands and settings that error messages send their reader to, as each system has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Remedies:
    """Command lines, without the backquotes, and names of settings."""

    tcp_port: str
    """Who has a TCP port, ``{port}``."""
    udp_port: str
    """Who has a UDP port, ``{port}``."""
    tcp_ports: str
    """Who has any."""
    unix_socket: str
    """Who has the Unix-domain socket ``{path}``."""
    addresses: str
    """The host's addresses."""
    ephemeral_ports: str
    """Where the range of them is set."""
    low_ports: str
    """Who may bind ports below 1024."""


LINUX: Final = Remedies(
    tcp_port="ss -tanp sport = :{port}",
    udp_port="ss -uanp sport = :{port}",
    tcp_ports="ss -tan",
    unix_socket="ss -xlp src {path}",
    addresses="ip address",
    ephemeral_ports="net.ipv4.ip_local_port_range",
    low_ports="root or CAP_NET_BIND_SERVICE",
)


def _bsd(port: str, ports: str, unix: str, ephemeral: str) -> Remedies:
    return Remedies(port, port, ports, unix, "ifconfig -a", ephemeral, "root")


BSD: Final = {
    "freebsd": _bsd("sockstat -p {port}", "sockstat -P tcp", "sockstat -u", "net.inet.ip.portrange.first"),
    "netbsd": _bsd("sockstat -p {port}", "sockstat", "fstat {path}", "net.inet.ip.anonportmin"),
    "openbsd": _bsd("fstat | grep {port}", "fstat", "fstat {path}", "net.inet.ip.porthifirst"),
    "macos": _bsd("lsof -nP -i :{port}", "lsof -nP -iTCP", "lsof {path}", "net.inet.ip.portrange.first"),
}
