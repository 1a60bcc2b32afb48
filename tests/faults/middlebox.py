"""A bridge of two devices that spoils what passes.  ``python -m tests.faults.middlebox NEAR FAR``.

It runs as a process of its own in the namespace of the path.  ``NEAR`` is the device toward the client.  Each line of
its standard input is a path as JSON (``spoilt.Spoilt``), and holds from then on; the answer is one line with what was
done to packets so far.  It ends with its input.

The kernel below this project's CI has no netem, so this takes its place.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults import frames
from tests.faults.spoilt import Spoil, Spoilt

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
"""<linux/if_packet.h>."""
HELD_BACK = 0.04
"""Seconds: the longest time that a packet is held back by ``reorder``."""
ROUTER = bytes((10, 77, 1, 1))
"""Who sends ICMP errors."""
_ROOM = 65536


@dataclass(slots=True)
class _Way:
    """One direction."""

    out: socket.socket
    back: socket.socket
    spoil: Spoil = field(default_factory=Spoil)
    free_at: float = 0.0
    """When the limited rate has sent everything that waits."""


class Middlebox:
    """See the module.  ``near``, ``far``: packet sockets."""

    def __init__(self, near: socket.socket, far: socket.socket, seed: int = 1) -> None:
        self._ways = {near: _Way(far, near), far: _Way(near, far)}
        self._near = near
        self._far = far
        self._spoilt = Spoilt()
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, socket.socket, bytes]] = []
        self._serial = itertools.count()
        self._flows: dict[tuple[bytes, ...], list[float]] = {}
        """When the first packet of a flow passed, and how many with payload did."""
        self.counters: Counter[str] = Counter()

    def use(self, spoilt: Spoilt) -> None:
        """From now on packets fare so."""
        if spoilt.flows != self._spoilt.flows:
            self._flows.clear()
        self._spoilt = spoilt
        self._ways[self._near].spoil = spoilt.up
        self._ways[self._far].spoil = spoilt.down

    def timeout(self) -> float | None:
        """Seconds until a packet is due; None = none waits."""
        return max(self._waiting[0][0] - time.monotonic(), 0.0) if self._waiting else None

    def release(self) -> None:
        """Send the packets that are due."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, out, frame = heapq.heappop(self._waiting)
            self._send(out, frame)

    def arrived(self, device: socket.socket) -> None:
        """Read what has come on a device."""
        for _ in range(64):
            try:
                frame = device.recv(_ROOM)
            except (BlockingIOError, OSError):  # ENETDOWN: the device was taken down
                return
            self._take(self._ways[device], frame)

    def _take(self, way: _Way, frame: bytes) -> None:
        seen = frames.look(frame)
        spoil = way.spoil
        if seen is None:
            self._send(way.out, frame)  # ARP, ICMP: nobody asks about them
            return
        if self._is_stopped(way, frame, seen):
            return
        if spoil.mtu and seen.end - frames.ETHERNET > spoil.mtu:
            self.counters["too big"] += 1
            if spoil.icmp:
                self._send(way.back, frames.too_big(frame, ROUTER, spoil.mtu))
            return
        if self._happens(spoil.loss):
            self.counters["lost"] += 1
            return
        if seen.end > seen.payload and self._happens(spoil.corrupt):
            self.counters["corrupted"] += 1
            frame = frames.flipped(frame, seen, self._random.randrange(8 * (seen.end - seen.payload)))
        for _ in range(2 if self._happens(spoil.duplicate) else 1):
            self._delay(way, frame)

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _is_stopped(self, way: _Way, frame: bytes, seen: frames.Seen) -> bool:
        """What a hostile box does to the flow of this packet.  True = the packet goes no further."""
        flows = self._spoilt.flows
        port = int.from_bytes((seen.destination if way.back is self._near else seen.source)[4:])
        if port in flows.ports or seen.protocol in flows.protocols:
            self.counters["blocked"] += 1
            return True
        reset = flows.reset
        if flows.lifetime or flows.packets:
            now = time.monotonic()
            flow = self._flows.setdefault(seen.flow, [now, 0])
            flow[1] += seen.end > seen.payload
            if flows.lifetime and now - flow[0] > flows.lifetime:
                self.counters["outlived"] += 1
                return True
            reset = reset or bool(flows.packets and flow[1] > flows.packets)
        if reset and seen.protocol == frames.TCP and not frame[seen.transport + 13] & frames.RST:
            ahead, back = frames.resets(frame, seen)
            self._send(way.out, ahead)
            self._send(way.back, back)
            self.counters["reset"] += 1
        return reset

    def _delay(self, way: _Way, frame: bytes) -> None:
        spoil, now = way.spoil, time.monotonic()
        due = now + spoil.delay + self._random.random() * spoil.jitter
        if self._happens(spoil.reorder):
            due += self._random.random() * HELD_BACK
        if spoil.rate:
            way.free_at = max(way.free_at, now)
            if (way.free_at - now) * spoil.rate > spoil.queue:
                self.counters["queue full"] += 1
                return
            way.free_at += len(frame) / spoil.rate
            due = max(due, way.free_at)
        if due <= now and not self._waiting:
            self._send(way.out, frame)
        else:
            heapq.heappush(self._waiting, (due, next(self._serial), way.out, frame))

    def _send(self, out: socket.socket, frame: bytes) -> None:
        try:
            out.send(frame)
        except OSError:  # its device is down, or its queue is full
            self.counters["not sent"] += 1


def opened(device: str) -> socket.socket:
    """A packet socket that takes every frame which arrives on ``device``."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.bind((device, ETH_P_ALL))
    made.setblocking(False)
    return made


def main() -> None:
    """See the module."""
    near, far = (opened(name) for name in sys.argv[1:3])
    box = Middlebox(near, far)
    asked = b""
    while True:
        ready: list[object] = select.select([near, far, 0], [], [], box.timeout())[0]  # type: ignore[type-var]
        box.release()
        if 0 in ready:
            more = os.read(0, _ROOM)
            if not more:
                return
            asked += more
            while b"\n" in asked:
                line, _, asked = asked.partition(b"\n")
                box.use(Spoilt.from_json(json.loads(line)))
                os.write(1, json.dumps(box.counters).encode() + b"\n")
        for device in (near, far):
            if device in ready:
                box.arrived(device)


if __name__ == "__main__":
    main()
