"""The text of a configuration file becomes plain values: JSON, also with comments and trailing commas; YAML; TOML.

The file's name tells which.  JSON is read by the standard library; only what that refuses goes to a JSON5 reader, which
takes comments, trailing commas, keys without quotes, and so on.  All of them are stricter than is usual: a key given
twice, NaN, dates and other values that JSON does not have are errors.  A text that a reader would need long for, or
whose nesting it would not survive, is refused first.

Not here: reading the file (``source``), and what its keys mean.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from rsock_nf.config import misprints
from rsock_nf.config.values import named, shown

LENIENT_BYTES: Final = 64 << 10
"""The longest text that is not strict JSON: the JSON5 reader takes 10 µs for a character."""
_DEEPEST: Final = 32
"""Levels.  Ours are three; PyYAML's reader in C would end the process after some 10,000."""
_PLACE: Final = re.compile(r"<string>:(\d+) (.*) at column (\d+)", re.DOTALL)
"""How json5 writes its errors."""


_TOO_DEEP: Final = "not {} that anyone wrote: nested too deeply"


class FormError(Exception):
    """The text is not what its file's name says; one line, with line and column where they are known."""


def read(path: Path, text: str) -> Any:
    """The value that ``text`` has, in the form that the suffix of ``path`` names.  Raises ``FormError``."""
    suffix = path.suffix.lower()
    try:
        return _READERS.get(suffix, _json)(text)
    except RecursionError:
        raise FormError(_TOO_DEEP.format(suffix[1:].upper() if suffix in _READERS else "JSON")) from None


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        return _json5(text, error)
    except ValueError as error:
        raise FormError(str(error)) from None


def _json5(text: str, strictly: json.JSONDecodeError) -> Any:
    """What a stricter reader has refused.  Raises ``FormError`` with the better of the two messages."""
    said = f"not JSON: {_why(text, strictly.lineno, strictly.colno, strictly.msg)}"
    if len(text) > LENIENT_BYTES:
        raise FormError(f"{said} (with comments or trailing commas, 64 KiB is the most)")
    if not text.strip():
        raise FormError(said)
    import json5  # 10 ms

    try:
        return json5.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer)
    except ValueError as error:
        place = _PLACE.fullmatch(str(error))
        if place is None:  # a key given twice, and other things that are no fault of form
            raise FormError(str(error)) from None
        line, column = int(place[1]), int(place[3])
        if (line, column) <= (strictly.lineno, strictly.colno + 1):  # at the same place, in better words
            raise FormError(said) from None
        what = re.sub(r'Unexpected "(.*)"', lambda found: f"unexpected {shown(found[1])}", place[2], flags=re.DOTALL)
        raise FormError(f"not JSON: {_why(text, line, column, what)}") from None


def _why(text: str, line: int, column: int, said: str) -> str:
    """Where a reader stopped, and what it ``said``; or which sign is missing, and where."""
    if said == "Extra data":
        return f"line {line}, column {column}: something stands behind the end"
    plain = f"line {line}, column {column}: {said[:1].lower()}{said[1:]}"
    return misprints.missing_sign(text, misprints.position(text, line, column)) or plain


def _toml(text: str) -> Any:
    import tomllib

    _refuse_long(text, "TOML")
    try:
        return _plain(tomllib.loads(text))
    except ValueError as error:  # TOMLDecodeError, or a number of 5,000 digits
        what, _, place = str(error).partition(" (at ")
        where = f"{place.removesuffix(')')}: " if place else ""
        raise FormError(f"not TOML: {where}{what[:1].lower()}{what[1:]}") from None


def _yaml(text: str) -> Any:
    import yaml

    _refuse_long(text, "YAML")
    loader = _yaml_loader()
    try:
        _refuse_yaml_tricks(text, loader)
        return _plain(yaml.load(text, loader))  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FormError(f"not YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date that is none
        raise FormError(f"not YAML: {' '.join(str(error).split())}") from None


def _refuse_yaml_tricks(text: str, loader: Any) -> None:
    """Raise ``FormError`` for what makes a short text a large value (aliases), or a deep one."""
    import yaml

    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent):
            line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
            raise FormError(f"not YAML that is read here: {line}an alias (*{event.anchor}): write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise FormError(_TOO_DEEP.format("YAML"))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


@functools.cache
def _yaml_loader() -> Any:
    """The safe loader, in C where PyYAML has it; a key given twice is an error, and a date remains a text."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in base.yaml_implicit_resolvers.items()
    }

    def mapping(self: Any, node: Any) -> dict[Hashable, Any]:
        pairs = self.construct_pairs(node, deep=True)
        return _unique([(_text_key(key), value) for key, value in pairs])

    loader: Any = type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
    loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return loader


def _text_key(key: object) -> str:
    if not isinstance(key, str):
        raise FormError(f"{named(str(key))}: a key has to be a text")
    return key


def _plain(value: Any, key: str = "") -> Any:
    """``value``, which ``key`` has, if JSON could have it.  Raises ``FormError``."""
    match value:
        case dict():
            for name, inner in value.items():
                _plain(inner, _text_key(name))
        case list():
            for inner in value:
                _plain(inner, key)
        case float() if not math.isfinite(value):
            raise FormError(f"{named(key)}: {value} is not a number that is used here")
        case int() if not isinstance(value, bool) and abs(value) >= 10**20:
            raise FormError(f"{named(key)}: a number of more than 20 digits")
        case str() | int() | float() | bool() | None:
            pass
        case _:  # a date, bytes, a set
            raise FormError(f"{named(key)}: no text, number, list or object: put it into quotes")
    return value


def _refuse_long(text: str, form: str) -> None:
    if len(text) > LENIENT_BYTES:
        raise FormError(f"larger than 64 KiB, the most for {form}")


def _unique(items: Iterable[tuple[str, Any]]) -> dict[Any, Any]:
    pairs = list(items)
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise FormError(f"{named(key)}: given twice")
        seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise FormError(f"{name} is not a JSON number")


def _integer(digits: str, base: int = 10) -> int:
    if len(digits) > 20:
        raise FormError(f"a number of {len(digits)} digits")
    return int(digits, base)


_READERS: Final[dict[str, Callable[[str], Any]]] = {".yaml": _yaml, ".yml": _yaml, ".toml": _toml}
