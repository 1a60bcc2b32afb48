"""nf_tables over netlink: atomic batches and questions on one socket, notifications on another.

Sources: net/netfilter/nfnetlink.c (nfnetlink_rcv_batch), include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from rsock_firewall.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLMSG_ERROR, NetlinkSocket
from rsock_firewall.nftables.messages import Message, batch, decode
from rsock_firewall.policy import FirewallError, unprivileged

NFNLGRP_NFTABLES = 7
PATIENCE = 3.0
"""Seconds to wait for the kernel, which answers within milliseconds."""
DUMPS = 5
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_SO_SNDBUFFORCE = 32
_SEND_BUFFER = 1 << 22


class Refused(Exception):  # noqa: N818 - the kernel's answer, not yet our error
    """A batch that the kernel undid.

    ``code`` is the errno, ``index`` the message that it is about (-1: the batch itself, so nothing was looked at).
    """

    def __init__(self, code: int, index: int) -> None:
        super().__init__(f"{os.strerror(code)} (errno {code}, message {index} of the batch)")
        self.code = code
        self.index = index


class NfSocket:
    """One NETLINK_NETFILTER socket.  A table with an owner lives as long as the socket that made it (netlink's
    portid)."""

    def __init__(self) -> None:
        try:
            self._netlink = NetlinkSocket(NETLINK_NETFILTER, patience=PATIENCE)
        except OSError as error:
            raise FirewallError(
                f"this kernel has no netfilter netlink (NETLINK_NETFILTER): {error.strerror}"
            ) from error
        with contextlib.suppress(OSError):  # for thousands of ranges; without the privilege the default stays
            self._netlink.socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)

    def close(self) -> None:
        """Give the kernel its socket back; a table that it owns becomes an orphan."""
        self._netlink.close()

    def commit(self, messages: list[Message]) -> None:
        """Send as one batch: all or nothing.  Raises ``Refused`` with the first error.

        Only the last message asks for an acknowledgement; errors come unasked, in order, before it.  An error of the
        batch as a whole (no privilege, no nf_tables, the commit itself) carries BATCH_BEGIN's number.
        """
        messages[-1]["header"]["flags"] |= NLM_F_ACK
        first_error: Refused | None = None
        try:
            begin = self._netlink.send(batch(messages))
            last = begin + len(messages)
            for answer in self._netlink.answers(begin):
                if answer.kind != NLMSG_ERROR or answer.sequence > last:
                    continue
                of_batch = answer.sequence == begin
                if answer.error and (first_error is None or of_batch):
                    first_error = Refused(answer.error, answer.sequence - begin - 1)
                if answer.sequence == last or (answer.error and of_batch):
                    break
        except OSError as error:
            # some kernels and containers refuse in sendmsg() what others refuse in the answer
            raise _failed(error) from error
        if first_error:
            raise first_error

    def dump(self, request: Message) -> list[Message]:
        """Every object that answers ``request``, decoded; empty if what holds them is gone."""
        return [decode(type(request), data) for data in self.dump_undecoded(request)]

    def dump_undecoded(self, request: Message) -> list[bytes]:
        """The same as the kernel's messages, each with its headers."""
        try:
            found, whole = self._netlink.dump(request, DUMPS)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise _failed(error) from error
        if not whole:
            raise FirewallError("the firewall's rules keep changing while they are read")
        return found

    def get(self, request: Message) -> Message | None:
        """The one object that ``request`` names; None if there is none."""
        try:
            return decode(type(request), self._netlink.ask(request))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise _failed(error) from error


class ChangeEvents:
    """Readable when anybody changes any rule: the multicast group NFNLGRP_NFTABLES.  Messages are not looked at."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self._netlink = undo.enter_context(
                    contextlib.closing(NetlinkSocket(NETLINK_NETFILTER, [NFNLGRP_NFTABLES]))
                )
                # it only matters that something changed
                self._netlink.socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            except OSError as error:
                raise _failed(error) from error
            undo.pop_all()

    def fileno(self) -> int:
        """For select and asyncio."""
        return self._netlink.fileno()

    def drain(self) -> None:
        """Throw away what waits."""
        self._netlink.news()

    def close(self) -> None:
        """Leave the group."""
        self._netlink.close()


def _failed(error: OSError) -> FirewallError:
    if isinstance(error, PermissionError):
        return unprivileged()
    if isinstance(error, TimeoutError):
        return FirewallError("nf_tables gave no answer")
    return FirewallError(f"nf_tables cannot be asked: {error.strerror or error}")
