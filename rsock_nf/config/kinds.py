"""What one key of the configuration file may hold, as types that pydantic checks and describes.

Where a value has a syntax of ours, a ``BeforeValidator`` knows it (``values``).  It gets whatever the file has, also a
number or null, because its message says what is wanted.
Not here: which keys there are, and the ranges of their numbers (``keys``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from rsock_nf.config import values
from rsock_nf.config.values import shown
from rsock_nf.core import types

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form:
    """How a value is written, in words for the reference."""

    words: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the message says about a key that must be given."""

    words: str


class _NotNull:
    """Pydantic sees ``T`` where the program has ``T | None``.  It does not validate None, because that is a default."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (given,) = (one for one in get_args(source) if one is not NoneType)
        return handler(given)


class _OrOneAlone:
    """For the JSON schema: the list, or one item without a list."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _distinct(items: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(items)) != len(items):
        raise ValueError(f"{next(item for item in items if items.count(item) > 1)} is given twice")
    return items


def _parse_file(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(f"{shown(value)} is not the path of a file")


def _parse_version(value: object) -> int:
    """Not left to pydantic: as Python does, it takes true and 1.0 for 1."""
    if type(value) is int and value in (1, 2):
        return value
    raise ValueError(f"must be 1 or 2, not {shown(value)}")


_TEXT = WithJsonSchema({"type": "string"})
_PORT = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 65535}]}
_PORTS = WithJsonSchema({"anyOf": [*_PORT["anyOf"], {"type": "array", "items": _PORT, "minItems": 1}]})

OrAbsent: TypeAlias = Annotated[T | None, _NotNull()]
"""For a key without a default: None when it is left out.  null in the file is a mistake."""
OneOrMore: TypeAlias = Annotated[
    tuple[T, ...], Field(min_length=1), AfterValidator(_distinct), BeforeValidator(_listed), _OrOneAlone()
]
"""One value, or a list of values: at least one, none twice."""

Name: TypeAlias = Annotated[str, BeforeValidator(values.parse_name), Form("text")]
ClientName: TypeAlias = Annotated[str, BeforeValidator(values.parse_client_name), Form("text")]
Secrets: TypeAlias = Annotated[
    tuple[bytes, ...],
    BeforeValidator(values.parse_secrets),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 2}]}),
    Form("44 characters, or a list of two such"),
]
File: TypeAlias = Annotated[str, BeforeValidator(_parse_file), Form("path")]
Device: TypeAlias = Annotated[str, BeforeValidator(values.parse_device), Form("text")]
User: TypeAlias = Annotated[str, BeforeValidator(values.parse_user), Form("text")]
Mark: TypeAlias = Annotated[
    int,
    BeforeValidator(values.parse_mark),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 0xFFFFFFFF}, {"type": "string"}]}),
    Form('number, or "0xca6c"'),
]
Hash: TypeAlias = Annotated[str, BeforeValidator(values.parse_hash), Form("text")]
Host: TypeAlias = Annotated[str, BeforeValidator(values.parse_host), Form("address or name")]
Address: TypeAlias = Annotated[types.IPAddress, BeforeValidator(values.parse_address), Form("address")]
Network: TypeAlias = Annotated[types.IPNetwork, BeforeValidator(values.parse_network), Form("network")]
HostPort: TypeAlias = Annotated[values.HostPort, BeforeValidator(values.parse_host_port), _TEXT, Form("host:port")]
Listen: TypeAlias = Annotated[
    types.TransportAddress | Path, BeforeValidator(values.parse_listen), _TEXT, Form("address:port or unix:/path")
]
Metrics: TypeAlias = Annotated[
    types.TransportAddress | Path,
    BeforeValidator(values.parse_metrics),
    _TEXT,
    Form("loopback address:port or unix:/path"),
]
Ports: TypeAlias = Annotated[
    tuple[types.PortRange, ...], BeforeValidator(values.parse_ports), _PORTS, Form("port, range, or a list")
]
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=65535)]
"""How many there may be."""
Duration: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=86400)]
Keepalive: TypeAlias = Annotated[float, Field(strict=True, ge=0.5, le=3600)]
FlowAge: TypeAlias = Annotated[
    float,
    BeforeValidator(values.parse_flow_age),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": values.MAX_FLOW_AGE}, {"type": "string"}]}),
    Form('0, or 60-86400 s, also as `"1h"`'),
]
Rate: TypeAlias = Annotated[
    float,
    BeforeValidator(values.parse_rate),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": values.MIN_RATE, "maximum": values.MAX_RATE}, {"type": "string"}]}
    ),
    Form('bits a second, also as `"20M"`'),
]
Workers: TypeAlias = Annotated[
    int | Literal["auto"],
    BeforeValidator(values.parse_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": values.MOST_WORKERS}, {"const": "auto"}]}),
    Form(f'1-{values.MOST_WORKERS}, or `"auto"`'),
]
RsockVersion: TypeAlias = Annotated[Literal[1, 2], BeforeValidator(_parse_version)]
