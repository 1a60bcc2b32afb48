"""The invitation: one line with all that a client needs, which ``init`` prints and ``join`` reads.

    rsock-nf://SECRET@HOST/1?check=1a2b3c4d&server=HOST2&ports=10001-10010&type=tcp&app=wireguard&cipher=none#NAME

A URI (RFC 3986).  ``/1`` is the version of this form.  ``check`` is a CRC-32 of all the rest, so that a line which was
damaged on its way is told from one that means something else.  The secret is in base64url without padding (RFC 4648
section 5), because ``/`` and ``+`` mean something in a URI.  ``docs/invitation.md`` describes each field for other
programs.

Not here: the files that are made of it (``ops.new_files``).
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

from rsock_nf.config.values import (
    SECRET_BYTES,
    format_secret,
    named,
    parse_host,
    parse_name,
    parse_ports,
    parse_secret,
    shown,
    split_zone,
)
from rsock_nf.core.parameters import Cipher, Kinds, Spread
from rsock_nf.core.types import PortRange

SCHEME: Final = "rsock-nf://"
VERSION: Final = "1"
_MOST: Final = 4096
"""Characters.  A line as long as that is no invitation."""
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_LIKE_A_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{20,}")
_APPLICATION: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CHECK: Final = re.compile(r"\?check=([^&#]*)&")
"""The first field, so that a line of which the end is missing has it."""
_SPREAD: Final = Spread.BURST
"""What a line without ``spread`` means; a newer default must not change what an old line says."""

E = TypeVar("E", bound=enum.Enum)


class InvitationError(ValueError):
    """What is wrong with a line, and in which field.  The secret is never in the text, wherever it was."""

    def __init__(self, text: str) -> None:
        super().__init__(_LIKE_A_SECRET.sub("…", text))


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a client needs."""

    secret: bytes = field(repr=False)
    servers: tuple[str, ...]
    """Addresses or names, in order of preference."""
    ports: tuple[PortRange, ...]
    kinds: Kinds
    cipher: Cipher
    spread: Spread = _SPREAD
    application: str = "custom"
    """What the tunnel is for: ``join`` says what to set there.  One that it does not know is as ``custom``."""
    name: str = ""
    """What the client may call its tunnel; empty = nothing is said."""


def write(invitation: Invitation) -> str:
    """The line.  Whoever has it can use the server."""
    first, *others = (_bracketed(host) for host in invitation.servers)
    fields = [("server", host) for host in others]
    fields += [("ports", ",".join(map(str, invitation.ports))), ("type", invitation.kinds.value)]
    if invitation.spread is not _SPREAD:
        fields.append(("spread", invitation.spread.value))
    fields += [("app", invitation.application), ("cipher", invitation.cipher.value)]
    secret = base64.urlsafe_b64encode(invitation.secret).decode().rstrip("=")
    name = f"#{quote(invitation.name)}" if invitation.name else ""
    before = f"{SCHEME}{secret}@{quote(first, safe='[]:')}/{VERSION}?"
    behind = f"{urlencode(fields, safe='[]:,')}{name}"
    return f"{before}check={_sum(before + behind)}&{behind}"


def _sum(line: str) -> str:
    """Of a line without ``check=…&``."""
    return f"{zlib.crc32(line.encode()):08x}"


def parse(text: str) -> Invitation:
    """What ``write`` made.  Blanks, line breaks and quotes around it, as pasting adds them, do not matter.

    Raises ``InvitationError``: "field: what is wrong".
    """
    line = "".join(text[: 2 * _MOST].split()).strip("'\"`")
    if not line.startswith(SCHEME):
        raise InvitationError(f"this is no line of `rsock-nf init`: that begins with {SCHEME}")
    if len(line) > _MOST:
        raise InvitationError(f"longer than {_MOST} characters: this is no line of `rsock-nf init`")
    rest, _, name = _checked(line).removeprefix(SCHEME).partition("#")
    rest, _, query = rest.partition("?")
    authority, _, version = rest.partition("/")
    secret, at, host = authority.rpartition("@")
    if not at:
        raise InvitationError("secret: missing: it stands before the @")
    if version != VERSION:
        raise InvitationError(_wrong_version(version))
    fields = _Fields(query)
    servers = [host, *fields.all_of("server")]
    invitation = Invitation(
        secret=_read("secret", _parse_secret, secret),
        servers=tuple(_read("server", _parse_server, unquote(server)) for server in servers),
        ports=_read("ports", parse_ports, fields.one("ports")),
        kinds=_read("type", _member(Kinds), fields.one("type")),
        application=_read("app", _parse_application, fields.one("app")),
        cipher=_read("cipher", _member(Cipher), fields.one("cipher")),
        spread=_read("spread", _member(Spread), fields.one("spread", _SPREAD.value)),
        name=_read("name", parse_name, unquote(name)) if name else "",
    )
    fields.refuse_others()
    return invitation


def _checked(line: str) -> str:
    """The line without its sum, if it has one.  Raises ``InvitationError`` when the sum is that of another line."""
    found = _CHECK.search(line)
    if found is None:
        return line
    rest = f"{line[: found.start()]}?{line[found.end() :]}"
    if found[1].lower() != _sum(rest):
        raise InvitationError("it is damaged (a character is wrong or missing): copy all of it again")
    return rest


class _Fields:
    """What stands behind the question mark."""

    def __init__(self, query: str) -> None:
        try:
            self._left = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=64)
        except ValueError:
            raise InvitationError("the line is not complete: copy all of it") from None

    def all_of(self, key: str) -> list[str]:
        """The values of ``key``, taken away."""
        found = [value for name, value in self._left if name == key]
        self._left = [(name, value) for name, value in self._left if name != key]
        return found

    def one(self, key: str, default: str | None = None) -> str:
        """The one value of ``key``."""
        found = self.all_of(key)
        if len(found) > 1:
            raise InvitationError(f"{key}: given twice")
        if found:
            return found[0]
        if default is None:
            raise InvitationError(f"{key}: missing: the line is not complete: copy all of it")
        return default

    def refuse_others(self) -> None:
        """Raise ``InvitationError`` if something is left: the two sides might not understand each other without it."""
        for key, _ in self._left:
            raise InvitationError(f"{named(key)}: not known here: is rsock-nf older on this side? Update it")


def _read(key: str, reader: Callable[[str], Any], value: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise InvitationError(f"{key}: {error}") from None


def _wrong_version(version: str) -> str:
    if version.isdecimal():
        return f"version: the line is of version {named(version)}, and this rsock-nf reads {VERSION}: update it here"
    return "version: missing: the line is not complete: copy all of it"


def _parse_secret(text: str) -> bytes:
    if not _SECRET.fullmatch(text):
        raise ValueError(f"{len(text)} characters, and 43 are wanted (letters, digits, - and _): copy the whole line")
    try:
        key = base64.urlsafe_b64decode(f"{text}=")
    except binascii.Error:  # pragma: no cover - 43 characters of that alphabet are always 32 bytes
        key = b""
    assert len(key) == SECRET_BYTES  # noqa: S101 - so it says why
    return parse_secret(format_secret(key))


def _parse_server(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare != text and not isinstance(split_zone(bare)[0], IPv6Address):
        raise ValueError(f"{shown(text)}: only an IPv6 address stands in brackets")
    return parse_host(bare)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse_application(text: str) -> str:
    if not _APPLICATION.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name of an application")
    return text


def _member(kind: type[E]) -> Callable[[str], E]:
    def parse_member(text: str) -> E:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{shown(text)} is none of {_listed(one.value for one in kind)}") from None

    return parse_member


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f'"{value}"' for value in values)
