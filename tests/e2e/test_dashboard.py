"""The dashboard's queries, evaluated by a real Prometheus that has scraped what an instance exposes.

Grafana itself is not run: what a panel looks like is not seen here, but each one has data to show.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.ops.metrics.exposition import text
from tests.netns.judges import wait_until
from tests.ops.metrics_snapshots import session, snapshot

DASHBOARD = Path(__file__).parents[2] / "contrib/grafana/rsock-nf.json"
VARIABLES = {"$tunnel": ".*", "$client": ".*", "$__rate_interval": "5s"}
"""As Grafana replaces them, with "All" chosen."""


def exposed(scrapes: int) -> str:
    """What two instances expose; every counter has grown by one since the scrape before."""
    client = {**snapshot(session(), role="client", name="office")}
    lines = text([snapshot(session("anna"), session("bob", number=2)), client]).splitlines()
    counters = {line.split()[2] for line in lines if line.startswith("# TYPE ") and line.endswith(" counter")}
    return "".join(f"{_grown(line, scrapes) if re.split('[{ ]', line)[0] in counters else line}\n" for line in lines)


def _grown(sample: str, by: int) -> str:
    name, _, value = sample.rpartition(" ")
    return f"{name} {float(value) + by}"


class Target(http.server.BaseHTTPRequestHandler):
    scrapes = 0

    def do_GET(self) -> None:
        Target.scrapes += 1
        body = exposed(Target.scrapes).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def target() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield server.server_address[1]
        server.shutdown()


class Prometheus:
    """One that has its own port and directory."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port = _free_port()
        (directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: tunnels, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
        )
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str, **fields: str) -> Any:
        """The data of an answer; None while it does not answer yet."""
        assert self.process.poll() is None, self.log.read_text()
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:
                return None
            pytest.fail(f"{fields}: {error.read().decode()}")
        except OSError:
            return None

    def values(self, query: str) -> list[float]:
        """One for each series."""
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


@pytest.fixture
def prometheus(tmp_path: Path, target: int) -> Iterator[Prometheus]:
    made = Prometheus(tmp_path, target)
    with made.process:
        try:
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                made.process.terminate()


def _replaced(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.ask("query", query="up") is not None, "Prometheus", 60)
    wait_until(lambda: prometheus.values("count_over_time(up[1m])")[:1] >= [6.0], "some scrapes", 60)
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 20
    without = [(title, query) for title, query in queries if not prometheus.values(_replaced(query))]
    assert without == []
    (loss,) = [_replaced(query) for title, query in queries if title.startswith("Loss of what")]
    assert all(0 < value <= 100 for value in prometheus.values(loss)), "a share, and no quotient of nothing"
    for variable in dashboard["templating"]["list"]:
        if "definition" in variable:
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert asked is not None
            found = prometheus.ask(f"label/{asked[2]}/values", **{"match[]": _replaced(asked[1])})
            assert found, variable["name"]
