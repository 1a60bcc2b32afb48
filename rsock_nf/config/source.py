"""The configuration file as JSON; what its keys mean is not asked here.  Cheap to import: the standard library only."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from rsock_nf.config.values import named, parse_name, shown
from rsock_nf.errors import ConfigError

_MAX_BYTES = 1 << 20


def read_object(path: Path) -> dict[str, Any]:
    """The file's one JSON object.

    Stricter than ``json.load``: a key given twice, NaN and Infinity are errors.  Raises ``ConfigError``.
    """
    text = read_text(path, "")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(path, "", f"not JSON: {place}: {error.msg[:1].lower()}{error.msg[1:]}") from None
    except ValueError as error:
        raise ConfigError(path, "", str(error)) from None
    except RecursionError:
        raise ConfigError(path, "", "not JSON that anyone wrote: nested too deeply") from None
    if not isinstance(value, dict):
        raise ConfigError(path, "", f"a JSON object is wanted, not {shown(value)}")
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
    """Whether the file's mode lets everyone read it."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{named(key)}: given twice")
        seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
