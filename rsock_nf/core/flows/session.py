"""A session, and the established flows that carry its traffic.

A session is a client process and a server process that have authenticated each other.  It outlives every flow and
every address of the client.  It owns its flows by number and, through the pump's group, its conversations.

A flow is ``Established`` from the client's confirmation, or from the server's acceptance, to its end.  During this
time the pump takes its segments and owns its sequence numbers, credit and counters.  This module has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rsock_nf.core.flows.allowance import ANSWERS, MOST_OPENINGS, OPENINGS, PROBE_ANSWERS, Allowance
from rsock_nf.core.flows.health import Health
from rsock_nf.core.flows.kinds import KindJudge
from rsock_nf.core.flows.opening import Repeat, describe
from rsock_nf.core.flows.path_mtu import PathMtu
from rsock_nf.core.flows.states import State
from rsock_nf.core.identity import ANYBODY, Identity
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import Limits, SessionKeys
from rsock_nf.core.pump.fragments import Reassembly
from rsock_nf.core.pump.replay import ReplayWindow
from rsock_nf.core.pump.state import FlowGroup, PumpFlow
from rsock_nf.core.types import ALL_PORTS, FlowKey, Shard


class Established:
    """See the module.  For both roles.  Its first state is CONFIRMING at a client, ESTABLISHED at a server."""

    def __init__(
        self, state: State, session: Session, pump: PumpFlow, *, mss: int, peer_isn: int, slot: int = 0
    ) -> None:
        self.flow_id: int = pump.flow_id
        self.key: FlowKey = pump.key
        self.state = state
        self.session = session
        self.pump = pump
        self.mss = mss
        """The largest payload of one segment that the opening allows."""
        self.peer_isn = peer_isn
        """The peer's initial sequence number.  By it a server recognises the SYN of this flow when it is sent again."""
        self.first_seq = pump.next_seq
        """Sequence number of our first byte on the established flow."""
        self.slot = slot
        """Client: the index of the slot that it fills."""
        self.since = 0.0
        """When it began to carry traffic."""
        self.health = Health()
        self.path = PathMtu()
        self.largest_in = 0
        """Bytes of the largest probe that came: segments of that size pass toward us.  0 = none came yet."""
        self.sick = False
        """It is to be replaced."""
        self.retired = False
        """Client: another flow has taken its place.  It carries no bulk, and closes soon."""
        self.closes_answered = 0
        """FINs or close frames that came after the flow had closed, and were answered again."""
        self.swept_frames = 0
        """The pump's counters at the last sweep.  They tell whether there was traffic since."""
        self.swept_received = 0
        """Those of received frames alone."""
        self.repeat: Repeat | None = None
        """First the confirmation that opened the flow, later its closing segment; None once that is answered."""

    def __repr__(self) -> str:
        return describe(self.flow_id, self.key, self.state)

    @property
    def usable(self) -> bool:
        """The flow may carry bulk."""
        return self.pump in self.pump.group.usable

    @property
    def fit(self) -> bool:
        """The flow may carry bulk if its kind does."""
        return self.pump in self.pump.group.fit

    @property
    def welcome(self) -> bool:
        """The flow may be used again when it answers."""
        return self.state is State.ESTABLISHED and not self.sick and not self.retired

    @property
    def alone(self) -> bool:
        """No other flow of the session may carry bulk, whether its kind rests or not."""
        return self.pump.group.fit == [self.pump]

    @property
    def heard(self) -> tuple[int, int]:
        """(frames received, highest ACK).  They change while the peer lives."""
        return self.pump.received_frames, self.pump.highest_ack

    @property
    def had_traffic(self) -> bool:
        """More than probes was sent or received since the last sweep."""
        return self.pump.sent_frames + self.pump.received_frames > self.swept_frames + 4


@dataclass(slots=True)
class FrameCounts:
    """Frames of flows that have ended."""

    sent: int = 0
    received: int = 0
    lost: int = 0
    """Sent, and did not arrive (``Health.lost``)."""

    def add(self, flow: Established) -> None:
        """Count those of ``flow``, too."""
        self.sent += flow.pump.sent_frames
        self.received += flow.pump.received_frames
        self.lost += flow.health.lost


@dataclass(slots=True)
class Hearing:
    """What was heard on several flows together."""

    heard: int = 0
    """It changes while the peer lives."""
    at: float = 0.0
    """When that last changed."""
    said: int = 0
    """Frames that were sent until then."""

    def follow(self, other: Hearing) -> None:
        """The flows are the same as those of ``other``."""
        self.heard, self.at, self.said = other.heard, other.at, other.said


@dataclass(slots=True, eq=False)
class Session:
    """A session, at either end."""

    session_id: int
    keys: SessionKeys
    wire: str
    """What the configuration calls it."""
    limits: Limits
    cipher: Cipher
    group: FlowGroup
    created: float
    shard: Shard = ALL_PORTS
    """Client: the server's ports at which the session is known."""
    flows: dict[int, Established] = field(default_factory=dict)
    """The flows that carry traffic, by flow id."""
    reassembly: Reassembly = field(default_factory=Reassembly)
    identity: Identity = ANYBODY
    """Server: who the client is, as far as its secret tells."""
    peer: str = ""
    """Server: the address and port of the client's newest flow."""
    seen_as: bytes = b""
    """Client: its address as the server sees it, as in ``messages.SeenAs``; empty = the server has not told."""
    numbers: ReplayWindow = field(default_factory=lambda: ReplayWindow(1024))
    """Server: the numbers of the flows that it has accepted.  Each number is accepted once."""
    used: float = 0.0
    """When it last had a flow or a conversation."""
    heard_at: float = 0.0
    """When a sweep last found that a frame had come; 0 = never."""
    ended: dict[bool, FrameCounts] = field(default_factory=lambda: {False: FrameCounts(), True: FrameCounts()})
    """Of each kind (is it UDP?): what its flows that do not carry any more had counted."""
    judge: KindJudge = field(default_factory=KindJudge)
    """Which kind of its flows carries bulk."""
    carried: bool = False
    """Server: some flow that has ended had brought a frame.  If none has, its client may know nothing of the session:
    it heard no answer to its confirmation, and has another session now."""
    answers: Allowance = field(default_factory=lambda: Allowance(ANSWERS))
    probe_answers: Allowance = field(default_factory=lambda: Allowance(PROBE_ANSWERS))
    openings: Allowance = field(default_factory=lambda: Allowance(OPENINGS, MOST_OPENINGS))
    """Server: of new conversations."""
    alarmed: float = 0.0
    """When a silent flow last had all flows probed."""
    hearing: Hearing = field(default_factory=Hearing)
    """What ``Watch`` heard on all flows."""
    hearing_tcp: Hearing = field(default_factory=Hearing)
    """And on those of fake TCP: a NAT that forgets them may spare the others, or the others move by themselves."""
    took: float = 0.0
    """Seconds that the last answer to a probe took, on any flow."""
    silent: bool = False
    """No flow answered, and none has answered since."""
    moved_at: float = 0.0
    """When a sweep last found that datagrams had moved."""
    check_at: float = 0.0
    """From then on, a probe is padded to check that the size of a flow's segments still passes."""

    def frames(self, *, udp: bool) -> FrameCounts:
        """Of all flows of one kind, those that have ended too: it only grows."""
        past = self.ended[udp]
        total = FrameCounts(past.sent, past.received, past.lost)
        for flow in self.flows.values():
            if flow.key.udp is udp:
                total.add(flow)
        return total

    def usable_payload(self) -> int:
        """The largest payload of one segment that passes on every usable flow.  0 = no flow is usable."""
        return min((flow.max_payload for flow in self.group.usable), default=0)

    def narrowest(self) -> tuple[int, int] | None:
        """(the largest payload that passes, what opening and link would allow), bytes, of the flow whose path takes
        least.  None = all that is allowed passes on every flow.
        """
        narrow = [flow.path for flow in self.flows.values() if flow.path.whole and flow.path.settled]
        return min(((path.size, path.whole) for path in narrow), default=None)

    def largest_datagram(self) -> int | None:
        """Bytes of the largest datagram that travels in one piece.  None = no flow is usable.

        The first datagrams of a conversation travel in opening frames, which take ``limits.opening_bytes`` less.
        """
        usable = self.group.usable
        if not usable:
            return None
        return self.usable_payload() - usable[0].codec.overhead
