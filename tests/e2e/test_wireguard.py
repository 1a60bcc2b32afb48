"""WireGuard (the user-space program) with its default MTU: its largest packet makes our largest frame, 1,500 bytes."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from pathlib import Path

from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import TARGET
from tests.e2e.route import Route
from tests.netns.judges import wait_until

INNER = {"client": "10.99.0.1", "server": "10.99.0.2"}
SIZE = 20 << 20


def make_keys(host: Namespace, path: Path) -> str:
    """A private key in ``path``; returns the public one."""
    path.write_text(host.run(["wg", "genkey"]).stdout)
    path.chmod(0o600)
    return host.run(["sh", "-c", f"wg pubkey < {path}"]).stdout.strip()


def start_interface(host: Namespace, name: str, key: Path, inner: str, *peer: str, mtu: int = 1420) -> None:
    """wireguard-go in the foreground, so that it ends with its host; its control socket is named by the device."""
    host.popen(["wireguard-go", "-f", name], env={**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"})
    wait_until(lambda: host.run(["wg", "show", name], check=False).returncode == 0, f"wireguard-go {name}")
    host.run(["wg", "set", name, "private-key", str(key), *peer])
    host.ip(f"addr add {inner}/24 dev {name}", f"link set {name} mtu {mtu} up")


def start_both(route: Route, tmp_path: Path, mtu: int = 1420) -> dict[str, str]:
    """WireGuard at both ends.  Returns the names of its devices."""
    lab = route.lab
    keys = {role: tmp_path / f"{role}.key" for role in INNER}
    public = {role: make_keys(lab.client, path) for role, path in keys.items()}
    # /run is shared by all namespaces, so the control sockets need names of their own.
    names = {role: f"wg{role[0]}{os.getpid()}" for role in INNER}
    allowed = {role: ["allowed-ips", f"{address}/32"] for role, address in INNER.items()}
    listen = ["listen-port", str(TARGET[1])]
    start_interface(
        lab.server, names["server"], keys["server"], INNER["server"],
        *listen, "peer", public["client"], *allowed["client"], mtu=mtu,
    )  # fmt: skip
    endpoint = ["endpoint", f"{route.host}:{route.port}"]
    start_interface(
        lab.client, names["client"], keys["client"], INNER["client"],
        "peer", public["server"], *endpoint, *allowed["server"], mtu=mtu,
    )  # fmt: skip
    return names


def test_ping_and_tcp_through_wireguard(route: Route, tmp_path: Path) -> None:
    lab = route.lab
    start_both(route, tmp_path)
    ping = ["ping", "-q", "-c", "20", "-i", "0.05", "-M", "do", "-s", "1392", INNER["server"]]
    assert " 0% packet loss" in lab.client.run(ping).stdout
    assert transfer(lab.client, lab.server) == SIZE
    route.judge()


def transfer(client: Namespace, server: Namespace) -> int:
    """Send ``SIZE`` bytes over a TCP connection between the inner addresses; the bytes that arrived unharmed."""
    data = os.urandom(SIZE)
    listener = server.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((INNER["server"], 0))
    listener.listen()
    sender = client.socket(socket.AF_INET, socket.SOCK_STREAM)
    sender.settimeout(30)
    sender.connect(listener.getsockname())
    receiver = server.keep(listener.accept()[0])
    receiver.settimeout(30)

    def send() -> None:
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    received = bytearray()
    while chunk := receiver.recv(1 << 20):
        received += chunk
    thread.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    return len(received)
