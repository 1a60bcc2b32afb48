"""Metrics of a real tunnel, as a scraper gets them in the host's namespace."""

from __future__ import annotations

import socket
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from rsock_nf.lab.tunnel import Role
from rsock_nf.ops.metrics.names import METRICS, PREFIX
from tests.netns.conftest import Site

PORT = 9273
ROLES: tuple[Role, ...] = ("client", "server")
ONLY_SOMETIMES = ("carrier_", "target_", "endpoint_", "flows_wanted", "conversations_made", "worker_")
"""Of UDP flows; of targets that refuse; of what the protocol drops; at a client; at a server."""


def scraped(site: Site, role: Role) -> str:
    """What an HTTP client gets there."""
    answer = bytearray()
    with site.host(role).socket(socket.AF_INET, socket.SOCK_STREAM) as scraper:
        scraper.settimeout(20)
        scraper.connect(("127.0.0.1", PORT))
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while read := scraper.recv(1 << 16):
            answer += read
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return body.decode()


def samples(text: str) -> dict[tuple[str, frozenset[str]], float]:
    """By name and the values of the labels."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scraper_gets_what_was_carried(build: Callable[..., Site]) -> None:
    both = {"metrics": f"127.0.0.1:{PORT}"}
    site = build(client=both, server=both)
    site.carries(500)
    addresses = {"client": "10.77.2.2", "server": ""}
    for role in ROLES:
        found = samples(scraped(site, role))
        there = {name for name, _ in found}
        missing = {name for name in METRICS if PREFIX + name not in there and not name.startswith(ONLY_SOMETIMES)}
        assert missing == set()
        (session,) = site.tunnel.status(role)["sessions"]
        client = addresses[role] or session["peer"].rpartition(":")[0]
        for direction in ("sent", "received"):
            carried = found["rsock_nf_session_datagrams_total", frozenset({role, client, direction})]
            assert carried == 500
        assert found["rsock_nf_flows", frozenset({role, "tcp", "established"})] == 10
        once = samples(site.tunnel.command(role, "status", "--metrics").stdout)
        key = ("rsock_nf_session_bytes_total", frozenset({role, client, "sent"}))
        assert once[key] == found[key] > 0
