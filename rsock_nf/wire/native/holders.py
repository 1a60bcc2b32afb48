"""Who holds which secret: how a server finds out under which of its secrets a stranger's payload was made.

The hint at the end of the payload leads to a secret by one look into a table, however many there are.  Only with that
secret is the payload opened.  A payload without a hint, as clients of before send, can only be made under the server's
own secret (``NativeParameters.secret``): it is tried with that, and with its successor.  So a stranger's payload costs
at most two tries, and none where each client has a secret of its own.

The table has each client four times: for this hour, those before and after it, and for the lasting hint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rsock_nf.core.identity import Identity
from rsock_nf.core.parameters import NO_LIMITS, ClientLimits
from rsock_nf.core.types import Buffer, Malformed
from rsock_nf.wire.native.envelope import FROM_CLIENT
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.hints import NEAR, SIZE, hour_of, read_hint
from rsock_nf.wire.native.opening import ConfirmMessage, HelloMessage, JoinMessage
from rsock_nf.wire.parameters import NativeParameters

_NEVER: Final = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Holder:
    """One secret, and who has it."""

    identity: Identity
    handshake: NativeHandshake


class Holders:
    """See the module.  ``time_of_day``: what the host's clock says, in seconds since 1970."""

    def __init__(
        self, parameters: NativeParameters, time_of_day: Callable[[], float], before: Holders | None = None
    ) -> None:
        """``before``: those that were known so far.  The keys of their secrets need not be derived again."""
        self._time_of_day = time_of_day
        known: Mapping[bytes, Holder] = before.by_tag if before is not None else {}
        self._own = tuple(_holders("", parameters.own_secrets, NO_LIMITS, known))
        """Those of whom nothing more is known than that they have the server's secret."""
        named = [_holders(client.name, client.secrets, client.limits, known) for client in parameters.clients]
        self._all = [*self._own, *(holder for each in named for holder in each)]
        self.by_tag: dict[bytes, Holder] = {holder.identity.tag: holder for holder in self._all}
        self._hour = _NEVER
        self._by_hint: dict[int, tuple[Holder, ...]] = {}

    def read_untrusted(self, payload: Buffer) -> tuple[Holder, HelloMessage | JoinMessage | ConfirmMessage]:
        """Read a stranger's payload: (who has its secret, the message).  Raises ``Malformed``.

        See ``NativeHandshake.read_untrusted``.
        """
        size = len(payload)
        if size - SIZE in FROM_CLIENT.possible:
            for holder in self._hinted(read_hint(payload)):
                try:
                    return holder, holder.handshake.read_untrusted(payload[:-SIZE])
                except Malformed:
                    pass  # chance: one payload of some millions
        if size in FROM_CLIENT.possible:
            for holder in self._own:
                try:
                    return holder, holder.handshake.read_untrusted(payload)
                except Malformed:
                    pass
        raise Malformed("not made under a secret that is known here")

    def now_of(self, identity: Identity) -> Identity | None:
        """What is known now of who was ``identity`` once, by the secret.  None = that is not valid any more."""
        holder = self.by_tag.get(identity.tag)
        return holder.identity if holder is not None else None

    def _hinted(self, hint: int) -> tuple[Holder, ...]:
        hour = hour_of(self._time_of_day())
        if hour != self._hour:
            self._hour = hour
            self._by_hint = self._table(hour)
        return self._by_hint.get(hint, ())

    def _table(self, hour: int) -> dict[int, tuple[Holder, ...]]:
        made: dict[int, tuple[Holder, ...]] = {}
        for holder in self._all:
            hints = holder.handshake.hints
            for hint in (hints.lasting, *(hints.hourly(hour + away) for away in NEAR)):
                made[hint] = (*made.get(hint, ()), holder)
        return made


def _holders(
    name: str, secrets: tuple[bytes, ...], limits: ClientLimits, known: Mapping[bytes, Holder]
) -> Iterator[Holder]:
    for number, secret in enumerate(secrets, 1):
        tag = hashlib.blake2s(secret, digest_size=16, person=b"tag").digest()
        before = known.get(tag)
        handshake = before.handshake if before is not None else NativeHandshake(secret)
        yield Holder(Identity(name, number if len(secrets) > 1 else 0, limits, tag), handshake)
