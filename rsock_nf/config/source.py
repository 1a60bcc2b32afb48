"""The configuration file as an object; what its keys mean is not asked here.  Cheap to import: the standard library
only."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from rsock_nf.config import formats
from rsock_nf.config.values import parse_name, shown
from rsock_nf.errors import ConfigError

_MAX_BYTES = 1 << 20
_WANTED = {".yaml": "a YAML mapping", ".yml": "a YAML mapping"}


def read_object(path: Path) -> dict[str, Any]:
    """The file's one object, in the form that its name says (``formats``), without ``$schema``.

    Raises ``ConfigError``.
    """
    try:
        value = formats.read(path, read_text(path, ""))
    except formats.FormError as error:
        raise ConfigError(path, "", str(error)) from None
    if not isinstance(value, dict):
        raise ConfigError(
            path, "", f"{_WANTED.get(path.suffix.lower(), 'a JSON object')} is wanted, not {shown(value)}"
        )
    value.pop("$schema", None)  # for the editor in which the file is written
    return value


def read_text(path: Path, field: str, *, owner: Path | None = None) -> str:
    """A small regular UTF-8 file.  Raises ``ConfigError`` about ``field`` of ``owner`` (default: the file itself)."""
    about = owner or path
    named = f"{path}: " if owner else ""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(about, field, f"{named}not a regular file")
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(about, field, f"{named}cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(about, field, f"{named}larger than 1 MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(about, field, f"{named}not UTF-8: byte {error.start}") from None


def _at_once(path: str, flags: int) -> int:
    """As open(2), but a FIFO without a writer does not make us wait: SIGHUP reads the file on the event loop."""
    return os.open(path, flags | os.O_NONBLOCK)


def instance_name(path: Path, value: dict[str, Any]) -> str:
    """``name`` of the configuration, else the file's stem.  Raises ``ConfigError``."""
    try:
        return parse_name(value.get("name", path.stem))
    except ValueError as error:
        hint = "" if "name" in value else ' (it comes from the file\'s name: give a "name")'
        raise ConfigError(path, "name", f"{error}{hint}") from None


def others_can_read(path: Path) -> bool:
    """Whether the file's mode lets everyone read it; one that is not written yet (``config.judge``): no."""
    return path.exists() and bool(path.stat().st_mode & stat.S_IROTH)
