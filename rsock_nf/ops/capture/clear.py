"""Captured packets with their payloads in clear: the keys of flows come from the running instance, as they change.

The instance is asked when a packet comes that no known key opens.  It knows the keys of a flow before the flow carries
anything, and those of an epoch before a frame of it.  So what a batch brings can be opened by what is asked after it.
Packets of strangers are never opened: for each flow it is asked once a second at most, and answers take a tenth of the
time at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeAlias

from rsock_nf.core.types import Malformed
from rsock_nf.errors import ControlError, RsockError
from rsock_nf.link import Seen
from rsock_nf.ops.capture.located import End, locate, replaced
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.overheard import TO_CLIENT, TO_SERVER, OverheardFlow

Ask: TypeAlias = Callable[[], dict[str, Any]]
"""The answer to ``keys``.  Raises ``RsockError``."""

PREFIX: Final = "rsock-nf: in clear, "
"""Of the comments of packets in clear: the dissector in ``contrib/wireshark`` looks for it."""
NO_KEY: Final = "rsock-nf: no key opens this"
CUT: Final = "rsock-nf: not captured whole, so it cannot be opened"
_PAUSE: Final = 0.02
"""Seconds between two questions, at least."""
_SHARE: Final = 10
"""The pause is so many times as long as the last answer took."""
_AGAIN: Final = 1.0
"""Seconds until it is asked again because of the same flow."""
_MOST_FLOWS: Final = 10_000
"""That are remembered because no key opened them."""

_Key: TypeAlias = tuple[bool, End, End]
"""A flow: is it UDP, our end, the other end."""


class _Flow:
    """What is known of a flow."""

    def __init__(self, told: dict[str, Any], keys: OverheardFlow) -> None:
        self.keys = keys
        self.about = f"cipher {keys.cipher.value}, session {told['session']}, flow {int(told['flow'])}"


class _Try(NamedTuple):
    """What came of trying to open a packet."""

    comment: str
    data: bytes = b""
    """The packet in clear; empty = it stays closed."""
    key: _Key | None = None
    """The flow whose keys would open it, perhaps."""


class Clear:
    """Opens what is captured.  ``serves``: this host has the server's end of the flows."""

    def __init__(self, ask: Ask, handshakes: Sequence[NativeHandshake], *, serves: bool) -> None:
        self._ask = ask
        self._handshakes = handshakes
        self._serves = serves
        self._flows: dict[_Key, _Flow] = {}
        self._closed: dict[_Key, float] = {}
        """Flows with a packet that no key opened, and when it was asked because of them."""
        self._next = 0.0
        """When it may be asked again."""
        self.opened = 0
        """Packets with a payload that are in clear now."""
        self.closed = 0
        """Packets with a payload that no key opens."""

    def learn(self) -> None:
        """Ask for the keys.  Raises ``RsockError``, and ``ControlError`` if the answer makes no sense."""
        began = time.monotonic()
        try:
            answer = self._ask()
        finally:
            ended = time.monotonic()
            self._next = ended + max(_PAUSE, _SHARE * (ended - began))
        try:
            for told in answer["flows"]:
                ends: tuple[End, End] = _end(told["local"]), _end(told["remote"])
                key = (told["type"] == "udp", *ends)
                flow = _Flow(told, OverheardFlow(told))
                known = self._flows.get(key)
                if known is not None and known.about == flow.about:
                    flow.keys.keep(known.keys)
                self._flows[key] = flow
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ControlError(f"the instance's keys make no sense: {type(error).__name__}") from None

    def read(self, batch: Iterable[Seen]) -> Iterator[tuple[Seen, str]]:
        """Each packet, in clear where it can be, and the comment that goes with it; "" where there is no payload."""
        tried = [(seen, self._try(seen)) for seen in batch]
        if self._is_new({found.key for _, found in tried if found is not None and found.key}) and self._learned():
            tried = [(seen, self._try(seen) if found and found.key else found) for seen, found in tried]
        for seen, found in tried:
            if found is None:
                yield seen, ""
            elif found.data:
                self.opened += 1
                yield seen._replace(data=found.data), found.comment
            else:
                self.closed += 1
                yield seen, found.comment

    def _is_new(self, closed: set[_Key]) -> bool:
        """Whether one of these flows, with a packet that no key opens, is to be asked for."""
        now = time.monotonic()
        wanted = [key for key in closed if now - self._closed.get(key, float("-inf")) >= _AGAIN]
        if len(self._closed) > _MOST_FLOWS:
            self._closed.clear()
        self._closed.update(dict.fromkeys(wanted, now))
        return bool(wanted)

    def _learned(self) -> bool:
        """Whether the instance has told; it may be gone by now.  Packets wait in the kernel meanwhile."""
        time.sleep(max(self._next - time.monotonic(), 0))
        try:
            self.learn()
        except RsockError:
            return False
        return True

    def _try(self, seen: Seen) -> _Try | None:
        """None = there is no payload."""
        where = locate(seen.data, ethernet=seen.ethernet)
        if where is None or where.start >= where.end:
            return None
        if where.end > len(seen.data):
            return _Try(CUT)
        payload = seen.data[where.start : where.end]
        ours, theirs = (where.source, where.destination) if seen.outgoing else (where.destination, where.source)
        key = where.udp, ours, theirs
        found = self._message(payload, seen) or self._frames(payload, key, seen)
        return _Try(PREFIX + found[1], replaced(seen.data, where, found[0])) if found else _Try(NO_KEY, key=key)

    def _frames(self, payload: bytes, key: _Key, seen: Seen) -> tuple[bytes, str] | None:
        flow = self._flows.get(key)
        if flow is None:
            return None
        to_client = seen.outgoing is self._serves
        clear = flow.keys.reveal(payload, TO_CLIENT if to_client else TO_SERVER)
        return (clear, f"{flow.about}, to the {'client' if to_client else 'server'}") if clear is not None else None

    def _message(self, payload: bytes, seen: Seen) -> tuple[bytes, str] | None:
        """Of the handshake.  A payload of another length costs one look into a set."""
        for handshake in self._handshakes:
            try:
                return handshake.overhear(payload, from_client=seen.outgoing is not self._serves), "handshake"
            except Malformed:
                continue
        return None


def _end(told: Sequence[Any]) -> End:
    address, port = told
    return ip_address(address).packed, int(port)
