"""Targets for what comes from this host: configuration files, the control socket, the record of an instance.

What may come out is one line for a person, or what the text means.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rsock_nf import config
from rsock_nf.config.keys import OBJECTS, ROLES
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ConfigError, ControlError, RsockError
from rsock_nf.ops.control_socket.ask import read_answer
from rsock_nf.ops.control_socket.serve import _reply
from rsock_nf.ops.instances import instance
from rsock_nf.ops.metrics import exposition
from rsock_nf.ops.status import render
from rsock_nf.ops.status.brief import COLUMNS, brief
from rsock_nf.ops.status.layout import plain
from rsock_nf.ops.status.live import fit
from rsock_nf.printable import printable
from tests.fuzz.target import Target
from tests.ops.metrics_snapshots import session as metrics_session
from tests.ops.metrics_snapshots import snapshot

_SECRET = format_secret(bytes(range(32)))
_SERVER: dict[str, Any] = {"role": "server", "target": "127.0.0.1:9999", "secret": _SECRET}
_CLIENT: dict[str, Any] = {"role": "client", "server": "203.0.113.5", "listen": "127.0.0.1:30000", "secret": _SECRET}
_ORIGINAL: dict[str, Any] = {"param": {"localUdp": ":9", "targetAddr": "127.0.0.1:9", "ports": "10001-10010"}}
_BASES = (_SERVER, _CLIENT, _ORIGINAL, {**_SERVER, "rsock": {"ports": "80", "type": "udp"}}, {**_CLIENT, "log": {}})


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as path:
        yield Path(path)


def _one_line(error: RsockError) -> None:
    line = str(error)
    assert line
    assert "\n" not in line, line
    assert printable(line) == line, line


# -- configuration files


def run_config(data: bytes) -> object:
    """The bytes of a file.  No name is looked up."""
    with _directory() as directory:
        path = directory / "edge.json"
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            return config.load(path, patient=True).settings
        except ConfigError as error:
            _one_line(error)
    return None


def config_seeds() -> list[bytes]:
    full = {**_SERVER, "name": "edge", "ports": "1,5-9", "cipher": "aes-256-gcm", "allow": ["10.0.0.0/8"], "log": {}}
    many = {**_CLIENT, "tunnels": [{"listen": "127.0.0.1:1", "target": 0}], "client_ports": "5000-6000", "flows": 3}
    del many["listen"]
    return [json.dumps(one).encode() for one in (*_BASES, full, many)]


_KEYS = [
    *sorted({key for model in (*ROLES.values(), *OBJECTS.values()) for key in model.model_fields}),
    "",
    "param",
    "x",
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 65535, 65536, 1 << 40, 10**19, 0.5, 1e308, -0.0),
    *("", "x", "0", "-", "1-", "1-2", "2-1", "1,1", "0-70000", "::", "::1", "[::1]:9", "0.0.0.0", "127.0.0.1:9"),
    *("255.255.255.255", "224.0.0.1:1", "fe80::1%lo", "fe80::1%\x1b", "10.0.0.0/8", "10.0.0.1/8", "::/0", "unix:", "/"),
    *("unix:/x", "unix:@x", "host.example:9", "host.example", "a" * 300, "é", "\x1b[2J", "\u202e", "\n", "\0", "off"),
    *("tcp", "udp", "all", "native", "rsock", "none", "aes-256-gcm", "server", "client", "nftables", "debug", _SECRET),
    *([], [[]], {}, {"x": 1}, ["127.0.0.1:9"], ["127.0.0.1:9"] * 3, [0], [None], ["10.0.0.0/8", "::/0"]),
    *([{"listen": "127.0.0.1:1", "target": 0}], [{"listen": "127.0.0.1:1"}] * 2, {"ports": "1"}, {"level": "info"}),
]


def run_config_keys(data: bytes) -> object:
    """The first byte chooses a file; each pair of bytes then sets a key, or with a high bit a key of an object."""
    base = deepcopy(_BASES[data[0] % len(_BASES)] if data else _SERVER)
    for key, value in zip(data[1::2], data[2::2], strict=False):
        inside = base[sorted(base)[value % len(base)]] if key & 0x80 and base else base
        owner = inside if isinstance(inside, dict) else base
        owner[_KEYS[key % 0x80 % len(_KEYS)]] = deepcopy(_VALUES[value % len(_VALUES)])
    return run_config(json.dumps(base).encode())


# -- the control socket


def run_question(data: bytes) -> object:
    """The answer is a line of JSON, whatever is asked."""
    waits = _reply(data, {"status": lambda question: {"asked": question}}, logging.getLogger("fuzz"))
    try:
        waits.send(None)  # no event loop is needed: this handler waits for nothing
    except StopIteration as stop:
        answer: bytes = stop.value
    else:
        raise AssertionError("it waits")
    assert b"\n" not in answer
    reply = json.loads(answer)
    assert reply["ok"] in (True, False)
    return reply


def run_answer(data: bytes) -> object:
    """What an instance of any version says, and what ``status`` prints of it."""
    try:
        answer = read_answer("edge", data)
    except ControlError as error:
        return printable(str(error))
    found = {**answer, "name": "edge", "state": str(answer.get("state", "unknown"))}  # as ``overview``
    text = render(answer)
    for said in (text, render(found, each_flow=True, width=40), plain(fit([found], {"edge": found}, 80, 24))):
        assert printable(said, keep="\n") == said
    assert all(line.count("\t") == len(COLUMNS) - 1 for line in brief(found))
    list(text_string_to_metric_families(exposition.text([found])))
    return text


def answer_seeds() -> list[bytes]:
    session: dict[str, Any] = {"id": "ab", "peer": "10.0.0.3", "wire": "native", "cipher": "none", "conversations": 1}
    session |= {"oversized": 2, "fragments": True, "largest_oversized": 9, "notes": ["n"]}
    session |= {"tx_datagrams": 1, "tx_bytes": 1, "rx_datagrams": 1, "rx_bytes": 1}
    flow = {
        "id": 1,
        "state": "established",
        "local": "10.0.0.2:1",
        "remote": "10.0.0.3:2",
        "rtt_ms": 1.5,
        "loss_out": 0.1,
    }
    session["flows"] = [{**flow, "tx_frames": 1, "rx_frames": 2}]
    status: dict[str, Any] = {
        "name": "edge",
        "role": "server",
        "uptime": 9.5,
        "state": "connected",
        "reason": "r",
        "ports": "1",
    }
    status |= {"mtu": 1400, "sessions": [session], "notes": ["n"], "refused_by": {"10.0.0.1:1": 3}}
    status |= {
        "link": {"device": "eth0", "mtu": 1500, "counters": {}},
        "firewall": {"backend": "nftables", "dropped": 1},
    }
    silent = {"name": "edge", "state": "down", "reason": "r"}
    full = {**status, **snapshot({**session, **metrics_session("anna")}), "link": status["link"]}
    replies = [
        {"ok": True, "answer": full},
        {"ok": True, "answer": status},
        {"ok": True, "answer": silent},
        {"ok": False, "error": "no"},
    ]
    return [json.dumps(reply).encode() for reply in replies]


# -- the run directory


def run_record(data: bytes) -> object:
    """``state.json`` as whatever somebody wrote there."""
    with _directory() as directory:
        (directory / "state.json").write_bytes(data)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            record = instance._read(descriptor)
        finally:
            os.close(descriptor)
    if record is not None:
        assert type(record.pid) is int
        assert 0 < record.pid < 1 << 31
        assert isinstance(record.config, str)
    return record


def record_seeds() -> list[bytes]:
    whole = {"pid": 7, "started": "1", "config": "/etc/x.json", "digest": "d", "netns": 3, "ended": None}
    return [json.dumps(one).encode() for one in (whole, {**whole, "ended": "why", "more": [1]})]


def _pairs() -> list[bytes]:
    return [bytes((base, key, value)) for base in range(len(_BASES)) for key in (3, 0x83) for value in (1, 40)]


def _questions() -> list[bytes]:
    return [b'{"verb": "status"}\n', b'{"verb": "fly", "x": [1, {}]}']


TARGETS: dict[str, Target] = {
    "config": Target(run_config, config_seeds, 8),
    "config_keys": Target(run_config_keys, _pairs, 8),
    "control_question": Target(run_question, _questions),
    "control_answer": Target(run_answer, answer_seeds),
    "record": Target(run_record, record_seeds, 2),
}
