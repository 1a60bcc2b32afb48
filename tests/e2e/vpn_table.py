"""Makes the table of VPN recipes in docs/recipes.md: ``make recipes``, as root.

Each cell is one run in the laboratory: client, strict NAT, server; the VPN over the tunnel; 10 pings to the VPN's
server over inner IPv4 and 10 over IPv6, after the VPN came up, and again after the tunnel's client was started anew
under the VPN.  No key is set beyond those of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rsock_nf.lab.lab import Lab, Router
from tests.e2e.vpn import INNER, VPNS, ping
from tests.netns.asked import AskedTunnel
from tests.netns.judges import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs/recipes.md"
BEGIN, END = "<!-- vpn-table:begin -->", "<!-- vpn-table:end -->"
TYPES = ("tcp", "udp", "all")
ROUTES = {False: "split", True: "full"}
PINGS = 10


def measure(vpn: str, version: int, types: str, *, full: bool) -> str:
    """One cell: answered pings of all."""
    with TemporaryDirectory(prefix="rsnf-") as made, Lab(Router(block_udp=types == "tcp")) as lab:
        directory = Path(made)
        tunnel = AskedTunnel(lab, directory, version=version, client={"type": types}, server={"type": types})
        with tunnel.standing(), VPNS[vpn](lab, directory, full=full):
            answered = _pings(lab)
            tunnel.end("client")
            tunnel.up("client")
            answered += _pings(lab)
    return f"{answered} of {4 * PINGS}"


def _pings(lab: Lab) -> int:
    wait_until(lambda: ping(lab.client, INNER["server"][4], 1) == 1, "the VPN's first answer", 30)
    return sum(ping(lab.client, INNER["server"][inner], PINGS) for inner in (4, 6))


def rows() -> Iterator[str]:
    """The table's lines."""
    yield "| VPN | routes into the VPN | server's address | tcp | udp | all |"
    yield "|---|---|---|---|---|---|"
    for vpn in VPNS:
        for full, routes in ROUTES.items():
            for version in (4, 6):
                cells = [measure(vpn, version, types, full=full) for types in TYPES]
                yield f"| {vpn} | {routes} | IPv{version} | {' | '.join(cells)} |"


def main() -> None:
    """Replace the table in the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = []
    for line in rows():
        print(line, flush=True)  # noqa: T201 - it takes minutes
        lines.append(line)
    DOCUMENT.write_text("\n".join([before + BEGIN, *lines, END + after]))


if __name__ == "__main__":
    main()
