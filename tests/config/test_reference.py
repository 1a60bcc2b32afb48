"""The reference of the configuration file: complete, and as the documentation has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config import reference
from rsock_nf.config.keys import ROLES, Keys, KnownClientKeys, LogKeys, RsockKeys, TunnelKeys

ROOT = Path(__file__).parents[2]
OTHER_WIRE = {"hash", "rsock_version"}
"""Keys that only wire rsock has."""


def test_the_documentation_is_what_the_program_says() -> None:
    """Write it anew: python -m rsock_nf.config.reference > docs/configuration.md"""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.markdown()


def test_every_key_is_there_once_and_means_something() -> None:
    found = reference.rows()
    names = [row.key for row in found]
    assert len(set(names)) == len(names)
    inner: dict[str, type[Keys]] = {
        "log": LogKeys,
        "rsock": RsockKeys,
        "clients[]": KnownClientKeys,
        "tunnels[]": TunnelKeys,
    }
    expected = {name for model in ROLES.values() for name in model.model_fields}
    expected |= {f"{where}.{name}" for where, model in inner.items() for name in model.model_fields}
    assert set(names) == expected
    assert all(row.meaning.endswith(".") and row.type for row in found)
    assert {row.roles for row in found} == {("server", "client"), ("server",), ("client",)}


def test_defaults_are_those_of_a_file_that_says_nothing(tmp_path: Path) -> None:
    """What the reference calls a default may be written down without changing anything."""
    least: dict[str, dict[str, Any]] = {
        "server": {"role": "server", "target": "127.0.0.1:9", "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
        "client": {"role": "client", "server": "192.0.2.1", "listen": "127.0.0.1:9"},
    }
    least["client"]["secret"] = least["server"]["secret"]
    for role, keys in least.items():
        path = tmp_path / "edge.json"
        path.write_text(json.dumps(keys))
        silent = config.load(path).settings
        properties = config.schema()["$defs"][f"{role.title()}Keys"]["properties"]
        written = dict(keys)
        for row in reference.rows():
            if role in row.roles and row.default.startswith("`") and row.key in properties.keys() - OTHER_WIRE:
                written[row.key] = properties[row.key]["default"]
        path.write_text(json.dumps(written))
        assert len(written) > len(keys) + 5
        assert config.load(path).settings == silent


@pytest.mark.parametrize("key", sorted(OTHER_WIRE))
def test_keys_of_the_other_wire_have_their_defaults_there(tmp_path: Path, key: str) -> None:
    (row,) = [row for row in reference.rows() if row.key == key]
    keys: dict[str, Any] = {"role": "client", "wire": "rsock", "server": "192.0.2.1", "listen": "127.0.0.1:9"}
    text = row.default.strip("`")
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(keys))
    silent = config.load(path).settings
    path.write_text(json.dumps(keys | {key: int(text) if text.isdigit() else text}))
    assert config.load(path).settings == silent
