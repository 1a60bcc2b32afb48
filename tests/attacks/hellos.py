"""Recorded hellos in great number, while a client with a slow path starts.

They are made with the secret, and stand for those of a client whose server was away.
"""

from __future__ import annotations

import base64
import json
import random

from tests.attacks.attack import SEALED_UDP, SEALED_UDP6, Attack, Who
from tests.attacks.ground import PORTS, Done, Ground
from tests.attacks.packets import UDP, Packet
from tests.faults.spoilt import Spoilt
from tests.wire.native import independent_peer as peer

DISTINCT = 1000
RATE = 2000
SECONDS = 10.0
DELAY = 0.15
"""Seconds of the client's path, each way."""


def _hellos(site: Ground, done: Done) -> None:
    key = json.loads(site.site.tunnel.config("client").read_text())["secret"]
    secret, chance = peer.Secret(base64.b64decode(key)), random.Random(12)
    offered = peer.offer(peer.AES_256_GCM, 1400, None)
    packets = []
    for _ in range(DISTINCT):
        hello, _noise = peer.hello(secret, offered, chance.randbytes(32), 0)
        packets.append(Packet(site.anyone(chance), (site.server, chance.choice(PORTS)), hello, UDP).octets())
    with (
        site.site.path.spoil(Spoilt.both(delay=DELAY)),
        site.to_server.firing(done, packets, RATE, SECONDS),
    ):
        site.site.tunnel.end("client")
        site.site.tunnel.up("client")
        took = site.site.all_flows(20)
        done.saw.append(f"the client had all flows {took:.1f} s after its start; lost: what was sent while it was away")


HELLOS = (
    Attack("hellos", "1,000 recorded hellos, 2,000/s from random addresses; the client starts anew, round trip 0.3 s",
           Who.ON_PATH, _hellos, (SEALED_UDP, SEALED_UDP6), renews=True, behind=True,
           why="after 128 in 10 s the server wants its cookie back"),
)  # fmt: skip
