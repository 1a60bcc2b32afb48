"""Which capabilities an instance keeps, by its settings; and what is said where none can be given up."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import pytest

from rsock_nf import config
from rsock_nf.config.values import format_secret
from rsock_nf.link.linux.system import Linux
from rsock_nf.ops import privileges
from rsock_nf.settings import Settings

ALWAYS = {"CAP_NET_ADMIN", "CAP_NET_RAW"}
TO_SEE_VPNS = {"CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"}
FOR_UNIX = {"CAP_CHOWN", "CAP_DAC_OVERRIDE"}
LOW = {"CAP_NET_BIND_SERVICE"}


def settings(tmp_path: Path, **keys: object) -> Settings:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({"secret": format_secret(bytes(range(32))), "type": "udp", "device": "lo", **keys}))
    path.chmod(0o600)
    return config.load(path).settings


SERVER = {"role": "server", "target": "127.0.0.1:9"}
CLIENT = {"role": "client", "server": "192.0.2.1", "listen": "127.0.0.1:5353"}


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        (SERVER, ALWAYS),
        ({**SERVER, "ports": "1023-1024"}, ALWAYS | LOW),
        (CLIENT, ALWAYS),
        ({**CLIENT, "ports": "443"}, ALWAYS),
        ({**CLIENT, "listen": "127.0.0.1:53"}, ALWAYS | LOW),
        ({**CLIENT, "listen": "unix:/run/myapp/socket"}, ALWAYS | FOR_UNIX),
        ({**CLIENT, "client_ports": "500-2000"}, ALWAYS | LOW),
    ],
)
def test_what_is_kept(tmp_path: Path, keys: dict[str, object], kept: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def keep(names: list[str]) -> str:
        asked.append(set(names))
        return "these"

    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(Linux, "keep_privileges", staticmethod(keep))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: limits.append(given))
    found = settings(tmp_path, **keys)
    assert privileges.confine(found) == "privileges: these; no core dumps, none gained by executing"
    assert limits == [(resource.RLIMIT_CORE, (0, 0))]
    assert asked == [kept]
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "device"}))
    privileges.confine(config.load(path).settings)
    assert asked[1] == kept | TO_SEE_VPNS


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({**SERVER, "type": "tcp"}, ALWAYS),
        ({**SERVER, "type": "tcp", "ports": "443"}, ALWAYS | LOW),
        (SERVER, set()),
        ({**SERVER, "ports": "443"}, LOW),
        ({**SERVER, "fwmark": 7}, {"CAP_NET_ADMIN"}),
        ({**CLIENT, "listen": "unix:/run/myapp/socket"}, set()),
    ],
)
def test_another_user_keeps_nothing_that_is_as_good_as_root(
    tmp_path: Path, keys: dict[str, object], kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, set[str]]] = []

    def keep(names: list[str]) -> str:
        done.append(("", set(names)))
        return "these"

    monkeypatch.setattr(Linux, "become", staticmethod(lambda who, names: done.append((who.pw_name, set(names)))))
    monkeypatch.setattr(Linux, "keep_privileges", staticmethod(keep))
    monkeypatch.setattr(Linux, "effective_capabilities", staticmethod(lambda: frozenset({"CAP_SETUID", "CAP_SETGID"})))
    monkeypatch.setattr(privileges, "_load_firewall", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    said = privileges.confine(settings(tmp_path, user="nobody", **keys))
    assert said == "privileges: user nobody, these; no core dumps, none gained by executing"
    assert done == [("nobody", kept), ("", kept)]


@pytest.mark.parametrize(
    ("who", "may", "said"),
    [
        (1000, set(), "user: to become nobody takes root: grant that, or leave the key out"),
        (0, {"CAP_SETGID"}, "user: to become nobody takes CAP_SETUID (container?): grant that, or leave the key out"),
        (65534, set(), None),
    ],
)
def test_who_cannot_become_another_user_is_told(
    tmp_path: Path, who: int, may: set[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linux, "effective_capabilities", staticmethod(lambda: frozenset(may)))
    found = settings(tmp_path, user="nobody", **SERVER)
    monkeypatch.setattr(os, "geteuid", lambda: who)
    assert privileges.refusal_of_user(found) == said


def test_where_nothing_can_be_given_up_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a filter of system calls forbids it: the tunnel can still be of use."""

    def refuse(_: list[str]) -> str:
        raise OSError(errno.EPERM, f"prctl: {os.strerror(errno.EPERM)}")

    monkeypatch.setattr(Linux, "keep_privileges", staticmethod(refuse))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    said = "privileges: all stay, for they cannot be given up: prctl: Operation not permitted"
    assert privileges.confine(settings(tmp_path, **SERVER)) == said
