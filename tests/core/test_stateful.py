"""Anything may happen in any order: hypothesis drives a pair, a reference model knows whose conversation is whose.

The model is a table: socket of the server → the application's address that opened it.  A datagram names its sender, so
whatever arrives anywhere can be held against the table.  At the end the wire heals, and everybody is heard again.
"""

from collections.abc import Hashable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rsock_nf.core.flows.states import TRANSITIONS, State
from rsock_nf.core.parameters import Cipher, OnProbe, Spread
from tests.core.conntrack import ACK, RST
from tests.core.pair import Pair
from tests.core.wire import Conditions, Merge, Nat, Toward, make_tcp

PEERS = st.sampled_from(["alice", "bob", "carol"])
SIZES = st.sampled_from([24, 25, 400, 1420, 1460, 5000])


class Tunnel(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        seed=st.integers(0, 1000),
        cipher=st.sampled_from(Cipher),
        spread=st.sampled_from(Spread),
        merge=st.sampled_from(Merge),
        on_probe=st.sampled_from(OnProbe),
        strip=st.booleans(),
    )
    def build(self, *, seed: int, cipher: Cipher, spread: Spread, merge: Merge, on_probe: OnProbe, strip: bool) -> None:
        self.merge = merge
        self.nat = Nat(b"\xc6\x33\x64\x01")
        self.pair = Pair(
            seed,
            cipher=cipher,
            nat=self.nat,
            client={"flows": 3, "spread": spread, "duration": 20.0, "idle_timeout": 10.0},
            server={"duration": 20.0, "on_probe": on_probe},
            conditions=Conditions(merge=merge),
            resets_allowed=on_probe is OnProbe.CLOSED,
            late_syns=True,
            strip_scale=tuple(Toward) if strip else (),
        )
        self.pair.start()
        self.said = 0
        self.owner: dict[Hashable, str] = {}
        """The model: socket → who opened it."""
        self.at_target = self.at_app = 0

    # -- what may happen

    def datagrams(self, peer: str, count: int, size: int) -> list[bytes]:
        first, self.said = self.said, self.said + count
        return [f"{peer} {number} ".encode().ljust(size, b"-") for number in range(first, first + count)]

    @rule(peer=PEERS, count=st.integers(1, 60), size=SIZES)
    def say(self, peer: str, count: int, size: int) -> None:
        self.pair.say(peer, *self.datagrams(peer, count, size))

    @precondition(lambda self: self.pair.sockets)
    @rule(data=st.data(), count=st.integers(1, 60), size=SIZES)
    def reply(self, data: st.DataObject, count: int, size: int) -> None:
        socket = data.draw(st.sampled_from(sorted(self.pair.sockets, key=repr)))
        if socket in self.owner:
            self.pair.reply(socket, *self.datagrams(self.owner[socket], count, size))

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.3, 2.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.pair.run(seconds)

    @rule(
        loss=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        duplicate=st.sampled_from([0.0, 0.1]),
        reorder=st.sampled_from([0.0, 0.3]),
        both=st.booleans(),
    )
    def weather(self, *, loss: float, duplicate: float, reorder: float, both: bool) -> None:
        changed = Conditions(loss=loss, duplicate=duplicate, reorder=reorder, merge=self.merge)
        for toward in Toward if both else [Toward.SERVER]:
            self.pair.wire.conditions[toward] = changed

    @rule(new_address=st.booleans())
    def rebind(self, *, new_address: bool) -> None:
        self.nat.rebind(b"\xc6\x33\x64" + bytes([self.nat.public[3] + 1]) if new_address else None)

    @rule()
    def restart_server(self) -> None:
        self.pair.restart_server()
        self.owner.clear()

    @rule()
    def reconnect(self) -> None:
        self.pair.client.role.reconnect(self.pair.now)
        self.pair.flush()

    @rule()
    def renew(self) -> None:
        self.pair.client.role.renew(self.pair.now)
        self.pair.flush()

    @rule(right=st.booleans())
    def reset(self, *, right: bool) -> None:
        for flow in self.pair.flows(self.pair.client)[:1]:
            key, pump = flow.key, flow.pump
            if pump is not None:
                seq = pump.received + (0 if right else 77)
                packet = make_tcp(
                    (key.remote, key.remote_port),
                    (key.local, key.local_port),
                    seq & 0xFFFFFFFF,
                    pump.next_seq,
                    RST | ACK,
                )
                self.pair.wire.inject(self.pair.now, Toward.CLIENT, packet, behind_judge=True)

    # -- what must hold

    @invariant()
    def conversations_do_not_mix(self) -> None:
        for socket, datagram in self.pair.at_target[self.at_target :]:
            sender = datagram.split()[0].decode()
            assert self.owner.setdefault(socket, sender) == sender
        self.at_target = len(self.pair.at_target)
        for peer, datagram in self.pair.at_app[self.at_app :]:
            assert datagram.split()[0].decode() == peer
        self.at_app = len(self.pair.at_app)

    @invariant()
    def the_judge_is_silent(self) -> None:
        self.pair.check()

    @invariant()
    def both_ends_are_in_order(self) -> None:
        for node in (self.pair.client, self.pair.server):
            for flow in node.flows:
                assert node.flows.get(flow.key) is flow
                assert flow.state is not State.CLOSED
                assert flow.state in TRANSITIONS
            usable = {flow for session in self.sessions() for flow in session.group.usable}
            ends = (self.pair.client, self.pair.server)
            assert usable <= {flow.pump for end in ends for flow in end.flows.established()}
        groups = self.pair.client.role.group.conversations
        assert {conversation.peer for conversation in groups.values()} == set(self.pair.client.pump._conversations)
        assert set(self.pair.sockets) == set(self.pair.server.pump._conversations)
        assert len(self.pair.client.role.applications.waiting) <= 512

    def sessions(self) -> list:  # type: ignore[type-arg]
        ours = self.pair.client.role.session
        return [*self.pair.server.role.sessions_by_id.values(), *([ours] if ours else [])]

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.pair.wire.conditions = {toward: Conditions(merge=self.merge) for toward in Toward}
        heard = len(self.pair.at_target)
        waited = 0
        while "bob" not in {datagram.split()[0].decode() for _, datagram in self.pair.at_target[heard:]}:
            self.say("bob", 1, 24)
            self.wait(0.5)
            waited += 1
            assert waited < 90, f"nobody is heard again: {self.pair.client.role.reason!r}"
        self.conversations_do_not_mix()
        for socket, owner in list(self.owner.items()):
            if owner == "bob" and socket in self.pair.sockets:
                self.pair.reply(socket, *self.datagrams("bob", 1, 24))
        self.pair.run(1.0)
        self.conversations_do_not_mix()
        self.the_judge_is_silent()


TestTunnel = Tunnel.TestCase
TestTunnel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
