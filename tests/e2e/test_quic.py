"""QUIC, as hysteria and HTTP/3 use it: large datagrams, its own loss recovery, encryption."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rsock_nf.lab.tunnel import TARGET
from tests.e2e.route import Route, wait_for_port

PROGRAM = str(Path(__file__).with_name("quic_echo.py"))
SIZE = 4 << 20


@pytest.mark.parametrize("route", ["direct", "tunnel"], indirect=True)
def test_four_megabytes_go_and_come_back_over_quic(route: Route, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "echo.crt"), str(tmp_path / "echo.key")
    server, client = route.lab.server, route.lab.client
    server.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=echo.test", "-addext", "subjectAltName=DNS:echo.test",
                "-keyout", key, "-out", certificate])  # fmt: skip
    listen = TARGET[0] if route.tunnelled else "0.0.0.0"
    server.popen([sys.executable, PROGRAM, "server", listen, str(TARGET[1]), certificate, key])
    wait_for_port(server, TARGET[1], "udp")
    client.run([sys.executable, PROGRAM, "client", route.host, str(route.port), certificate, str(SIZE)], timeout=100)
    route.judge()
