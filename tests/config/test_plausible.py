"""Configurations that can only fail are refused before anything is touched, and no message shows a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ConfigError

SECRET = format_secret(bytes(range(32)))
SERVER: dict[str, Any] = {"role": "server", "target": "127.0.0.1:9999", "secret": SECRET}
CLIENT: dict[str, Any] = {"role": "client", "server": "203.0.113.5", "listen": "127.0.0.1:30000", "secret": SECRET}
HERE = "is this host itself: client and server need two hosts, or two network namespaces"


def write(directory: Path, content: object) -> Path:
    path = directory / "edge.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        (CLIENT, {"server": "0.0.0.0"}, "server: 0.0.0.0 is not the address of a host"),
        (CLIENT, {"server": "::"}, "server: :: is not the address of a host"),
        (CLIENT, {"server": "255.255.255.255"}, "server: 255.255.255.255 is not the address of a host"),
        (CLIENT, {"server": ["203.0.113.5", "ff02::1"]}, "server: ff02::1 is not the address of a host"),
        (CLIENT, {"server": "127.0.0.1"}, f"server: 127.0.0.1 {HERE}"),
        (CLIENT, {"server": "::1"}, f"server: ::1 {HERE}"),
        (CLIENT, {"server": "fe80::1"}, 'server: fe80::1 needs its device: write fe80::1%eth0, or give "device"'),
        (CLIENT, {"addresses": "2001:db8::1"}, "addresses: none is IPv4, as the server's 203.0.113.5 is"),
        (CLIENT, {"addresses": "0.0.0.0"}, "addresses: 0.0.0.0 is not the address of a host; leave the key out for all of the device's"),
        (CLIENT, {"listen": "224.0.0.1:9"}, "listen: 224.0.0.1:9 is not the address of a host"),
        (CLIENT, {"listen": "[fe80::1]:9"}, "listen: [fe80::1]:9 needs its device: write [fe80::1%eth0]:9"),
        (
            CLIENT,
            {"listen": ["0.0.0.0:9", "127.0.0.1:9"]},
            "listen: 0.0.0.0:9 and 127.0.0.1:9 exclude each other: one of them takes what comes to both",
        ),
        (
            CLIENT,
            {"listen": ["127.0.0.1:9", "[::]:9"]},
            "listen: 127.0.0.1:9 and [::]:9 exclude each other: one of them takes what comes to both",
        ),
        (SERVER, {"target": "255.255.255.255:9"}, "target: 255.255.255.255:9 is not the address of a host: no answer would come from it"),
        (SERVER, {"target": "[ff02::1]:9"}, "target: [ff02::1]:9 is not the address of a host: no answer would come from it"),
        (SERVER, {"target": "[fe80::1]:9"}, "target: [fe80::1]:9 needs its device: write [fe80::1%eth0]:9"),
        (
            SERVER,
            {"type": "udp", "target": "127.0.0.1:10003"},
            "target: 127.0.0.1:10003 is one of this server's own ports: datagrams would go round in circles",
        ),
    ],
)  # fmt: skip
def test_what_can_only_fail_is_refused(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    assert refusal(write(tmp_path, {**base, **change})) == expected


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (CLIENT, {"server": "127.0.0.1", "type": "udp"}),
        (CLIENT, {"server": "fe80::1%eth0"}),
        (CLIENT, {"server": "fe80::1", "device": "eth0"}),
        (CLIENT, {"addresses": ["2001:db8::1", "192.0.2.1"]}),
        (CLIENT, {"listen": ["127.0.0.1:9", "127.0.0.2:9", "[::1]:9", "0.0.0.0:10"]}),
        (CLIENT, {"listen": ["0.0.0.0:9", "[::1]:9"]}),
        (SERVER, {"target": "0.0.0.0:9"}),
        (SERVER, {"target": "127.0.0.1:10003"}),
    ],
)
def test_what_works_somewhere_is_not(tmp_path: Path, base: dict[str, Any], change: dict[str, Any]) -> None:
    config.load(write(tmp_path, {**base, **change}))


@pytest.mark.parametrize(
    "content",
    [
        SECRET,
        [SECRET],
        [{"role": "server", "secret": SECRET}],
        {"role": SECRET},
        {**CLIENT, "name": SECRET},
        {**CLIENT, "server": {"secret": SECRET}},
        {**CLIENT, "log": {"level": SECRET}},
        {**CLIENT, "cipher": SECRET},
        {**CLIENT, "cipher": [SECRET]},
        {**CLIENT, "secret": [SECRET, SECRET]},
        {**CLIENT, "secret": SECRET[1:]},
        {**CLIENT, "ports": SECRET},
        {key: value for key, value in {**CLIENT, "secret_file": SECRET}.items() if key != "secret"},
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, content: object) -> None:
    assert SECRET[1:40] not in refusal(write(tmp_path, content))


def test_a_secret_in_the_place_of_its_file_is_told(tmp_path: Path) -> None:
    keys = {key: value for key, value in {**CLIENT, "secret_file": SECRET}.items() if key != "secret"}
    said = refusal(write(tmp_path, keys))
    assert said == 'secret_file: this is a secret itself, not the path of a file: give it as "secret"'
