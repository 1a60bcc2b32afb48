"""The chain that the original was made for, with Debian's own programs.

curl - ss-local - kcptun-client - [rsock-nf] - strict NAT - [rsock-nf] - kcptun-server - ss-server - nginx
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rsock_nf.lab.tunnel import TARGET
from tests.e2e.route import Route, wait_for_port

SIZE = 50 << 20
SECRETS = ["--key", "chain", "--crypt", "aes-128", "--mode", "fast2", "--nocomp"]
SHADOW = ["-k", "chain", "-m", "aes-256-gcm"]
WEB, SHADOW_SERVER, KCP_CLIENT, SOCKS = 8080, 8388, 12948, 1080

NGINX = """\
daemon off; pid {root}/nginx.pid; error_log {root}/error.log; user root;
events {{ }}
http {{
    access_log off; client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
    uwsgi_temp_path {root}; scgi_temp_path {root};
    server {{ listen 127.0.0.1:{port}; root {root}/www; }}
}}
"""


def start_server_side(route: Route, root: Path) -> None:
    """nginx, ss-server, kcptun-server."""
    host = route.lab.server
    conf = root / "nginx.conf"
    conf.write_text(NGINX.format(root=root, port=WEB))
    host.popen(["nginx", "-e", f"{root}/start.log", "-p", str(root), "-c", str(conf)])
    host.popen(["ss-server", "-s", "127.0.0.1", "-p", str(SHADOW_SERVER), *SHADOW])
    listen = f"127.0.0.1:{TARGET[1]}" if route.tunnelled else f":{TARGET[1]}"
    host.popen(["kcptun-server", "-l", listen, "-t", f"127.0.0.1:{SHADOW_SERVER}", *SECRETS, "--log", f"{root}/ks.log"])
    wait_for_port(host, WEB)
    wait_for_port(host, SHADOW_SERVER)
    wait_for_port(host, TARGET[1], "udp")


def start_client_side(route: Route, root: Path) -> None:
    """kcptun-client, ss-local."""
    host = route.lab.client
    near, far = f"127.0.0.1:{KCP_CLIENT}", f"{route.host}:{route.port}"
    host.popen(["kcptun-client", "-l", near, "-r", far, *SECRETS, "--rcvwnd", "2048", "--log", f"{root}/kc.log"])
    wait_for_port(host, KCP_CLIENT)
    argv = ["ss-local", "-s", "127.0.0.1", "-p", str(KCP_CLIENT), "-b", "127.0.0.1", "-l", str(SOCKS), *SHADOW]
    host.popen(argv)
    wait_for_port(host, SOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["direct", "tunnel", "udp", "all", "rsock"], indirect=True)
def test_fifty_megabytes_arrive_unharmed_through_kcptun_and_shadowsocks(route: Route, tmp_path: Path) -> None:
    published = tmp_path / "www"
    published.mkdir()
    data = os.urandom(SIZE)
    (published / "file").write_bytes(data)
    start_server_side(route, tmp_path)
    start_client_side(route, tmp_path)
    fetched = tmp_path / "fetched"
    url = f"http://127.0.0.1:{WEB}/file"
    argv = ["curl", "-sSf", "--max-time", "90", "--socks5-hostname", f"127.0.0.1:{SOCKS}", "-o", str(fetched), url]
    route.lab.client.run(argv, timeout=100)
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()
    route.judge()
