"""The state of a server with many sessions is made in steps: traffic goes on between two of them."""

from __future__ import annotations

from pathlib import Path

from rsock_nf.core.parameters import ServerParameters
from rsock_nf.runtime.reports.snapshot import AT_ONCE, snapshot, steps
from rsock_nf.runtime.reports.view import HostView, View
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import NativeParameters
from tests.core.pair import Pair

SETTINGS = Settings("edge", Path("/edge.json"), "", ServerParameters(), NativeParameters(bytes(32)))
SESSIONS = 200


def test_a_step_describes_few_flows_and_a_session_may_end_between_two() -> None:
    with Pair() as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.5)
        (session,) = pair.server.sessions
        each = 2 + len(session.flows)  # with itself and its conversation
        view = View(SETTINGS, sessions=[session] * SESSIONS, describe=lambda _, peer: f"from {peer}")
        made = steps(view, HostView(mtu=1500), now=pair.now, started=0.0)
        count, found = 0, {}
        while True:
            try:
                next(made)
            except StopIteration as end:
                found = end.value
                break
            count += 1
        assert count == SESSIONS // -(-AT_ONCE // each)
        assert found == snapshot(view, HostView(mtu=1500), now=pair.now, started=0.0)
        assert len(found["sessions"]) == SESSIONS

        made = steps(view, HostView(mtu=1500), now=pair.now, started=0.0)
        next(made)
        pair.client.role.stop(pair.now)
        pair.flush()
        pair.run(0.5)
        assert not pair.server.sessions
        assert not list(made), "what is left of it is small, and can be described"
