"""From the file's JSON object to typed keys, or to one line about the first mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rsock_nf.config.keys import ROLES, ClientKeys, Key, Keys, ServerKeys, keys_of
from rsock_nf.config.values import shown
from rsock_nf.errors import ConfigError

K = TypeVar("K", bound=Keys)

_GONE = {"target_index": 'give "tunnels" instead, a list of {"listen": …, "target": …}'}
"""Keys of earlier versions, and what to do instead."""


class _Mistake(NamedTuple):
    field: str
    message: str
    unknown: bool = False
    """The key itself is not known."""


def validate(path: Path, raw: dict[str, Any]) -> ServerKeys | ClientKeys:
    """The keys of the file's object.  Raises ``ConfigError`` about the first mistake."""
    if "role" not in raw:
        raise ConfigError(path, "role", 'missing: "server" or "client"')
    owner = ROLES.get(raw["role"]) if isinstance(raw["role"], str) else None
    if owner is None:
        raise ConfigError(path, "role", f'must be "server" or "client", not {shown(raw["role"])}')
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # an escaped lone surrogate: legal for Python's parser only
        raise ConfigError(path, "", "not JSON: a text with half a character (a lone surrogate)") from None
    mistakes: list[_Mistake] = []
    found = _object(owner, raw, "", mistakes)
    if mistakes:
        # An unknown key is often a misspelt one, whose absence is a mistake as well: name the cause.
        first = min(mistakes, key=lambda mistake: not mistake.unknown)
        raise ConfigError(path, first.field, first.message)
    return found


def _object(owner: type[K], raw: dict[str, Any], where: str, mistakes: list[_Mistake]) -> K:
    """An object of the file; ``where`` goes before the names of its keys in ``mistakes``."""
    known = {name: key for name, _, key in keys_of(owner)}
    values: dict[str, Any] = {}
    for name, key in known.items():
        field = f"{where}{name}"
        if name not in raw:
            if key.missing:
                mistakes.append(_Mistake(field, f"missing: {key.missing}"))
            continue
        try:
            values[name] = _value(key, raw[name], field, mistakes)
        except ValueError as error:
            mistakes.append(_Mistake(field, str(error)))
    own = {*known, *({"role"} if owner in ROLES.values() else ())}
    mistakes += [
        _Mistake(f"{where}{name}", _unknown(owner, name, known), unknown=True) for name in raw if name not in own
    ]
    return owner(given=frozenset(raw), **values)


def _value(key: Key, value: object, field: str, mistakes: list[_Mistake]) -> Any:
    if key.kind is not None:
        return key.kind.parse(value)
    if key.objects is None:
        raise AssertionError(f"{field}: neither a kind nor objects")
    if not key.is_list:
        if not isinstance(value, dict):
            raise ValueError(f"must be an object, not {shown(value)}")
        return _object(key.objects, value, f"{field}.", mistakes)
    if not isinstance(value, list):
        raise ValueError(f"must be a valid array, not {shown(value)}")  # noqa: TRY004 - as ``Kind.parse`` has it
    if not value:
        raise ValueError("the list is empty")
    found = []
    for index, item in enumerate(value):
        if isinstance(item, dict):
            found.append(_object(key.objects, item, f"{field}[{index}].", mistakes))
        else:
            mistakes.append(_Mistake(f"{field}[{index}]", f"must be an object, not {shown(item)}"))
    return tuple(found)


def _unknown(owner: type[Keys], name: str, known: dict[str, Key]) -> str:
    if owner in ROLES.values():
        for role, other in ROLES.items():
            if other is not owner and any(name == each for each, _, _ in keys_of(other)):
                return f"only a {role} has this key"
        if name in _GONE:
            return f"unknown key: {_GONE[name]}"
    import difflib  # not for a file without mistakes

    close = difflib.get_close_matches(name, known, n=1)
    return f'unknown key (did you mean "{close[0]}"?)' if close else "unknown key"
