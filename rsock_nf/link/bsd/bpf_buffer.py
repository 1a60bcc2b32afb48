"""What one read(2) of a bpf device returns: packets behind their ``struct bpf_hdr``, each at a word boundary.

A packet begins at ``bh_hdrlen`` behind the start of its header, never at the header's size: the kernel pads so that the
network header is aligned.  The next header stands at BPF_WORDALIGN(bh_hdrlen + bh_caplen).  bpf(4), net/bpf.h.

Not here: the device (``bpf_device``), and what the packets are.
"""

from __future__ import annotations

import struct
from typing import Final

from rsock_nf.link.bsd.abi import Abi, aligned

_U32: Final = struct.Struct("=I")
_U16: Final = struct.Struct("=H")


class BufferReader:
    """Cuts buffers as the system of ``abi`` lays them out."""

    def __init__(self, abi: Abi) -> None:
        self._caplen = abi["offsetof(struct bpf_hdr, bh_caplen)"]
        self._datalen = abi["offsetof(struct bpf_hdr, bh_datalen)"]
        self._hdrlen = abi["offsetof(struct bpf_hdr, bh_hdrlen)"]
        self._alignment = abi["BPF_WORDALIGN(1)"]
        self._least = self._hdrlen + _U16.size

    def packets(self, buffer: bytes) -> tuple[list[memoryview], int]:
        """Whole packets, link header first, as views of ``buffer``; and how many were not whole.

        Not whole are packets that were captured only in part, and one that the end of the buffer cuts off. A header
        that says something impossible ends the buffer, and counts as one.  Never raises, whatever the bytes are.
        """
        view = memoryview(buffer)
        found: list[memoryview] = []
        truncated = at = 0
        end = len(buffer)
        while at + self._least <= end:
            (captured,) = _U32.unpack_from(buffer, at + self._caplen)
            (length,) = _U32.unpack_from(buffer, at + self._datalen)
            (header,) = _U16.unpack_from(buffer, at + self._hdrlen)
            start = at + header
            stop = start + captured
            if header < self._least or stop > end:
                return found, truncated + 1
            if captured < length:
                truncated += 1
            else:
                found.append(view[start:stop])
            at += aligned(header + captured, self._alignment)
        return found, truncated + (at < end)
