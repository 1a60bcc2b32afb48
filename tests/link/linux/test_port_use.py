"""What the kernel says of the use of ports, and the line that an operator gets about it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rsock_nf.core.types import PortRange
from rsock_nf.link.linux import port_use
from rsock_nf.link.linux.system import REMEDIES
from rsock_nf.link.port_use import overlap_warning
from tests.ops.test_control_socket import no_descriptor_left


def sysctls(root: Path, **values: str) -> Path:
    for name, value in values.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(("v4", "v6", "expected"), [("0", "0", False), ("1", "0", True), ("0", "2", True)])
def test_either_family_makes_a_router(tmp_path: Path, v4: str, v6: str, expected: bool) -> None:  # noqa: FBT001
    sysctls(tmp_path, ipv4__ip_forward=v4, ipv6__conf__all__forwarding=v6)
    assert port_use.forwards(tmp_path) is expected


def test_a_kernel_without_ipv6_or_proc(tmp_path: Path) -> None:
    assert not port_use.forwards(tmp_path)
    assert port_use.ephemeral_ports(tmp_path) == ()
    assert port_use.forwards(sysctls(tmp_path, ipv4__ip_forward="1"))


@pytest.mark.parametrize(
    ("reserved", "expected"),
    [
        ("", ["32768-60999"]),
        ("40000-40999", ["32768-39999", "41000-60999"]),
        ("80,32768,60000-65535", ["32769-59999"]),
        ("1-65535", []),
    ],
)
def test_reserved_ports_are_not_ephemeral(tmp_path: Path, reserved: str, expected: list[str]) -> None:
    sysctls(tmp_path, ipv4__ip_local_port_range="32768\t60999", ipv4__ip_local_reserved_ports=reserved)
    assert [str(span) for span in port_use.ephemeral_ports(tmp_path)] == expected


def host(*spans: PortRange, forwards: bool = False) -> Any:
    return SimpleNamespace(ephemeral_ports=lambda: spans, forwards=lambda: forwards, remedies=REMEDIES)


def test_the_warning_names_the_ports_and_the_remedy() -> None:
    ephemeral = PortRange(32768, 60999)
    ports = (PortRange(443, 443), PortRange(32000, 33000), PortRange(60999, 61010))
    said = overlap_warning(ports, host(ephemeral)) or ""
    assert "32768-33000, 60999 lie in net.ipv4.ip_local_port_range" in said
    assert "below 32768, or add them to net.ipv4.ip_local_reserved_ports" in said
    louder = overlap_warning(ports, host(ephemeral, forwards=True)) or ""
    assert "this host forwards" in louder
    assert louder.endswith('choose "ports" below 32768')
    assert overlap_warning((PortRange(10001, 10010), PortRange(61000, 65000)), host(ephemeral)) is None


@pytest.mark.parametrize(
    ("everywhere", "own", "expected"),
    [("0", "0", False), ("1", "0", True), ("0", "1", True), ("1", None, False)],
    ids=["off", "sysctl", "one bridge", "no bridge"],
)
def test_bridged_packets_count_where_there_is_a_bridge(
    tmp_path: Path,
    everywhere: str,
    own: str | None,
    expected: bool,  # noqa: FBT001
) -> None:
    sysctl = sysctls(tmp_path / "sysctl", **{"bridge__bridge-nf-call-iptables": everywhere})
    devices = tmp_path / "net"
    (devices / "eth0").mkdir(parents=True)
    if own is not None:
        sysctls(devices, br0__bridge__nf_call_iptables=own)
    assert port_use.filters_bridged(sysctl, devices) is expected


def test_without_a_descriptor_nothing_is_guessed(tmp_path: Path) -> None:
    """To take a router for none would have the rules drop what it forwards."""
    sysctls(tmp_path, ipv4__ip_forward="1")
    (tmp_path / "devices/br0/bridge").mkdir(parents=True)
    with no_descriptor_left(spare=0):
        for question in (port_use.forwards, lambda sysctl: port_use.filters_bridged(sysctl, tmp_path / "devices")):
            with pytest.raises(OSError, match="Too many open files"):
                question(tmp_path)
