"""What one key of the configuration file may hold: how it is checked, what the JSON schema says of it, and its words.

Every ``parse`` takes what JSON gave and raises ``ValueError`` with a message that makes sense behind "file: key: ".
Not here: how ports, endpoints and secrets are written (``values``), and which keys there are (``keys``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from rsock_nf.config import values
from rsock_nf.config.values import shown

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

_TEXT = {"type": "string"}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORTS = {"anyOf": [_TEXT, _PORT, {"type": "array", "items": {"anyOf": [_TEXT, _PORT]}, "minItems": 1}]}


class Kind(NamedTuple, Generic[T]):
    """One kind of value."""

    parse: Callable[[object], T]
    schema: dict[str, Any]
    words: str
    """For the reference."""
    definition: type[enum.Enum] | None = None
    """An enumeration that has a definition of its own in the schema."""


def text(parse: Callable[[object], T], words: str) -> Kind[T]:
    """A text that ``parse`` understands."""
    return Kind(parse, _TEXT, words)


def texts(parse: Callable[[object], T], words: str) -> Kind[tuple[T, ...]]:
    """One such text or a list of them: at least one, none twice."""

    def parse_all(value: object) -> tuple[T, ...]:
        parsed = tuple(parse(item) for item in (value if isinstance(value, list) else [value]))
        if not parsed:
            raise ValueError("the list is empty")
        if len(set(parsed)) != len(parsed):
            raise ValueError(f"{next(item for item in parsed if parsed.count(item) > 1)} is given twice")
        return parsed

    return Kind(parse_all, _TEXTS, f"{words}, or a list")


def integer(least: int, most: int) -> Kind[int]:
    """A whole number from ``least`` to ``most``."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a valid integer, not {shown(value)}")  # noqa: TRY004 - see the module
        _bounded(value, value, least=least, most=most)
        return value

    return Kind(parse, {"type": "integer", "minimum": least, "maximum": most}, f"{least}-{most}")


def seconds(*, most: float, least: float | None = None, above: float | None = None) -> Kind[float]:
    """A number of seconds: at least ``least``, or more than ``above``; at most ``most``."""

    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"must be a valid number, not {shown(value)}")  # noqa: TRY004 - see the module
        if above is not None and not value > above:
            raise ValueError(f"must be greater than {above:g}, not {shown(value)}")
        _bounded(value, float(value), least=least, most=most)
        return float(value)

    limits = {"minimum": least} if least is not None else {"exclusiveMinimum": above}
    words = f"{least:g}-{most:g} s" if least is not None else f"more than {above:g}, at most {most:g} s"
    return Kind(parse, {"type": "number", **limits, "maximum": most}, words)


def _bounded(value: object, number: float, *, least: float | None, most: float) -> None:
    if least is not None and number < least:
        raise ValueError(f"must be greater than or equal to {least:g}, not {shown(value)}")
    if not number <= most:
        raise ValueError(f"must be less than or equal to {most:g}, not {shown(value)}")


def one_of(choices: type[E]) -> Kind[E]:
    """A member of an enumeration, by its value."""
    by_value = {choice.value: choice for choice in choices}
    kind = literal(*by_value)
    schema = {"enum": list(by_value), "type": "string"}
    return Kind(lambda value: by_value[kind.parse(value)], schema, kind.words, choices)


def literal(*choices: T) -> Kind[T]:
    """One of some texts or numbers."""
    named = [shown(choice) for choice in choices]
    expected = f"{', '.join(named[:-1])} or {named[-1]}"

    def parse(value: object) -> T:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise ValueError(f"must be {expected}, not {shown(value)}")

    schema = {"enum": list(choices), "type": "string" if isinstance(choices[0], str) else "integer"}
    return Kind(parse, schema, ", ".join(f"`{choice}`" for choice in choices))


def _parse_file(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(f"{shown(value)} is not the path of a file")


NAME = text(values.parse_name, "text")
SECRET = text(values.parse_secret, "44 characters")
FILE = text(_parse_file, "path")
DEVICE = text(values.parse_device, "text")
HASH = text(values.parse_hash, "text")
LISTEN = text(values.parse_listen, "address:port, or unix:/path")
HOST_PORT = text(values.parse_host_port, "host:port")
PORTS = Kind(values.parse_ports, _PORTS, "port, range, or a list")
ADDRESSES = texts(values.parse_address, "address")
HOSTS = texts(values.parse_host, "address or name")
HOST_PORTS = texts(values.parse_host_port, "host:port")
LISTENS = texts(values.parse_listen, "address:port or unix:/path")
COUNT = integer(1, 65535)
