"""Sends frames at a steady rate, in a process of its own: the load must not wait for the attacker.

``python -m tests.attacks.volley DEVICE FILE RATE SECONDS``.  The file holds frames, each behind its length (two
bytes).  They are sent in turn, again and again.  It prints how many frames and bytes it has sent.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
import threading
import time
from pathlib import Path

TICK = 0.002
"""Seconds between two bursts."""


def stored(frames: list[bytes]) -> bytes:
    """The content of the file."""
    return b"".join(struct.pack("!H", len(frame)) + frame for frame in frames)


def restored(content: bytes) -> list[bytes]:
    """What ``stored`` was given."""
    frames, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("!H", content, at)
        frames.append(content[at + 2 : at + 2 + length])
        at += 2 + length
    return frames


def fire(device: str, frames: list[bytes], rate: float, seconds: float) -> tuple[int, int]:
    """Send; returns (frames, bytes of IP)."""
    pause, octets, sent = threading.Event(), 0, 0
    turns = itertools.cycle(frames)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((device, 0))
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            while sent < rate * elapsed:
                frame = next(turns)
                with contextlib.suppress(OSError):  # the queue is full: sent, and lost
                    wire.send(frame)
                octets += len(frame) - 14
                sent += 1
            pause.wait(TICK)
    return sent, octets


def main() -> None:
    """See the module."""
    device, path, rate, seconds = sys.argv[1:]
    print(*fire(device, restored(Path(path).read_bytes()), float(rate), float(seconds)))  # noqa: T201


if __name__ == "__main__":
    main()
