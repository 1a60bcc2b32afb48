"""The reference of the configuration file: every key with its type, default, role and meaning.

``python -m rsock_nf.config.reference`` prints it as Markdown, which is ``docs/configuration.md``.
"""

from __future__ import annotations

from typing import NamedTuple

from rsock_nf.config.json_schema import shown_default
from rsock_nf.config.keys import ROLES, CommonKeys, Key, Keys, LogKeys, RsockKeys, TunnelKeys, keys_of

_INNER: tuple[tuple[str, type[Keys]], ...] = (("log", LogKeys), ("rsock", RsockKeys), ("tunnels[]", TunnelKeys))

_HEAD = """\
# Configuration

This file is printed by `python -m rsock_nf.config.reference` from the keys in the program.

A configuration is one JSON object. A key that is not listed here is an error. `rsock-nf check --config FILE` tells
whether a file is right; `rsock-nf schema` prints the JSON schema.
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
    both = tuple(ROLES)
    common = {name for name, _, _ in keys_of(CommonKeys)}
    found = [Row("role", both, "`server`, `client`", "", True, "Which end this file is for.")]
    found += [_row("", name, default, key, both) for name, default, key in keys_of(CommonKeys)]
    for role, owner in ROLES.items():
        found += [_row("", name, default, key, (role,)) for name, default, key in keys_of(owner) if name not in common]
    for where, inner in _INNER:
        roles = next(row.roles for row in found if row.key == where.removesuffix("[]"))
        found += [_row(f"{where}.", name, default, key, roles) for name, default, key in keys_of(inner)]
    return found


def _row(where: str, name: str, default: object, key: Key, roles: tuple[str, ...]) -> Row:
    shown = shown_default(default)
    value = "" if shown is None or key.missing else f"{shown:g}" if isinstance(shown, float) else str(shown)
    words = "a list of objects" if key.is_list else "an object" if key.kind is None else key.kind.words
    told = key.otherwise or (f"`{value}`" if value else "")
    return Row(f"{where}{name}", roles, words, told, bool(key.missing), key.meaning)


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
    for where, inner in _INNER:
        about = " ".join((inner.__doc__ or "").split())
        listed = [row for row in found if row.key.startswith(f"{where}.")]
        parts.append(_table(f"In `{where.removesuffix('[]')}`", listed, about))
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
