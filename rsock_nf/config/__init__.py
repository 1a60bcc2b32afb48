"""The configuration file: JSON in, frozen ``Settings`` out.

``source`` reads the file.  ``keys`` has the keys, as pydantic models; ``kinds`` has the types of their values, and
``values`` how ports, endpoints and secrets are written.  ``validate`` checks the file against the models, and
``assemble`` makes settings of it.  ``original`` reads the files of iceonsun/rsock.  ``json_schema`` and ``reference``
describe the keys.  Defaults are not here, but in the dataclasses that the file ends in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsock_nf.errors import UnresolvedError

if TYPE_CHECKING:  # making its dataclasses takes 20 ms, and `genkey` needs none of them
    from rsock_nf.config.configuration import Configuration


def load(path: Path, role: str | None = None, *, patient: bool = False) -> Configuration:
    """Read and validate the file, ours or one of the original, and resolve the host names in it.

    ``role``: what it must be for, ``server`` or ``client``; None = what it says.
    ``patient``: names are not looked up; they are left without addresses (``Settings.unresolved``).
    Raises ``ConfigError``: one line that names the file and the field.
    """
    from rsock_nf.config import assemble  # pydantic takes 0.2 s: not for `status`, `--help` and the background

    return assemble.load(path, role, patient=patient)


def judge(path: Path, raw: dict[str, Any]) -> Configuration:
    """As ``load``, of an object that is to become the file ``path``.  No name is looked up.

    Raises ``ConfigError``."""
    from rsock_nf.config import assemble

    return assemble.assemble(path, raw, patient=True)


def from_flags(role: str, original: Mapping[str, Any]) -> Configuration:
    """What the flags of the original's command line mean.

    ``original``: the flags in the form of the original's JSON.  ``Settings.path`` is then ``COMMAND_LINE``.

    Raises ``ConfigError``: one line that names the flag.
    """
    from rsock_nf.config import assemble

    return assemble.from_flags(role, original)


def convert(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Our configuration for a file of the original, and one line for each thing that was understood or dropped.

    Raises ``ConfigError``, also when the file is none of the original.
    """
    from rsock_nf.config import assemble

    return assemble.convert(path)


def load_again(path: Path) -> Configuration:
    """As ``load``, of the file of a running instance: names that cannot be resolved now are left without addresses."""
    try:
        return load(path)
    except UnresolvedError:
        return load(path, patient=True)


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the configuration file."""
    from rsock_nf.config import json_schema

    return json_schema.schema()
