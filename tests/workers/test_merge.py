"""What all workers tell, as one instance's word."""

from __future__ import annotations

import dataclasses
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.config import load
from rsock_nf.core.ends.port_reports import Outcome, PortReport
from rsock_nf.ops.metrics.clients import Clients
from rsock_nf.ops.metrics.names import METRICS, samples
from rsock_nf.ops.status.head import head
from rsock_nf.runtime.host.refusals import Target
from rsock_nf.runtime.reports.snapshot import snapshot
from rsock_nf.runtime.reports.view import HostView, View
from rsock_nf.settings import Settings
from rsock_nf.workers.merge import Told, merged_headline, merged_pings, merged_snapshot
from tests.config.test_config import CLIENT, SERVER, write


@pytest.fixture(params=[SERVER, CLIENT], ids=["server", "client"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return load(write(tmp_path / "edge.json", {**request.param, "workers": 3})).settings


def told(settings: Settings, number: int, state: str, host: HostView | None = None, **view: Any) -> Told:
    made = snapshot(View(settings, state, **view), host or HostView(), now=time.monotonic(), started=0.0)
    return Told(number, {**made, "pid": 100 + number, "processor_seconds": 1.5})


def test_it_has_what_a_single_process_tells_and_its_workers_beside(settings: Settings) -> None:
    single = snapshot(View(settings), HostView(), now=2.0, started=1.0)
    merged = merged_snapshot(settings, [told(settings, 0, "serving"), told(settings, 2, "serving")], [], 5.0)
    assert merged.keys() == single.keys() | {"workers", "workers_wanted"}
    assert [worker["worker"] for worker in merged["workers"]] == [1, 3]
    assert merged["workers_wanted"] == 3
    assert merged["uptime"] == 5.0
    assert merged_snapshot(settings, [], [], 1.0).keys() == merged.keys()


def test_counters_are_added(settings: Settings) -> None:
    link = {"received_packets": 5, "sent_packets": 7, "receive_drops": 1}
    host = HostView(device="eth0", device_up=True, mtu=1500, link_counters=link, held_ports=[7, 5], repairs=2)
    narrow = dataclasses.replace(host, mtu=1400, held_ports=[6])
    both = [
        told(settings, 0, "serving", host, counters={"a": 1, "b": 2}, troubles={}, looped=1),
        told(settings, 1, "serving", narrow, counters={"b": 3}, looped=2),
    ]
    merged = merged_snapshot(settings, both, [], 1.0)
    assert merged["counters"] == {"a": 1, "b": 5}
    assert merged["link"] == {
        "device": "eth0",
        "up": True,
        "mtu": 1400,
        "counters": {one: 2 * n for one, n in link.items()},
    }
    assert merged["firewall"]["local_ports"] == [5, 6, 7]
    assert merged["firewall"]["repairs"] == 4
    assert merged["looped"] == 3


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("connected", "connected"), "connected"),
        (("connected", "idle"), "connected"),
        (("idle", "connecting"), "connecting"),
        (("starting", "connected"), "starting"),
        (("serving", "serving"), "serving"),
    ],
)
def test_of_states_the_worst_counts(settings: Settings, states: tuple[str, ...], expected: str) -> None:
    found = [told(settings, number, state) for number, state in enumerate(states)]
    assert merged_snapshot(settings, found, [], 1.0)["state"] == expected


def test_reasons_are_told_once_each_and_those_of_workers_that_do_not_answer(settings: Settings) -> None:
    found = [told(settings, number, "connecting", reason="no route") for number in range(2)]
    merged = merged_snapshot(settings, found, ["worker 3 does not answer"], 1.0)
    assert merged["reason"] == "worker 3 does not answer; no route"


def test_reasons_that_differ_in_numbers_only_are_one(settings: Settings) -> None:
    reasons = [f"192.0.2.1 refuses port {port} (RST): does the server run?" for port in (10004, 10007)]
    found = [
        told(settings, number, "connecting", reason=reason) for number, reason in enumerate([*reasons, "no route"])
    ]
    assert merged_snapshot(settings, found, [], 1.0)["reason"] == f"{reasons[0]}; no route"


def test_of_a_port_the_best_is_told_that_a_worker_has_found_there(settings: Settings) -> None:
    server = ip_address("192.0.2.1").packed
    one = [PortReport(server, 443, False, Outcome.REFUSED), PortReport(server, 444, False, Outcome.UP)]
    other = [PortReport(server, 444, False, Outcome.OPEN), PortReport(server, 443, True, Outcome.SILENT)]
    found = [told(settings, number, "connected", dialled=dialled) for number, dialled in enumerate((one, other))]
    merged = merged_snapshot(settings, found, [], 1.0)["dialled"]
    ports = [(dial["port"], dial["type"], dial["outcome"]) for dial in merged]
    assert ports == [(443, "tcp", "refused"), (444, "tcp", "up"), (443, "udp", "silent")]


def test_it_is_hopeless_only_if_all_are(settings: Settings) -> None:
    one, other = told(settings, 0, "connecting", hopeless=True), told(settings, 1, "connecting")
    assert merged_snapshot(settings, [one, other], [], 1.0)["hopeless"] is False
    assert merged_snapshot(settings, [one, one], [], 1.0)["hopeless"] is True


def test_a_target_that_refuses_is_told_once(settings: Settings) -> None:
    now = time.monotonic()
    first = told(settings, 0, "serving", targets=[Target("127.0.0.1:9", 3, now - 5.0, refuses=True)])
    second = told(settings, 1, "serving", targets=[Target("127.0.0.1:9", 4, now - 1.0, refuses=False)])
    merged = merged_snapshot(settings, [first, second], [], 1.0)
    (target,) = merged["targets"]
    assert (target["refused"], target["refuses"]) == (7, True)
    assert target["refused_ago"] < 3.0
    assert merged["refused_by"] == {"127.0.0.1:9": 3}


def test_status_and_metrics_take_it(settings: Settings) -> None:
    merged = merged_snapshot(settings, [told(settings, number, "serving") for number in range(3)], [], 61.0)
    lines = ["".join(span.text for span in line) for line in head(merged, [], 200, everything=True)]
    assert lines[0].endswith(", 3 workers, up 1 m 1 s") or ", 3 workers, up " in lines[0]
    assert any("1 is process 100" in line for line in lines)
    found = {sample.name: sample.value for sample in samples(merged, Clients())}
    assert found["workers"] == 3
    assert found["worker_processor_seconds_total"] == 1.5
    assert found.keys() <= METRICS.keys()


def test_a_single_process_counts_as_one_worker(settings: Settings) -> None:
    single = snapshot(View(settings), HostView(), now=2.0, started=1.0)
    assert {sample.name: sample.value for sample in samples(single, Clients())}["workers"] == 1
    assert "workers" not in "".join(span.text for span in next(iter(head(single, [], 80, everything=True))))


def test_pings_stand_one_after_the_other() -> None:
    asked = [Told(0, {"replies": [{"flow": 1}], "reason": ""}), Told(1, {"replies": [], "reason": "no flow"})]
    assert merged_pings(asked) == {"replies": [{"flow": 1, "worker": 1}], "reason": ""}
    assert merged_pings(asked[1:]) == {"replies": [], "reason": "no flow"}


def test_the_headline_tells_what_all_say_once() -> None:
    assert merged_headline(["idle", "idle"]) == "2 workers: idle"
    assert merged_headline(["idle", "connecting: no route"]) == "2 workers: idle | connecting: no route"
    assert merged_headline(["starting", "idle"]) == "1 of 2 workers start; idle"
    assert merged_headline(["starting", "starting"]) == "2 workers: starting"
