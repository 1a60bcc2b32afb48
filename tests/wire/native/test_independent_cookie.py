"""The peer made from ``docs/wire.md`` alone meets a busy server, which wants a cookie (§4.5)."""

from __future__ import annotations

import pytest

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Carried, FlowKey
from tests.wire.native import independent_peer as peer
from tests.wire.native.test_independent_peer import SERVER, Site, ciphers


def fill(site: Site) -> None:
    """So many hellos that nobody confirms that the next one needs a cookie."""
    for number in range(128):
        hello, _ = peer.hello(site.secret, peer.offer(site.cipher, 1400, None), site.random.randbytes(32), 0)
        key = FlowKey(SERVER, 10001, bytes((198, 51, 100, number)), 4000, udp=True)
        site.server.receive_carried(site.now, [Carried(key, memoryview(hello), 0)])
    site.mailbox.bursts()


@ciphers
def test_busy_server_wants_a_cookie(cipher: Cipher) -> None:
    site = Site(cipher)
    fill(site)
    flow = site.dial()
    first, _ = peer.hello(site.secret, site.offer(flow), site.random.randbytes(32), 5)
    wanted = site.exchange(flow, first)
    again = peer.read_cookie(site.secret, first, wanted), len(first), len(wanted)
    hello, noise = peer.hello(site.secret, site.offer(flow), site.random.randbytes(32), 9, again)
    answer, session = peer.read_answer(site.secret, noise, site.exchange(flow, hello))
    site.confirm(flow, session, answer.session_id, 1, answer.challenge)
    assert list(site.server.role.sessions_by_id) == [answer.session_id]


@pytest.mark.parametrize("wrong", ["cookie", "sent", "received"])
def test_busy_server_takes_no_other_cookie(wrong: str) -> None:
    site = Site(Cipher.NONE)
    fill(site)
    flow = site.dial()
    first, _ = peer.hello(site.secret, site.offer(flow), site.random.randbytes(32), 5)
    wanted = site.exchange(flow, first)
    cookie, sent, received = peer.read_cookie(site.secret, first, wanted), len(first), len(wanted)
    again = {
        "cookie": (bytes(reversed(cookie)), sent, received),
        "sent": (cookie, 0, received),
        "received": (cookie, sent, 0),
    }[wrong]
    hello, _ = peer.hello(site.secret, site.offer(flow), site.random.randbytes(32), 9, again)
    answered = [len(segment.payload) for _, segment in site.send(flow.segment(hello))]
    assert answered == ([49] if wrong == "cookie" else [])
