"""The numbers that ``status`` gives for VPNs, with the real programs: what is set so is never cut, one byte more is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET
from tests.e2e.route import Route
from tests.e2e.test_wireguard import INNER, start_both, transfer
from tests.evidence import watched
from tests.netns.asked import AskedTunnel
from tests.netns.judges import wait_until

IPV4_AND_ICMP = 28
PINGS = 5
OPENVPN_2_6 = 24
"""What it adds: 4 bytes less than ``words.OPENVPN``, which is for 2.7."""
CASES = [(4, "none"), (6, "none"), (4, "aes-256-gcm")]


@contextmanager
def tunnel(version: int, cipher: str) -> Iterator[AskedTunnel]:
    keys: dict[str, Any] = {"cipher": cipher}
    with TemporaryDirectory(prefix="rsnf-") as made, Lab(Router()) as lab, watched(lab, Path(made)):
        built = AskedTunnel(lab, Path(made), version=version, client=keys, server=keys)
        with built.standing():
            yield built


def oversized(up: AskedTunnel) -> int:
    """Datagrams that were cut, at both ends."""
    return sum(session["oversized"] for role in ("client", "server") for session in up.status(role)["sessions"])


def ping(host: Namespace, size: int) -> None:
    """Packets of ``size`` bytes go there and back."""
    words = ["ping", "-q", "-c", str(PINGS), "-i", "0.05", "-M", "do", "-s", str(size - IPV4_AND_ICMP), INNER["server"]]
    assert " 0% packet loss" in host.run(words).stdout


@pytest.mark.parametrize(("version", "cipher"), CASES)
def test_wireguard(version: int, cipher: str, tmp_path: Path) -> None:
    with tunnel(version, cipher) as up:
        mtu = up.status("client")["vpn"]["wireguard_mtu"]
        assert up.status("server")["vpn"]["wireguard_mtu"] == mtu
        names = start_both(Route(up.lab, *LISTEN, tunnelled=True), tmp_path, mtu)
        ping(up.lab.client, 100)
        ping(up.lab.client, mtu)
        assert oversized(up) == 0
        up.lab.client.ip(f"link set {names['client']} mtu {mtu + 1}")
        up.lab.server.ip(f"link set {names['server']} mtu {mtu + 1}")
        ping(up.lab.client, mtu + 1)
        assert oversized(up) == 2 * PINGS
        told = f"datagrams of {mtu + 33} bytes do not fit one segment and are cut: set WireGuard: MTU = {mtu};"
        wait_until(lambda: told in up.log("client") and told in up.log("server"), "the warnings")


def certificate(directory: Path, name: str, host: Namespace) -> str:
    """A certificate that signs itself; returns its fingerprint."""
    key, made = directory / f"{name}.key", directory / f"{name}.crt"
    words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-out", str(made)]
    host.run([*words, "-keyout", str(key), "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
    said = host.run(["openssl", "x509", "-in", str(made), "-noout", "-fingerprint", "-sha256"]).stdout
    return said.split("=")[1].strip()


@contextmanager
def openvpn(up: AskedTunnel, directory: Path, *options: str) -> Iterator[None]:
    """OpenVPN at both ends, with its default cipher; it can be reached at ``INNER``."""
    hosts = {"client": up.lab.client, "server": up.lab.server}
    prints = {role: certificate(directory, role, host) for role, host in hosts.items()}
    own: dict[str, list[str]] = {
        "server": ["--tls-server", "--dh", "none", "--local", TARGET[0], "--port", str(TARGET[1])],
        "client": ["--tls-client", "--nobind", "--remote", LISTEN[0], str(LISTEN[1])],
    }
    other = {"client": "server", "server": "client"}
    with ExitStack() as stack:
        for role, host in hosts.items():
            peer = other[role]
            words = ["openvpn", "--dev", "tun", "--proto", "udp", "--ifconfig", INNER[role], INNER[peer], "--verb", "1"]
            words += ["--cert", str(directory / f"{role}.crt"), "--key", str(directory / f"{role}.key"), *own[role]]
            words += ["--peer-fingerprint", prints[peer], *options]
            log = stack.enter_context((directory / f"{role}.log").open("w"))
            process = host.popen(words, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(lambda: _reached(hosts["client"]), "OpenVPN to carry", 30)
        yield


def _reached(host: Namespace) -> bool:
    return host.run(["ping", "-q", "-c", "1", "-W", "1", INNER["server"]], check=False).returncode == 0


@pytest.mark.parametrize(("version", "cipher"), CASES)
def test_openvpn_mssfix(version: int, cipher: str, tmp_path: Path) -> None:
    """It is for TCP inside OpenVPN."""
    with tunnel(version, cipher) as up:
        mssfix = up.status("client")["vpn"]["openvpn_mssfix"]
        with openvpn(up, tmp_path, "--mssfix", str(mssfix)):
            transfer(up.lab.client, up.lab.server)
            assert oversized(up) == 0
        with openvpn(up, tmp_path, "--mssfix", str(mssfix + 1)):
            transfer(up.lab.client, up.lab.server)
            assert oversized(up) > 1000


@pytest.mark.parametrize(("version", "cipher"), CASES[:1])
def test_openvpn_tun_mtu(version: int, cipher: str, tmp_path: Path) -> None:
    """It is for every packet inside OpenVPN."""
    with tunnel(version, cipher) as up:
        largest = up.status("client")["mtu"] - OPENVPN_2_6
        assert up.status("client")["vpn"]["openvpn_tun_mtu"] == largest - 4
        expected: list[tuple[int, Callable[[int], bool]]] = [
            (largest, lambda cut: cut == 0),
            (largest + 1, lambda cut: cut == 2 * PINGS),
        ]
        for mtu, right in expected:
            with openvpn(up, tmp_path, "--tun-mtu", str(mtu)):
                ping(up.lab.client, mtu)
                assert right(oversized(up))
