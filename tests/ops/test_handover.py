"""What a parent has read of a configuration file, and what the process that it starts makes of that."""

from __future__ import annotations

import base64
import enum
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from rsock_nf import config
from rsock_nf.config.configuration import Configuration
from rsock_nf.config.values import format_secret
from rsock_nf.errors import InstanceError, RsockError
from rsock_nf.ops import handover

ROOT = Path(__file__).parents[2]
SECRET = format_secret(bytes(range(32)))
SERVER = {
    "role": "server", "targets": ["127.0.0.1:9999", "[fe80::2%eth1]:53"], "secret": SECRET, "ports": [443, "8000-8009"],
    "type": "all", "cipher": "aes-256-gcm", "addresses": ["192.0.2.1", "2001:db8::1"], "on_probe": "closed",
    "allow": ["192.0.2.0/24", "2001:db8::/32"],
    "rsock": {"ports": 20000, "hash": "k"}, "log": {"level": "debug", "file": "edge.log"},
}  # fmt: skip
CLIENT = {
    "role": "client", "server": ["fe80::1%eth0", "192.0.2.5"], "secret": SECRET, "spread": "packet", "client_ports": "2-20",
    "tunnels": [{"listen": "127.0.0.1:1"}, {"listen": "unix:app.sock", "target": 3}],
}  # fmt: skip
KNOWN = {
    "role": "server", "target": "127.0.0.1:9", "secret": [SECRET, format_secret(bytes(range(1, 33)))],
    "clients": [{"name": "alice", "secret": format_secret(bytes(range(2, 34))), "rate": "20M", "max_conversations": 7}],
}  # fmt: skip
ORIGINAL = {"daemon": 0, "param": {"taddr": "127.0.0.1:9999", "type": "all"}}


def read(tmp_path: Path, keys: object) -> Configuration:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(keys))
    return config.load(path)


@pytest.mark.parametrize("keys", [SERVER, CLIENT, KNOWN, ORIGINAL])
def test_the_same_values_arrive(tmp_path: Path, keys: object) -> None:
    configuration = read(tmp_path, keys)
    assert handover.receive(io.BytesIO(handover.pack(configuration))) == configuration


@pytest.mark.parametrize("keys", [SERVER, CLIENT])
def test_enumerations_arrive_from_the_python_of_debian_12(
    tmp_path: Path, keys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.2 reduces a member to a call of ``getattr``, which is no part of settings."""
    configuration = read(tmp_path, keys)
    monkeypatch.setattr(enum.Enum, "__reduce_ex__", lambda member, _: (getattr, (type(member), member.name)))
    assert handover.receive(io.BytesIO(handover.pack(configuration))) == configuration


def test_paths_arrive_from_the_python_of_debian_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 has them in a module of its own."""
    configuration = read(tmp_path, SERVER)
    monkeypatch.setitem(sys.modules, "pathlib._local", pathlib)
    monkeypatch.setattr(pathlib.PosixPath, "__module__", "pathlib._local")
    assert handover.receive(io.BytesIO(handover.pack(configuration))) == configuration


def test_the_process_in_the_background_takes_them_and_validates_nothing(tmp_path: Path) -> None:
    """The real command, up to the tunnel: what it runs with is what was read, and nothing was read again for it."""
    configuration = read(tmp_path, SERVER)
    code = (
        "import sys\nfrom rsock_nf import cli, daemon\nfrom rsock_nf.ops import handover\n"
        "import rsock_nf.runtime\n"
        "def run(configuration, **_):\n"
        "    sys.stdout.buffer.write(handover.pack(configuration))\n"
        "    unwanted = {'pydantic', 'rsock_nf.config.validate', 'rsock_nf.config.source'} & set(sys.modules)\n"
        "    return 7 if unwanted else 0\n"
        "daemon.run = run\nsys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["up", "--foreground", "--config", "/does/not/matter", "--ready-fd", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        input=handover.pack(configuration), capture_output=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert handover.receive(io.BytesIO(done.stdout)) == configuration


class Evil:
    """What would run a command where pickle is believed."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/rsock-nf-was-here",)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"{}",
        b"\x80\x04",
        pickle.dumps({"secret": 1}),
        pickle.dumps(Evil()),
        pickle.dumps(subprocess.Popen),
        pickle.dumps(config.load),
        pickle.dumps(Path("/")),
    ],
)
def test_anything_else_is_refused(given: bytes) -> None:
    with pytest.raises(InstanceError, match="these are no settings"):
        handover.receive(io.BytesIO(given))


def test_the_file_is_read_again_by_another_process(tmp_path: Path) -> None:
    configuration = read(tmp_path, SERVER)
    path = configuration.settings.path
    assert handover.read_again(path) == configuration
    path.write_text(json.dumps({**SERVER, "log": {"level": "all"}}))
    with pytest.raises(RsockError) as caught:
        handover.read_again(path)
    assert str(caught.value) == f'{path}: log.level: must be "debug", "info", "warning" or "error", not "all"'


def test_settings_travel_as_a_line_of_text(tmp_path: Path) -> None:
    configuration = read(tmp_path, CLIENT)
    assert handover.from_text(handover.as_text(configuration)) == configuration


@pytest.mark.parametrize("text", [None, 7, "", "é", "AAAA", base64.b64encode(pickle.dumps(Evil())).decode()])
def test_other_text_is_refused(text: object) -> None:
    with pytest.raises(InstanceError, match="these are no settings"):
        handover.from_text(text)
