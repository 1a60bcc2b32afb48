"""An observer who is faster than the client: copies of its packets, in another's name, arrive before them (UDP)."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

from rsock_nf.lab.lab import DEVICE
from tests.attacks.attack import SEALED_UDP, SEALED_UDP6, Attack, Who
from tests.attacks.ground import ETH_P_ALL, Done, Ground
from tests.attacks.packets import UDP, Packet
from tests.faults.spoilt import Spoil, Spoilt

DELAY = 0.05
"""Seconds by which the client's packets come later than the copies."""


def _race(site: Ground, done: Done) -> None:
    """The client opens all flows anew.  Each of its packets goes to the server at once, in the victim's name."""
    ended, victim = threading.Event(), site.outsider(98)
    ear = site.site.lab.client.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ear.bind((DEVICE, ETH_P_ALL))
    ear.settimeout(0.1)

    def copy() -> None:
        while not ended.is_set():
            try:
                packet = Packet.read(ear.recv(1 << 17))
            except TimeoutError:
                continue
            if packet and packet.protocol == UDP and packet.destination[0] == site.server:
                site.to_server.send(done, replace(packet, source=(victim, packet.source[1])).octets())

    thread = threading.Thread(target=copy, name="racer")
    site.to_server.frames()
    with site.site.path.spoil(Spoilt(up=Spoil(delay=DELAY))):
        thread.start()
        try:
            site.renew(done)
            answers = site.to_server.heard(2.0, toward=victim, keep=True)
        finally:
            ended.set()
            thread.join()
            ear.close()
    received = sum(len(answer.octets()) for answer in answers)
    done.saw.append(f"{received:,} B to the victim for {done.octets:,} B in its name")
    if received > done.octets:
        done.wrong.append("the victim gets more than was sent in its name")


RACING = (
    Attack("racer", "copies of all packets of the client in a victim's name, 50 ms earlier, while it opens flows",
           Who.ON_PATH, _race, (SEALED_UDP, SEALED_UDP6), renews=True, behind=True,
           why="the challenge that a confirmation echoes is another one for each address"),
)  # fmt: skip
