"""What became of the dials of each server port, and the largest segment that came."""

from __future__ import annotations

import pytest

from rsock_nf.core.ends.port_reports import Outcome, PortReport
from rsock_nf.core.parameters import Cipher, Kinds, OnProbe
from rsock_nf.core.tcp.segment import ACK, RST
from tests.core.conntrack import parse_tcp
from tests.core.pair import Pair
from tests.core.wire import Conditions, Toward, make_tcp


def outcomes(pair: Pair) -> set[Outcome]:
    return {report.outcome for report in pair.client.role.ports()}


def report_of(pair: Pair, port: int) -> PortReport:
    (found,) = [report for report in pair.client.role.ports() if report.port == port]
    return found


@pytest.mark.parametrize("kinds", Kinds)
def test_every_port_is_up_and_tells_how_long_its_first_answer_took(kinds: Kinds) -> None:
    with Pair(kinds=kinds, conditions=Conditions(delay=0.02)) as pair:
        pair.up()
        reports = pair.client.role.ports()
        assert len(reports) == (20 if kinds is Kinds.ALL else 10)
        assert {report.outcome for report in reports} == {Outcome.UP}
        assert {report.udp for report in reports} == {kinds.udp} | {not kinds.tcp}
        assert all(report.took == pytest.approx(0.04) for report in reports)


def test_a_wrong_secret_leaves_ports_open() -> None:
    with Pair(client={"secret": b"x" * 32}) as pair:
        pair.start()
        pair.run(0.3)
        assert outcomes(pair) == {Outcome.OPEN}
        pair.run(5.0)
        assert outcomes(pair) == {Outcome.OPEN, Outcome.UNANSWERED}


def test_a_server_that_closes_after_a_wrong_secret() -> None:
    with Pair(client={"secret": b"x" * 32}, server={"on_probe": OnProbe.CLOSED}, resets_allowed=True) as pair:
        pair.start()
        pair.run(5.0)
        assert Outcome.RESET in outcomes(pair)
        assert outcomes(pair) <= {Outcome.RESET, Outcome.OPEN}


def test_another_cipher_is_an_answer() -> None:
    with Pair(client={"cipher": Cipher.AES_256_GCM}) as pair:
        pair.start()
        pair.run_until(lambda: Outcome.ANSWERED in outcomes(pair), 5.0)


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_nothing_comes_back(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(0.1)
        assert outcomes(pair) == {Outcome.DIALLED}
        pair.run(8.0)
        assert Outcome.SILENT in outcomes(pair)
        assert outcomes(pair) <= {Outcome.SILENT, Outcome.DIALLED}


def test_one_port_is_refused_and_one_is_silent() -> None:
    with Pair(resets_allowed=True) as pair:

        def refuse(toward: Toward, packet: bytes) -> bool:
            segment = parse_tcp(packet)
            if toward is Toward.CLIENT or segment.destination[1] not in (10_003, 10_004):
                return False
            if segment.destination[1] == 10_003:
                rst = make_tcp(segment.destination, segment.source, 0, segment.end, RST | ACK)
                pair.wire.inject(pair.now, Toward.CLIENT, rst, behind_judge=True)
            return True

        pair.wire.drop.append(refuse)
        pair.start()
        pair.run(8.0)
        assert report_of(pair, 10_003).outcome is Outcome.REFUSED
        assert report_of(pair, 10_004).outcome is Outcome.SILENT
        assert report_of(pair, 10_004).took is None
        assert report_of(pair, 10_005).outcome is Outcome.UP


def test_icmp_refuses_a_udp_port() -> None:
    with Pair(kinds=Kinds.UDP) as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(0.1)
        key = next(iter(pair.client.flows)).key
        pair.client.role.carrier_refused(pair.now, key)
        assert report_of(pair, key.remote_port).outcome is Outcome.REFUSED
        pair.run(0.1)


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_the_largest_probe_that_came_tells_what_passes_toward_us(kinds: Kinds) -> None:
    whole = 1460 if kinds is Kinds.TCP else 1472
    with Pair(kinds=kinds) as pair:
        pair.up()
        pair.run(1.0)
        assert {flow.largest_in for node in (pair.client, pair.server) for flow in pair.flows(node)} == {whole}
    with Pair(kinds=kinds) as pair:
        pair.wire.conditions[Toward.CLIENT] = Conditions(mtu=1300)
        pair.up()
        pair.run(8.0)
        assert {flow.largest_in for flow in pair.flows(pair.client)} == {1240}
        assert {flow.path.size for flow in pair.flows(pair.client)} == {whole}
        assert {flow.largest_in for flow in pair.flows(pair.server)} == {whole}
