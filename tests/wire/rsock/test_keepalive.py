"""Keep-alive answers carry no number: to what they belong, and what they tell."""

from rsock_nf.core.flows.health import Health
from rsock_nf.wire.rsock.frames import KeepAliveAnswer
from tests.wire.rsock.pair import RsockPair


def test_an_answer_without_a_number_is_to_whatever_was_asked() -> None:
    """A round-trip time comes of a single request only, and nothing is learnt about loss."""
    with RsockPair(client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(0.2)
        client, (flow,) = pair.client, pair.flows(pair.client)
        health = flow.health
        before = health.srtt
        assert client._probing.receive(pair.now, flow, KeepAliveAnswer(flow.flow_id), 1)
        assert health.srtt == before, "nothing was asked"
        flow.health = health = Health()
        client._probing.ask(1.0, flow)
        assert health.waiting
        assert client._probing.receive(1.25, flow, KeepAliveAnswer(flow.flow_id), 1)
        assert health.srtt == 0.25
        client._probing.ask(2.0, flow)
        health.unanswered = 1
        client._probing.ask(3.0, flow)
        assert client._probing.receive(3.01, flow, KeepAliveAnswer(flow.flow_id), 1)
        assert (health.srtt, health.unanswered, health.waiting, health.loss) == (0.25, 0, False, 0.0)
