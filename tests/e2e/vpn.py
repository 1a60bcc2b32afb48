"""VPNs on top of the tunnel, set up as people do it: wg-quick with wireguard-go, and OpenVPN.

Each is a context manager that returns when the client has its device.  ``full`` sends the client's default route into
the VPN (``AllowedIPs = 0.0.0.0/0, ::/0``; ``redirect-gateway def1 ipv6``), otherwise only the inner network goes there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET
from tests.netns.judges import wait_until

INNER = {"client": {4: "10.99.0.2", 6: "fd99::2"}, "server": {4: "10.99.0.1", 6: "fd99::1"}}
"""Addresses inside the VPN."""
EVERYTHING = "0.0.0.0/0, ::/0"
WIREGUARD_MTU = 1400
"""Small enough for each column of the table in docs/recipes.md."""


def device(kind: str, role: str) -> str:
    """The VPN's device on one side: /run/wireguard is shared by all namespaces, so names have to differ."""
    return f"{kind}{role[0]}{os.getpid() % 1_000_000}"


@contextlib.contextmanager
def wg_quick(lab: Lab, directory: Path, *, full: bool, mtu: int | None = WIREGUARD_MTU) -> Iterator[str]:
    """wg-quick on both sides; the name of the client's device."""
    hosts = {"server": lab.server, "client": lab.client}
    keys = {role: host.run(["wg", "genkey"]).stdout.strip() for role, host in hosts.items()}
    public = {role: _wg_pubkey(lab.client, key) for role, key in keys.items()}
    lines = {
        "server": [f"ListenPort = {TARGET[1]}"],
        "client": [],
    }
    peers = {
        "server": ["AllowedIPs = {}/32, {}/128".format(*INNER["client"].values())],
        "client": [
            "Endpoint = {}:{}".format(*LISTEN),
            f"AllowedIPs = {EVERYTHING if full else '10.99.0.0/24, fd99::/64'}",
            "PersistentKeepalive = 5",
        ],
    }
    with contextlib.ExitStack() as stack:
        for role, host in hosts.items():
            other = "client" if role == "server" else "server"
            path = directory / f"{device('wg', role)}.conf"
            path.write_text(
                "\n".join(
                    [
                        "[Interface]",
                        f"PrivateKey = {keys[role]}",
                        "Address = {}/24, {}/64".format(*INNER[role].values()),
                        *([f"MTU = {mtu}"] if mtu else []),
                        *lines[role],
                        "[Peer]",
                        f"PublicKey = {public[other]}",
                        *peers[role],
                        "",
                    ]
                )
            )
            path.chmod(0o600)
            environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go", "LOG_LEVEL": "error"}
            # Not captured by a pipe: wireguard-go stays in the background, and would keep it open.
            with (directory / f"wg-quick-{role}.log").open("wb") as log:
                up = host.popen(["wg-quick", "up", str(path)], env=environment, stdout=log, stderr=log)
                assert up.wait(30) == 0, (directory / f"wg-quick-{role}.log").read_text()
            stack.callback(host.run, ["wg-quick", "down", str(path)], check=False, env=environment)
        yield device("wg", "client")


def _wg_pubkey(host: Namespace, key: str) -> str:
    return host.run(["sh", "-c", f"echo {key} | wg pubkey"]).stdout.strip()


@contextlib.contextmanager
def openvpn(lab: Lab, directory: Path, *, full: bool) -> Iterator[str]:
    """OpenVPN with a static TLS pair made by openssl; the name of the client's device."""
    _certificates(lab.client, directory)
    common = ["dev-type tun", "proto udp", "tun-mtu 1400", "verb 3", f"cd {directory}", "ca ca.crt", "topology subnet"]
    configurations = {
        "server": [
            f"dev {device('ov', 'server')}", f"port {TARGET[1]}", f"local {TARGET[0]}", "cert server.crt",
            "key server.key", "dh none", "server 10.99.0.0 255.255.255.0", "server-ipv6 fd99::/64",
            "keepalive 2 20", "duplicate-cn",
        ],
        "client": [
            f"dev {device('ov', 'client')}", "client", "remote {} {}".format(*LISTEN), "nobind", "cert client.crt",
            "key client.key", "remote-cert-tls server", "connect-retry 1",
            *(["redirect-gateway def1 ipv6"] if full else []),
        ],
    }  # fmt: skip
    hosts = {"client": lab.client, "server": lab.server}
    logs = {role: directory / f"openvpn-{role}.log" for role in hosts}
    with contextlib.ExitStack() as stack:
        for role in ("server", "client"):
            path = directory / f"openvpn-{role}.conf"
            path.write_text("\n".join([*common, *configurations[role], ""]))
            log = stack.enter_context(logs[role].open("wb"))
            process = hosts[role].popen(["openvpn", "--config", str(path)], stdout=log, stderr=log)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
        wait_until(
            lambda: "Initialization Sequence Completed" in logs["client"].read_text(errors="replace"), "OpenVPN", 30
        )
        yield device("ov", "client")


def _certificates(host: Namespace, directory: Path) -> None:
    """An authority, and a certificate for each side."""
    host.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
              "-subj", "/CN=ca", "-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.crt"])  # fmt: skip
    for role, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        extensions = directory / f"{role}.ext"
        extensions.write_text(f"keyUsage = digitalSignature\nextendedKeyUsage = {usage}\n")
        host.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                  f"/CN={role}", "-keyout", f"{directory}/{role}.key", "-out", f"{directory}/{role}.csr"])  # fmt: skip
        host.run(["openssl", "x509", "-req", "-in", f"{directory}/{role}.csr", "-CA", f"{directory}/ca.crt", "-CAkey",
                  f"{directory}/ca.key", "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out",
                  f"{directory}/{role}.crt"])  # fmt: skip


VPNS = {"wg-quick": wg_quick, "OpenVPN": openvpn}


def ping(host: Namespace, address: str, count: int = 5, *options: str) -> int:
    """How many of ``count`` pings are answered."""
    said = host.run(["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "1", *options, address], check=False)
    found = re.search(r"(\d+) received", said.stdout)
    return int(found[1]) if found else 0


def leads_into(host: Namespace, remote: str) -> str:
    """The device that the kernel's own packets to ``remote`` take."""
    said = host.run(["ip", "route", "get", remote]).stdout
    found = re.search(r" dev (\S+)", said)
    return found[1] if found else ""
