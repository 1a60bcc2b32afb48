"""Reading datagrams in batches: recvmmsg(2) through ctypes, one call for a batch.

Every array that the kernel needs is built once. A read is one call, and its results are read through memoryviews of
those arrays: a whole batch with one slice where possible.

It is no socket: it is given a descriptor and does not own it, and it does not know what the bytes mean.

The layout of ``struct msghdr`` and ``struct mmsghdr`` is Linux on LP64
(include/linux/socket.h): 56 and 64 bytes, asserted below.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

MSG_CTRUNC: Final = 0x8
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40

_STAGGER: Final = 1280 + 64
"""Added to each buffer's size.  If buffers were a power of two apart, they would begin in the same cache sets."""
_CACHE_LINE: Final = 64
_NO_MESSAGE: Final = (errno.EAGAIN, errno.EINTR)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint32))


if (ctypes.sizeof(_IoVec), ctypes.sizeof(_MsgHdr), ctypes.sizeof(_MMsgHdr)) != (16, 56, 64):
    raise ImportError("rsock_nf.link.linux.mmsg knows the LP64 layout of struct mmsghdr only")

_MESSAGE: Final = ctypes.sizeof(_MMsgHdr)
_WORDS: Final = _MESSAGE // 4
"""struct mmsghdr as 32-bit words (and half as many 64-bit ones); the members the kernel writes among them."""
_NAMELEN: Final = _MsgHdr.namelen.offset // 4
_CONTROLLEN: Final = _MsgHdr.controllen.offset // 8
_FLAGS: Final = _MsgHdr.flags.offset // 4
_LENGTH: Final = _MMsgHdr.length.offset // 4

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


def _address(buffer: bytearray | mmap.mmap) -> int:
    """The address of ``buffer``, which cannot be resized as long as ctypes has its view of it."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


class BatchReader:
    """``buffers`` receive buffers of ``buffer_bytes`` each, filled by one recvmmsg(2).

    Contents are valid until the next ``read``.  Per message, ``names`` bytes of the sender's
    sockaddr and ``ancillary`` bytes of ancillary data are kept; 0 means none.
    """

    def __init__(self, buffers: int, buffer_bytes: int, *, names: int = 0, ancillary: int = 0) -> None:
        if buffers < 1 or buffer_bytes < 1:
            raise ValueError("a batch needs at least one buffer of at least one byte")
        self.buffers = buffers
        self.buffer_bytes = buffer_bytes
        self.name_stride = names
        """Bytes from one buffer's sockaddr to the next in ``names_raw``."""
        self.ancillary_stride = -(-ancillary // 8) * 8
        """Room for ancillary data in each buffer, rounded up to struct cmsghdr's alignment."""
        stride = -(-buffer_bytes // _CACHE_LINE) * _CACHE_LINE + _STAGGER
        # It takes memory only where something was read.  Private: a worker is forked, and reads into its own.
        self._data = mmap.mmap(-1, buffers * stride, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._names = bytearray(buffers * names)
        self._ancillary = bytearray(buffers * self.ancillary_stride)
        whole = memoryview(self._data)
        self.views: list[memoryview] = [whole[i * stride : i * stride + buffer_bytes] for i in range(buffers)]
        """Each buffer, all of ``buffer_bytes``; cut it with ``lengths``."""
        self._vectors = (_IoVec * buffers)()
        self._messages = (_MMsgHdr * buffers)()
        self._point_at_buffers(stride)
        self._pointer = ctypes.addressof(self._messages)
        self._raw = memoryview(self._messages).cast("B")
        self._fresh = memoryview(bytes(self._raw))
        """The headers as the kernel must find them."""
        words, longs = self._raw.cast("I"), self._raw.cast("Q")
        self._length_column = words[_LENGTH::_WORDS]
        self._flag_column = words[_FLAGS::_WORDS]
        self._name_length_column = words[_NAMELEN::_WORDS]
        self._ancillary_length_column = longs[_CONTROLLEN :: _WORDS // 2]
        self._used = 0

    def _point_at_buffers(self, stride: int) -> None:
        data = _address(self._data)
        names = _address(self._names) if self._names else None
        ancillary = _address(self._ancillary) if self._ancillary else None
        vectors = ctypes.addressof(self._vectors)
        for i in range(self.buffers):
            self._vectors[i].base = data + i * stride
            self._vectors[i].length = self.buffer_bytes
            header = self._messages[i].header
            header.iov = vectors + i * ctypes.sizeof(_IoVec)
            header.iovlen = 1
            if names is not None:
                header.name = names + i * self.name_stride
                header.namelen = self.name_stride
            if ancillary is not None:
                header.control = ancillary + i * self.ancillary_stride
                header.controllen = self.ancillary_stride

    def read(self, descriptor: int, limit: int | None = None) -> int:
        """Fill at most ``limit`` buffers (default: all); how many were filled, 0 when nothing waits.  Never blocks.

        Raises ``OSError`` for everything but EAGAIN and EINTR.
        """
        used = self._used * _MESSAGE
        if used:  # msg_namelen and msg_controllen are value-result (recvmsg(2)): one copy restores them all
            self._raw[:used] = self._fresh[:used]
        buffers = self.buffers if limit is None else min(limit, self.buffers)
        count: int = _recvmmsg(descriptor, self._pointer, buffers, MSG_DONTWAIT, None)
        if count >= 0:
            self._used = count
            return count
        # A failed call may have touched the first header (struct user_msghdr is copied back late).
        self._used = 1
        error = ctypes.get_errno()
        if error in _NO_MESSAGE:
            return 0
        raise OSError(error, os.strerror(error))

    def lengths(self, count: int) -> list[int]:
        """Bytes in each of the first ``count`` buffers; at most ``buffer_bytes``, also when the message was longer."""
        return self._length_column[:count].tolist()

    def flags(self, count: int) -> list[int]:
        """msg_flags of each of the first ``count`` buffers: ``MSG_TRUNC``, ``MSG_CTRUNC``."""
        return self._flag_column[:count].tolist()

    def any_flags(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has a bit set in msg_flags."""
        return any(self._flag_column[:count])

    def names_raw(self, count: int) -> bytes:
        """The sockaddrs of the first ``count`` buffers, ``name_stride`` bytes each.

        A whole batch is compared at once: ``names_raw(n) == name * n``.  Where a sockaddr is shorter
        than the stride the rest stays zero: a socket has one address family, so its sockaddrs have one size.
        """
        return bytes(memoryview(self._names)[: count * self.name_stride])

    def name(self, index: int) -> bytes:
        """The sockaddr of one buffer, as long as the kernel made it."""
        start = index * self.name_stride
        return bytes(self._names[start : start + min(self._name_length_column[index], self.name_stride)])

    def any_ancillary(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has ancillary data."""
        return any(self._ancillary_length_column[:count])

    def ancillary(self, index: int) -> bytes:
        """Ancillary data of one buffer: a run of struct cmsghdr, b"" when there is none."""
        start = index * self.ancillary_stride
        return bytes(self._ancillary[start : start + self._ancillary_length_column[index]])
