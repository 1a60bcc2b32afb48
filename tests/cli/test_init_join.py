"""``init`` and ``join``: the two files, the line between them, and what people are told."""

from __future__ import annotations

import io
import re
import socket
import stat
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import cli, config
from rsock_nf.config import source
from rsock_nf.config.invitation import parse
from rsock_nf.config.places import CONFIG_DIR_VARIABLE
from rsock_nf.core.parameters import Cipher, ClientParameters, Common, Kinds, ServerParameters, Spread
from rsock_nf.core.types import PortRange, TransportAddress
from rsock_nf.ops import new_tunnel, outcome
from rsock_nf.ops.applications import APPLICATIONS
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.wire.parameters import NativeParameters

PUBLIC = ["--public", "203.0.113.5"]
WIREGUARD = ["init", "wireguard", *PUBLIC]


class Side:
    """One host: its directory of configuration files, and what a command says there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        self._monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(self.directory))
        assert cli.main(list(words)) == status, self._capsys.readouterr()
        return self._capsys.readouterr()

    def fails(self, *words: str) -> str:
        self._monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(self.directory))
        assert cli.main(list(words)) in (1, 2)
        out, err = self._capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        return line.removeprefix("rsock-nf: ")

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture(autouse=True)
def path_of_1500_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine of the tests has."""
    monkeypatch.setattr(outcome, "route_mtu", lambda *_: 1500)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Side:
    return Side(tmp_path / "server", monkeypatch, capsys)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Side:
    return Side(tmp_path / "client", monkeypatch, capsys)


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda one: one.name)
def test_the_two_files_belong_together(server: Side, client: Side, application: Any) -> None:
    target = ["--target", "192.0.2.7:53"] if application.port is None else []
    line, told = server.run("init", application.name, *PUBLIC, *target)
    made, advice = client.run("join", line)
    assert advice == ""
    assert f"rsock-nf up {application.tunnel}" in told
    assert f"rsock-nf up {application.tunnel}" in made
    ends = [config.load(side.directory / f"{application.tunnel}.json") for side in (server, client)]
    assert [end.warnings for end in ends] == [(), ()], "what init writes is nothing to warn of"
    one, other = (end.settings for end in ends)
    assert isinstance(one.tunnel, ServerParameters)
    assert isinstance(other.tunnel, ClientParameters)
    assert one.wire == other.wire
    assert one.tunnel.ports == other.tunnel.ports
    assert one.tunnel.cipher is other.tunnel.cipher is application.cipher
    assert one.tunnel.spread is other.tunnel.spread is application.spread
    assert [str(address) for address in other.tunnel.server] == ["203.0.113.5"]
    wanted = f"127.0.0.1:{application.port}" if application.port else "192.0.2.7:53"
    assert [str(one) for one in one.tunnel.targets] == [wanted]


@pytest.mark.parametrize("kinds", Kinds)
@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize(("public", "version"), [("203.0.113.5", 4), ("2001:db8::5", 6), ("vpn.example.org", 6)])
def test_the_numbers_are_those_of_the_tunnel(
    server: Side, client: Side, kinds: Kinds, cipher: Cipher, public: str, version: int
) -> None:
    """A name may have addresses of both versions: then those of the smaller one."""
    options = ["--public", public, "--type", kinds.value, "--cipher", cipher.value]
    line, told = server.run("init", "wireguard", *options)
    made, _ = client.run("join", line)
    largest = largest_datagram(1500, version, Common(kinds=kinds, cipher=cipher), NativeParameters(bytes(32)))
    for text in (told, made):
        assert f"MTU = {largest - 32}\n" in text
        assert f"up to {largest} bytes are not cut" in text
        assert ("only IPv4 is used, each may be 20 larger" in text) is (public == "vpn.example.org")
    opened = {"tcp": "open TCP 10001-10010.", "udp": "open UDP 10001-10010.", "all": "open TCP and UDP 10001-10010."}
    assert opened[kinds.value] in told


@pytest.mark.parametrize(
    ("application", "lines"),
    [
        ("wireguard", ["Endpoint = 127.0.0.1:30000", "FwMark is not needed, also with AllowedIPs = 0.0.0.0/0, ::/0"]),
        ("openvpn", ["remote 127.0.0.1 30000 udp", "mssfix 1452", "in place of mssfix: tun-mtu 1424"]),
        ("kcptun", ["kcptun-client -r 127.0.0.1:30000 -l :12948 --mtu 1452"]),
        ("game", ["Connect the game to 127.0.0.1:27015.", "Datagrams of up to 1436 bytes"]),
    ],
)
def test_the_client_is_told_what_to_set(server: Side, client: Side, application: str, lines: list[str]) -> None:
    line, _ = server.run("init", application, *PUBLIC)
    made, _ = client.run("join", line)
    for wanted in lines:
        assert wanted in made


def test_files_are_for_their_owner_alone_and_say_what_they_are(server: Side) -> None:
    server.run(*WIREGUARD)
    path = server.directory / "wg.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    text = path.read_text()
    assert text.startswith("// rsock-nf, server of the tunnel wg, for WireGuard.\n// Every key: docs/configuration.md")
    assert source.read_object(path)["type"] == "tcp"


def test_each_secret_is_another_one(server: Side) -> None:
    lines = [server.run(*WIREGUARD, "--name", name)[0] for name in ("a", "b")]
    assert len({parse(line).secret for line in lines}) == 2


def test_a_file_is_never_overwritten_unless_that_is_wanted(server: Side, client: Side) -> None:
    line, _ = server.run(*WIREGUARD)
    before = (server.directory / "wg.json").read_text()
    refusal = f"{server.directory}/wg.json is there already: give another --name, or --force to write it anew"
    assert server.fails(*WIREGUARD) == refusal
    assert (server.directory / "wg.json").read_text() == before
    client.run("join", line)
    assert client.fails("join", line).startswith(f"{client.directory}/wg.json is there already")
    line, _ = server.run(*WIREGUARD, "--force")
    assert (server.directory / "wg.json").read_text() != before
    assert parse(line).ports == (PortRange(10001, 10010),), "its own old file is not in the way"
    assert server.files() == ["wg.json"]


def test_one_that_appears_meanwhile_stays(server: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_tunnel, "path_for", lambda name, **_: server.directory / f"{name}.json")
    server.directory.mkdir(mode=0o700)
    (server.directory / "wg.json").write_text("mine")
    assert "is there already" in server.fails(*WIREGUARD)
    assert (server.directory / "wg.json").read_text() == "mine"
    assert server.files() == ["wg.json"]


def test_another_form_of_the_same_name_is_in_the_way(server: Side) -> None:
    server.directory.mkdir(mode=0o700)
    (server.directory / "wg.yaml").write_text("")
    expected = f"{server.directory}/wg.yaml is there already: give another --name, or remove it"
    assert server.fails(*WIREGUARD) == server.fails(*WIREGUARD, "--force") == expected


def test_a_directory_that_others_can_write_gets_no_secret(server: Side) -> None:
    server.directory.mkdir()
    server.directory.chmod(0o777)
    said = server.fails(*WIREGUARD)
    assert said.startswith(f"{server.directory}: others can write it (owner user ")
    assert said.endswith(f"chmod go-w {server.directory}, or name a directory of your own in {CONFIG_DIR_VARIABLE}")
    assert server.files() == []


def test_the_next_tunnel_gets_ports_of_its_own(server: Side, client: Side) -> None:
    lines = [server.run("init", name, *PUBLIC)[0] for name in ("wireguard", "openvpn", "kcptun")]
    assert [parse(line).ports for line in lines] == [
        (PortRange(10001, 10010),),
        (PortRange(10011, 10020),),
        (PortRange(10021, 10030),),
    ]
    for line in lines:
        client.run("join", line)
    listens = [source.read_object(client.directory / name)["listen"] for name in client.files()]
    assert len(set(listens)) == 3


def test_a_port_that_a_program_has_is_passed_over(server: Side, client: Side) -> None:
    line, _ = server.run(*WIREGUARD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        assert new_tunnel.free_listen(number, "wg") != f"127.0.0.1:{number}"
    client.run("join", line, "--listen", "[::1]:53", "--name", "six")
    assert config.load(client.directory / "six.json").settings.listen == (TransportAddress(ip_address("::1"), 53),)


def test_what_is_said_of_the_tunnel_is_in_the_line(server: Side, client: Side) -> None:
    line, _ = server.run(
        "init", "game", *PUBLIC, "--public", "2001:db8::5", "--name", "shooter", "--target", "192.0.2.9:27016",
        "--ports", "443,8000-8003", "--type", "all", "--cipher", "chacha20-poly1305",
    )  # fmt: skip
    found = parse(line)
    assert (found.servers, found.name) == (("203.0.113.5", "2001:db8::5"), "shooter")
    assert (found.kinds, found.cipher, found.spread) == (Kinds.ALL, Cipher.CHACHA20_POLY1305, Spread.CONVERSATION)
    assert found.ports == (PortRange(443, 443), PortRange(8000, 8003))
    client.run("join", line, "--name", "other")
    assert client.files() == ["other.json"]
    assert source.read_object(client.directory / "other.json")["server"] == ["203.0.113.5", "2001:db8::5"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["custom", *PUBLIC], '--target: missing: where the application\'s server listens, as "127.0.0.1:9999"'),
        (["custom", *PUBLIC, "--target", ":53"], '--target: ":53" is not an address with a port: for this host write "127.0.0.1:53"'),
        (["wireguard", "--public", "203.0.113.5:443"], '--public: "203.0.113.5:443" is neither an IP address nor a host name: write "203.0.113.5", and the port as "ports": "443"'),
        (["wireguard", *PUBLIC, "--ports", "0"], "--ports: port 0 is not within 1-65535"),
        (["wireguard", *PUBLIC, "--name", "a/b"], "--name: \"a/b\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
        (["wireguard", *PUBLIC, "--type", "udp", "--target", "127.0.0.1:10001"], "--target: 127.0.0.1:10001 is one of this server's own ports: datagrams would go round in circles"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_by_its_option_and_nothing_is_made(
    server: Side, words: list[str], expected: str
) -> None:
    assert server.fails("init", *words) == expected
    assert not server.directory.exists()


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.0.0.1", "192.168.1.1"], "this host has no public address"),
        (["8.8.8.8", "9.9.9.9"], "this host has 8.8.8.8, 9.9.9.9"),
    ],
)
def test_the_public_address_has_to_be_said_where_it_is_not_plain(
    server: Side, monkeypatch: pytest.MonkeyPatch, addresses: list[str], expected: str
) -> None:
    monkeypatch.setattr("rsock_nf.link.host_addresses", lambda: tuple(map(ip_address, addresses)))
    assert server.fails("init", "wireguard") == (
        f"--public: missing: the address by which clients reach rsock-nf here; {expected}"
    )
    monkeypatch.setattr(
        "rsock_nf.link.host_addresses", lambda: tuple(map(ip_address, ["10.0.0.1", "8.8.8.8", "2600::1"]))
    )
    assert parse(server.run("init", "wireguard")[0]).servers == ("8.8.8.8",)


def test_the_line_alone_goes_to_a_pipe(server: Side) -> None:
    out, err = server.run(*WIREGUARD)
    assert out.count("\n") == 1
    assert parse(out).name == "wg"
    assert "who has the line can use this server" in err
    assert out.strip() not in err


def test_a_terminal_gets_a_qr_code_too(server: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out, err = server.run(*WIREGUARD)
    assert err == ""
    picture = [line for line in out.splitlines() if "█" in line]
    assert len(picture) > 20
    assert max(map(len, picture)) < 80
    assert out.index(picture[-1]) < out.index("rsock-nf://") < out.index("1. In the firewall")


def test_the_line_may_come_on_standard_input(server: Side, client: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = server.run(*WIREGUARD)
    for at, words in enumerate((["join"], ["join", "-"])):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        client.run(*words, "--name", f"wg{at}")
    assert client.files() == ["wg0.json", "wg1.json"]


def test_a_person_is_asked_for_the_line_and_it_is_not_shown(
    server: Side, client: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = server.run(*WIREGUARD)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    asked: list[str] = []

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return line

    monkeypatch.setattr("getpass.getpass", getpass)
    client.run("join")
    assert asked == ["The line that `rsock-nf init` printed at the server (not shown): "]
    assert client.files() == ["wg.json"]


def unchecked(line: str) -> str:
    """As somebody has to write it who changes it by hand."""
    return re.sub("check=[0-9a-f]{8}&", "", line)


def test_a_wrong_line_is_told_by_its_field_without_the_secret(server: Side, client: Side) -> None:
    line, _ = server.run(*WIREGUARD)
    damaged = "the line: it is damaged (a character is wrong or missing): copy all of it again"
    assert client.fails("join", line[:-20]) == damaged
    assert client.fails("join", line.replace("none", "rot13")) == damaged
    by_hand = unchecked(line).replace("none", "rot13")
    said = client.fails("join", by_hand)
    assert said == 'the line: cipher: "rot13" is none of "none", "aes-256-gcm", "chacha20-poly1305"'
    assert not client.directory.exists()


def test_an_application_that_is_not_known_here_is_like_any_other(server: Side, client: Side) -> None:
    line, _ = server.run(*WIREGUARD)
    made, _ = client.run("join", unchecked(line).replace("app=wireguard", "app=later"))
    assert "For the application, on this side:" in made
    keys = source.read_object(client.directory / "wg.json")
    assert keys["cipher"] == "none"
