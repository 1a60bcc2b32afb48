"""Opening and setting up a bpf device: the ioctls, in the order that bpf(4) wants, by each system's names.

1. ``_open``: /dev/bpf clones a device on FreeBSD, NetBSD and OpenBSD; otherwise, and on macOS, the first of /dev/bpf0,
   /dev/bpf1, ... that nobody uses.
2. The buffer's size is set before the interface.  The filter is set after it, because only then is the link type
   known. BIOCSETF throws away what was captured in between.
3. The system calls are an argument, so that the same code runs against a simulated kernel.  Error numbers are that
   kernel's, too.

Every number is in ``abi``, by the name that net/bpf.h gives it.  Not here: packets (``bpf_device``, ``bpf_buffer``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
from typing import Final, Protocol

from rsock_nf.core.types import Buffer
from rsock_nf.link.bpf_filter import ETHERNET, RAW_IP, Instruction, Layout, encode, null_layout, program
from rsock_nf.link.bsd.abi import Abi
from rsock_nf.link.ethernet import ETHERNET_HEADER
from rsock_nf.link.protocol import LinkError, Match, PortSide

_MAX_DEVICES: Final = 256
_U32: Final = struct.Struct("=I")
_U64: Final = struct.Struct("=Q")
_NOTHING: Final = [Instruction(0x06, 0, 0, 0)]
"""RET 0, which rejects everything.  A program without instructions would be no filter."""
NO_LOCK: Final = "this kernel cannot lock a client's filter (no BIOCLOCK): the tunnel works without it"
_FRAME_BYTES: Final = {"freebsd": 16_384, "netbsd": 2_046}
"""The longest frame that bpf_movein() takes, whatever the interface's MTU; for a longer one write(2) fails with EIO.
FreeBSD: MJUM16BYTES; NetBSD: one cluster (MCLBYTES) less 2 for alignment.  The others take 64 KiB."""


class SystemCalls(Protocol):
    """The system calls that the link makes.  Each raises ``OSError`` with the kernel's own error number."""

    def open(self, path: str, flags: int) -> int:
        """A descriptor of ``path``."""

    def close(self, descriptor: int) -> None:
        """Give it back."""

    def read(self, descriptor: int, size: int) -> bytes:
        """At most ``size`` bytes."""

    def write(self, descriptor: int, data: Buffer) -> int:
        """How many bytes were taken."""

    def ioctl(self, descriptor: int, request: int, argument: bytes | int = 0) -> bytes | int:
        """As ``fcntl.ioctl``: it takes a structure as bytes, and returns it as the kernel left it.

        The structure of BIOCSETF and BIOCSETFNR (struct bpf_program) holds the address of the instructions in *this*
        process, laid out for it; they stay there until the call returns.
        """

    def poll(self, descriptor: int, events: int, milliseconds: int) -> int:
        """Wait for ``events`` so long at most; returns those that came.  The link itself never waits."""

    def set_blocking(self, descriptor: int, flag: bool) -> None:  # noqa: FBT001 - as ``os.set_blocking``
        """Clear or set O_NONBLOCK."""


class KernelCalls:
    """``SystemCalls`` of the kernel that this process runs on."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    read = staticmethod(os.read)
    write = staticmethod(os.write)
    set_blocking = staticmethod(os.set_blocking)

    @staticmethod
    def ioctl(descriptor: int, request: int, argument: bytes | int = 0) -> bytes | int:
        """See ``SystemCalls.ioctl``."""
        return fcntl.ioctl(descriptor, request, argument)

    @staticmethod
    def poll(descriptor: int, events: int, milliseconds: int) -> int:
        """See ``SystemCalls.poll``."""
        waiter = select.poll()
        waiter.register(descriptor, events)
        return sum(found for _, found in waiter.poll(milliseconds))


class BpfDescriptor:
    """One open device on ``ifname``; nothing is captured without ``match`` until ``set_match``.  Raises
    ``LinkError``."""

    def __init__(self, ifname: str, match: Match | None, abi: Abi, calls: SystemCalls, buffer_bytes: int) -> None:
        self._device = ifname
        self._abi = abi
        self._calls = calls
        self._locked = False
        self.lacks_lock = False
        """The kernel has no BIOCLOCK though its headers have: whoever gets the descriptor may change the filter."""
        self._drops = 0
        """bs_drop when it was last read; a new filter sets it to 0."""
        self.buffer_bytes = buffer_bytes
        """What every read asks for."""
        self.dropped = 0
        """Packets lost because nobody read the buffer in time."""
        self.constant_header: dict[int, bytes] | None = None
        """By IP version, where there is no link header or where it is the address family only; None = Ethernet."""
        self.largest_frame = _FRAME_BYTES.get(abi.system, 1 << 16)
        """The longest frame that can be written, bytes, link header included."""
        self.sends = True
        """False on NetBSD for everything but Ethernet: its bpf_movein() leaves the address family before the packet,
        and passes none to the interface."""
        self._fd = self._open()
        try:
            self._configure(match, buffer_bytes)
        except OSError as error:  # an ioctl failed that should not
            self.close()
            raise LinkError(f"{ifname}: cannot be set up for bpf: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """-1 once closed."""
        return self._fd

    def read(self) -> bytes:
        """One buffer, whole; b"" when idle or timed out.  Raises ``OSError``."""
        return self._calls.read(self._fd, self.buffer_bytes)  # no other size will do (EINVAL)

    def write(self, frame: bytes) -> None:
        """One frame.  Raises ``OSError``."""
        self._calls.write(self._fd, frame)

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            self._calls.close(descriptor)

    # -- opening --------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """Open a device that nobody uses: /dev/bpf, which makes a new one, where the system has it; else the first
        free one of /dev/bpf0, ..."""
        flags = self._abi["O_RDWR"] | self._abi["O_CLOEXEC"]
        missing = tuple(self._abi[name] for name in ("ENOENT", "ENXIO", "ENODEV"))
        busy = 0
        for path in ("/dev/bpf", *(f"/dev/bpf{n}" for n in range(_MAX_DEVICES))):
            try:
                return self._calls.open(path, flags)
            except OSError as error:
                if error.errno in (self._abi["EACCES"], self._abi["EPERM"]):
                    raise LinkError(f"{path}: no permission: run as root") from None
                if error.errno == self._abi["EBUSY"]:
                    busy += 1
                elif error.errno not in missing:
                    raise LinkError(f"{path}: cannot be opened: {error.strerror}") from None
                elif path != "/dev/bpf":
                    break  # there are no more: the nodes are numbered without a gap
        if busy:
            raise LinkError(f"{self._device}: all {busy} bpf devices are in use: end who has them (fstat /dev/bpf*)")
        raise LinkError(f"{self._device}: there is no /dev/bpf: a kernel with bpf(4) is wanted")

    def _configure(self, match: Match | None, buffer_bytes: int) -> None:
        abi = self._abi
        if not 0 < len(self._device.encode()) < abi["IFNAMSIZ"]:
            raise LinkError(f"{self._device}: not an interface name (1 to {abi['IFNAMSIZ'] - 1} bytes)")
        self._check_version()
        self._calls.set_blocking(self._fd, False)  # on NetBSD, a read before SETIF would wait for ever
        self.buffer_bytes = self._set_number("BIOCSBLEN", min(buffer_bytes, abi["BPF_MAXBUFSIZE"]))
        self._set_interface()
        self.link_bytes, self._layout = self._link_type()
        self._set_number("BIOCIMMEDIATE", 1)
        self._set_number("BIOCSHDRCMPLT", 1)
        self._set_incoming_only()
        self._set_filter("BIOCSETF", _NOTHING if match is None else self._program(match))
        self.dropped = 0  # of what was captured before the filter
        if match is not None and match.side is PortSide.SOURCE and "BIOCLOCK" in abi:
            # A client's filter never changes.  A server's follows its addresses, which a locked device would forbid.
            self.lock()

    def lock(self) -> None:
        """Forbid another filter or interface, even to root.  Sets ``lacks_lock`` on a kernel that is older than the
        headers, such as NetBSD's before 10: the lock is hardening, and nothing depends on it."""
        try:
            self._calls.ioctl(self._fd, self._abi["BIOCLOCK"], 0)
        except OSError as error:
            if error.errno not in (self._abi["EINVAL"], self._abi["ENOTTY"]):
                raise
            self.lacks_lock = True
        else:
            self._locked = True

    def is_attached(self) -> bool:
        """False once the interface is gone: every kernel then refuses BIOCGDLT.  False once closed, too.

        Something has to ask.  kqueue does not report such a descriptor (seen on FreeBSD 15.1), and on NetBSD a read is
        as idle as before.
        """
        if self._fd < 0:
            return False
        try:
            self._structure("BIOCGDLT", bytes(4))
        except OSError:
            return False
        return True

    def _check_version(self) -> None:
        major, minor = struct.unpack("=HH", self._structure("BIOCVERSION", bytes(4)))
        wanted = (self._abi["BPF_MAJOR_VERSION"], self._abi["BPF_MINOR_VERSION"])
        if major != wanted[0] or minor < wanted[1]:
            raise LinkError(
                f"{self._device}: the kernel's bpf has version {major}.{minor}, {wanted[0]}.{wanted[1]} is wanted"
            )

    def _set_interface(self) -> None:
        try:
            self._calls.ioctl(
                self._fd, self._abi["BIOCSETIF"], self._device.encode().ljust(self._abi["sizeof(struct ifreq)"], b"\0")
            )
        except OSError as error:
            if error.errno == self._abi["ENXIO"]:
                raise LinkError(f"{self._device}: no such interface; `ifconfig -a` lists them") from None
            if error.errno == self._abi["ENETDOWN"]:
                raise LinkError(f"{self._device}: the interface is down: ifconfig {self._device} up") from None
            raise LinkError(f"{self._device}: cannot be attached to bpf: {error.strerror}") from None

    def _link_type(self) -> tuple[int, Layout]:
        """Bytes of the link header, and the layout of packets for the filter."""
        abi = self._abi
        (found,) = _U32.unpack(self._structure("BIOCGDLT", bytes(4)))
        ipv6 = abi["AF_INET6"]
        known = {
            abi["DLT_EN10MB"]: (ETHERNET_HEADER, ETHERNET),
            abi["DLT_NULL"]: (4, null_layout(ipv6)),
            abi["DLT_LOOP"]: (4, null_layout(ipv6, "big")),
            abi["DLT_RAW"]: (0, RAW_IP),
        }
        if found not in known:
            raise LinkError(
                f"{self._device}: link type {found} is not supported, only Ethernet, loopback, tunnels and raw IP"
            )
        self.sends = abi.system != "netbsd" or found == abi["DLT_EN10MB"]
        order = "big" if found == abi["DLT_LOOP"] else sys.byteorder
        if found == abi["DLT_RAW"]:
            self.constant_header = {4: b"", 6: b""}
        elif found != abi["DLT_EN10MB"]:
            self.constant_header = {4: abi["AF_INET"].to_bytes(4, order), 6: ipv6.to_bytes(4, order)}
        return known[found]

    def _set_incoming_only(self) -> None:
        """Do not capture what this host sends.  Each system has another ioctl for it."""
        abi = self._abi
        if "BIOCSDIRFILT" in abi:  # the directions to leave out
            self._set_number("BIOCSDIRFILT", abi["BPF_DIRECTION_OUT"])
        elif "BIOCSDIRECTION" in abi:
            self._set_number("BIOCSDIRECTION", abi["BPF_D_IN"])
        else:
            self._set_number("BIOCSSEESENT", 0)

    def _program(self, match: Match) -> list[Instruction]:
        try:
            instructions = program(match, self._layout)
        except ValueError as error:
            raise LinkError(f"{self._device}: {error}") from None
        most = self._abi["BPF_MAXINSNS"]
        if len(instructions) > most:
            raise LinkError(
                f"{self._device}: the filter has {len(instructions)} instructions, bpf takes {most}: merge port ranges"
            )
        return instructions

    def set_match(self, match: Match) -> None:
        """Capture what ``match`` describes, and keep what was captured.

        Raises ``LinkError`` when the filter does not fit, or the device is locked.
        """
        instructions = self._program(match)
        if self._locked:
            raise LinkError(f"{self._device}: the filter of a client is locked (BIOCLOCK): open the link anew")
        if "BIOCSETFNR" in self._abi:
            with contextlib.suppress(LinkError):  # a kernel that is older than the headers
                self._set_filter("BIOCSETFNR", instructions)
                return
        self._set_filter("BIOCSETF", instructions)

    def _set_filter(self, request: str, instructions: list[Instruction]) -> None:
        """BIOCSETF empties the buffer and resets its statistics; BIOCSETFNR keeps both."""
        code = ctypes.create_string_buffer(encode(instructions))
        bpf_program = struct.pack("@IP", len(instructions), ctypes.addressof(code))
        self.read_statistics()
        try:
            self._calls.ioctl(self._fd, self._abi[request], bpf_program)
        except OSError as error:
            raise LinkError(
                f"{self._device}: bpf refuses the filter ({len(instructions)} instructions): {error.strerror}"
            ) from None
        if request == "BIOCSETF":
            self._drops = 0

    def read_statistics(self) -> None:
        """BIOCGSTATS: two u_int on most systems, uint64_t on NetBSD; both may wrap."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):  # the device is lost: the count stays as it is
            raw = self._structure("BIOCGSTATS", bytes(self._abi["sizeof(struct bpf_stat)"]))
            at = self._abi["offsetof(struct bpf_stat, bs_drop)"]
            counter = _U32 if at == 4 else _U64
            (drops,) = counter.unpack_from(raw, at)
            self.dropped += drops - self._drops & (1 << 8 * counter.size) - 1
            self._drops = drops

    def _set_number(self, request: str, value: int) -> int:
        """An ioctl with a u_int.  Returns what the kernel made of it."""
        try:
            (settled,) = _U32.unpack(self._structure(request, _U32.pack(value)))
        except OSError as error:
            raise LinkError(f"{self._device}: {request} {value}: {error.strerror}") from None
        return int(settled)

    def _structure(self, request: str, argument: bytes) -> bytes:
        answer = self._calls.ioctl(self._fd, self._abi[request], argument)
        return argument if isinstance(answer, int) else bytes(answer)
