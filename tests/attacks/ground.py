"""Where an attack happens: the tunnel under load, and the wires on which an attacker listens and speaks."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from rsock_nf.lab.lab import DEVICE, INSIDE, OUTSIDE, ROUTER_OUTSIDE_IP, Lab
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import Role
from tests.attacks import volley
from tests.attacks.packets import ETHERNET, TCP, Address, Packet, ethernet
from tests.faults.field import Field, Variant
from tests.faults.field import field as made_field
from tests.faults.load import SO_RCVBUFFORCE
from tests.netns.judges import wait_until

ETH_P_ALL = 3
PORTS = range(10001, 10011)
"""The server's."""
NEIGHBOUR = "02:aa:bb:cc:dd:66"
"""Link address of another host on the server's link."""
_LARGEST = 1514


@dataclass(slots=True)
class Done:
    """What an attacker sent, and what he saw."""

    packets: int = 0
    octets: int = 0
    """Of IP."""
    seconds: float = 0.0
    saw: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What should not have been."""

    def add(self, packets: Iterable[bytes]) -> None:
        """These were sent."""
        for packet in packets:
            self.packets += 1
            self.octets += len(packet)


class Wire:
    """The router's wire to one host.  What is sent here passes no packet filter of the router."""

    def __init__(self, lab: Lab, role: Role) -> None:
        self._lab = lab
        self.device, host = (INSIDE, lab.client) if role == "client" else (OUTSIDE, lab.server)
        self.here, self.there = _link_address(lab.router, self.device), _link_address(host, DEVICE)
        """Link addresses of the router and of the host."""
        self._socket = lab.router.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._socket.bind((self.device, ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def frame(self, packet: bytes, *, source: str = "") -> bytes:
        """For the host; ``source``: another link address than the router's."""
        return ethernet(source or self.here, self.there, packet)

    def send(self, done: Done, *packets: bytes, source: str = "") -> None:
        """To the host, one after the other."""
        done.add(packets)
        for packet in packets:
            self._socket.send(self.frame(packet, source=source))

    def frames(self) -> list[bytes]:
        """What was on the wire since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(1 << 17))
            except BlockingIOError:
                return found

    def heard(self, seconds: float = 0.0, *, toward: str = "", keep: bool = False) -> list[Packet]:
        """The packets that pass within ``seconds``; ``toward``: only those to this IP address.  ``keep``: what passed
        before counts, too.

        Bursts that the sender's kernel has not cut are left out: they never are on a real wire.
        """
        if seconds:
            if not keep:
                self.frames()
            _pass(seconds)
        read = (Packet.read(frame) for frame in self.frames() if len(frame) <= _LARGEST)
        return [packet for packet in read if packet and toward in ("", packet.destination[0])]

    def volley(self, done: Done, packets: Iterable[bytes], rate: float, seconds: float, *, source: str = "") -> None:
        """Packets to the host, in turn, at ``rate`` a second, by a process of its own."""
        with self.firing(done, packets, rate, seconds, source=source):
            pass

    @contextlib.contextmanager
    def firing(
        self, done: Done, packets: Iterable[bytes], rate: float, seconds: float, *, source: str = ""
    ) -> Iterator[None]:
        """The same, beside what is done inside.  It ends after ``seconds``, and is waited for."""
        with TemporaryDirectory(prefix="rsat-") as directory:
            path = Path(directory, "frames")
            path.write_bytes(volley.stored([self.frame(packet, source=source) for packet in packets]))
            argv = [sys.executable, "-m", "tests.attacks.volley", self.device, str(path), str(rate), str(seconds)]
            root = Path(__file__).parents[2]
            process = self._lab.router.popen(argv, stdout=subprocess.PIPE, text=True, cwd=root)
            try:
                yield
                said, _ = process.communicate(timeout=seconds + 30)
            finally:
                process.kill()
        sent, octets = map(int, said.split())
        done.packets += sent
        done.octets += octets


@dataclass(slots=True)
class Ground:
    """See the module."""

    site: Field
    to_server: Wire
    to_client: Wire

    @property
    def version(self) -> int:
        """Of IP."""
        return self.site.variant.version

    @property
    def server(self) -> str:
        """The server's address."""
        return self.site.lab.server_ip[self.version]

    @property
    def client(self) -> str:
        """The client's own address."""
        return self.site.lab.client_ip[self.version]

    @property
    def nat(self) -> str:
        """The client's address, as the server sees it: the router's."""
        return ROUTER_OUTSIDE_IP[self.version]

    def outsider(self, number: int = 65) -> str:
        """An address that is nobody's here."""
        if self.version == 6:
            return f"2001:db8:100::{number + 1:x}"
        return f"198.51.{100 + number // 200}.{number % 200 + 1}"

    def anyone(self, chance: random.Random) -> Address:
        """Any address and port of the open network."""
        a, b = chance.randrange(11, 100), chance.getrandbits(16)
        host = f"2001:db8:{a:x}:{b:x}::1" if self.version == 6 else f"{a}.{b >> 8}.{b & 255}.1"
        return host, chance.randrange(1024, 65536)

    def upward(self, seconds: float = 1.0) -> list[Packet]:
        """The honest client's packets with content, as an observer sees them before the server."""
        return [packet for packet in self.to_server.heard(seconds, toward=self.server) if packet.payload]

    def newest(self, seconds: float = 1.0) -> list[Packet]:
        """The same, only the newest of each flow."""
        return list({packet.source + packet.destination: packet for packet in self.upward(seconds)}.values())

    def shake_hands(self, done: Done, source: Address, port: int, *, link: str = "") -> Packet:
        """A TCP handshake with the server.  Returns the packet that is due: no payload, right numbers."""
        syn = Packet(source, (self.server, port), seq=7, flags=2, options=bytes.fromhex("020405b4"))
        self.to_server.frames()
        found: list[Packet] = []

        def answered() -> bool:
            self.to_server.send(done, syn.octets(), source=link)
            _pass(0.05)
            found.extend(packet for packet in self.to_server.heard(toward=source[0]) if packet.destination == source)
            return any(packet.protocol == TCP and packet.flags & 18 == 18 for packet in found)

        wait_until(answered, "the SYN-ACK")
        answer = next(packet for packet in found if packet.flags & 18 == 18)
        return Packet(source, (self.server, port), seq=8, ack=answer.next_seq)

    def renew(self, done: Done) -> None:
        """``rsock-nf reconnect`` during the attack; every flow has to be a new one soon."""
        took = self.reconnect()
        if took is None:
            done.wrong.append("the client gets no new flows")
        else:
            done.saw.append(f"all flows new after {took:.1f} s")

    def reconnect(self, seconds: float = 20.0) -> float | None:
        """``rsock-nf reconnect``; how long until every flow is a new one, or None if it took longer."""
        old = self.flows("client")
        began = time.monotonic()
        self.site.tunnel.command("client", "reconnect")
        with contextlib.suppress(AssertionError):
            wait_until(
                lambda: len(new := self.flows("client")) >= self.site.variant.flows and not new & old,
                "new flows", seconds,
            )  # fmt: skip
            return time.monotonic() - began
        return None

    def flows(self, role: Role) -> set[tuple[str, str, str]]:
        """The flows of that end that carry: kind, both ends."""
        return {(flow["type"], flow["local"], flow["remote"]) for flow in self.described(role)}

    def described(self, role: Role) -> list[dict[str, Any]]:
        """The same, as ``status`` tells them.  At the server only those of the honest client's session."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            sessions = self.site.tunnel.status(role).get("sessions", [])
            own = {session["id"] for session in self.site.tunnel.status("client").get("sessions", [])}
            return [
                flow
                for session in sessions if session["id"] in own
                for flow in session["flows"] if flow["state"] == "established"
            ]  # fmt: skip
        return []


@contextlib.contextmanager
def ground(variant: Variant, *, direct: bool = True) -> Iterator[Ground]:
    """A tunnel of this kind with all flows, under load.  ``direct``: without the middlebox of ``tests.faults``."""
    with ExitStack() as stack:
        site = stack.enter_context(made_field(variant, direct=direct, prefix="rsat"))
        site.all_flows()
        wires = [stack.enter_context(Wire(site.lab, role)) for role in _ROLES]
        yield Ground(site, *wires)


def _link_address(host: Namespace, device: str) -> str:
    (found,) = json.loads(host.run(["ip", "-j", "link", "show", "dev", device]).stdout)
    return str(found["address"])


def _pass(seconds: float) -> None:
    threading.Event().wait(seconds)


_ROLES: tuple[Role, Role] = ("server", "client")
__all__ = ["ETHERNET", "NEIGHBOUR", "PORTS", "Done", "Ground", "Wire", "ground"]
