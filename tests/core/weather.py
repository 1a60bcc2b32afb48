"""Anything that a path and two processes may suffer, at random and one after the other, over any wire and carrier.

After each step what the two ends keep must fit together; when the weather is calm again datagrams must pass within
seconds; and when nobody speaks any more nothing is left: no flow, timer, socket, port or session.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import Kinds, Spread
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Merge, Nat, Predicate, Toward, is_udp

STEPS = 25
RECOVERY = 12.0
"""Seconds until the first answer once the path is fine: a client may have to miss ten idle flows one by one."""
UNTIL_FORGOTTEN = 1200.0
"""Seconds after which the last timer has ended: conversations live for 300, an unused session for 600 more."""
_TIMER: dict[State, Timer] = {
    State.SYN_SENT: Timer.RETRANSMIT,
    State.HELLO_SENT: Timer.RETRANSMIT,
    State.JOIN_SENT: Timer.RETRANSMIT,
    State.CONFIRMING: Timer.RETRANSMIT,
    State.ESTABLISHED: Timer.PROBE,
    State.DEMOTED: Timer.FORGET,
    State.CLOSING: Timer.RETRANSMIT,
    State.LINGERING: Timer.FORGET,
}
"""What wakes a flow in each state that must not last."""
_BLOCKS: list[Predicate] = [
    lambda _, packet: is_udp(packet),
    lambda _, packet: not is_udp(packet),
    lambda *_: True,
    lambda toward, _: toward is Toward.CLIENT,
    lambda toward, _: toward is Toward.SERVER,
]


def conditions(kinds: Kinds, rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the client's parameters, options of the pair): four flows of each kind, and perhaps a NAT, behind a judge who
    drops nothing."""
    nat = Nat(b"\xcb\x00\x71\x07") if rng.random() < 0.7 else None
    client = {"flows": 4, "spread": rng.choice(list(Spread)), "kinds": kinds}
    return client, {"nat": nat, "strict": False, "resets_allowed": True, "late_syns": True}


def suffer(pair: Pair, rng: random.Random, step: int) -> None:
    """One stroke of fate."""

    def say() -> None:
        pair.say(f"app {rng.randint(0, 2)}", *numbered(rng.randint(1, 60), rng.choice([20, 900, 1400]), b"%d." % step))

    def lose() -> None:
        for toward in Toward:
            pair.wire.conditions[toward] = Conditions(
                loss=rng.choice([0, 0.05, 0.3]),
                duplicate=rng.choice([0, 0.1]),
                reorder=rng.choice([0, 0.2]),
                merge=rng.choice([Merge.NONE, Merge.SIZED]),
            )

    def rebind() -> None:
        if pair.wire.nat is not None:
            pair.wire.nat.rebind(rng.choice([None, b"\xcb\x00\x71\x08"]))

    def reconnect() -> None:
        pair.client.role.reconnect(pair.now)
        pair.flush()

    def renew() -> None:
        pair.client.role.renew(pair.now)
        pair.flush()

    def resize() -> None:
        pair.client.receive_mtu(pair.now, rng.choice([1500, 1300]), 64_000)
        pair.flush()

    fates: list[Callable[[], object]] = [
        say, say, say, lose, rebind, reconnect, renew, resize, pair.restart_server, pair.wire.drop.clear,
        lambda: pair.wire.drop.__setitem__(slice(None), [rng.choice(_BLOCKS)]),
        lambda: pair.run(rng.random() * 2),
        lambda: pair.run(rng.random() * 2),
        lambda: pair.run(rng.random() * 20),
    ]  # fmt: skip
    rng.choice(fates)()


def fits_together(pair: Pair) -> None:
    """What the two ends keep in several places is the same in all of them, and whatever waits is waited for."""
    for node in (pair.client, pair.server):
        flows = set(node.flows)
        pumped = {flow.pump for flow in node.flows.established()}
        assert set(node.pump.flows()) == pumped
        assert {key for _, key in node._context.deadlines._when if isinstance(key, Opening | Established)} <= flows
        for flow in flows:
            timer = _TIMER.get(flow.state)
            assert timer is None or node._context.deadlines.get(timer, flow) is not None, f"nothing wakes {flow}"
        for session in node.sessions:
            established = {
                flow for flow in node.flows.established() if flow.session is session and flow.state is State.ESTABLISHED
            }
            assert set(session.flows.values()) == established
            usable = session.group.usable
            assert set(usable) <= {flow.pump for flow in established}
            assert len(usable) == len(set(usable))
    conversations = set(pair.server.pump._conversations)
    assert conversations == set(pair.sockets)
    assert len(pair.server.conversations) == len(conversations)
    if not pair.client.role.idle:
        for slot in pair.client.role.slots:
            waits = pair.client._context.deadlines.get(Timer.DIAL, slot) is not None
            assert not slot.resting or waits, f"nobody will ever dial {slot}"


def goes_through(pair: Pair, rng: random.Random) -> None:
    """After any weather it carries again, and leaves nothing."""
    pair.echo = True
    pair.start()
    for step in range(STEPS):
        suffer(pair, rng, step)
        fits_together(pair)

    pair.wire.drop.clear()
    pair.wire.conditions = {toward: Conditions() for toward in Toward}
    began, answered = pair.now, len(pair.at_app)
    while len(pair.at_app) == answered:
        assert pair.now - began < RECOVERY, pair.client.role.reason
        pair.say("app", b"at %.2f" % pair.now)
        pair.run(0.25)
    fits_together(pair)

    pair.run(UNTIL_FORGOTTEN)
    for node in (pair.client, pair.server):
        assert not node.flows
        assert node.next_timeout() is None
    assert not pair.server.role.sessions_by_id
    assert not pair.sockets
    assert not pair.ports | pair.carriers
    pair.say("app", b"awake")
    pair.run(3.0)
    assert b"awake" in pair.heard()
