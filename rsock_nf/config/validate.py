"""From the file's JSON object to typed keys, or to one line about the first mistake.

The line says what pydantic found, in our words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rsock_nf.config.keys import OBJECTS, ROLES, ClientKeys, Keys, ServerKeys
from rsock_nf.config.kinds import Wanted
from rsock_nf.config.values import named, shown
from rsock_nf.errors import ConfigError

_GONE = {"target_index": 'give "tunnels" instead, a list of {"listen": …, "target": …}'}
"""Keys of earlier versions, and what to do instead."""


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
    try:
        return owner.model_validate(raw)
    except ValidationError as error:
        # An unknown key is often a misspelt one, whose absence is a mistake as well: name the cause.
        first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        raise ConfigError(path, _field(first), _message(first, owner)) from None


def _field(error: ErrorDetails) -> str:
    """The key as messages name it: ``log.level``, ``tunnels[0].listen``."""
    parts = error["loc"]
    if isinstance(parts[-1], int) and parts[0] not in OBJECTS:  # a value in a list: it is shown in the message
        parts = parts[:-1]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{named(part)}" for part in parts).lstrip(".")


def _message(error: ErrorDetails, owner: type[ServerKeys | ClientKeys]) -> str:
    found = f", not {shown(error['input'])}"
    match error["type"]:
        case "extra_forbidden":
            return _unknown(error, owner)
        case "missing":
            *_, name = error["loc"]
            metadata = _model(error, owner).model_fields[str(name)].metadata
            return f"missing: {next(each.words for each in metadata if isinstance(each, Wanted))}"
        case "value_error":
            return str(error["ctx"]["error"])
        case "too_short":
            return "the list is empty"
        case "model_type":
            return f"must be an object{found}"
        case "tuple_type":
            return f"must be a valid array{found}"
        case "enum" | "literal_error":
            expected = str(error["ctx"]["expected"]).replace("'", '"')
            return f"must be {expected}{found}"
        case _:
            return error["msg"].replace("Input should be", "must be") + found


def _model(error: ErrorDetails, owner: type[ServerKeys | ClientKeys]) -> type[Keys]:
    """The model of the object in which the mistake is."""
    return OBJECTS[str(error["loc"][0])] if len(error["loc"]) > 1 else owner


def _unknown(error: ErrorDetails, owner: type[ServerKeys | ClientKeys]) -> str:
    name, model = str(error["loc"][-1]), _model(error, owner)
    if model is owner:
        for role, other in ROLES.items():
            if other is not owner and name in other.model_fields:
                return f"only a {role} has this key"
        if name in _GONE:
            return f"unknown key: {_GONE[name]}"
    import difflib  # not for a file without mistakes

    close = difflib.get_close_matches(named(name), model.model_fields, n=1)
    return f'unknown key (did you mean "{close[0]}"?)' if close else "unknown key"
