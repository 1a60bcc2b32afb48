"""Names that are looked up only when the instance runs: settings without addresses, and with them."""

from __future__ import annotations

import asyncio
import json
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config.plausible import refuse_impossible
from rsock_nf.config.values import format_secret
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import HostAddress
from rsock_nf.errors import ConfigError, NotYetError
from rsock_nf.runtime.host import names
from rsock_nf.runtime.host.first_addresses import look_up_all, with_addresses
from rsock_nf.settings import Settings
from rsock_nf.sockets.resolver import LookUpError

SECRET = format_secret(bytes(range(32)))
CLIENT: dict[str, Any] = {"role": "client", "server": "srv.test", "listen": "127.0.0.1:30000", "secret": SECRET}
SERVER: dict[str, Any] = {"role": "server", "target": "app.test:9999", "secret": SECRET}
FOUR, SIX, ZONED = HostAddress(ip_address("192.0.2.5")), HostAddress(ip_address("fd00::5")), "fe80::5"


def load(directory: Path, content: dict[str, Any]) -> Settings:
    path = directory / "edge.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return config.load(path, patient=True).settings


@pytest.fixture(autouse=True)
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str, *_: Any, **__: Any) -> Any:
        name.encode("idna")  # as the real one does first
        raise AssertionError("the resolver was asked")

    monkeypatch.setattr(socket, "getaddrinfo", ask)


def test_a_patient_load_asks_no_resolver(tmp_path: Path) -> None:
    settings = load(tmp_path, {**CLIENT, "server": ["srv.test", "192.0.2.9"]})
    assert settings.unresolved == ("srv.test",)
    found = with_addresses(settings, {"srv.test": (SIX, FOUR)})
    assert found.unresolved == ()
    assert found.tunnel.server == (SIX.address, FOUR.address, ip_address("192.0.2.9"))  # type: ignore[union-attr]
    assert found.digest == settings.digest


def test_what_can_be_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="server: cannot resolve"):
        load(tmp_path, {**CLIENT, "server": "x" * 64 + ".test"})


def test_a_link_local_answer_tells_the_device(tmp_path: Path) -> None:
    settings = load(tmp_path, CLIENT)
    found = with_addresses(settings, {"srv.test": (HostAddress(ip_address(ZONED), "eth0"),)})
    assert found.device == "eth0"
    refuse_impossible(found)


def test_the_targets_of_both_wires_get_their_addresses(tmp_path: Path) -> None:
    own = {"ports": "9000-9999", "type": "udp", "rsock": {"ports": "2000", "target": "other.test:53"}}
    settings = load(tmp_path, {**SERVER, **own})
    assert settings.unresolved == ("app.test", "other.test")
    found = with_addresses(settings, {"app.test": (FOUR,), "other.test": (SIX,)})
    assert isinstance(found.tunnel, ServerParameters)
    assert found.second is not None
    assert [str(target) for target in found.tunnel.targets] == ["192.0.2.5:9999"]
    assert [str(target) for target in found.second.tunnel.targets] == ["[fd00::5]:53"]


def test_a_target_whose_name_has_no_address_yet_stays_without(tmp_path: Path) -> None:
    """As when a reload names another one, and the resolver does not answer."""
    settings = load(tmp_path, {**SERVER, "target": ["app.test:51820", "other.test:9999"]})
    found = with_addresses(settings, {"app.test": (FOUR,)})
    assert found.unresolved == ("other.test",)
    assert isinstance(found.tunnel, ServerParameters)
    assert isinstance(settings.tunnel, ServerParameters)
    assert [target.address for target in found.tunnel.targets] == [FOUR.address, settings.tunnel.targets[1].address]


def test_a_second_wire_without_a_target_has_the_first_one(tmp_path: Path) -> None:
    settings = load(tmp_path, {**SERVER, "rsock": {"ports": "2000"}})
    found = with_addresses(settings, {"app.test": (FOUR,)})
    assert found.second is not None
    assert [str(target) for target in found.second.tunnel.targets] == ["192.0.2.5:9999"]


def test_a_name_that_turns_out_to_be_impossible_is_refused(tmp_path: Path) -> None:
    settings = load(tmp_path, {**SERVER, "ports": "9000-9999", "type": "udp"})
    with pytest.raises(ConfigError, match="own ports"):
        refuse_impossible(with_addresses(settings, {"app.test": (HostAddress(ip_address("127.0.0.1")),)}))


def test_wire_rsock_waits_for_an_ipv4_address(tmp_path: Path) -> None:
    without_secret = {key: value for key, value in CLIENT.items() if key != "secret"}
    settings = load(tmp_path, {**without_secret, "wire": "rsock", "hash": "between us"})
    with pytest.raises(NotYetError, match="IPv4 only"):
        with_addresses(settings, {"srv.test": (SIX,)})


def test_a_name_without_an_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise LookUpError("Temporary failure in name resolution", temporary=True)

    monkeypatch.setattr(names.Questions.__init__, "__defaults__", (fail,))
    with pytest.raises(NotYetError, match=r"^cannot resolve srv.test: Temporary failure in name resolution$"):
        asyncio.run(look_up_all(load(tmp_path, CLIENT)))
