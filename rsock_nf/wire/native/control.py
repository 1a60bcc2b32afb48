"""The bytes of control messages: one type byte, then fixed fields, big-endian.

Not here: what the messages mean (``core.messages``, ``rekeying``), and the sealed frame around them (``frames``).
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

from rsock_nf.core import messages
from rsock_nf.core.messages import Probe
from rsock_nf.core.types import Buffer, Malformed
from rsock_nf.wire.native.rekeying import Rekey, Rekeyed, RekeyWanted

_LAYOUT: dict[int, tuple[type, struct.Struct]] = {
    1: (messages.Ready, struct.Struct("!")),
    2: (messages.Probe, struct.Struct("!I")),
    3: (messages.ProbeAnswer, struct.Struct("!III")),
    4: (messages.FlowDown, struct.Struct("!I")),
    5: (messages.CloseFlow, struct.Struct("!")),
    6: (messages.Opened, struct.Struct("!H")),
    7: (messages.CloseConversation, struct.Struct("!H")),
    8: (messages.Refused, struct.Struct("!HB")),
    9: (messages.CloseSession, struct.Struct("!")),
    10: (Rekey, struct.Struct("!I32s")),
    11: (Rekeyed, struct.Struct("!I32s")),
    12: (RekeyWanted, struct.Struct("!")),
    13: (messages.TargetState, struct.Struct("!HB")),
    14: (messages.SeenAs, struct.Struct("!16sH")),
}
"""Type byte → (message, its fields in order).  Bytes behind the fields are padding and are ignored."""

_TYPES: dict[type, tuple[int, struct.Struct, list[str]]] = {
    message: (code, fields, [field.name for field in dataclasses.fields(message)])
    for code, (message, fields) in _LAYOUT.items()
}


def build_control(message: object) -> bytes:
    """The body of a control frame, before it is sealed."""
    code, fields, names = _TYPES[type(message)]
    if isinstance(message, Probe):
        return bytes((code,)) + fields.pack(message.number) + bytes(message.padding)
    values: list[Any] = [getattr(message, name) for name in names]
    return bytes((code,)) + fields.pack(*values)


def parse_control(body: Buffer) -> object:
    """The message in an opened control frame; of a probe, also how much padding came.  Raises ``Malformed``."""
    if not body:
        raise Malformed("empty control message")
    known = _LAYOUT.get(body[0])
    if known is None:
        raise Malformed(f"control message of unknown type {body[0]}")
    message, fields = known
    if len(body) < 1 + fields.size:
        raise Malformed(f"{message.__name__} of {len(body)} bytes")
    if message is Probe:
        (number,) = fields.unpack_from(body, 1)
        return Probe(number, len(body) - 1 - fields.size)
    return message(*fields.unpack_from(body, 1))
