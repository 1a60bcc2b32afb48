"""What a datagram costs with many conversations: microseconds of CPU in both cores together, for one to 10,000.

    python -m bench.conversations

No socket and no root: bursts pass in memory.  Each read of the application's socket brings 40 datagrams: runs of one
conversation each, as GRO and recvmmsg give them.  Rows with runs of one datagram are the worst that can be: each
datagram of a read is of another application.
"""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Iterator

from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.outbox import Transmit
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Checksum, Packet, Run
from tests.core.many import Many

COUNTS = (1, 100, 10_000)
READ, SIZE = 40, 100
READS, ROUNDS = 400, 7


def reads(peers: list[Hashable], run: int) -> list[list[Run]]:
    """What ``READS`` reads bring, in random order of the peers."""
    rng = random.Random(1)
    body = bytes(SIZE)
    return [[Run(rng.choice(peers), [body] * run, SIZE) for _ in range(READ // run)] for _ in range(READS)]


def bursts(node: Endpoint) -> Iterator[Packet]:  # type: ignore[type-arg]
    """What ``node`` sends, as the other end receives it."""
    for output in node.poll():
        if isinstance(output, Transmit):
            for burst in output.bursts:
                data = memoryview(burst.headers + b"".join(burst.payload))
                yield Packet(data, burst.segment_size, Checksum.VALID, b"link")


def costs(many: Many, peers: list[Hashable], run: int) -> float:
    """Microseconds for one datagram, from the application to the target."""
    best = float("inf")
    client, server = many.clients[0], many.server
    for _ in range(ROUNDS):
        spent = 0.0
        for runs in reads(peers, run):
            began = time.process_time()
            client.receive_datagrams(many.now, runs)
            packets = list(bursts(client))
            server.receive_packets(many.now, packets)
            acknowledged = list(bursts(server))
            spent += time.process_time() - began
            client.receive_packets(many.now, acknowledged)
        many.run(0.05, client)
        best = min(best, spent / (READS * READ) * 1e6)
    return best


def opened(count: int, cipher: Cipher) -> tuple[Many, list[Hashable]]:
    """A tunnel with ``count`` conversations."""
    many = Many(
        1,
        client={"flows": 10, "cipher": cipher},
        server={"max_conversations": max(COUNTS), "cipher": cipher},
        keep=False,
    )
    many.up(0)
    peers: list[Hashable] = [f"app {at}" for at in range(count)]
    for at, peer in enumerate(peers):
        if at % 1000 == 0:
            many.run(1.0, *many.clients)
        for _ in range(2):
            many.say(0, peer, [b"first"])
    return many, peers


def main() -> None:
    """Print the table."""
    print(f"{'cipher':<12} {'datagrams in a run':>18} " + " ".join(f"{count:>9,}" for count in COUNTS) + "   us; ratio")
    for cipher in (Cipher.NONE, Cipher.AES_256_GCM):
        made = [opened(count, cipher) for count in COUNTS]
        for run in (READ, 8, 1):
            found = [costs(many, peers, run) for many, peers in made]
            print(
                f"{cipher.value:<12} {run:>18} "
                + " ".join(f"{one:9.2f}" for one in found)
                + f"  {found[-1] / found[0]:9.2f}"
            )


if __name__ == "__main__":
    main()
