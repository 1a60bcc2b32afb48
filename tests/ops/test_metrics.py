"""Metrics: names, values, what a client has carried over its sessions, and the dashboard that asks for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rsock_nf.ops.metrics.clients import MOST_CLIENTS, OTHERS, Clients, client_of
from rsock_nf.ops.metrics.exposition import AT_ONCE, pieces, text
from rsock_nf.ops.metrics.names import METRICS, PREFIX, is_counter, samples
from tests.ops.metrics_snapshots import session, snapshot

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "contrib/grafana/rsock-nf.json"


def values(exposed: str) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels in the order of their names, without ``tunnel``."""
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "tunnel")): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
    }


def test_every_metric_has_a_value_its_type_and_a_help() -> None:
    several = {"workers": [{"worker": number, "processor_seconds": 2.5} for number in (1, 2)]}
    exposed = text([snapshot(session()) | several, snapshot(session(), role="client", name="other")])
    families = {family.name: family for family in text_string_to_metric_families(exposed)}
    for name, described in METRICS.items():
        family = families[(PREFIX + name).removesuffix("_total")]
        assert family.type == ("counter" if is_counter(name) else "gauge"), name
        assert family.documentation == described.text
        for sample in family.samples:
            assert set(sample.labels) == {"tunnel", *described.labels}
    assert len(families) == len(METRICS)
    assert exposed.count("# TYPE") == len(METRICS), "each once, whatever the number of instances"


def test_names_and_help_are_as_prometheus_wants_them() -> None:
    for name, described in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z_]*", name)
        assert is_counter(name) == name.endswith("_total")
        assert not re.search(r"_(ms|milliseconds|percent|mbit|kilobytes)(_|$)", name), "base units only"
        assert described.text.endswith(".")


def test_values_are_those_of_the_snapshot() -> None:
    found = values(text([snapshot(session("anna"))]))
    expected = {
        ("rsock_nf_state", "serving"): 1,
        ("rsock_nf_state", "idle"): 0,
        ("rsock_nf_flows", "tcp", "established"): 2,
        ("rsock_nf_session_flows", "anna", "udp", "established"): 1,
        ("rsock_nf_session_rtt_seconds", "anna", "tcp"): 0.0125,
        ("rsock_nf_session_loss_ratio", "anna", "udp"): 0.01,
        ("rsock_nf_session_bytes_total", "anna", "sent"): 100_000,
        ("rsock_nf_session_frames_lost_total", "anna", "tcp"): 7,
        ("rsock_nf_target_refuses", "127.0.0.1:9999"): 1,
        ("rsock_nf_endpoint_events_total", "payloads from strangers"): 21,
        ("rsock_nf_link_dropped_packets_total", "late"): 1,
    }
    assert {key: found[key] for key in expected} == expected


def test_an_instance_that_does_not_answer_is_not_up() -> None:
    found = text(
        [{"name": "edge", "state": "crashed", "reason": "process 5 is gone"}, {"name": "old", "role": "server"}]
    )
    assert found == (
        "# HELP rsock_nf_up 1 if the instance answers; of one that has crashed or is silent: 0.\n"
        "# TYPE rsock_nf_up gauge\n"
        'rsock_nf_up{tunnel="edge"} 0.0\n'
        'rsock_nf_up{tunnel="old"} 0.0\n'
    )


@pytest.mark.parametrize(
    ("named", "peer", "client"),
    [
        ("anna", "198.51.100.7:40001", "anna"),
        ("", "198.51.100.7:40001", "198.51.100.7"),
        ("", "[2001:db8::1]:40001", "2001:db8::1"),
        ("", "2001:db8::1", "2001:db8::1"),
        ("", "198.51.100.7", "198.51.100.7"),
        ("", "", ""),
    ],
)
def test_a_client_is_known_by_its_name_or_its_address(named: str, peer: str, client: str) -> None:
    assert client_of(session(named, peer=peer)) == client


def test_labels_from_outside_do_not_break_the_text() -> None:
    name = 'an"na\\\n\x1b'
    exposed = text([snapshot(session(name))])
    assert "\x1b" not in exposed
    assert ("rsock_nf_client_sessions", 'an"na\\\\u000a\\u001b') in values(exposed)


def total(clients: Clients, found: dict[str, Any], client: str = "anna") -> int:
    return dict(clients.take(found))[client]["session_bytes_total", "sent"]


def test_a_client_has_one_count_over_its_sessions() -> None:
    clients = Clients()
    assert total(clients, snapshot(session("anna", carried=10))) == 1000
    assert total(clients, snapshot(session("anna", carried=15))) == 1500
    assert total(clients, snapshot()) == 1500, "nothing shrinks when a session ends"
    assert total(clients, snapshot(session("anna", number=2, carried=5))) == 2000
    two = [session("anna", number=2, carried=6), session("anna", number=3, carried=1)]
    assert total(clients, snapshot(*two)) == 2200


def test_at_a_client_what_conversations_count_outlives_the_session() -> None:
    clients = Clients()
    for number, carried, bytes_sent in ((1, 10, 1000), (2, 15, 1500)):
        found = snapshot(session("", number=number, peer="192.0.2.1", carried=carried), role="client")
        assert total(clients, found, "192.0.2.1") == bytes_sent
        dict(clients.take(snapshot(role="client")))
    frames = dict(clients.take(snapshot(role="client")))["192.0.2.1"]["session_frames_total", "tcp", "sent"]
    assert frames == 25, "frames are counted anew by each session"


def test_the_number_of_clients_is_bounded_and_who_is_gone_makes_room() -> None:
    clients = Clients()
    for number in range(3 * MOST_CLIENTS):
        assert len(dict(clients.take(snapshot(session(f"client{number}", number=number))))) <= MOST_CLIENTS
    assert f"client{3 * MOST_CLIENTS - 1}" in dict(clients.take(snapshot()))
    crowd = [session(f"client{number}", number=number) for number in range(MOST_CLIENTS + 500)]
    found = dict(clients.take(snapshot(*crowd)))
    assert len(found) == MOST_CLIENTS + 1
    before = found[OTHERS]["session_bytes_total", "sent"]
    assert before == 500 * 100_000
    assert total(clients, snapshot(*crowd), OTHERS) == before
    names = {sample.labels[0] for sample in samples(snapshot(*crowd), clients) if sample.name == "client_sessions"}
    assert len(names) == MOST_CLIENTS + 1


def asked() -> list[str]:
    """The queries of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return queries + [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]


def test_the_dashboard_asks_for_what_there_is() -> None:
    there = {PREFIX + name: {"tunnel", *described.labels} for name, described in METRICS.items()}
    assert len(asked()) > 20
    for query in asked():
        for name in re.findall(rf"\b{PREFIX}\w+", query):
            assert name in there, query
        for name, selectors in re.findall(rf"\b({PREFIX}\w+)\{{([^}}]*)\}}", query):
            assert set(re.findall(r"(\w+)\s*=~?", selectors)) <= there[name], query
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
        labels = set.intersection(*(there[name] for name in re.findall(rf"\b{PREFIX}\w+", query)))
        assert grouped <= labels, query


def test_the_dashboard_has_no_panel_twice_and_none_over_another() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & covered, panel["title"]
        covered |= cells


def test_a_piece_has_few_values_and_all_pieces_are_one_text() -> None:
    crowd = snapshot(*(session(f"client{number}", number=number) for number in range(500)))
    found = list(samples(crowd, Clients()))
    made = list(pieces({"edge": found}))
    of_each = [sum(not line.startswith(b"#") for line in piece.splitlines()) for piece in made]
    assert max(of_each) == AT_ONCE
    assert sum(of_each) == len(found)
    exposed = b"".join(made).decode()
    heads = [line for line in exposed.splitlines() if line.startswith("#")]
    assert len(heads) == len(set(heads)) == 2 * len({sample.name for sample in found})
    assert len(values(exposed)) == len(found)


def test_clients_that_were_not_reached_are_counted_next_time() -> None:
    clients = Clients()
    crowd = [session(f"client{number}", number=number, carried=10) for number in range(3)]
    begun = clients.take(snapshot(*crowd))
    next(begun)
    begun.close()
    for client in ("client0", "client1", "client2"):
        assert total(clients, snapshot(*crowd), client) == 1000
