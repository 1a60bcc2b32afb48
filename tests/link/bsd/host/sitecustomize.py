"""Makes the interpreter that finds this on its path a host of another system: ``RSOCK_NF_SIMULATED=freebsd``.

The door of ``rsock_nf.link`` then gives that system's file, on a simulated bpf device and routing socket whose far
sides are the Linux interfaces and tables of this network namespace.  The firewall stays Linux's.  With
``RSOCK_NF_SIMULATED_NEWS=lost`` the routing socket answers, but every message that nobody asked for is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rsock_nf import link
from rsock_nf.link import Link, Match, Routing, System


def simulated() -> System:
    from pathlib import Path

    from rsock_nf.link.bsd.system import Bsd
    from rsock_nf.link.bsd.udp import DestinationOption, PlainUdp
    from tests.link.bsd.simulated import PacketWire, SimulatedBpf
    from tests.link.bsd.simulated_routing import LinuxNews, LinuxTables, SimulatedRouting

    name = os.environ["RSOCK_NF_SIMULATED"]

    class Simulated(Bsd):
        def open_link(self, routing: Routing, match: Match, receive_buffer: int) -> Link:
            device = routing.device
            assert device is not None
            mac = bytes.fromhex(Path(f"/sys/class/net/{device}/address").read_text().replace(":", ""))
            self._bpf = SimulatedBpf(name, PacketWire(device), interface=device, mac=mac)
            if not told and os.environ.get("RSOCK_NF_SIMULATED_NEWS") != "lost":
                told.append(LinuxNews(simulated_routing))  # in the process that has the link: a thread survives no fork
            made = super().open_link(routing, match, receive_buffer)
            with Path(os.environ["RSOCK_NF_SIMULATED_LOG"]).open("a") as log:
                log.write(f"{name} {device} {' '.join(self._bpf.log)}\n")
            return made

    simulated_routing = SimulatedRouting(name, LinuxTables())
    told: list[LinuxNews] = []
    ip_pktinfo = 8  # Linux's, whose struct in_pktinfo is laid out as macOS's
    made = Simulated(name, routing=simulated_routing)
    option = DestinationOption(ip_pktinfo, ip_pktinfo, ip_pktinfo, packet_info=True)
    made.udp = PlainUdp(option, {}, made.route_mtu)
    return made


def once(make: Callable[[], System]) -> Callable[[], System]:
    made: list[System] = []

    def get() -> System:
        if not made:
            made.append(make())
        return made[0]

    return get


link.system = once(simulated)  # type: ignore[assignment]
