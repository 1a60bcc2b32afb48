"""The reference of the configuration file: every key with its type, default, role and meaning.

``python -m rsock_nf.config.reference`` prints it as Markdown, which is ``docs/configuration.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args, get_origin

from rsock_nf.config import json_schema
from rsock_nf.config.keys import NOT_GIVEN, OBJECTS, ROLES, CommonKeys, Keys
from rsock_nf.config.kinds import Form

_HEAD = """\
# Configuration

This file is printed by `python -m rsock_nf.config.reference` from the keys in the program.

A configuration is one object, as JSON (comments and trailing commas are accepted), YAML or TOML:
[operations.md](operations.md#forms-of-a-configuration-file). A key that is not listed here is an error, but for
`"$schema"`. `rsock-nf check FILE` tells whether a file is right; `rsock-nf schema` prints the JSON schema.
"""


class Row(NamedTuple):
    """One key."""

    key: str
    """Dotted, as errors name it."""
    roles: tuple[str, ...]
    """Which files have it: ``server``, ``client``."""
    type: str
    default: str
    """As the file would say it, or in words; "" = there is none."""
    required: bool
    meaning: str


def rows() -> list[Row]:
    """Every key, first those of the file itself, then those of the objects in it."""
    found = list(_rows("", CommonKeys, tuple(ROLES)))
    common = {row.key for row in found}
    for role, keys in ROLES.items():
        found += [row for row in _rows("", keys, (role,)) if row.key not in common]
    for key, inner in OBJECTS.items():
        (outer,) = (row for row in found if row.key == key)
        found += _rows(f"{_place(key)}.", inner, outer.roles)
    return found


def _place(key: str) -> str:
    return f"{key}[]" if key in {"clients", "tunnels"} else key


def _rows(where: str, model: type[Keys], roles: tuple[str, ...]) -> Iterator[Row]:
    """A row for each key of ``model``; ``where`` goes before its name."""
    schema = json_schema.schema_of(model)
    for name, field in model.model_fields.items():
        told = schema["properties"][name]
        meaning, _, otherwise = (field.description or "").partition(NOT_GIVEN)
        default = told.get("default", "")
        value = f"{default:g}" if isinstance(default, float) else str(default)
        value = value.lower() if isinstance(default, bool) else value
        words = otherwise.removesuffix(".") or (f"`{value}`" if value else "")
        form = _form(field.metadata, field.annotation) or _schema_in_words(told, schema.get("$defs", {}))
        yield Row(f"{where}{name}", roles, form, words, field.is_required(), meaning)


def _form(metadata: Iterable[object], annotation: Any) -> str:
    """The words of the ``Form`` in a type; "" = it has none."""
    for note in metadata:
        if isinstance(note, Form):
            return note.words
    more = ", or a list" if get_origin(annotation) is tuple else ""
    for inner in get_args(annotation):
        if words := _form(getattr(inner, "__metadata__", ()), inner):
            return f"{words}{more}"
    return ""


def _schema_in_words(told: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A number with its range, a choice, or objects."""
    if reference := told.get("$ref"):
        told = definitions[reference.rpartition("/")[2]]
    if choices := told.get("enum") or ([told["const"]] if "const" in told else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    match told["type"]:
        case "boolean":
            return "`true`, `false`"
        case "object":
            return "an object"
        case "array":
            return "a list of objects"
        case "integer":
            return f"{told['minimum']}-{told['maximum']}"
        case "number" if "minimum" in told:
            return f"{told['minimum']:g}-{told['maximum']:g} s"
        case "number":
            return f"more than {told['exclusiveMinimum']:g}, at most {told['maximum']:g} s"
    raise AssertionError(f"no words for {told}")


def markdown() -> str:
    """The tables: both roles, the server, the client, and the objects in the file."""
    found = rows()
    top = [row for row in found if "." not in row.key]
    parts = [
        _HEAD,
        _table("Both roles", [row for row in top if len(row.roles) > 1]),
        _table("Server", [row for row in top if row.roles == ("server",)]),
        _table("Client", [row for row in top if row.roles == ("client",)]),
    ]
    for key, model in OBJECTS.items():
        about = " ".join((model.__doc__ or "").split())
        listed = [row for row in found if row.key.startswith(f"{_place(key)}.")]
        parts.append(_table(f"In `{key}`", listed, about))
    return "\n".join(parts)


def _table(heading: str, listed: list[Row], about: str = "") -> str:
    lines = [f"## {heading}", ""]
    if about:
        lines += [about, ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in listed:
        default = "must be given" if row.required else row.default
        lines.append(f"| `{row.key}` | {row.type} | {default} | {row.meaning} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(markdown(), end="")
