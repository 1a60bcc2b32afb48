"""What a wire needs to know beside the parameters that all wires have: secrets, versions.  The core never sees them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from rsock_nf.core.parameters import NO_LIMITS, ClientLimits

DEFAULT_HASH = "hello135"
"""The key that the original falls back to; everyone knows it."""
RSOCK_KEEPALIVE = 4.0
"""Seconds between probes of an idle flow on wire rsock, where nothing else is given: what the original takes."""


class WireName(enum.Enum):
    """Which wire, as the configuration calls it."""

    NATIVE = "native"
    """Authenticated; ``docs/wire.md``."""
    RSOCK = "rsock"
    """The original's: its key is no authentication, IPv4 only, one target."""


DEFAULT_WIRE = WireName.NATIVE


@dataclass(frozen=True, slots=True)
class KnownClient:
    """A client with a secret of its own, as its server knows it."""

    name: str
    secrets: tuple[bytes, ...] = field(repr=False)
    """One; two while the first is being replaced.  Each has 32 bytes."""
    limits: ClientLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class NativeParameters:
    """The native wire."""

    secret: bytes = field(repr=False)
    """32 bytes, as ``genkey`` makes them.  A server that knows each of its clients may have none: b""."""
    second_secret: bytes = field(default=b"", repr=False)
    """Server: another one that is valid, too, while the first is being replaced; b"" = there is none."""
    clients: tuple[KnownClient, ...] = ()
    """Server: those that have secrets of their own."""

    @property
    def own_secrets(self) -> tuple[bytes, ...]:
        """Those that are nobody's in particular."""
        return tuple(filter(None, (self.secret, self.second_secret)))

    @property
    def all_secrets(self) -> tuple[bytes, ...]:
        """Those, and the clients'."""
        return (*self.own_secrets, *(secret for client in self.clients for secret in client.secrets))

    @property
    def name(self) -> WireName:
        """Which wire this is."""
        return WireName.NATIVE


@dataclass(frozen=True, slots=True)
class RsockParameters:
    """The original's wire."""

    key: bytes = field(default=DEFAULT_HASH.encode(), repr=False)
    """What the checks in its frames are made with, as the bytes of the text (it may be empty).  Both ends call it
    ``hash``."""
    version: int = 2
    """Client: 2 (a head of 23 bytes) or 1 (19 bytes).  A server answers in the version that the client used."""

    @property
    def name(self) -> WireName:
        """Which wire this is."""
        return WireName.RSOCK


WireParameters: TypeAlias = NativeParameters | RsockParameters
