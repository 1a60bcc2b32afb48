"""``reload`` and SIGHUP: what a running instance follows of its file, what it names and leaves, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_nf import cli, config, daemon
from rsock_nf.config.configuration import Configuration
from rsock_nf.config.keys import OBJECTS, ROLES
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.ops import handover, launch
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.reload import plan
from rsock_nf.settings import Settings
from tests.ops.test_lifecycle import SECRET, Host, host, pid_of

__all__ = ["host"]

SERVER: dict[str, Any] = {"role": "server", "target": "127.0.0.1:9", "secret": SECRET}
CLIENT: dict[str, Any] = {"role": "client", "server": "192.0.2.1", "listen": "127.0.0.1:9", "secret": SECRET}
BOTH_WIRES: dict[str, Any] = {**SERVER, "rsock": {"ports": 20000, "hash": "k"}}
OTHER_SECRET, ALICES, BOBS = (format_secret(bytes(range(first, first + 32))) for first in (1, 2, 3))
ALICE, BOB = {"name": "alice", "secret": ALICES}, {"name": "bob", "secret": BOBS}
AT_A_CLIENT = "secret (new flows show it to the server; the session goes on)"
RSOCK_CLIENT: dict[str, Any] = {"role": "client", "server": "192.0.2.1", "listen": "127.0.0.1:9", "wire": "rsock"}
TUNNELS: dict[str, Any] = {name: value for name, value in CLIENT.items() if name != "listen"}

Change = tuple[dict[str, Any], dict[str, Any], bool, str]
"""The file before, the file after, whether a running instance follows that, what ``reload`` calls it."""


def _of(base: dict[str, Any], *, followed: bool = False, told: str = "", **key: tuple[Any, Any]) -> Change:
    ((name, (before, after)),) = key.items()
    rest = {other: value for other, value in base.items() if other != name}
    old, new = (rest if value is None else {**rest, name: value} for value in (before, after))
    return old, new, followed, told or name


def _inside(base: dict[str, Any], name: str, before: Any, after: Any, *, followed: bool, told: str) -> Change:
    return {**base, name: before}, {**base, name: after}, followed, told


def _of_both(base: dict[str, Any]) -> dict[str, Change]:
    secret = AT_A_CLIENT if base is CLIENT else "secret"
    bare = {name: value for name, value in base.items() if name != "secret"}
    return {
        "role": (SERVER, CLIENT, False, "role") if base is SERVER else (CLIENT, SERVER, False, "role"),
        "name": _of(base, name=("edge", "other")),
        "secret": _of(base, secret=(SECRET, OTHER_SECRET), followed=True, told=secret),
        "secret_file": _of(bare, secret_file=("one.secret", "other.secret"), followed=True, told=secret),
        "ports": _of(base, ports=(1000, 1001)),
        "type": _of(base, type=("tcp", "all")),
        "wire": (base, {**bare, "wire": "rsock"}, False, "wire"),
        "hash": _of({**bare, "wire": "rsock"}, hash=("k", "l")),
        "cipher": _of(base, cipher=("none", "aes-256-gcm")),
        "spread": _of(base, spread=("burst", "packet")),
        "duration": _of(base, duration=(30, 40), followed=True),
        "keepalive": _of(base, keepalive=(3, 4), followed=True),
        "device": _of(base, device=(None, "eth7")),
        "fwmark": _of(base, fwmark=(None, 7)),
        "addresses": _of(base, addresses=(None, "192.0.2.9")),
        "backend": _of(base, backend=("auto", "nftables")),
        "pump": _of(base, pump=("auto", "python")),
        "workers": _of(base, workers=(1, 2)),
        "user": _of(base, user=(None, "nobody")),
        "key_log": _of(base, key_log=(False, True), followed=True),
        "metrics": _of(base, metrics=(None, "127.0.0.1:9273")),
    }


def _of_rsock(before: dict[str, Any], after: dict[str, Any], *, followed: str = "") -> Change:
    old, new = {"ports": 20000, "hash": "k", **before}, {"ports": 20000, "hash": "k", **after}
    return _inside(SERVER, "rsock", old, new, followed=bool(followed), told=followed or "rsock")


def _of_alice(before: dict[str, Any], after: dict[str, Any], told: str) -> Change:
    return _inside(SERVER, "clients", [{**ALICE, **before}], [{**ALICE, **after}], followed=True, told=told)


CHANGES: dict[tuple[str, str], Change] = {
    **{("server", name): change for name, change in _of_both(SERVER).items()},
    **{("client", name): change for name, change in _of_both(CLIENT).items()},
    ("server", "target"): _of(SERVER, target=("127.0.0.1:9", "127.0.0.1:10"), followed=True, told="targets"),
    ("server", "targets"): _of(
        {name: value for name, value in SERVER.items() if name != "target"},
        targets=(["127.0.0.1:9"], ["127.0.0.1:10"]),
        followed=True,
    ),
    ("server", "allow"): _of(SERVER, allow=(None, "192.0.2.0/24"), followed=True),
    ("server", "on_probe"): _of(SERVER, on_probe=("silent", "closed"), followed=True),
    ("server", "speedtest"): _of(SERVER, speedtest=(0, 100)),
    ("server", "max_sessions"): _of(SERVER, max_sessions=(3, 4), followed=True),
    ("server", "max_conversations"): _of(SERVER, max_conversations=(30, 40), followed=True),
    ("client", "server"): _of(CLIENT, server=("192.0.2.1", "192.0.2.2")),
    ("client", "listen"): _of(CLIENT, listen=("127.0.0.1:9", "127.0.0.1:10")),
    ("client", "rsock_version"): _of(RSOCK_CLIENT, rsock_version=(1, 2)),
    ("client", "flows"): _of(CLIENT, flows=(3, 4)),
    ("client", "client_ports"): _of(CLIENT, client_ports=(None, "40000-40099")),
    ("client", "idle_timeout"): _of(CLIENT, idle_timeout=(5, 6), followed=True),
    ("client", "flow_age"): _of(CLIENT, flow_age=(0, "1h"), followed=True),
    ("log", "level"): _inside(CLIENT, "log", {}, {"level": "debug"}, followed=True, told="log"),
    ("log", "file"): _inside(CLIENT, "log", {}, {"file": "edge.log"}, followed=True, told="log"),
    ("rsock", "ports"): _of_rsock({}, {"ports": 20001}),
    ("rsock", "hash"): _of_rsock({}, {"hash": "l"}),
    ("rsock", "type"): _of_rsock({}, {"type": "all"}),
    ("rsock", "spread"): _of_rsock({}, {"spread": "packet"}),
    ("rsock", "target"): _of_rsock({}, {"target": "127.0.0.1:10"}, followed="rsock.target"),
    ("rsock", "duration"): _of_rsock({}, {"duration": 40}, followed="rsock.duration"),
    ("rsock", "keepalive"): _of_rsock({}, {"keepalive": 7}, followed="rsock.keepalive"),
    ("rsock", "max_sessions"): _of_rsock({}, {"max_sessions": 7}, followed="rsock.max_sessions"),
    ("rsock", "max_conversations"): _of_rsock({}, {"max_conversations": 7}, followed="rsock.max_conversations"),
    ("clients", "name"): _of_alice({}, {"name": "carol"}, "clients (+carol, -alice)"),
    ("clients", "secret"): _of_alice({}, {"secret": BOBS}, "clients (alice)"),
    ("clients", "max_conversations"): _of_alice({}, {"max_conversations": 7}, "clients (alice)"),
    ("clients", "rate"): _of_alice({}, {"rate": "1M"}, "clients (alice)"),
    ("tunnels", "listen"): _inside(
        TUNNELS, "tunnels", [{"listen": "127.0.0.1:9"}], [{"listen": "127.0.0.1:10"}], followed=False, told="listen"
    ),
    ("tunnels", "target"): _inside(
        TUNNELS,
        "tunnels",
        [{"listen": "127.0.0.1:9"}],
        [{"listen": "127.0.0.1:9", "target": 1}],
        followed=False,
        told="tunnels",
    ),
}
"""Of each key of the configuration file, by the object that holds it."""


def read(path: Path, keys: dict[str, Any]) -> Settings:
    path.write_text(json.dumps({"name": "edge", **keys}))
    return config.load(path).settings


@pytest.mark.parametrize(
    ("before", "after", "changed", "left"),
    [
        (SERVER, {}, (), ()),
        (SERVER, {"allow": "192.0.2.0/24", "on_probe": "closed"}, ("on_probe", "allow"), ()),
        (SERVER, {"target": ["127.0.0.1:9", "127.0.0.1:10"]}, ("targets",), ()),
        (SERVER, {"max_sessions": 3, "max_conversations": 7}, ("max_sessions", "max_conversations"), ()),
        (SERVER, {"keepalive": 3, "duration": 60, "log": {"level": "debug"}}, ("duration", "keepalive", "log"), ()),
        (SERVER, {"keepalive": 3, "ports": "1000-1009", "type": "all"}, ("keepalive",), ("type", "ports")),
        (SERVER, {"pump": "python", "user": "nobody", "device": "eth7"}, (), ("device", "pump", "user")),
        (SERVER, {"cipher": "aes-256-gcm", "name": "other"}, (), ("name", "cipher")),
        (SERVER, {"wire": "rsock", "secret": None}, (), ("wire",)),
        (SERVER, {"secret": OTHER_SECRET}, ("secret",), ()),
        (SERVER, {"secret": [SECRET, OTHER_SECRET]}, ("secret",), ()),
        (SERVER, {"clients": [{**ALICE, "rate": "1M"}, BOB]}, ("clients (+alice, +bob)",), ()),
        ({**SERVER, "clients": [ALICE, BOB]}, {"clients": [{**BOB, "rate": 9000}]}, ("clients (-alice, bob)",), ()),
        (CLIENT, {"secret": OTHER_SECRET}, (AT_A_CLIENT,), ()),
        (BOTH_WIRES, {"allow": "192.0.2.0/24"}, ("allow",), ()),
        (BOTH_WIRES, {"target": "127.0.0.1:10"}, ("targets",), ()),
        (BOTH_WIRES, {"target": ["127.0.0.1:10", "127.0.0.1:11"]}, (), ("targets",)),
        (BOTH_WIRES, {"rsock": {"ports": 20001}}, (), ("rsock",)),
        (BOTH_WIRES, {"rsock": None}, (), ("rsock",)),
        (CLIENT, {"idle_timeout": 5, "flow_age": "1h"}, ("idle_timeout", "flow_age"), ()),
        (CLIENT, {"flows": 3, "server": "192.0.2.2"}, (), ("server", "flows")),
        (CLIENT, {"listen": None, "tunnels": [{"listen": "127.0.0.1:9", "target": 1}]}, (), ("tunnels",)),
        (CLIENT, {"listen": None, "server": None, **SERVER}, (), ("role",)),
    ],
)  # fmt: skip
def test_what_is_followed_and_what_takes_down_and_up(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], changed: tuple[str, ...], left: tuple[str, ...]
) -> None:
    running = read(tmp_path / "edge.json", before)
    keys = {name: value for name, value in {**before, **after}.items() if value is not None}
    wanted = read(tmp_path / "edge.json", keys)
    made = plan(running, wanted)
    assert (made.changed, made.left) == (changed, left)
    assert plan(made.settings, wanted).changed == (), "all of that is followed"
    if not left:
        assert made.settings == wanted
    if not changed and left:
        assert made.settings == running, "nothing of what is left gets in"


def test_each_key_of_the_file_is_followed_or_named(tmp_path: Path) -> None:
    """A new key needs a row in ``CHANGES``: what another value of it comes to."""
    of_file = {(role, name) for role, keys in ROLES.items() for name in keys.model_fields if name not in OBJECTS}
    of_objects = {(of, name) for of, keys in OBJECTS.items() for name in keys.model_fields}
    assert set(CHANGES) == of_file | of_objects
    for key, (before, after, followed, told) in CHANGES.items():
        (tmp_path / "one.secret").write_text(SECRET)
        (tmp_path / "other.secret").write_text(OTHER_SECRET)
        made = plan(read(tmp_path / "edge.json", before), wanted := read(tmp_path / "edge.json", after))
        assert (made.changed, made.left) == (((told,), ()) if followed else ((), (told,))), key
        assert not followed or made.settings == wanted, key


def test_a_key_log_is_followed_both_ways(host: Host) -> None:
    instance = host.start(host.settings())
    with pytest.raises(ControlError, match=r'set "key_log": true in .*/edge\.json, then reload$'):
        ask(instance, "keys")
    host.settings(key_log=True)
    assert cli.main(["reload", "--name", "edge"]) == 0
    assert ask(instance, "keys") == {"flows": [{"flow": 1}]}
    host.settings()
    assert cli.main(["reload", "--name", "edge"]) == 0
    with pytest.raises(ControlError, match="its keys are not handed out"):
        ask(instance, "keys")


def test_a_target_without_address_is_refused(tmp_path: Path) -> None:
    running = read(tmp_path / "edge.json", SERVER)
    (tmp_path / "edge.json").write_text(json.dumps({**SERVER, "target": "no.such.host.invalid:9"}))
    wanted = config.load(tmp_path / "edge.json", patient=True).settings
    with pytest.raises(InstanceError, match=r"edge.json: target: cannot resolve no.such.host.invalid at present$"):
        plan(running, wanted)


def test_the_command_has_a_running_instance_follow_its_file(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    instance = host.start(host.settings(ports="1000-1009"))
    host.settings(ports="1000-1009", keepalive=7)
    assert cli.main(["reload", "--name", "edge"]) == 0
    said = capsys.readouterr()
    assert said.out == "edge: changed: keepalive\n"
    assert ask(instance, "status")["keepalive"] == 7
    assert launch.running_alike(host.settings(ports="1000-1009", keepalive=7)), "its record says so"
    assert "INFO    reload: log level info; changed: keepalive" in instance.log_path.read_text()
    host.settings(ports="1000-1008", keepalive=8)
    assert cli.main(["reload"]) == 0
    assert capsys.readouterr().out == "edge: changed: keepalive; until down and up these stay as before: ports\n"
    assert ask(instance, "status")["keepalive"] == 8
    with pytest.raises(InstanceError, match="is already running, with what"):
        launch.running_alike(host.settings(ports="1000-1008", keepalive=8))
    assert cli.main(["reload"]) == 0
    assert capsys.readouterr().out == "edge: nothing changed now; until down and up these stay as before: ports\n"


def test_a_broken_file_changes_nothing_and_the_command_fails(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    instance = host.start(host.settings())
    path = host.directory / "edge.json"
    path.write_text(json.dumps({**SERVER, "keepalive": 7, "log": {"level": "loud"}}))
    assert cli.main(["reload", "--name", "edge"]) == 2
    why = 'log.level: must be "debug", "info", "warning" or "error", not "loud"'
    assert capsys.readouterr() == ("", f"rsock-nf: {path}: {why}\n")
    log = host.directory / "none" / "there.log"
    log.parent.touch()  # a file, where a directory is wanted
    path.write_text(json.dumps({**SERVER, "keepalive": 7, "log": {"file": str(log)}}))
    assert cli.main(["reload", "--name", "edge"]) == 1
    assert "log.file" in capsys.readouterr().err
    assert ask(instance, "status")["keepalive"] == 10


def test_what_the_tunnel_refuses_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    instance = host.start(host.settings(), "unwilling")
    host.settings(keepalive=7, log={"file": "other.log"})
    assert cli.main(["reload", "--name", "edge"]) == 1
    assert "edge: the instance has not begun yet" in capsys.readouterr().err
    os.kill(pid_of(instance), signal.SIGHUP)
    while "SIGHUP: nothing changed: the instance has not begun yet" not in instance.log_path.read_text():
        ask(instance, "status")


def test_sighup_follows_the_file_too(host: Host) -> None:
    instance = host.start(host.settings())
    host.settings(keepalive=7, pump="python")
    os.kill(pid_of(instance), signal.SIGHUP)
    while ask(instance, "status")["keepalive"] != 7:
        pass
    line = "SIGHUP: log level info; changed: keepalive; until down and up these stay as before: pump"
    while line not in instance.log_path.read_text():
        ask(instance, "status")


class SlowTunnel:
    """It adopts when ``may`` is set."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.adopted: list[float] = []

    async def adopt(self, settings: Settings) -> None:
        await self.may.wait()
        self.adopted.append(settings.tunnel.keepalive)


class Log:
    logger = logging.getLogger("rsock_nf.test_reload")

    def apply(self, settings: object) -> None:
        pass


async def turns() -> None:
    """Let everybody do what is to be done now."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("first", ["sighup adopts", "reload adopts", "the tunnel is free"])
@pytest.mark.parametrize("newer", ["reload", "another sighup"])
def test_a_file_that_was_read_before_never_replaces_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, newer: str
) -> None:
    running, older, last = (read(tmp_path / "edge.json", {**SERVER, "keepalive": value}) for value in (10, 11, 12))

    async def follow() -> None:
        may_read, on_disk = asyncio.Event(), [older]

        async def reading(*_: object) -> Configuration:
            found = on_disk[0]
            await may_read.wait()
            return Configuration(found, ())

        monkeypatch.setattr(asyncio, "to_thread", reading)
        instance: Any = SimpleNamespace(renew=lambda _: None)
        doors, log, tunnel = cast("Any", None), cast("Any", Log()), cast("Any", SlowTunnel())
        running_one = daemon._Daemon(running, instance, doors, log, daemon.Announcement(None), lambda *_: tunnel)
        running_one._tunnel = tunnel
        if first == "the tunnel is free":
            tunnel.may.set()
        running_one._hang_up()  # it reads the older file
        await turns()
        if first == "sighup adopts":
            may_read.set()
            await turns()
        on_disk[0] = last
        text = handover.as_text(Configuration(last, ()))
        follows: Any = running_one._asked_to_reload({"settings": text}) if newer == "reload" else running_one._reload()
        asked: asyncio.Future[Any] = asyncio.ensure_future(follows)
        await turns()
        may_read.set()
        await turns()
        tunnel.may.set()
        await asyncio.gather(asked, *running_one._reloading)
        assert tunnel.adopted[-1] == 12
        assert running_one._settings.tunnel.keepalive == 12

    asyncio.run(follow())


def test_a_reload_whose_asker_loses_patience_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    running, wanted = (read(tmp_path / "edge.json", {**SERVER, "log": {"level": level}}) for level in ("info", "debug"))

    async def follow() -> None:
        log: Any = Log()
        applied: list[str] = []
        log.apply = lambda settings: applied.append(settings.level)
        nothing, tunnel = cast("Any", None), cast("Any", SlowTunnel())
        running_one = daemon._Daemon(running, nothing, nothing, log, daemon.Announcement(None), lambda *_: tunnel)
        running_one._tunnel = tunnel
        text = handover.as_text(Configuration(wanted, ()))
        asked = asyncio.ensure_future(running_one._asked_to_reload({"settings": text}))
        await turns()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert applied == ["debug", "info"]

    asyncio.run(follow())


@pytest.mark.usefixtures("host")
def test_reload_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reload"]) == 1
    assert cli.main(["reload", "--name", "edge"]) == 1
    assert capsys.readouterr().err == "rsock-nf: no instance is running\nrsock-nf: instance edge is not running\n"


def test_no_secret_is_told_by_what_a_reload_says(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    instance = host.start(host.settings())
    host.settings(secret=OTHER_SECRET, clients=[ALICE, BOB])
    assert cli.main(["reload"]) == 0
    said = capsys.readouterr()
    assert said.out == "edge: changed: secret, clients (+alice, +bob)\n"
    log = instance.log_path.read_text()
    assert "changed: secret, clients (+alice, +bob)" in log
    for secret in (SECRET, OTHER_SECRET, ALICES, BOBS):
        assert secret not in log + said.err


def test_of_a_thousand_clients_some_are_named(tmp_path: Path) -> None:
    running = read(tmp_path / "edge.json", SERVER)
    many = [{"name": f"c{at}", "secret": format_secret(os.urandom(32))} for at in range(1000)]
    made = plan(running, read(tmp_path / "edge.json", {**SERVER, "clients": many}))
    assert made.changed == (f"clients ({', '.join(f'+c{at}' for at in range(20))}, and 980 more)",)


def test_a_client_is_kicked(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.start(host.settings())
    assert cli.main(["kick", "alice", "--name", "edge"]) == 0
    assert cli.main(["kick", "bob"]) == 1
    assert capsys.readouterr() == (
        "edge: ended 2 sessions of alice\n",
        "rsock-nf: no session of bob: `rsock-nf status` lists the sessions\n",
    )
    assert cli.main(["kick", "alice", "--name", "other"]) == 1
    assert capsys.readouterr().err == "rsock-nf: instance other is not running\n"
