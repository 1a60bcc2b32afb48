"""The configuration file: what is accepted, what it becomes, and the one line that each mistake earns."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf import config
from rsock_nf.config import values
from rsock_nf.config.configuration import Configuration
from rsock_nf.config.keys import OBJECTS, ROLES
from rsock_nf.config.validate import validate
from rsock_nf.config.values import format_secret, parse_ports, parse_secret
from rsock_nf.core.parameters import Cipher, ClientLimits, ClientParameters, Kinds, OnProbe, ServerParameters, Spread
from rsock_nf.core.types import PortRange, TransportAddress
from rsock_nf.errors import ConfigError
from rsock_nf.policy import policy_for
from rsock_nf.settings import Log
from rsock_nf.wire.parameters import KnownClient, NativeParameters, RsockParameters

KEY = bytes(range(32))
SECRET = format_secret(KEY)
OTHER = format_secret(KEY[::-1])
SERVER: dict[str, Any] = {"role": "server", "target": "127.0.0.1:9999", "secret": SECRET}
CLIENT: dict[str, Any] = {"role": "client", "server": "203.0.113.5", "listen": "127.0.0.1:30000", "secret": SECRET}
KEYS = sorted({key for model in (*ROLES.values(), *OBJECTS.values()) for key in model.model_fields})

Load = Callable[..., Configuration]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    return path


def message(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_the_smallest_server_takes_every_default_from_the_dataclasses(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", SERVER)
    settings = config.load(path).settings
    assert settings.name == "edge"
    assert settings.path == path
    assert settings.wire == NativeParameters(KEY)
    assert settings.tunnel == ServerParameters(targets=(TransportAddress(IPv4Address("127.0.0.1"), 9999),))
    assert (settings.device, settings.addresses, settings.backend, settings.log) == (None, (), "auto", Log())


def test_the_smallest_client_takes_every_default_from_the_dataclasses(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path / "c.json", CLIENT)).settings
    assert settings.wire == NativeParameters(KEY)
    assert settings.tunnel == ClientParameters(server=(IPv4Address("203.0.113.5"),))
    assert settings.listen == (TransportAddress(IPv4Address("127.0.0.1"), 30000),)
    assert settings.client_ports == ()


def test_every_server_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    (tmp_path / "key").chmod(0o600)
    keys = {
        "role": "server",
        "name": "main.edge",
        "targets": ["127.0.0.1:9999", "[fe80::2%eth1]:53"],
        "secret_file": "key",
        "ports": [443, "8000-8009, 12000"],
        "type": "tcp",
        "cipher": "aes-256-gcm",
        "spread": "conversation",
        "duration": 30,
        "keepalive": 2.5,
        "device": "eth0",
        "fwmark": "0xca6c",
        "addresses": ["192.0.2.1", "2001:db8::1"],
        "on_probe": "closed",
        "allow": ["198.51.100.0/24", "2001:db8::/32"],
        "max_sessions": 3,
        "max_conversations": 40,
        "backend": "iptables",
        "user": "rsock-nf",
        "log": {"level": "debug", "file": "edge.log"},
    }
    loaded = config.load(write(tmp_path / "s.json", keys))
    assert loaded.warnings == ()
    assert loaded.settings.wire == NativeParameters(KEY)
    assert loaded.settings.tunnel == ServerParameters(
        ports=(PortRange(443, 443), PortRange(8000, 8009), PortRange(12000, 12000)),
        cipher=Cipher.AES_256_GCM,
        spread=Spread.CONVERSATION,
        duration=30.0,
        keepalive=2.5,
        targets=(
            TransportAddress(IPv4Address("127.0.0.1"), 9999),
            TransportAddress(IPv6Address("fe80::2"), 53, "eth1"),
        ),
        on_probe=OnProbe.CLOSED,
        allow=(IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8::/32")),
        max_sessions=3,
        max_conversations=40,
    )
    assert loaded.settings.name == "main.edge"
    assert loaded.settings.device == "eth0"
    assert loaded.settings.fwmark == 51820
    assert loaded.settings.addresses == (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    assert loaded.settings.backend == "iptables"
    assert loaded.settings.user == "rsock-nf"
    assert loaded.settings.log == Log("debug", tmp_path / "edge.log")


def test_every_client_key(tmp_path: Path) -> None:
    keys = CLIENT | {
        "server": ["fe80::1%eth0", "2001:db8::5"],
        "listen": ["127.0.0.1:30000", "[::1]:30001"],
        "flows": 4,
        "client_ports": "40000-40009",
        "idle_timeout": 0,
        "cipher": "chacha20-poly1305",
        "fwmark": 7,
    }
    settings = config.load(write(tmp_path / "c.json", keys)).settings
    assert isinstance(settings.tunnel, ClientParameters)
    assert settings.tunnel.server == (IPv6Address("fe80::1"), IPv6Address("2001:db8::5"))
    assert settings.fwmark == 7
    assert settings.device == "eth0", "the zone of a link-local server address names the device"
    assert settings.tunnel.targets == (0, 0), "`tunnels` names others"
    assert (settings.tunnel.flows, settings.tunnel.idle_timeout) == (4, 0.0)
    assert settings.client_ports == (PortRange(40000, 40009),)


@pytest.mark.parametrize(
    ("written", "seconds"), [(0, 0.0), (60, 60.0), (90.5, 90.5), ("60s", 60.0), ("90m", 5400.0), ("24h", 86400.0)]
)
def test_the_age_of_flows_has_units(tmp_path: Path, written: object, seconds: float) -> None:
    settings = config.load(write(tmp_path / "c.json", CLIENT | {"flow_age": written})).settings
    assert isinstance(settings.tunnel, ClientParameters)
    assert settings.tunnel.flow_age == seconds


def test_host_names_are_resolved_in_the_order_of_the_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET6, 2, 17, "", ("2001:db8::7", 0, 0, 0)), (socket.AF_INET, 2, 17, "", ("192.0.2.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: answers if host == "edge.example" else [])
    settings = config.load(write(tmp_path / "c.json", CLIENT | {"server": "edge.example"})).settings
    assert isinstance(settings.tunnel, ClientParameters)
    assert settings.tunnel.server == (ip_address("2001:db8::7"), ip_address("192.0.2.7"))


def test_a_name_that_does_not_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    line = message(write(tmp_path / "c.json", CLIENT | {"server": "edge.example"}))
    assert line == 'server: cannot resolve "edge.example": Name or service not known'


def test_a_resolver_that_fails_for_the_moment_is_no_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConfigError, match="Temporary failure") as caught:
        config.load(write(tmp_path / "c.json", CLIENT | {"server": "edge.example"}))
    assert caught.value.exit_code == 1


MISTAKES = [
    # What is written, who writes it, the line that it earns.
    (SERVER, {"role": "sever"}, 'role: must be "server" or "client", not "sever"'),
    (SERVER, {"role": ["server"]}, 'role: must be "server" or "client", not ["server"]'),
    (SERVER, {"role": None}, 'role: must be "server" or "client", not null'),
    (SERVER, {"prots": 1}, 'prots: unknown key (did you mean "ports"?)'),
    (SERVER, {"zzz": 1}, "zzz: unknown key"),
    (SERVER, {"listen": "127.0.0.1:1"}, "listen: only a client has this key"),
    (CLIENT, {"target": "127.0.0.1:1"}, "target: only a server has this key"),
    (SERVER, {"log": {"levle": "info"}}, 'log.levle: unknown key (did you mean "level"?)'),
    (SERVER, {"log": {"level": "all"}}, 'log.level: must be "debug", "info", "warning" or "error", not "all"'),
    (SERVER, {"log": "x"}, 'log: must be an object, not "x"'),
    (SERVER, {"log": {"file": ""}}, 'log.file: "" is not the path of a file'),
    (SERVER, {"target": "127.0.0.1"}, 'target: "127.0.0.1" is not an address with a port (want "127.0.0.1:9999" or "[::1]:9999")'),
    (SERVER, {"target": 51820}, 'target: 51820 is not an address with a port: for this host write "127.0.0.1:51820"'),
    (SERVER, {"target": ":51820"}, 'target: ":51820" is not an address with a port: for this host write "127.0.0.1:51820"'),
    (CLIENT, {"server": "192.0.2.1:443"}, 'server: "192.0.2.1:443" is neither an IP address nor a host name: write "192.0.2.1", and the port as "ports": "443"'),
    (CLIENT, {"server": "[2001:db8::5]"}, 'server: "[2001:db8::5]" is neither an IP address nor a host name: write "2001:db8::5"'),
    (SERVER, {"target": "::1:9"}, 'target: "::1:9" is not an address with a port (want "127.0.0.1:9999" or "[::1]:9999")'),
    (SERVER, {"target": "127.0.0.1:0"}, "target: port 0 is not within 1-65535"),
    (SERVER, {"target": "127.1:80"}, 'target: "127.1" is neither an IP address nor a host name'),
    (SERVER, {"target": "[127.0.0.1]:80"}, 'target: "[127.0.0.1]:80": only an IPv6 address stands in brackets'),
    (SERVER, {"targets": ["127.0.0.1:9"]}, 'targets: give either this or "target", not both'),
    (CLIENT, {"listen": "localhost:9"}, 'listen: "localhost:9": a literal IP address is wanted, not a host name'),
    (CLIENT, {"listen": []}, "listen: the list is empty"),
    (CLIENT, {"listen": ["127.0.0.1:9", "127.0.0.1:9"]}, "listen: 127.0.0.1:9 is given twice"),
    (CLIENT, {"server": "fe80::1%"}, 'server: "fe80::1%" is neither an IP address nor a host name'),
    (CLIENT, {"server": "two words"}, 'server: "two words" is neither an IP address nor a host name'),
    (CLIENT, {"server": "fe80::1%eth0", "device": "eth1"}, "server: the address lies on one device, but several are named: ['eth0', 'eth1']"),
    (CLIENT, {"target_index": 1}, 'target_index: unknown key: give "tunnels" instead, a list of {"listen": …, "target": …}'),
    (SERVER, {"target_index": 1}, 'target_index: unknown key: give "tunnels" instead, a list of {"listen": …, "target": …}'),
    (SERVER, {"log": {"target_index": 1}}, "log.target_index: unknown key"),
    (SERVER, {"duration": "5m", "log": {"levle": 1}}, 'log.levle: unknown key (did you mean "level"?)'),
    (SERVER, {"max_sessions": 65536}, "max_sessions: must be less than or equal to 65535, not 65536"),
    (CLIENT, {"rsock_version": True}, "rsock_version: must be 1 or 2, not true"),
    (
        CLIENT,
        {"backend": "manual"},
        'client_ports: with "backend": "manual" name the source ports that your rules cover, for example "20000-20099"',
    ),
    (CLIENT, {"client_ports": "40000-40003"}, "client_ports: 4 ports are too few for 10 flows"),
    (CLIENT, {"flows": 0}, "flows: must be greater than or equal to 1, not 0"),
    (CLIENT, {"flows": "9"}, 'flows: must be a valid integer, not "9"'),
    (CLIENT, {"flow_age": 30}, 'flow_age: must be 0, or 60 to 86400 seconds, also as "90m" or "1h", not 30'),
    (CLIENT, {"flow_age": "1 d"}, 'flow_age: must be 0, or 60 to 86400 seconds, also as "90m" or "1h", not "1 d"'),
    (CLIENT, {"flow_age": True}, 'flow_age: must be 0, or 60 to 86400 seconds, also as "90m" or "1h", not true'),
    (SERVER, {"flow_age": 3600}, "flow_age: only a client has this key"),
    (
        CLIENT,
        {"flow_age": "1h", "client_ports": "20000-20018"},
        'client_ports: 19 ports are too few to renew 10 flows: name 20, or leave out "flow_age"',
    ),
    (CLIENT, {"idle_timeout": -1}, "idle_timeout: must be greater than or equal to 0, not -1"),
    (SERVER, {"ports": "10001-"}, 'ports: "10001-" is not a port or a range (want "10001-10010,12000")'),
    (SERVER, {"ports": "10-1"}, 'ports: "10-1" ends before it begins'),
    (SERVER, {"ports": "0"}, "ports: port 0 is not within 1-65535"),
    (SERVER, {"ports": 70000}, "ports: port 70000 is not within 1-65535"),
    (SERVER, {"ports": "10-20,15"}, "ports: 10-20 and 15 overlap"),
    (SERVER, {"ports": []}, "ports: no ports are given"),
    (SERVER, {"ports": [True]}, 'ports: true is not a port or a range (want "10001-10010,12000")'),
    (SERVER, {"ports": list(range(1, 1000, 2))}, "ports: 500 separate ranges are too many: at most 256"),
    (SERVER, {"type": "icmp"}, 'type: must be "tcp", "udp" or "all", not "icmp"'),
    (SERVER, {"type": ["tcp"]}, 'type: must be "tcp", "udp" or "all", not ["tcp"]'),
    (SERVER, {"wire": "kcp"}, 'wire: must be "native" or "rsock", not "kcp"'),
    (SERVER, {"wire": "rsock"}, 'secret: has a meaning with "wire": "native" only'),
    (SERVER, {"hash": "s3cret"}, 'hash: has a meaning with "wire": "rsock" only'),
    (CLIENT, {"rsock_version": 1}, 'rsock_version: has a meaning with "wire": "rsock" only'),
    (SERVER, {"rsock": None}, "rsock: must be an object, not null"),
    (SERVER, {"rsock": 443}, "rsock: must be an object, not 443"),
    (CLIENT, {"tunnels": None}, "tunnels: must be a valid array, not null"),
    (SERVER, {"rsock": {"ports": 9, "target": None}}, 'rsock.target: null is not an address with a port (want "127.0.0.1:9999" or "[::1]:9999")'),
    (SERVER, {"rsock": {}}, "rsock.ports: missing: the ports of this wire"),
    (SERVER, {"rsock": {"ports": 9, "prots": 1}}, 'rsock.prots: unknown key (did you mean "ports"?)'),
    (SERVER, {"rsock": {"ports": 9, "secret": SECRET}}, "rsock.secret: unknown key"),
    (
        SERVER,
        {"rsock": {"ports": "10008-10012"}},
        'rsock.ports: 10008-10010 is also in "ports": it is by its port that the wire of a packet is known',
    ),
    (SERVER, {"rsock": {"ports": 9}, "addresses": "::1"}, 'rsock: this wire is IPv4 only, and "addresses" has no IPv4 address'),
    (CLIENT, {"rsock": {"ports": 9}}, "rsock: only a server has this key"),
    (SERVER, {"tunnels": []}, "tunnels: only a client has this key"),
    (CLIENT, {"clients": []}, "clients: only a server has this key"),
    (SERVER, {"clients": []}, "clients: the list is empty"),
    (SERVER, {"clients": [{"name": "a"}]}, 'clients[0].secret: missing: make one with "rsock-nf genkey"'),
    (SERVER, {"clients": [{"secret": SECRET}]}, "clients[0].name: missing: what status and log call it"),
    (SERVER, {"clients": [{"name": "a b", "secret": SECRET}]}, "clients[0].name: \"a b\" cannot name a client: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
    (SERVER, {"clients": [{"name": "a", "secret": SECRET}]}, 'clients[0].secret: it is also that of "secret"'),
    (SERVER, {"clients": [{"name": "a", "secret": OTHER}, {"name": "b", "secret": OTHER}]}, "clients[1].secret: it is also that of a"),
    (SERVER, {"clients": [{"name": "a", "secret": OTHER}, {"name": "a", "secret": SECRET}], "secret": [OTHER, SECRET]}, 'clients[0].secret: it is also that of "secret"'),
    (SERVER, {"clients": [{"name": "a", "secret": OTHER, "rate": "20 M"}]}, 'clients[0].rate: "20 M" is not a rate: bits a second are wanted, from 8k to 100G, as "20M"'),
    (SERVER, {"clients": [{"name": "a", "secret": OTHER, "rate": True}]}, 'clients[0].rate: true is not a rate: bits a second are wanted, from 8k to 100G, as "20M"'),
    (SERVER, {"clients": [{"name": "a", "secret": OTHER, "rates": 1}]}, 'clients[0].rates: unknown key (did you mean "rate"?)'),
    (SERVER, {"secret": [SECRET, OTHER, OTHER]}, "secret: 3 secrets: one is wanted, or two while one replaces the other"),
    (SERVER, {"secret": [SECRET, SECRET]}, "secret: both secrets are the same"),
    (CLIENT, {"secret": [SECRET, OTHER]}, "secret: a client has one; its server may have two while one replaces the other"),
    (CLIENT, {"tunnels": [{"listen": "127.0.0.1:9"}]}, 'listen: give either this or "tunnels", not both'),
    (
        SERVER,
        {"metrics": "0.0.0.0:9273"},
        "metrics: 0.0.0.0:9273: only this host may ask: a loopback address is wanted, as 127.0.0.1:9273, or unix:/path",
    ),
    (SERVER, {"metrics": "localhost:9273"}, 'metrics: "localhost:9273": a literal IP address is wanted, not a host name'),
    (CLIENT, {"metrics": "unix:/" + "x" * 107}, "metrics: /" + "x" * 107 + ": too long for a socket: at most 107 bytes"),
    (CLIENT, {"listen": "unix:"}, 'listen: "unix:" is not the path of a socket (want "unix:/run/rsock.sock")'),
    (CLIENT, {"listen": "unix:/run/"}, 'listen: "unix:/run/" is not the path of a socket (want "unix:/run/rsock.sock")'),
    (CLIENT, {"listen": "unix:/" + "x" * 107}, "listen: /" + "x" * 107 + ": too long for a socket: at most 107 bytes"),
    (SERVER, {"cipher": "aes"}, 'cipher: must be "none", "aes-256-gcm" or "chacha20-poly1305", not "aes"'),
    (SERVER, {"duration": "5m"}, 'duration: must be a valid number, not "5m"'),
    (SERVER, {"duration": True}, "duration: must be a valid number, not true"),
    (SERVER, {"duration": 0}, "duration: must be greater than 0, not 0"),
    (SERVER, {"keepalive": 0.1}, "keepalive: must be greater than or equal to 0.5, not 0.1"),
    (SERVER, {"max_sessions": 1.5}, "max_sessions: must be a valid integer, not 1.5"),
    (SERVER, {"device": "a/b"}, 'device: "a/b" is not the name of a network device'),
    (SERVER, {"fwmark": 0}, 'fwmark: 0 is not a mark: a number from 1 to 4294967295, or text such as "0xca6c"'),
    (SERVER, {"fwmark": 2**32}, 'fwmark: 4294967296 is not a mark: a number from 1 to 4294967295, or text such as "0xca6c"'),
    (SERVER, {"fwmark": "wg0"}, 'fwmark: "wg0" is not a mark: a number from 1 to 4294967295, or text such as "0xca6c"'),
    (SERVER, {"user": "a b"}, 'user: "a b" is not the name of a system user'),
    (CLIENT, {"user": 65534}, "user: 65534 is not the name of a system user"),
    (SERVER, {"fwmark": True}, 'fwmark: true is not a mark: a number from 1 to 4294967295, or text such as "0xca6c"'),
    (SERVER, {"device": "a\x9b31m"}, r'device: "a\u009b31m" is not the name of a network device'),
    (SERVER, {"device": None}, "device: null is not the name of a network device"),
    (SERVER, {"allow": "10.0.0.0/33"}, 'allow: "10.0.0.0/33" is not a network; write it as "192.0.2.0/24"'),
    (SERVER, {"allow": ["10.0.0.1/8"]}, 'allow: "10.0.0.1/8": the address has bits behind its prefix; the network is "10.0.0.0/8"'),
    (SERVER, {"allow": 7}, 'allow: 7 is not a network; write it as "192.0.2.0/24"'),
    (SERVER, {"addresses": "10.0.0.256"}, 'addresses: "10.0.0.256" is not an IP address'),
    (SERVER, {"addresses": "fe80::1%eth0"}, 'addresses: "fe80::1%eth0": give the device of a link-local address as "device", not behind a "%"'),
    (SERVER, {"name": "a/b"}, "name: \"a/b\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
    (SERVER, {"name": ".."}, "name: \"..\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
    (SERVER, {"backend": "npf"}, 'backend: must be "auto", "nftables", "iptables", "pf", "ipfw" or "manual", not "npf"'),
    (SERVER, {"secret": "hunter2"}, 'secret: not a key: 44 characters are wanted, as "rsock-nf genkey" prints them'),
    (SERVER, {"secret": 12345}, 'secret: not a key: 44 characters are wanted, as "rsock-nf genkey" prints them'),
    (SERVER, {"secret": "A" * 43 + "="}, 'secret: too regular to be a random key: make one with "rsock-nf genkey"'),
    (SERVER, {"secret_file": "key"}, 'secret_file: give either this or "secret", not both'),
    (SERVER, {"device": "\ud800"}, "not JSON: Invalid JSON: unexpected end of hex escape at line 1 column 123"),
]  # fmt: skip


RSOCK_SERVER: dict[str, Any] = {"role": "server", "wire": "rsock", "target": "127.0.0.1:9999"}
RSOCK_CLIENT: dict[str, Any] = {"role": "client", "wire": "rsock", "server": "203.0.113.5", "listen": "127.0.0.1:30000"}
TUNNELS: dict[str, Any] = {"role": "client", "server": "203.0.113.5", "secret": SECRET}
MISTAKES += [
    *(
        (RSOCK_SERVER, {key: value}, f'{key}: has a meaning with "wire": "native" only')
        for key, value in {"secret_file": "k", "cipher": "none", "rsock": {"ports": 9}}.items()
    ),
    (RSOCK_SERVER, {"targets": ["127.0.0.1:9"]}, 'targets: with "wire": "rsock" there is one: give it as "target"'),
    (RSOCK_SERVER, {"target": ["127.0.0.1:9", "127.0.0.1:8"]}, 'target: "wire": "rsock" has one target'),
    (RSOCK_SERVER, {"addresses": ["192.0.2.1", "2001:db8::1"]}, 'addresses: "wire": "rsock" is IPv4 only'),
    (RSOCK_SERVER, {"rsock_version": 2}, "rsock_version: only a client has this key"),
    (RSOCK_SERVER, {"hash": 5}, "hash: not a key of the original: printable text is wanted"),
    (RSOCK_SERVER, {"hash": "a\0"}, "hash: not a key of the original: printable text is wanted"),
    (RSOCK_CLIENT, {"rsock_version": 3}, "rsock_version: must be 1 or 2, not 3"),
    (RSOCK_CLIENT, {"rsock_version": 1.0}, "rsock_version: must be 1 or 2, not 1.0"),
    (RSOCK_CLIENT, {"rsock_version": 10**19}, "rsock_version: must be 1 or 2, not 10000000000000000000"),
    (CLIENT, {"flows": 10**19}, "flows: must be less than or equal to 1024, not 10000000000000000000"),
    (CLIENT, {"server": ["192.0.2.1", None]}, "server: null is neither an IP address nor a host name"),
    (RSOCK_CLIENT, {"server": "2001:db8::5"}, 'server: "2001:db8::5" has no IPv4 address, and "wire": "rsock" is IPv4 only'),
    (TUNNELS, {}, 'listen: missing: where the application sends its datagrams, as "127.0.0.1:30000"'),
    (TUNNELS, {"tunnels": []}, "tunnels: the list is empty"),
    (TUNNELS, {"tunnels": [{"target": 1}]}, 'tunnels[0].listen: missing: where the application sends its datagrams, as "127.0.0.1:30000"'),
    (TUNNELS, {"tunnels": [{"listen": "127.0.0.1:9", "target": -1}]}, "tunnels[0].target: must be greater than or equal to 0, not -1"),
    (TUNNELS, {"tunnels": [{"listen": "127.0.0.1:9", "port": 1}]}, "tunnels[0].port: unknown key"),
    (TUNNELS, {"tunnels": [{"listen": "127.0.0.1:9"}] * 2}, "tunnels[1].listen: 127.0.0.1:9 is given twice"),
    (TUNNELS, {"tunnels": ["127.0.0.1:9"]}, 'tunnels[0]: must be an object, not "127.0.0.1:9"'),
    (
        {k: v for k, v in RSOCK_CLIENT.items() if k != "listen"},
        {"tunnels": [{"listen": "127.0.0.1:9", "target": 1}]},
        'tunnels: "wire": "rsock" has one target: its number is 0',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change", "expected"), MISTAKES, ids=[line for _, _, line in MISTAKES])
def test_one_line_for_each_mistake(tmp_path: Path, base: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    line = message(write(tmp_path / "edge.json", base | change))
    if expected.startswith("not JSON"):
        expected, line = expected[: len("not JSON")], line[: len("not JSON")]
    assert line == expected


@pytest.mark.parametrize(
    ("base", "key", "expected"),
    [
        (SERVER, "role", 'role: missing: "server" or "client"'),
        (SERVER, "target", 'target: missing: where datagrams go, as "127.0.0.1:9999"'),
        (
            SERVER,
            "secret",
            'secret: missing: make one with "rsock-nf genkey", the same for both sides, or give "clients"',
        ),
        (CLIENT, "server", "server: missing: the server's address or name"),
        (CLIENT, "listen", 'listen: missing: where the application sends its datagrams, as "127.0.0.1:30000"'),
    ],
)
def test_one_line_for_each_missing_key(tmp_path: Path, base: dict[str, Any], key: str, expected: str) -> None:
    assert message(write(tmp_path / "edge.json", {k: v for k, v in base.items() if k != key})) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{\n  "role": "server",\n  :}',
            "not JSON: line 3, column 3: expecting property name enclosed in double quotes",
        ),
        ('{"role": "server"', "not JSON: line 1, column 18: the file ends here: a bracket or a quote is missing"),
        ("", "not JSON: line 1, column 1: expecting value"),
        ("[1]", "a JSON object is wanted, not [1]"),
        ('{"role": "server", "role": "client"}', "role: given twice"),
        ('{"log": {"level": "info", "level": "info"}}', "level: given twice"),
        ('{"duration": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "not JSON that anyone wrote: nested too deeply"),
        ("9" * 5000, "a number of 5000 digits"),
        (" " * (2 << 20), "larger than 1 MiB"),
        ('{"\\u001b[2J\\u009b": 1, "\\u001b[2J\\u009b": 2}', r"\u001b[2J\u009b: given twice"),
        ('{"role": "server", "evil\\u001b[2J\\u202ekey": 1}', r"evil\u001b[2J\u202ekey: unknown key"),
        ('{"role": "\\u009b31m"}', r'role: must be "server" or "client", not "\u009b31m"'),
        (f'{{"{"k" * 900_000}": 1, "role": "server"}}', f"{'k' * 57}...: unknown key"),
    ],
)
def test_one_line_for_what_is_not_json(tmp_path: Path, text: str, expected: str) -> None:
    assert message(write(tmp_path / "edge.json", text)).startswith(expected)


def test_a_key_given_twice_is_found_among_very_many(tmp_path: Path) -> None:
    """In the time of one look at each: 60,000 keys took more than a minute of CPU."""
    keys = ", ".join(f'"k{number}": 1' for number in range(60_000))
    path = tmp_path / "edge.json"
    path.write_text(f'{{{keys}, "k59999": 2}}')
    before = time.process_time()
    assert message(path) == "k59999: given twice"
    assert time.process_time() - before < 5, "it takes 0.05 s"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert message(tmp_path / "none.json") == "cannot be read: No such file or directory"
    assert message(tmp_path) == "cannot be read: Is a directory"
    (tmp_path / "latin1.json").write_bytes(b'{"name": "\xe9"}')
    assert message(tmp_path / "latin1.json") == "not UTF-8: byte 10"


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    """Opening one waits for a writer: SIGHUP reads the file on the event loop, and a tunnel would stand still."""
    os.mkfifo(tmp_path / "edge.json")
    command = [sys.executable, "-m", "rsock_nf", "check", "-c", str(tmp_path / "edge.json")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stderr) == (2, f"rsock-nf: {tmp_path}/edge.json: not a regular file\n")


def test_the_file_name_stands_for_the_missing_name_and_is_checked(tmp_path: Path) -> None:
    line = message(write(tmp_path / "my server.json", SERVER))
    assert line.startswith('name: "my server" cannot name an instance')
    assert line.endswith('(it comes from the file\'s name: give a "name")')


def test_the_original_wire_has_defaults_of_its_own(tmp_path: Path) -> None:
    server = config.load(write(tmp_path / "s.json", RSOCK_SERVER)).settings
    target = TransportAddress(IPv4Address("127.0.0.1"), 9999)
    assert server.wire == RsockParameters(b"hello135", 2)
    assert server.tunnel == ServerParameters(keepalive=4.0, targets=(target,))
    changed = RSOCK_CLIENT | {"hash": "", "rsock_version": 1, "keepalive": 7, "type": "all"}
    client = config.load(write(tmp_path / "c.json", changed)).settings
    assert client.wire == RsockParameters(b"", 1)
    assert client.tunnel == ClientParameters(
        keepalive=7.0,
        kinds=Kinds.ALL,
        server=(IPv4Address("203.0.113.5"),),
    )


def test_the_original_wire_takes_the_ipv4_addresses_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET6, 2, 17, "", ("2001:db8::7", 0, 0, 0)), (socket.AF_INET, 2, 17, "", ("192.0.2.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    tunnel = config.load(write(tmp_path / "c.json", RSOCK_CLIENT | {"server": "edge.example"})).settings.tunnel
    assert isinstance(tunnel, ClientParameters)
    assert tunnel.server == (ip_address("192.0.2.7"),)


def test_warnings_say_that_the_original_key_is_no_authentication(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", RSOCK_SERVER)
    weak = "hash is no authentication: anyone who can guess it, or capture the traffic, can use the server and inject datagrams"
    default = '"hello135" is what everybody has: choose another, on both sides'
    assert config.load(path).warnings == (f'{path}: wire "rsock": {weak}', f"{path}: hash: {default}")
    assert config.load(write(path, RSOCK_SERVER | {"hash": "s3cret"})).warnings == (f'{path}: wire "rsock": {weak}',)
    native = SERVER | {"cipher": "aes-256-gcm", "rsock": {"ports": 443}}
    assert config.load(write(path, native)).warnings == (f"{path}: rsock: {weak}", f"{path}: rsock.hash: {default}")


def test_a_second_wire_inherits_what_is_not_given(tmp_path: Path) -> None:
    keys = SERVER | {"duration": 77, "keepalive": 9, "max_sessions": 5, "type": "all"}
    least = config.load(write(tmp_path / "s.json", keys | {"rsock": {"ports": "443"}})).settings
    assert isinstance(least.tunnel, ServerParameters)
    assert least.second is not None
    assert least.second.wire == RsockParameters()
    assert least.second.tunnel == ServerParameters(
        ports=(PortRange(443, 443),),
        kinds=Kinds.ALL,
        duration=77.0,
        keepalive=4.0,
        max_sessions=5,
        targets=least.tunnel.targets,
    )
    own = {"ports": "443", "hash": "k", "type": "tcp", "target": "127.0.0.1:53", "duration": 30, "max_conversations": 9}
    second = config.load(write(tmp_path / "s.json", keys | {"rsock": own})).settings.second
    assert second is not None
    assert second.wire == RsockParameters(b"k")
    tunnel = second.tunnel
    assert (tunnel.kinds, tunnel.duration, tunnel.max_conversations) == (Kinds.TCP, 30.0, 9)
    assert tunnel.targets == (TransportAddress(IPv4Address("127.0.0.1"), 53),)


def test_the_policy_covers_both_wires_and_nothing_that_is_udp(tmp_path: Path) -> None:
    def covered(**keys: object) -> tuple[object, ...]:
        settings = config.load(write(tmp_path / "s.json", SERVER | keys)).settings
        return tuple(policy_for(settings, device="eth0", local_addresses=()).local_ports)

    native, original = PortRange(10001, 10010), PortRange(443, 443)
    assert covered(rsock={"ports": 443}) == (original, native)
    assert covered(type="all", rsock={"ports": 443, "type": "udp"}) == (native,)
    assert covered(type="udp", rsock={"ports": 443, "type": "tcp"}) == (original,)
    assert covered(type="udp") == ()
    client = config.load(write(tmp_path / "c.json", CLIENT | {"type": "udp", "backend": "manual"})).settings
    held = (PortRange(20005, 20005),)
    assert policy_for(client, device="eth0", local_addresses=(), held_ports=held).local_ports == ()


def test_tunnels_say_which_listen_leads_to_which_target(tmp_path: Path) -> None:
    tunnels = [{"listen": "127.0.0.1:30000"}, {"listen": "[::1]:30001", "target": 3}, {"listen": "unix:app.sock"}]
    settings = config.load(write(tmp_path / "c.json", TUNNELS | {"tunnels": tunnels})).settings
    assert isinstance(settings.tunnel, ClientParameters)
    assert settings.tunnel.targets == (0, 3, 0)
    first, second, third = settings.listen
    assert (first, second) == (
        TransportAddress(IPv4Address("127.0.0.1"), 30000),
        TransportAddress(IPv6Address("::1"), 30001),
    )
    assert third == tmp_path / "app.sock", "a relative path starts at the file's directory"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        ("hunter2", 'not a key: 44 characters are wanted, as "rsock-nf genkey" prints them'),
    ],
)
def test_a_secret_file_that_is_no_good(tmp_path: Path, content: str | None, expected: str) -> None:
    file = tmp_path / "key"
    if content:
        file.write_text(content)
    keys = {k: v for k, v in SERVER.items() if k != "secret"} | {"secret_file": "key"}
    line = message(write(tmp_path / "edge.json", keys))
    assert line == f"secret_file: {file}: {expected}"
    assert "hunter2" not in line


def test_warnings_name_what_others_can_read_and_what_seals_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", SERVER)
    path.chmod(0o644)
    assert config.load(path).warnings == (
        f"{path}: secret: everyone on this host can read it: chmod o-r {path}",
        f'{path}: cipher "none": the application must encrypt; anyone who can capture the traffic can inject and replay datagrams (write "cipher": "none" into the file if that is meant)',
    )


def test_a_key_log_is_a_decision_and_is_warned_of(tmp_path: Path) -> None:
    keys = SERVER | {"cipher": "aes-256-gcm"}
    assert not config.load(write(tmp_path / "edge.json", keys)).settings.key_log
    loaded = config.load(write(tmp_path / "edge.json", keys | {"key_log": True}))
    assert loaded.settings.key_log
    assert [line for line in loaded.warnings if "key_log: who may ask the control socket can read" in line]
    assert message(write(tmp_path / "edge.json", keys | {"key_log": "yes"})).startswith("key_log: ")


@pytest.mark.parametrize("keys", [{"cipher": "none"}, {"cipher": "aes-256-gcm"}])
def test_a_cipher_that_was_chosen_is_no_reason_to_warn(tmp_path: Path, keys: dict[str, str]) -> None:
    assert config.load(write(tmp_path / "edge.json", SERVER | keys)).warnings == ()


def test_a_file_that_is_read_again_may_have_names_that_the_resolver_does_not_know_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    keys = {"role": "server", "target": "app.example:9", "secret": SECRET}
    path = write(tmp_path / "s.json", keys)
    assert config.load_again(path).settings.unresolved == ("app.example",)
    with pytest.raises(ConfigError, match=r"log.level: must be"):
        config.load_again(write(path, keys | {"log": {"level": "all"}}))


def test_manual_rules_of_a_client_cover_all_of_its_ports(tmp_path: Path) -> None:
    keys = CLIENT | {"backend": "manual", "client_ports": "20000-20099"}
    settings = config.load(write(tmp_path / "c.json", keys)).settings
    held = (PortRange(20005, 20005),)
    assert policy_for(settings, device="eth0", local_addresses=(), held_ports=held).local_ports == (
        PortRange(20000, 20099),
    )
    other = dataclasses.replace(settings, backend="auto")
    assert policy_for(other, device="eth0", local_addresses=(), held_ports=held).local_ports == held


def test_the_secret_is_in_no_representation(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path / "edge.json", SERVER))
    for form in (repr(loaded), str(loaded.settings), repr(loaded.settings.tunnel)):
        assert SECRET not in form
        assert repr(KEY) not in form


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"ports": ["10001-10005", "10006-10010"]}, True),
        ({"log": {"level": "debug"}}, True),
        ({"duration": 300.0}, True),
        ({"duration": 301}, False),
        ({"ports": "10001-10011"}, False),
        ({"target": "127.0.0.1:9998"}, False),
        ({"type": "all"}, False),
        ({"rsock": {"ports": 443}}, False),
        ({"secret": format_secret(bytes(range(1, 33)))}, False),
    ],
)
def test_the_digest_tells_meanings_apart(tmp_path: Path, change: dict[str, Any], same: bool) -> None:  # noqa: FBT001
    first = config.load(write(tmp_path / "a.json", SERVER)).settings.digest
    second = config.load(write(tmp_path / "a.json", SERVER | change)).settings.digest
    assert (first == second) is same


def test_the_digest_tells_a_second_wire_with_its_own_type_from_one_with_the_type_of_the_server(tmp_path: Path) -> None:
    keys, second = SERVER | {"type": "all"}, {"ports": 443}
    first = config.load(write(tmp_path / "a.json", keys | {"rsock": second})).settings.digest
    assert first != config.load(write(tmp_path / "a.json", keys | {"rsock": second | {"type": "tcp"}})).settings.digest


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        (SERVER | {"rsock": {"ports": 443, "hash": "k", "duration": 30}}, {}),
        (SERVER | {"rsock": {"ports": 443}}, {"rsock": {"ports": 443, "keepalive": 4}}),
        (CLIENT | {"listen": "127.0.0.1:1"}, {"flows": 10}),
        ({**TUNNELS, "tunnels": [{"listen": "127.0.0.1:1", "target": 1}, {"listen": "127.0.0.1:2", "target": 0}]}, {}),
    ],
)
def test_the_digest_is_the_same_in_every_process(tmp_path: Path, keys: dict[str, Any], more: dict[str, Any]) -> None:
    """Another `up` has to see that what runs is what the file says."""
    code = "import sys; from pathlib import Path; from rsock_nf import config\n"
    code += "print(config.load(Path(sys.argv[1])).settings.digest)"
    found = set()
    for seed, written in (("1", keys), ("2", keys), ("3", keys | more)):
        path = write(tmp_path / "a.json", written)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


def test_the_schema_knows_the_keys_of_both_roles_and_their_defaults() -> None:
    definitions = config.schema()["$defs"]
    server, client = definitions["ServerKeys"]["properties"], definitions["ClientKeys"]["properties"]
    assert server["ports"]["default"] == "10001-10010"
    assert client["flows"]["default"] == 10
    assert "listen" not in server
    assert "target" not in client
    assert server["rsock"]["$ref"] == "#/$defs/RsockKeys", "and never null"
    assert definitions["TunnelKeys"]["required"] == ["listen"]
    assert all(
        "description" in key or "$ref" in key for key in [*server.values(), *client.values()] if "const" not in key
    )


@pytest.mark.parametrize(("role", "key"), [(role, key) for role in ROLES for key in ROLES[role].model_fields])
def test_null_is_no_value_of_any_key(tmp_path: Path, role: str, key: str) -> None:
    least = SERVER if role == "server" else CLIENT
    assert message(write(tmp_path / "edge.json", least | {key: None})).startswith(f"{key}: ")
    assert '"null"' not in json.dumps(config.schema()["$defs"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text("a1:.-/%\n", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.sampled_from([SERVER, CLIENT]), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_any_value_of_any_key_is_taken_or_earns_one_line_in_our_words(
    base: dict[str, Any], change: dict[str, Any]
) -> None:
    try:
        validate(Path("/edge.json"), base | change)
    except ConfigError as error:
        line = str(error)
        assert "\n" not in line
        assert "Input" not in line
        assert SECRET not in line


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=200))
def test_ports_written_in_any_order_are_the_same_ports(ports: set[int]) -> None:
    ranges = parse_ports([str(port) for port in ports])
    assert {port for found in ranges for port in range(found.first, found.last + 1)} == ports
    assert all(before.last + 1 < after.first for before, after in itertools.pairwise(ranges))
    assert parse_ports(",".join(map(str, ranges))) == ranges


@given(st.text() | st.integers() | st.lists(st.text() | st.integers()) | st.none() | st.floats())
def test_anything_else_given_as_ports_gives_ports_or_a_value_error(value: object) -> None:
    try:
        ranges = parse_ports(value)
    except ValueError:
        return
    assert all(1 <= ports.first <= ports.last <= 65535 for ports in ranges)


@given(st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) >= 8))
def test_a_key_survives_its_text_form(key: bytes) -> None:
    assert parse_secret(format_secret(key) + "\n") == key


def test_a_number_beyond_all_bounds_is_too_large(tmp_path: Path) -> None:
    text = json.dumps(SERVER | {"duration": 1}).replace(": 1}", ": 1e999}")
    assert message(write(tmp_path / "edge.json", text)) == "duration: must be less than or equal to 86400, not Infinity"


def test_the_keys_show_no_secret(tmp_path: Path) -> None:
    keys = validate(tmp_path / "edge.json", SERVER)
    assert keys.secret == (KEY,)
    assert repr(KEY) not in repr(keys)


@pytest.mark.parametrize(
    ("metrics", "where"),
    [
        ("127.0.0.1:9273", "127.0.0.1:9273"),
        ("[::1]:9273", "[::1]:9273"),
        ("unix:/run/edge.sock", "/run/edge.sock"),
        ("unix:edge.sock", "DIRECTORY/edge.sock"),
    ],
)
def test_where_metrics_are_served(tmp_path: Path, metrics: str, where: str) -> None:
    found = config.load(write(tmp_path / "e.json", SERVER | {"metrics": metrics})).settings.metrics
    assert str(found) == where.replace("DIRECTORY", str(tmp_path))
    assert config.load(write(tmp_path / "e.json", SERVER)).settings.metrics is None


def test_clients_with_secrets_of_their_own(tmp_path: Path) -> None:
    third = format_secret(bytes(range(3, 35)))
    keys = {"role": "server", "target": "127.0.0.1:9999"}
    clients: list[dict[str, Any]] = [
        {"name": "alice", "secret": SECRET},
        {"name": "bob", "secret": [OTHER, third], "rate": "20M", "max_conversations": 7},
    ]
    path = write(tmp_path / "s.json", {**keys, "clients": clients})
    settings = config.load(path).settings
    assert settings.wire == NativeParameters(
        b"",
        clients=(
            KnownClient("alice", (KEY,)),
            KnownClient("bob", (KEY[::-1], bytes(range(3, 35))), ClientLimits(7, 20e6)),
        ),
    )
    other = config.load(
        write(path, {**keys, "clients": [{**clients[0], "secret": third}, clients[1] | {"secret": OTHER}]})
    )
    assert other.settings.digest != settings.digest, "another secret is another configuration"
    assert SECRET not in repr(settings)
    assert repr(KEY) not in repr(settings)


def test_two_secrets_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(f"{SECRET}\n{OTHER}\n")
    keys = {"role": "server", "target": "127.0.0.1:9999", "secret_file": "secrets"}
    assert config.load(write(tmp_path / "s.json", keys)).settings.wire == NativeParameters(KEY, KEY[::-1])


@pytest.mark.parametrize(
    ("written", "rate"), [(8000, 8e3), (1.5e6, 1.5e6), ("64k", 64e3), ("20M", 20e6), ("1G", 1e9), ("9000", 9e3)]
)
def test_rates(written: object, rate: float) -> None:
    assert values.parse_rate(written) == rate


@pytest.mark.parametrize(
    "written",
    [
        "",
        "20",
        "20m",
        "M",
        "7k",
        "101G",
        "1e9",
        "-5M",
        7999,
        1e12,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        "9" * 13 + "G",
    ],
)
def test_no_rates(written: object) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        values.parse_rate(written)
