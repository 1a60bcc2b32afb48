"""What ``init`` and ``join`` tell people: the line for the other side, and what is to be done next.

Not here: the numbers, and what each application wants (``applications``).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from rsock_nf.config import invitation as lines
from rsock_nf.config.invitation import Invitation
from rsock_nf.core.tcp.header import overhead
from rsock_nf.link import abroad
from rsock_nf.ops.applications import Application, addresses, advice, numbers_for, versions
from rsock_nf.ops.service import install, unit
from rsock_nf.printable import printable
from rsock_nf.sockets.carriers import route_mtu

_UNITS: Final = (install.UNITS, install.PACKAGED, Path("/lib/systemd/system"))
_HEADERS: Final = overhead(16, udp=False) - overhead(4, udp=False)
"""Bytes by which the headers of IPv6 are larger than those of IPv4."""


def of_server(path: Path, invitation: Invitation, application: Application, target: str, *, to_terminal: bool) -> None:
    """Print it.  The line goes to standard output; if that is no terminal, all else goes to standard error, so that
    ``init … | ssh CLIENT rsock-nf join -`` works."""
    people = sys.stdout if to_terminal else sys.stderr
    line = lines.write(invitation)
    kinds = [name for name, wanted in (("TCP", invitation.kinds.tcp), ("UDP", invitation.kinds.udp)) if wanted]
    _tell(
        people,
        f"{path}: made; the secret is in it, so its mode is 0600.",
        "",
        *(_qr_code(line) if to_terminal else []),
        "The line for the client follows. The secret is in it, too:",
        "who has the line can use this server.",
        "",
    )
    print(line, flush=True)
    ports = ",".join(map(str, invitation.ports))
    numbers = numbers_for(invitation, route_mtu(abroad(), None))
    _tell(
        people,
        "",
        f"1. In the firewall of the server's provider open {' and '.join(kinds)} {ports}.",
        f"2. Here:           rsock-nf up {path.stem}",
        *_at_boot(path.stem),
        "3. On the client:  rsock-nf join          (it asks for the line)",
        f"4. For {application.title}, on this side:",
        "",
        *_indented(advice(application.at_server, target, numbers)),
        *_about_numbers(invitation, numbers),
    )


def of_client(path: Path, invitation: Invitation, application: Application, listen: str) -> None:
    """Print it."""
    numbers = numbers_for(invitation, route_mtu(addresses(invitation.servers), None))
    _tell(
        sys.stdout,
        f"{path}: made; the secret is in it, so its mode is 0600.",
        "",
        f"1. Here:  rsock-nf up {path.stem}",
        *_at_boot(path.stem),
        f"2. For {application.title}, on this side:",
        "",
        *_indented(advice(application.at_client, listen, numbers)),
        *_about_numbers(invitation, numbers),
    )


def _tell(stream: TextIO, *told: str) -> None:
    for line in told:
        print(printable(line, keep="\n"), file=stream)


def _at_boot(name: str) -> Iterator[str]:
    if any((directory / unit.NAME).exists() for directory in _UNITS):
        yield f"   or, at each boot: systemctl enable --now rsock-nf@{name}"


def _indented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"     {line}" if line else ""


def _about_numbers(invitation: Invitation, numbers: dict[str, int]) -> Iterator[str]:
    """How far the numbers can be trusted: the path is not known yet."""
    yield ""
    yield f"     Datagrams of up to {numbers['largest']} bytes are not cut. `rsock-nf status`, once it is"
    yield "     up, shows the numbers of your path. Set the same ones on both sides."
    if versions(invitation.servers) == {4, 6}:
        yield f"     These fit IPv6, too. If only IPv4 is used, each may be {_HEADERS} larger."


def _qr_code(line: str) -> list[str]:
    """The line as a picture of block characters, for a dark terminal; empty if it is too long for one."""
    import segno  # 20 ms

    try:
        code = segno.make(line, error="l", micro=False)
    except segno.DataOverflowError:
        return []
    picture = io.StringIO()
    code.terminal(picture, compact=True, border=2)
    return [*picture.getvalue().splitlines(), ""]
