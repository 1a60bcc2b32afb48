"""What other programs and settings of a Linux host do to a tunnel: firewalls, reverse path filter, buffer limits.

Fake TCP is taken before any filter sees it, so firewalls matter for flows over UDP only.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsock_nf.core.types import PortRange
from rsock_nf.link import udp
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.linux.buffers import enlarge_receive, enlarge_send

_ETC = Path("/etc")
_RUN = Path("/run")
_SYSCTL = Path("/proc/sys/net")
_STRICT = 1  # Documentation/networking/ip-sysctl.rst, rp_filter
BUFFER = udp.SOCKET_BUFFER


def examine(chosen: str, udp_ports: Sequence[PortRange]) -> list[Finding]:
    """See ``System.examine_surroundings``."""
    return [*_firewalls(udp_ports), *_reverse_path(chosen), *_buffers()]


def _firewalls(udp_ports: Sequence[PortRange]) -> Iterator[Finding]:
    for name, command, separator in _active():
        if not udp_ports:
            text = f"{name} is active: it does not see fake TCP, and lets answers to UDP flows in"
            yield Finding(Verdict.OK, "firewall", text, quiet=True)
            continue
        ports = [f"{span.first}{separator}{span.last}" if span.first != span.last else str(span) for span in udp_ports]
        text = f"{name} is active, and drops UDP that it was not told of (fake TCP it does not see)"
        yield Finding(Verdict.WARN, "firewall", text, " && ".join(command.format(ports=each) for each in ports))


def _active() -> Iterator[tuple[str, str, str]]:
    """(name, command that opens UDP ``{ports}``, what stands between first and last) of each."""
    with contextlib.suppress(OSError):
        if "enabled=yes" in (_ETC / "ufw/ufw.conf").read_text().lower().replace(" ", "").split():
            yield "ufw", "ufw allow {ports}/udp", ":"
    with contextlib.suppress(OSError, ValueError):
        process = int((_RUN / "firewalld.pid").read_text())
        if (Path("/proc") / str(process)).exists():
            yield "firewalld", "firewall-cmd --add-port={ports}/udp --permanent && firewall-cmd --reload", "-"


def _reverse_path(device: str) -> Iterator[Finding]:
    """With a device, mark or address of their own, UDP flows may come in where the route back does not lead."""
    if not device:
        return
    with contextlib.suppress(OSError, ValueError):
        values = [int((_SYSCTL / f"ipv4/conf/{name}/rp_filter").read_text()) for name in ("all", device)]
        if max(values) == _STRICT:
            text = (
                f"rp_filter is strict on {device}: UDP packets are dropped that come in where the route does not lead"
            )
            remedy = f"sysctl -w net.ipv4.conf.{device}.rp_filter=2, if UDP flows do not come up"
            yield Finding(Verdict.WARN, "rp_filter", text, remedy)


def _buffers() -> Iterator[Finding]:
    """What sockets get of what they ask for: without CAP_NET_ADMIN the limits of net.core count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for enlarge, option, setting, what in (
            (enlarge_receive, socket.SO_RCVBUF, "rmem_max", "receive"),
            (enlarge_send, socket.SO_SNDBUF, "wmem_max", "send"),
        ):
            with contextlib.suppress(OSError):
                enlarge(asked, BUFFER)
            got = asked.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel doubles what is asked for
            if got < BUFFER:
                text = (
                    f"{what} buffers get {got >> 10} KiB of the {BUFFER >> 10} that are asked for: bursts may be lost"
                )
                yield Finding(Verdict.WARN, "buffers", text, f"sysctl -w net.core.{setting}={BUFFER}")
            else:
                yield Finding(Verdict.OK, "buffers", f"{what} buffers get what is asked for", quiet=True)
