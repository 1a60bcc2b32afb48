"""iperf3's UDP test, both directions.

iperf3 steers its tests over a TCP connection to the same address and port.  That connection takes a
wire of its own here, beside the router, by way of socat: what crosses the router is the test's datagrams.
"""

from __future__ import annotations

import json

import pytest

from rsock_nf.lab.tunnel import TARGET
from tests.e2e.route import Route, wait_for_port

STEERING = ("10.77.9.1", "10.77.9.2")
SECONDS = 3
MEGABITS = 5
"""iperf3's sockets hold 90 datagrams (net.core.rmem_default): 170 ms of them, should the machine do other things."""


def lay_steering_wire(route: Route) -> None:
    client, server = route.lab.client, route.lab.server
    client.ip(f"link add steering type veth peer name steering netns {server.name}")
    for namespace, address in zip((client, server), STEERING, strict=True):
        namespace.ip("link set steering up", f"addr add {address}/24 dev steering")


@pytest.mark.alone
@pytest.mark.parametrize("direction", [[], ["--reverse"]], ids=["upload", "download"])
def test_datagrams_flow_at_five_megabits(route: Route, direction: list[str]) -> None:
    lay_steering_wire(route)
    client, server = route.lab.client, route.lab.server
    server.popen(["iperf3", "--server", "--port", str(TARGET[1]), "--one-off"])
    wait_for_port(server, TARGET[1])
    if route.tunnelled:
        host = "127.0.0.1"
        listen = f"TCP-LISTEN:{route.port},bind=127.0.0.1,fork"
    else:  # iperf3 thinks that the server is here, and its datagrams are sent on to where it is
        host = STEERING[0]
        client.popen(["socat", f"UDP-LISTEN:{route.port},bind={host}", f"UDP:{route.host}:{route.port}"])
        listen = f"TCP-LISTEN:{route.port},bind={host},fork"
    client.popen(["socat", listen, f"TCP:{STEERING[1]}:{TARGET[1]}"])
    wait_for_port(client, route.port)
    load = ["--udp", "--bitrate", f"{MEGABITS}M", "--length", "1200", "--time", str(SECONDS), *direction]
    said = client.run(["iperf3", "--client", host, "--port", str(route.port), "--json", *load]).stdout
    total = json.loads(said)["end"]["sum"]
    assert total["packets"] > 0.9 * MEGABITS * 1e6 / 8 / 1200 * SECONDS
    assert total["lost_percent"] < 1
    route.judge()
