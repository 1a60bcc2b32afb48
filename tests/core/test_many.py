"""Amounts: a thousand sessions, ten thousand conversations, a million datagrams.  Nothing is lost or misdelivered."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from rsock_nf.core.parameters import Cipher, Kinds
from tests.core.many import Many
from tests.core.pair import numbered

SESSIONS, CONVERSATIONS, DATAGRAMS = 1000, 10_000, 1_000_000
RUN, SIZE = 40, 100


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP], ids=["tcp", "udp"])
def test_a_thousand_sessions_on_one_server(kinds: Kinds) -> None:
    many = Many(SESSIONS, client={"flows": 1, "kinds": kinds}, server={"max_sessions": SESSIONS, "kinds": kinds})
    for at in range(SESSIONS):
        many.up(at)
        many.run(0.1)  # ten new clients a second
    assert len(many.server.sessions) == SESSIONS
    for at in range(SESSIONS):
        many.say(at, "app", numbered(5, 60, b"%d " % at))
    owner = {arrived.peer: arrived.datagrams[0].split()[0] for arrived in many.at_target}
    assert len(owner) == len(set(owner.values())) == SESSIONS
    assert many.counted["target"] == 5 * SESSIONS
    for peer, name in owner.items():
        many.reply(peer, [b"to %s" % name])
    assert many.counted["app"] == SESSIONS
    for _ in range(40):  # with probes and keepalives
        many.run(0.5, *many.clients)
    assert len(many.server.sessions) == SESSIONS
    assert sum(len(session.flows) for session in many.server.sessions) == SESSIONS


@pytest.mark.slow
def test_ten_thousand_conversations_in_one_session() -> None:
    many = Many(1, client={"flows": 10}, server={"max_conversations": CONVERSATIONS})
    many.up(0)
    for at in range(CONVERSATIONS):
        many.say(0, f"app {at}", [b"%d first" % at])
        if at % 1000 == 0:
            many.run(1.0, *many.clients)
    assert len(many.sockets) == CONVERSATIONS
    socket_of: dict[bytes, Hashable] = {one.datagrams[0].split()[0]: one.peer for one in many.at_target}
    many.at_target.clear()
    for at in range(CONVERSATIONS):
        many.say(0, f"app {at}", [b"%d second" % at])
        many.reply(socket_of[b"%d" % at], [b"%d answer" % at])
    assert all(one.peer == socket_of[one.datagrams[0].split()[0]] for one in many.at_target)
    assert all(one.peer == f"app {int(one.datagrams[0].split()[0])}" for one in many.at_app)
    assert many.counted == {"target": 2 * CONVERSATIONS, "app": CONVERSATIONS}


@pytest.mark.slow
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_a_million_datagrams_without_a_lost_one(cipher: Cipher) -> None:
    """Half of them each way, over ten flows; time passes, so flows are probed meanwhile."""
    many = Many(1, client={"flows": 10, "cipher": cipher}, server={"cipher": cipher}, keep=False)
    many.up(0)
    many.say(0, "app", [b"first"])
    (peer,) = many.sockets
    datagrams = numbered(RUN, SIZE)
    rounds = DATAGRAMS // (2 * RUN)
    for number in range(rounds):
        many.say(0, "app", datagrams)
        many.reply(peer, datagrams)
        if number % 10 == 0:
            many.run(0.02, *many.clients)
    assert many.counted == {"target": rounds * RUN + 1, "app": rounds * RUN}
    assert len(many.server.sessions[0].flows) == 10
