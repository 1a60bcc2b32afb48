"""The JSON schema (draft 2020-12) of the configuration file, made from ``keys``."""

from __future__ import annotations

import enum
import inspect
from typing import Any

from rsock_nf.config.keys import ROLES, ClientKeys, Key, Keys, LogKeys, RsockKeys, ServerKeys, TunnelKeys, keys_of
from rsock_nf.core.types import PortRange

_TITLE = "title"


def schema() -> dict[str, Any]:
    """The whole schema."""
    enums: dict[str, type[enum.Enum]] = {}
    objects = {
        owner.__name__: _object(owner, enums) for owner in (ClientKeys, LogKeys, RsockKeys, ServerKeys, TunnelKeys)
    }
    definitions = {**objects, **{name: _enum(choices) for name, choices in enums.items()}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        _TITLE: "rsock-nf",
        "$defs": dict(sorted(definitions.items())),
        "discriminator": {
            "mapping": {role: _ref(owner) for role, owner in sorted(ROLES.items())},
            "propertyName": "role",
        },
        "oneOf": [{"$ref": _ref(owner)} for owner in ROLES.values()],
    }


def shown_default(default: object) -> Any:
    """A default as the file would write it; None = there is none to be shown."""
    if isinstance(default, enum.Enum):
        return default.value
    if isinstance(default, tuple):
        return ",".join(map(str, default)) if default and isinstance(default[0], PortRange) else None
    return default if isinstance(default, str | int | float) else None


def _object(owner: type[Keys], enums: dict[str, type[enum.Enum]]) -> dict[str, Any]:
    properties = {name: _property(name, default, key, enums) for name, default, key in keys_of(owner)}
    required = [name for name, _, key in keys_of(owner) if key.missing]
    role = next((role for role, keys in ROLES.items() if keys is owner), None)
    if role is not None:
        properties["role"] = {"const": role, _TITLE: "Role", "type": "string"}
        required = ["role", *required]
    return {
        "additionalProperties": False,
        "description": inspect.cleandoc(owner.__doc__ or ""),
        "properties": properties,
        **({"required": required} if required else {}),
        _TITLE: owner.__name__,
        "type": "object",
    }


def _property(name: str, default: object, key: Key, enums: dict[str, type[enum.Enum]]) -> dict[str, Any]:
    otherwise = f" If not given: {key.otherwise}." if key.otherwise else ""
    found: dict[str, Any] = {"description": key.meaning + otherwise}
    titled = {_TITLE: name.replace("_", " ").title()}
    shown = shown_default(default)
    if shown is not None and not key.missing:
        found["default"] = shown
    if key.objects is not None:
        reference = {"$ref": _ref(key.objects)}
        return found | ({"items": reference, "minItems": 1, "type": "array", **titled} if key.is_list else reference)
    if key.kind is None:
        raise AssertionError(f"{name}: neither a kind nor objects")
    if key.kind.definition is not None:
        enums[key.kind.definition.__name__] = key.kind.definition
        return found | {"$ref": _ref(key.kind.definition)}
    return found | key.kind.schema | titled


def _enum(choices: type[enum.Enum]) -> dict[str, Any]:
    return {
        "description": inspect.cleandoc(choices.__doc__ or ""),
        "enum": [choice.value for choice in choices],
        _TITLE: choices.__name__,
        "type": "string",
    }


def _ref(owner: type) -> str:
    return f"#/$defs/{owner.__name__}"
