"""The applications of the two-machine test: UDP datagrams and a TCP file, every byte accounted for by its hash.

traffic.py target ADDRESS:PORT         on the server: returns datagrams, and sends its own when asked to
traffic.py exchange ADDRESS:PORT       on the client: 2,000 datagrams there and back, then 2,000 the other way
traffic.py store ADDRESS:PORT          on the server: takes files over TCP, answers with their hash and sends them back
traffic.py file ADDRESS:PORT BYTES     on the client: one file there and back

Results are one line of JSON on standard output; exit status 1 if anything was harmed, or more lost than allowed.
What both ends send is made from a seed, so each knows the other's datagrams by their SHA-256.  Runs on the standard
library alone, and slowly on purpose: a window of a few datagrams suits a machine under emulation.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Iterator

LARGEST = 1400
PUSH = b"rsock-nf two-vm-test: push "
REPORT = b"rsock-nf two-vm-test: report"
RUN = 20
"""Datagrams of equal size in a row, as bulk transfers make them: what can leave and arrive as one packet."""
SILENCE = 8.0
"""Seconds without a datagram after which whatever is under way counts as lost."""
FILE_ANSWER = 64
"""Bytes of a SHA-256 in hexadecimal."""


def datagrams(seed: str, count: int) -> Iterator[bytes]:
    """``count`` contents of 1 to 1,400 bytes: single ones of every size, and runs of equal size."""
    rng = random.Random(seed)
    number = 0
    while number < count:
        size = rng.choice((rng.randint(1, LARGEST), rng.randint(1, 64), LARGEST, 1200))
        for _ in range(min(count - number, rng.choice((1, 1, RUN)))):
            yield hashlib.shake_128(f"{seed} {number}".encode()).digest(size)
            number += 1


def digest(data: bytes) -> bytes:
    """What stands for a content."""
    return hashlib.sha256(data).digest()


class Ledger:
    """Which of the expected datagrams have come; one-byte contents may be equal, so it counts."""

    def __init__(self, seed: str, count: int) -> None:
        self.due = collections.Counter(digest(data) for data in datagrams(seed, count))
        self.known = frozenset(self.due)
        self.arrived = self.duplicates = self.corrupted = 0

    def take(self, data: bytes) -> bool:
        """Whether this one was due."""
        name = digest(data)
        if self.due[name] > 0:
            self.due[name] -= 1
            self.arrived += 1
            return True
        if name in self.known:
            self.duplicates += 1
        else:
            self.corrupted += 1
        return False

    def result(self) -> dict[str, int]:
        """For the report."""
        lost = sum(self.due.values())
        return {"arrived": self.arrived, "lost": lost, "duplicates": self.duplicates, "corrupted": self.corrupted}


def endpoint(text: str) -> tuple[str, int]:
    """``"[::1]:9999"`` or ``"127.0.0.1:9999"``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def family(host: str) -> socket.AddressFamily:
    """Of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def udp(host: str) -> socket.socket:
    """A socket with room for what a busy machine reads late."""
    made = socket.socket(family(host), socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return made


class Arrivals:
    """What has come to the target since its last report: an exchange must not be charged with the contents of the one
    before, for short ones are equal by chance."""

    def __init__(self) -> None:
        self._seen: list[bytes] = []
        self._reports: dict[str, bytes] = {}

    def take(self, data: bytes) -> None:
        """One datagram."""
        self._seen.append(data)

    def report(self, seed: str, count: int) -> bytes:
        """What of ``seed`` has arrived; asked for again, the same."""
        if seed not in self._reports:
            ledger = Ledger(seed, count)
            for data in self._seen:
                if digest(data) in ledger.known:
                    ledger.take(data)
            # What is not known is corrupted: the client sees that from its echo.
            self._reports[seed] = REPORT + json.dumps(ledger.result()).encode()
            self._seen.clear()
        return self._reports[seed]


def target(address: tuple[str, int]) -> None:
    """Return every datagram, report what came when a client asks, and send it others when it asks for those."""
    arrivals = Arrivals()
    with udp(address[0]) as sock:
        sock.bind(address)
        while True:
            try:
                data, peer = sock.recvfrom(65536)
                if data.startswith(PUSH):
                    _, seed, count = data.rsplit(b" ", 2)
                    push(sock, peer, seed.decode(), int(count))
                elif data.startswith(REPORT):
                    _, seed, count = data.rsplit(b" ", 2)
                    sock.sendto(arrivals.report(seed.decode(), int(count)), peer)
                else:
                    arrivals.take(data)
                    sock.sendto(data, peer)
            except ConnectionRefusedError:  # the tunnel's server has gone down, and will come back
                continue


def push(sock: socket.socket, peer: tuple[str, int], seed: str, count: int) -> None:
    """``count`` datagrams that nobody echoes, at about 200 a second."""
    for number, data in enumerate(datagrams(seed, count)):
        sock.sendto(data, peer)
        if number % RUN == RUN - 1:
            time.sleep(RUN / 200)  # the rate, not a wait for something


def exchange(address: tuple[str, int], count: int, window: int, allowed: int) -> dict[str, object]:
    """All of it.  The seed is fresh, so nothing of an earlier exchange can pass for this one's."""
    seed = os.urandom(4).hex()
    started = time.monotonic()
    with udp(address[0]) as sock:
        sock.connect(address)
        echoed = echo(sock, Ledger(f"there-{seed}", count), list(datagrams(f"there-{seed}", count)), window)
        there = ask_report(sock, f"there-{seed}", count)
        back = pushed(sock, f"back-{seed}", count)
    harmed = sum(part["corrupted"] + part["duplicates"] for part in (echoed, there, back))
    lost = max(echoed["lost"], there["lost"], back["lost"])
    return {
        "ok": harmed == 0 and lost <= allowed,
        "sent": count,
        "lost": lost,
        "echoed": echoed,
        "at_target": there,
        "from_target": back,
        "seconds": round(time.monotonic() - started, 1),
    }


def received(sock: socket.socket, timeout: float) -> bytes | None:
    """The next datagram; None = none came in time."""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            try:
                return sock.recv(65536)
            except ConnectionRefusedError:
                continue
    return None


def echo(sock: socket.socket, ledger: Ledger, contents: list[bytes], window: int) -> dict[str, int]:
    """At most ``window`` unanswered; silence writes off what is under way."""
    sent = written_off = 0
    while sent < len(contents) or ledger.arrived + written_off < sent:
        if sent < len(contents) and sent - ledger.arrived - written_off <= window - RUN:
            for data in contents[sent : sent + RUN]:  # together, so that they can become one packet
                sock.send(data)
            sent = min(sent + RUN, len(contents))
            continue
        answer = received(sock, SILENCE)
        if answer is None:
            written_off = sent - ledger.arrived
        else:
            ledger.take(answer)
    return ledger.result()


def ask_report(sock: socket.socket, seed: str, count: int) -> dict[str, int]:
    """The target's ledger, asked for until it comes: neither way is reliable."""
    for _ in range(10):
        sock.send(b" ".join((REPORT, seed.encode(), b"%d" % count)))
        while (data := received(sock, SILENCE)) is not None:
            if data.startswith(REPORT):
                found: dict[str, int] = json.loads(data.removeprefix(REPORT))
                return found
    raise SystemExit("traffic.py: the target does not report")


def pushed(sock: socket.socket, seed: str, count: int) -> dict[str, int]:
    """What the target sends of its own."""
    ledger = Ledger(seed, count)
    for _ in range(5):
        sock.send(PUSH + b"%s %d" % (seed.encode(), count))
        while ledger.arrived < count and (data := received(sock, SILENCE)) is not None:
            if not data.startswith(REPORT):
                ledger.take(data)
        if ledger.arrived:
            break
    return ledger.result()


def store(address: tuple[str, int]) -> None:
    """One file after the other: eight bytes of length, then the file; the answer is its SHA-256, then the file."""
    with socket.create_server(address, family=family(address[0])) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                data = exactly(connection, int.from_bytes(exactly(connection, 8)))
                connection.sendall(hashlib.sha256(data).hexdigest().encode() + data)


def exactly(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes.  Raises ``ConnectionError`` when the other side ends early."""
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 16))
        if not piece:
            raise ConnectionError(f"closed after {len(data)} of {count} bytes")
        data += piece
    return bytes(data)


def file(address: tuple[str, int], size: int) -> dict[str, object]:
    """A random file of ``size`` bytes."""
    data = os.urandom(size)
    started = time.monotonic()
    with socket.create_connection(address, timeout=300) as connection:
        connection.sendall(size.to_bytes(8) + data)
        name = exactly(connection, FILE_ANSWER).decode()
        returned = exactly(connection, size)
    seconds = time.monotonic() - started
    intact = name == hashlib.sha256(data).hexdigest() and returned == data
    return {"ok": intact, "bytes": size, "sha256": name, "seconds": round(seconds, 1)}


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("target", "exchange", "store", "file"))
    parser.add_argument("address", type=endpoint)
    parser.add_argument("bytes", type=int, nargs="?", default=1 << 20)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--allowed-loss", type=int, default=0, help="datagrams in each direction")
    arguments = parser.parse_args()
    if arguments.what == "target":
        target(arguments.address)
    if arguments.what == "store":
        store(arguments.address)
    if arguments.what == "exchange":
        found = exchange(arguments.address, arguments.count, arguments.window, arguments.allowed_loss)
    else:
        found = file(arguments.address, arguments.bytes)
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
