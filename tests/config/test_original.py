"""Configuration of the original rsock: what its files become, what is said about them, and what is refused."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf import config
from rsock_nf.config.original import UnusableError, convert
from rsock_nf.core.parameters import ClientParameters, Kinds, ServerParameters
from rsock_nf.core.types import PortRange, TransportAddress
from rsock_nf.errors import ConfigError
from rsock_nf.wire.parameters import RsockParameters

GOLDEN = Path(__file__).parents[1] / "golden" / "original"
NAMES = sorted(path.name.removesuffix(".json") for path in GOLDEN.glob("*.json") if "converted" not in path.name)
SERVER: dict[str, Any] = {"taddr": "127.0.0.1:9999"}
CLIENT: dict[str, Any] = {"taddr": "203.0.113.5", "ludp": "127.0.0.1:30000"}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def said(path: Path) -> list[str]:
    return [line.removeprefix(f"{path}: ") for line in config.load(path).notes]


@pytest.mark.parametrize("name", NAMES)
def test_conversion(name: str) -> None:
    """Exact text, that is also the order in which people read it."""
    keys, _ = config.convert(GOLDEN / f"{name}.json")
    assert json.dumps(keys, indent=2) + "\n" == (GOLDEN / f"{name}.converted.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_and_its_conversion_mean_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "edge.json").write_text((GOLDEN / f"{name}.json").read_text())
    original = config.load(tmp_path / "edge.json")
    (tmp_path / "edge.json").write_text((GOLDEN / f"{name}.converted.json").read_text())
    ours = config.load(tmp_path / "edge.json")
    assert original.settings == ours.settings
    assert [line.replace("param.hash", "hash") for line in original.warnings] == list(ours.warnings)
    assert original.notes
    assert ours.notes == ()


def test_the_smallest_files_take_the_defaults_of_the_original(tmp_path: Path) -> None:
    server = config.load(write(tmp_path / "s.json", {"param": SERVER}))
    assert server.settings.tunnel == ServerParameters(
        duration=30.0, keepalive=4.0, targets=(TransportAddress(IPv4Address("127.0.0.1"), 9999),)
    )
    assert server.settings.wire == RsockParameters()
    assert (server.settings.name, server.foreground) == ("s", False)
    client = config.load(write(tmp_path / "c.json", {"daemon": 0, "param": CLIENT}))
    assert client.settings.tunnel == ClientParameters(
        duration=30.0, keepalive=4.0, server=(IPv4Address("203.0.113.5"),)
    )
    assert client.settings.wire == RsockParameters()
    assert client.foreground


def test_every_line_about_a_file(tmp_path: Path) -> None:
    param = {"dev": "eth0", "taddr": "203.0.113.5:1", "ludp": "127.0.0.1:30000", "type": "tcpudp", "cap_timeout": 5}
    keys = {"daemon": 0, "verbose": True, "param": {**param, "hash": "k", "keepAlive": 3, "duration": "600"}}
    assert said(write(tmp_path / "c.json", keys)) == [
        "a client's configuration of the original rsock; `rsock-nf convert` writes it as ours",
        "param.taddr: the server is 203.0.113.5",
        "param.ludp: the application sends to 127.0.0.1:30000",
        "param.ports: not given: the server's ports are 10001-10010",
        "param.hash: the key of the frames",
        "param.duration: not given: a silent conversation lives 30 s",
        "param.keepalive: not given: flows are probed every 4 s",
        "param.dev: the device is eth0",
        'verbose: log lines from "debug" on',
        "log: not given: log lines go to the instance's directory in /run/rsock-nf",
        'param.taddr: the port, "1", has no meaning at a client: the ports are those of param.ports',
        'param.type: "tcpudp" is taken as "tcp", as the original does',
        'param.duration: "600" is not a number: ignored, as the original does',
        "param.cap_timeout: has no meaning here: nothing is captured with libpcap",
        'param.keepAlive: unknown: ignored, as the original does (did you mean "param.keepalive"?)',
        "daemon: 0: `rsock-nf client -f` stays in the foreground; `up` wants --foreground",
    ]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"daemon": True, "param": SERVER}, "daemon: true is not a number: ignored, as the original does"),
        ({"verbose": 1, "param": SERVER}, "verbose: 1 is not true or false: ignored, as the original does"),
        ({"log": 5, "param": SERVER}, "log: 5 is not text: ignored, as the original does"),
        ({"param": SERVER | {"ports": 443}}, "param.ports: 443 is not text: ignored, as the original does"),
        ({"param": SERVER | {"foo": 1}}, "param.foo: unknown: ignored, as the original does"),
        (
            {"ports": "1-3", "param": SERVER},
            'ports: unknown: ignored, as the original does (did you mean "param.ports"?)',
        ),
        ({"param": SERVER | {"unPath": "/x"}}, "param.unPath: has no meaning at a server"),
        ({"server": True, "param": SERVER | {"ludp": "x"}}, "param.ludp: has no meaning at a server"),
        ({"param": SERVER | {"type": "udp"}}, "param.type: UDP works, but not with a server of the original's 2.x releases: it aborts"),
        ({"param": SERVER | {"cap_timeout": "x"}}, "param.cap_timeout: has no meaning here: nothing is captured with libpcap"),
        ({"role": "server", "param": SERVER}, "role: unknown: ignored, as the original does"),
        (
            {"param": CLIENT | {"unPath": "/x"}},
            "param.unPath: a Unix-domain datagram socket there; the original names it and never opens it",
        ),
        (
            {"log": "/var/log/x", "param": SERVER},
            "log: log lines go to /var/log/x, or if that is a directory, to rsock.log in it; nothing rolls it: SIGHUP opens it anew",
        ),
    ],
)  # fmt: skip
def test_a_line_for_what_is_odd(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    assert line in said(write(tmp_path / "edge.json", keys))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"param": "x"}, 'param: must be an object, not "x"'),
        ({"param": None}, "param: must be an object, not null"),
        ({"param": {}}, 'param.taddr: missing: where datagrams go, as "127.0.0.1:9999"'),
        ({"param": {"taddr": 5}}, 'param.taddr: must be text, not 5: where datagrams go, as "127.0.0.1:9999"'),
        (
            {"param": {"taddr": "203.0.113.5"}},
            (
                'param.taddr: "203.0.113.5" is not an address with a port (want "127.0.0.1:9999" or "[::1]:9999"); '
                "is this a client's? Its param.ludp is missing"
            ),
        ),
        ({"param": {"taddr": "127.0.0.1:0"}}, "param.taddr: port 0 is not within 1-65535"),
        ({"param": {"ludp": "127.0.0.1:1"}}, 'param.taddr: missing: the server\'s address, as "203.0.113.5"'),
        ({"param": CLIENT | {"taddr": "2001:db8::5"}}, 'param.taddr: "2001:db8::5" is not an IPv4 address'),
        ({"param": CLIENT | {"taddr": "10.1"}}, 'param.taddr: "10.1" is neither an IP address nor a host name'),
        (
            {"param": CLIENT | {"ludp": 30000}},
            'param.ludp: must be text, not 30000: where the application sends its datagrams, as "127.0.0.1:30000"',
        ),
        (
            {"param": CLIENT | {"ludp": ":30000"}},
            'param.ludp: ":30000" is not an address with a port: for this host write "127.0.0.1:30000"',
        ),
        (
            {"server": False, "param": {"taddr": "203.0.113.5"}},
            'param.ludp: missing: where the application sends its datagrams, as "127.0.0.1:30000"',
        ),
        ({"param": CLIENT | {"ludp": "224.0.0.1:9"}}, "param.ludp: 224.0.0.1:9 is not the address of a host"),
        ({"param": CLIENT | {"taddr": "224.0.0.1"}}, "param.taddr: 224.0.0.1 is not the address of a host"),
        ({"param": CLIENT | {"unPath": "/" + "x" * 107}}, f"param.ludp, param.unPath: /{'x' * 107}: too long for a socket: at most 107 bytes"),
        ({"param": SERVER | {"ports": "1-"}}, 'param.ports: "1-" is not a port or a range (want "10001-10010,12000")'),
        ({"param": SERVER | {"duration": 5}}, "param.duration: must be 10 to 6000 seconds, not 5"),
        ({"param": SERVER | {"duration": 6001}}, "param.duration: must be 10 to 6000 seconds, not 6001"),
        ({"param": SERVER | {"keepalive": 0.9}}, "param.keepalive: must be 1 to 3600 seconds, not 0"),
        ({"param": SERVER | {"hash": "a\0"}}, "param.hash: not a key of the original: printable text is wanted"),
        ({"param": SERVER | {"dev": "a/b"}}, 'param.dev: "a/b" is not the name of a network device'),
        ({"param": SERVER | {"lcapIp": "::1"}}, 'param.lcapIp: "::1" is not an IPv4 address'),
        ({"param": SERVER | {"lcapIp": "eth0"}}, 'param.lcapIp: "eth0" is not an IP address'),
        ({"name": "a/b", "param": SERVER}, "name: \"a/b\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    path = write(tmp_path / "edge.json", keys)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value) == f"{path}: {line}"


def test_a_number_too_large_for_the_original(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text('{"param": {"taddr": "127.0.0.1:9", "duration": 1e999}}')
    with pytest.raises(ConfigError, match=r"param.duration: is no number that anyone meant"):
        config.load(path)


def test_a_flag_of_more_digits_than_any_number_that_a_float_can_hold() -> None:
    with pytest.raises(ConfigError, match=r"--duration: must be 10 to 6000 seconds, not 9{400}$"):
        config.from_flags("server", {"name": "edge", "param": {"taddr": "127.0.0.1:9", "duration": int("9" * 400)}})


def test_the_program_that_is_called_decides_the_role(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", {"param": {"taddr": "203.0.113.5:9", "ludp": "127.0.0.1:30000"}})
    assert isinstance(config.load(path, "server").settings.tunnel, ServerParameters)
    assert isinstance(config.load(path, "client").settings.tunnel, ClientParameters)
    only = write(tmp_path / "edge.json", {"param": {"taddr": "203.0.113.5", "unPath": "/run/app"}})
    assert config.load(only, "client").settings.listen == (Path("/run/app"),)
    ours = write(tmp_path / "edge.json", {"role": "server", "wire": "rsock", "target": "127.0.0.1:9"})
    assert isinstance(config.load(ours, "server").settings.tunnel, ServerParameters)
    with pytest.raises(ConfigError, match="role: this is a server's file, and a client is wanted"):
        config.load(ours, "client")


def test_only_a_file_of_the_original_is_converted(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", {"role": "server", "wire": "rsock", "target": "127.0.0.1:9"})
    with pytest.raises(ConfigError, match="param: missing: this is no configuration of the original rsock"):
        config.convert(path)


def test_flags() -> None:
    flags = {"name": "client-30000", "daemon": 0, "param": CLIENT | {"type": "all", "ports": "443", "cap_timeout": "5"}}
    loaded = config.from_flags("client", flags)
    tunnel = loaded.settings.tunnel
    assert (tunnel.kinds, tunnel.ports, tunnel.duration) == (Kinds.ALL, (PortRange(443, 443),), 30.0)
    assert loaded.foreground
    assert loaded.notes == (
        "--type: UDP works, but not with a server of the original's 2.x releases: it aborts",
        "--cap_timeout: has no meaning here: nothing is captured with libpcap",
    )
    with pytest.raises(ConfigError) as caught:
        config.from_flags("client", {"name": "c", "param": CLIENT | {"ports": "x"}})
    assert str(caught.value) == 'the command line: --ports: "x" is not a port or a range (want "10001-10010,12000")'


def test_a_warning_names_the_key_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "edge.json", {"param": CLIENT})
    line = '"hello135" is what everybody has: choose another, on both sides'
    assert config.load(path).warnings[1] == f"{path}: param.hash: {line}"
    assert (
        config.from_flags("client", {"name": "c", "param": CLIENT}).warnings[1] == f"the command line: --hash: {line}"
    )


@pytest.mark.parametrize(
    ("param", "line"),
    [
        ({"unPath": "/" + "x" * 107}, f"--unPath: /{'x' * 107}: too long for a socket: at most 107 bytes"),
        ({"ludp": "224.0.0.1:9"}, "--ludp: 224.0.0.1:9 is not the address of a host"),
        ({"ludp": "224.0.0.1:9", "unPath": "/x"}, "--ludp, --unPath: 224.0.0.1:9 is not the address of a host"),
    ],
)
def test_an_error_names_the_flag(param: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_flags("client", {"name": "c", "param": {"taddr": "203.0.113.5", **param}})
    assert str(caught.value) == f"the command line: {line}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("dev", "lcapIp", "ports", "ludp", "taddr", "duration", "hash", "type", "keepalive", "cap_timeout", "unPath")


@given(
    st.dictionaries(st.sampled_from(["daemon", "verbose", "log", "server", "name", "x"]), JSON),
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["127.0.0.1:9", "203.0.113.5", "tcp"])),
)
def test_any_json_is_converted_or_refused_in_one_line(top: dict[str, Any], param: dict[str, Any]) -> None:
    fields = {f"param.{field}" for field in FIELDS} | set(top)
    try:
        converted = convert({**top, "param": param})
    except UnusableError as error:
        lines = [f"{error.field}: {error}"]
    else:
        lines = [*converted.understood, *converted.remarks]
        assert converted.keys["role"] in {"server", "client"}
    assert all("\n" not in line for line in lines)
    assert {line.partition(":")[0] for line in lines} <= fields | {"log"}
