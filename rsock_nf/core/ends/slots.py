"""When and where the client dials: one slot for each server port in use, with back-off and jitter.

The first of several server addresses is dialled for ``SILENT`` seconds (``FAMILY_SILENT`` if the next one is of the
other IP version), then the next one, and so on: people who
wait for the tunnel should not wait long for a dead address.  When each has had its turn, back-off decides as with
one address.

The server's addresses may change (``use_addresses``), because its name has been looked up again.  Flows that are up
stay where they are.

A port without an answer gives its slot to another port: the server need not serve all of them.  First the ports that
have no slot get their turn.  After that, or if there are none, the slot takes a port on which another flow stands.
When a path comes back, one flow notices it, and the other slots end their back-off.

A server may be several processes, each with some of its ports.  Its answer tells at which of them the session is known
(``use_shard``): the slots dial these alone, several of them one port if there are too few, as long as there is the
session.

With ``type: all`` there are two slots for each port, one of each kind.  The server may not serve one kind, or a
router may block it.  Such a kind is dialled less and less often while the other one carries traffic.

Not here: the steps of a dial (``dialling``, ``openings``).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import Flow
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Rng
from rsock_nf.core.types import ALL_PORTS, Shard

STAGGER = 0.02
"""Seconds between the first dials of two slots."""
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
MAX_BACKOFF_BESIDE = 300.0
"""Seconds: the longest back-off of one kind of flow while the other kind carries traffic."""
STEADY = 10.0
"""Seconds.  A flow that lived at least this long, and on which something came, is replaced at once.  Any other life
counts as a failure."""
URGENT = 2.0
"""Seconds.  While datagrams wait and no flow is up, a dial begins at least this often, whatever the back-off is."""
SHARD_SILENT = 30.0
"""Seconds without a flow after which a session is given up that is known at some of the ports only: others may pass."""
SILENT = 2.0
"""Seconds without a SYN-ACK or an answer after which the next address is used.  Each port has had two or three SYNs
then."""
FAMILY_SILENT = 1.0
"""The same, if the next address is of the other IP version: often a host has routes of both versions, and one of them
leads nowhere (RFC 8305)."""


@dataclass(slots=True, eq=False)
class Slot:
    """A server port, and a kind, for which the client wants one flow."""

    index: int
    port: int
    stagger: float
    udp: bool = False
    """True = its flow travels over a UDP carrier."""
    home: int = 0
    """Its first port."""
    flow: Established | None = None
    """The flow that fills it."""
    opening: Flow | None = None
    """A flow that is being opened for it."""
    rescues: Established | None = None
    """The flow in whose place another one is dialled because no flow answers."""
    port_wanted: bool = False
    remote: bytes = b""
    """The server's packed address for which the port was asked."""
    failures: int = 0
    unanswered: bool = False
    """The last dial got no SYN-ACK, or over UDP no answer, or it was refused.  Either the path or the server was down,
    or this port is not served."""
    kept_back: bool = False
    """The last dial never left this host: there was no route, no port or no socket."""

    @property
    def resting(self) -> bool:
        """It has no flow, and none is being opened."""
        return self.flow is None and self.opening is None and not self.port_wanted


class Slots:
    """All slots, and which of the server's addresses is in use."""

    def __init__(self, parameters: ClientParameters, rng: Rng) -> None:
        self._rng = rng
        self._addresses = [address.packed for address in parameters.server]
        self._remote = self._addresses[0]
        self._untried = len(self._addresses) - 1
        """How many addresses may still be passed over.  0 = each had its turn since the last ``reset``, or an answer
        came."""
        self._unanswered_since: float | None = None
        """When a flow was first dialled to the address in use.  None = none was dialled since that address came into
        use, or since ``reset``.  An answer does not change it: ``answered`` sets ``_untried`` to 0 instead, and then
        no address is passed over."""
        listed = [port for span in parameters.ports for port in range(span.first, span.last + 1)]
        first = parameters.first_port % len(listed)
        self._ports = ports = listed[first:] + listed[:first]
        """The server's, in the order in which they are dialled."""
        self._shard = ALL_PORTS
        count = parameters.flows_of_a_kind
        # If there are more ports than flows, spread over the whole list.
        chosen = _spread(ports, count)
        kinds = [udp for udp, wanted in ((False, parameters.kinds.tcp), (True, parameters.kinds.udp)) if wanted]
        self._spare = {udp: deque(port for port in ports if port not in chosen) for udp in kinds}
        """For each kind, the ports without a slot.  The first of them is tried next."""
        self._dead: dict[bool, set[int]] = {udp: set() for udp in kinds}
        """For each kind, the ports that did not answer when they were last dialled."""
        self._last_dial = 0.0
        places = [(at * STAGGER, port, udp) for at, port in enumerate(chosen) for udp in kinds]
        self._slots = [Slot(index, port, stagger, udp, port) for index, (stagger, port, udp) in enumerate(places)]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def use_shard(self, shard: Shard) -> list[Slot]:
        """From now on the ports of ``shard`` alone are dialled, of those that there are.

        Slots that have one of them keep it; the others get those that the fewest slots have.  With ``ALL_PORTS`` each
        slot has its first port again.  Returns the slots that have another port now.
        """
        ports = [port for port in self._ports if shard.has(port)]
        if shard == self._shard or not ports:
            return []
        self._shard = shard
        before = {slot: slot.port for slot in self._slots}
        for udp, dead in self._dead.items():
            slots = [slot for slot in self._slots if slot.udp is udp]
            moved = [slot for slot in slots if shard == ALL_PORTS or not shard.has(slot.port)]
            had = Counter(slot.port for slot in slots if slot not in moved)
            for slot in moved:
                rarest = min(ports, key=lambda port: (port in dead, had[port]))
                slot.port = slot.home if shard == ALL_PORTS else rarest
                had[slot.port] += 1
            self._spare[udp] = deque(port for port in ports if port not in had)
        return [slot for slot, port in before.items() if slot.port != port]

    @property
    def shard(self) -> Shard:
        """Whose ports are dialled."""
        return self._shard

    @property
    def remote(self) -> bytes:
        """The server's address in use, packed.  While flows are up it may be one that the server no longer has."""
        return self._remote

    @property
    def remote_text(self) -> str:
        """The server's address in use, as text."""
        return str(ip_address(self.remote))

    def has_address(self, remote: bytes) -> bool:
        """Whether ``remote``, packed, is an address of the server: in use, or one to try."""
        return remote == self._remote or remote in self._addresses

    def sent(self, now: float) -> None:
        """A SYN or the first datagram of a flow leaves for the address in use."""
        self._last_dial = now
        if self._unanswered_since is None:
            self._unanswered_since = now

    def answered(self, slot: Slot) -> None:
        """A SYN-ACK or an answer came on the flow that is opened for ``slot``: address and port are not dead."""
        self._untried = 0
        self._dead[slot.udp].discard(slot.port)
        slot.unanswered = slot.kept_back = False

    def pass_over(self, now: float) -> bool:
        """Use the next address if the one in use is silent and the next one is untried.

        Returns whether it is in use now.
        """
        if not self._untried or self._unanswered_since is None:
            return False
        patience = SILENT if len(self._following()) == len(self._remote) else FAMILY_SILENT
        if now - self._unanswered_since < patience:
            return False
        self._untried -= 1
        self._next_address()
        return True

    def _following(self) -> bytes:
        """The address after the one in use; of the only one, the same."""
        at = self._addresses.index(self._remote) + 1 if self._remote in self._addresses else 0
        return self._addresses[at % len(self._addresses)]

    def _next_address(self) -> None:
        self._remote = self._following()
        self._unanswered_since = None

    def use_addresses(self, addresses: list[bytes]) -> None:
        """The server's packed addresses, in order of preference; not empty.  The one in use stays in use: see
        ``leave_old``."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._untried = len(addresses) - 1

    def give_turns(self) -> None:
        """Each address may be tried and passed over once more."""
        self._untried = len(self._addresses) - 1
        self._unanswered_since = None

    def leave_old(self) -> bool:
        """If the server no longer has the address in use, use its first one, with no failures.

        Returns whether another address is in use now.
        """
        if self._remote in self._addresses:
            return False
        self.reset()
        return True

    def failed(self, slot: Slot) -> float:
        """A dial failed.  Returns the seconds to wait.  When every slot has failed, the next address is used."""
        slot.failures += 1
        if slot.unanswered:
            self._leave_port(slot)
        if all(other.failures and other.flow is None for other in self._slots) and slot is self._slots[0]:
            self._next_address()
        return self._backoff(slot)

    def _leave_port(self, slot: Slot) -> None:
        """The port of ``slot`` did not answer: choose another one."""
        dead = self._dead[slot.udp]
        dead.add(slot.port)
        slots = [other for other in self._slots if other.udp is slot.udp]
        ports = [other.port for other in slots]
        standing = [other.port for other in slots if other.flow is not None]
        untried = [port for port in self._spare[slot.udp] if port not in dead]
        if slot.flow is not None:  # the server serves the port of the flow that was to be renewed
            self._take_port(slot, slot.flow.key.remote_port)
        elif untried:
            self._take_port(slot, untried[0])
        elif standing:
            self._take_port(slot, min(standing, key=ports.count))
        else:
            self.another_port(slot)

    def another_port(self, slot: Slot) -> None:
        """Dial ``slot`` to a port that has no slot, if there is one."""
        spare = self._spare[slot.udp]
        if spare:
            self._take_port(slot, spare[0])

    def _take_port(self, slot: Slot, port: int) -> None:
        spare = self._spare[slot.udp]
        left, slot.port = slot.port, port
        if port in spare:
            spare.remove(port)
        if all(other.port != left for other in self._slots if other.udp is slot.udp):
            spare.append(left)

    def _backoff(self, slot: Slot) -> float:
        beside = any(other.flow for other in self._slots if other.udp is not slot.udp)
        longest = MAX_BACKOFF_BESIDE if beside else MAX_BACKOFF
        return self._jitter(min(FIRST_BACKOFF * 2 ** min(slot.failures - 1, 10), longest))

    def broken(self, now: float, slot: Slot) -> float:
        """An established flow ended or is to be replaced.  Returns the seconds to wait before the next dial.

        An established flow alone does not clear the failures: a middlebox may reset every flow as soon as it
        carries traffic, or nothing may ever have come on it.
        """
        flow = slot.flow
        if flow is not None and (now - flow.since < STEADY or not flow.pump.received_frames):
            slot.failures += 1
            return self._backoff(slot)
        slot.failures = 0
        return 0.0

    def revived(self, up: Slot) -> list[Slot]:
        """A flow is up.  Returns the other slots that got nowhere: they need not wait any longer.

        Those of the other kind do, unless it is the first flow, or their own dials did not leave this host: perhaps
        their kind does not pass.
        """
        first = all(slot.flow is None for slot in self._slots if slot is not up)
        slots = []
        for slot in self._slots:
            if slot.flow is None and (slot.kept_back or (slot.unanswered and (first or slot.udp is up.udp))):
                slot.failures = 0 if slot.udp is up.udp else slot.failures
                slots.append(slot)
        return slots

    def urgent(self, now: float) -> Slot | None:
        """Datagrams wait and no flow is up.  Returns a slot to dial now; None = the last dial was a moment ago."""
        if now - self._last_dial < URGENT:
            return None
        resting = [slot for slot in self._slots if slot.resting]
        return min(resting, key=lambda slot: slot.failures, default=None)

    def reset(self) -> None:
        """The server is back, or the path has changed: forget the failures, and an address that is no longer the
        server's."""
        for slot in self._slots:
            slot.failures = 0
        if self._remote not in self._addresses:
            self._remote = self._addresses[0]
        self.give_turns()

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.75 + 0.5 * self._rng(1)[0] / 255)


def _spread(ports: list[int], count: int) -> list[int]:
    """``count`` of ``ports``, as evenly as can be; it is at most their number."""
    return [ports[at * len(ports) // count] for at in range(count)]
