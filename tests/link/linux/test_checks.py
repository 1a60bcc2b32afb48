"""What ``doctor`` says of VPN devices, from files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsock_nf.link.checks import Verdict
from rsock_nf.link.linux import checks


def device(net: Path, name: str, mtu: int, *, uevent: str = "", tun: bool = False) -> None:
    entry = net / name
    entry.mkdir()
    (entry / "mtu").write_text(f"{mtu}\n")
    (entry / "uevent").write_text(f"{uevent}INTERFACE={name}\nIFINDEX=7\n")
    if tun:
        (entry / "tun_flags").write_text("0x1001\n")


def test_a_vpn_device_with_the_mtu_of_the_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_NET", tmp_path)
    device(tmp_path, "lo", 65536)
    (tmp_path / "bonding_masters").touch()
    device(tmp_path, "eth0", 9216)
    device(tmp_path, "tun0", 1500, tun=True)
    device(tmp_path, "wg0", 1420, uevent="DEVTYPE=wireguard\n")
    assert list(checks._vpn_devices()) == []
    device(tmp_path, "wg1", 65456, uevent="DEVTYPE=wireguard\n")
    device(tmp_path, "wg2", 65456, tun=True)
    found = list(checks._vpn_devices())
    assert [finding.verdict for finding in found] == [Verdict.WARN] * 2
    assert found[0].text == (
        "wg1 has 65456: wg-quick without `MTU =` takes the loopback's, and large packets are cut: "
        "set `MTU =` in its [Interface]"
    )


def test_gro_matters_on_a_card_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_NET", tmp_path)
    monkeypatch.setattr(checks, "ethtool_value", lambda *_: 0)
    device(tmp_path, "veth0", 1500)
    device(tmp_path, "eth0", 1500)
    (tmp_path / "eth0/device").mkdir()
    found = {
        name: [(one.verdict, one.quiet) for one in checks._offloads(name) if one.subject == "gro"]
        for name in ("veth0", "eth0")
    }
    assert found == {"veth0": [(Verdict.OK, True)], "eth0": [(Verdict.WARN, False)]}
    assert all(one.verdict is Verdict.WARN for one in checks._offloads("veth0") if one.subject != "gro")
