"""The configuration file: JSON in, frozen ``Settings`` out.

``source`` reads the file, ``values`` knows how ports, endpoints and keys are written, ``model`` (the only importer of
pydantic) knows the keys, ``assemble`` what they mean together.  Defaults do not live here, but in the dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # making its dataclasses takes 20 ms, and `genkey` needs none of them
    from rsock_nf.settings import Log, Settings


@dataclass(frozen=True, slots=True)
class Configuration:
    """A file that was read, understood and found consistent."""

    settings: Settings
    warnings: tuple[str, ...]
    """One line each: what works, but should be known (a secret that others can read, a cipher that seals nothing)."""


def load(path: Path) -> Configuration:
    """Read and validate the file, and resolve the host names in it.

    Raises ``ConfigError``: one line that names the file and the field.
    """
    from rsock_nf.config import assemble  # pydantic costs 0.2 s: `status` and `--help` do without

    return assemble.load(path)


def load_log(path: Path) -> Log:
    """Read the file again for ``log`` alone: every key is checked, but no name resolved and no secret file read.

    Takes milliseconds, so an event loop may call it.  Raises ``ConfigError``.
    """
    from rsock_nf.config import assemble

    return assemble.load_log(path)


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the configuration file."""
    from rsock_nf.config import model

    return model.schema()
