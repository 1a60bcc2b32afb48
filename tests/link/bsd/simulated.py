"""A kernel with a bpf device, made after the manual pages: ``SimulatedBpf`` is the ``syscalls`` of a ``BpfLink``.

What differs between the systems is a row of ``KERNELS``; numbers and layouts are the table's.  The device has two
buffers, runs its filter with a BPF machine of its own, and gives the errors that the systems were seen to give.  On its
far side is a wire: a socket pair, or a packet socket on a real (Linux) interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from rsock_nf.core.types import Buffer
from rsock_nf.link.bsd.abi import Abi, aligned, load
from tests.link.bsd.machine import Insn, decode, run, valid


@dataclass(frozen=True)
class Kernel:
    """What the headers do not say."""

    clones: bool
    """/dev/bpf gives a new device at each open; else /dev/bpfN, one after the other."""
    idle: str
    """Error of a non-blocking read when nothing waits; "" = it returns 0 bytes."""
    unattached: str
    """Error of a read before BIOCSETIF; "" = it blocks for ever."""
    detached: str
    """Error of a read after the interface has gone; a write's is ENXIO everywhere.  kqueue(2) reports the descriptor on
    no system: that was seen on FreeBSD and NetBSD, and is assumed for the others."""
    header: int
    """Bytes of struct bpf_hdr that the kernel counts before it pads (SIZEOF_BPF_HDR)."""
    largest: int = 1 << 16
    """A frame above it is refused with EIO (bpf_movein)."""


KERNELS = {
    "freebsd": Kernel(True, "EAGAIN", "ENXIO", "ENXIO", 26, 16_384),
    "netbsd": Kernel(True, "EAGAIN", "", "EAGAIN", 32, 2_046),
    "openbsd": Kernel(True, "", "ENXIO", "EIO", 28),
    "macos": Kernel(False, "EAGAIN", "ENXIO", "ENXIO", 18),
}
BUSY_NODES = 2
"""On a system that does not clone, tcpdump and dhclient have the first ones."""
LAST_NODE = 4
LINK_BYTES = {"DLT_EN10MB": 14, "DLT_NULL": 4, "DLT_LOOP": 4, "DLT_RAW": 0}


class Wire(Protocol):
    """The far side of the interface."""

    def fileno(self) -> int: ...
    def receive(self) -> bytes | None: ...
    def send(self, frame: bytes) -> None: ...


class SocketWire:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(1 << 18)
        except BlockingIOError:
            return None

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)


class PacketWire(SocketWire):
    """A Linux interface, whole: what comes in on it, checksums and merged segments as they are."""

    def __init__(self, device: str) -> None:
        self._device, self._index = device, socket.if_nametoindex(device)
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        end.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        end.bind((device, 3))
        super().__init__(end)

    def receive(self) -> bytes | None:
        try:
            return super().receive()
        except OSError:  # Linux says this once when the interface goes down, too
            if self._is_there():
                return None
            raise

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(self._device) == self._index
        return False


@dataclass
class _Device:
    """One open descriptor."""

    epoll: select.epoll
    ready: int
    """An eventfd: readable while the buffers hold something."""
    blocking: bool = True
    attached: bool = False
    lost: bool = False
    """Its interface has gone.  An interface that is made anew, even under the same name and index, is another one."""
    size: int = 4096
    immediate: bool = False
    keep_source: bool = False
    incoming_only: bool = False
    locked: bool = False
    program: list[Insn] = field(default_factory=list)
    store: bytearray = field(default_factory=bytearray)
    hold: bytes = b""
    received: int = 0
    dropped: int = 0


class SimulatedBpf:
    """``SystemCalls`` of a simulated kernel with one interface."""

    def __init__(
        self,
        system: str | Abi,
        wire: Wire,
        *,
        interface: str = "em0",
        dlt: str = "DLT_EN10MB",
        mac: bytes = b"\2\0\0\0\0\1",
    ) -> None:
        self.abi = load(system) if isinstance(system, str) else system
        self.kernel = KERNELS[self.abi.system]
        self.wire = wire
        self.interface = interface
        self.dlt = dlt
        self.mac = mac
        self.mtu = 1500
        self.up = True
        self.present = True
        self.clamp = 1 << 19
        """The system's limit of a buffer (debug.bpf_maxbufsize, net.bpf.maxbufsize)."""
        self.log: list[str] = []
        """Names of the ioctls, in order."""
        self.opened: list[str] = []
        """Paths that open(2) was asked for."""
        self.lacks: set[str] = set()
        """Ioctls that the headers have and this kernel has not."""
        self.queue_full = False
        self.pad_to = self.abi["BPF_WORDALIGN(1)"]
        self._devices: dict[int, _Device] = {}
        self._pending: deque[bytes] = deque()
        self._names = {value: name for name, value in self.abi.numbers.items() if name.startswith("BIOC")}

    def _error(self, name: str) -> OSError:
        """With the simulated system's number, which Linux may use for something else: no subclass."""
        made = OSError(name)
        made.errno = self.abi[name]
        made.strerror = name
        return made

    # -- system calls

    def open(self, path: str, flags: int) -> int:
        self.opened.append(path)
        assert flags == self.abi["O_RDWR"] | self.abi["O_CLOEXEC"]
        if self.kernel.clones:
            if path != "/dev/bpf":
                raise self._error("ENOENT")
        elif path == "/dev/bpf":
            raise self._error("ENOENT")
        else:
            number = int(path.removeprefix("/dev/bpf"))
            if number > LAST_NODE:
                raise self._error("ENXIO")
            if number < BUSY_NODES + len(self._devices):
                raise self._error("EBUSY")
        epoll = select.epoll()
        device = _Device(epoll, os.eventfd(0, os.EFD_NONBLOCK))
        epoll.register(device.ready, select.EPOLLIN)
        self._devices[epoll.fileno()] = device
        return epoll.fileno()

    def close(self, descriptor: int) -> None:
        device = self._devices.pop(descriptor)
        os.close(device.ready)
        device.epoll.close()

    def set_blocking(self, descriptor: int, flag: bool) -> None:  # noqa: FBT001
        self._devices[descriptor].blocking = flag

    def poll(self, descriptor: int, events: int, milliseconds: int) -> int:
        self._devices[descriptor].epoll.poll(milliseconds / 1000)
        self._fill()
        device = self._devices[descriptor]
        if device.lost and self.abi.system == "freebsd":
            return events & (select.POLLIN | select.POLLOUT) | select.POLLHUP
        return events & (select.POLLOUT | (select.POLLIN if device.hold or device.store else 0))

    def read(self, descriptor: int, size: int) -> bytes:
        device = self._devices[descriptor]
        if device.lost:
            raise self._error(self.kernel.detached)
        self._fill()
        if device.lost:
            # Linux made its packet socket readable for that.  kqueue would not have: this read did not happen.
            raise self._error("EAGAIN")
        if not device.attached:
            assert self.kernel.unattached, "blocks for ever"
            raise self._error(self.kernel.unattached)
        if size != device.size:
            raise self._error("EINVAL")
        if not device.hold and device.store and device.immediate:
            self._rotate(device)
        answer, device.hold = device.hold, b""
        self._signal(device)
        if not answer:
            assert not device.blocking, "blocks"
            if self.kernel.idle:
                raise self._error(self.kernel.idle)
        return answer

    def write(self, descriptor: int, data: Buffer) -> int:
        device = self._devices[descriptor]
        if not device.attached:
            raise self._error("ENXIO")
        if not self.up:
            raise self._error("ENETDOWN")
        link = LINK_BYTES[self.dlt]
        if not link <= len(data) <= self.mtu + link:
            raise self._error("EMSGSIZE")
        if len(data) > self.kernel.largest:
            raise self._error("EIO")
        if self.queue_full:
            raise self._error("ENOBUFS")
        frame = bytes(data)
        if self.dlt == "DLT_EN10MB" and not device.keep_source:
            frame = frame[:6] + self.mac + frame[12:]
        try:
            self.wire.send(frame)
        except OSError as error:
            names = {errno.ENOBUFS: "ENOBUFS", errno.ENETDOWN: "ENETDOWN", errno.EMSGSIZE: "EMSGSIZE"}
            names |= dict.fromkeys((errno.ENXIO, errno.ENODEV), "ENXIO")
            raise self._error(names.get(error.errno or 0, "EIO")) from error
        self._tap(frame, incoming=False)
        return len(data)

    def ioctl(self, descriptor: int, request: int, argument: bytes | int = 0) -> bytes | int:
        device = self._devices[descriptor]
        name = self._names.get(request)
        if name is None or name in self.lacks:
            raise self._error("EINVAL")
        self.log.append(name)
        if device.locked and name in {"BIOCSETF", "BIOCSETFNR", "BIOCSETIF", "BIOCSBLEN"}:
            raise self._error("EPERM")
        raw = argument if isinstance(argument, bytes) else b""
        if name == "BIOCLOCK":
            device.locked = True
            return 0
        if name == "BIOCSETIF":
            assert len(raw) == self.abi["sizeof(struct ifreq)"]
            if raw.rstrip(b"\0").decode() != self.interface or not self.present:
                raise self._error("ENXIO")
            device.attached = True
            device.epoll.register(self.wire.fileno(), select.EPOLLIN)
        elif name in {"BIOCSETF", "BIOCSETFNR"}:
            length, address = struct.unpack("@IP", raw)
            program = decode(ctypes.string_at(address, 8 * length))
            if program and not valid(program):
                raise self._error("EINVAL")
            device.program = program
            if name == "BIOCSETF":
                device.store, device.hold = bytearray(), b""
                device.received = device.dropped = 0
        elif name in {"BIOCGDLT", "BIOCVERSION", "BIOCGSTATS"}:
            return self._told(device, name)
        else:
            return self._number(device, name, *struct.unpack("=I", raw))
        return raw

    def _told(self, device: _Device, name: str) -> bytes:
        if name == "BIOCVERSION":
            return struct.pack("=HH", self.abi["BPF_MAJOR_VERSION"], self.abi["BPF_MINOR_VERSION"])
        if name == "BIOCGSTATS":
            wide = self.abi["sizeof(struct bpf_stat)"] == 128
            mask = (1 << (64 if wide else 32)) - 1
            return struct.pack("=QQ112x" if wide else "=II", device.received & mask, device.dropped & mask)
        if not device.attached:
            raise self._error("EINVAL")
        return struct.pack("=I", self.abi[self.dlt])

    def _number(self, device: _Device, name: str, value: int) -> bytes:
        if name == "BIOCSBLEN":
            if device.attached:
                raise self._error("EINVAL")
            device.size = value = min(value, self.clamp)
        elif name == "BIOCIMMEDIATE":
            device.immediate = value == 1
        elif name == "BIOCSHDRCMPLT":
            device.keep_source = value == 1
        elif name == "BIOCSDIRFILT":
            device.incoming_only = value == self.abi["BPF_DIRECTION_OUT"]
        elif name in {"BIOCSDIRECTION", "BIOCSSEESENT"}:
            device.incoming_only = value == 0
        else:
            raise self._error("EINVAL")
        return struct.pack("=I", value)

    # -- inside the kernel

    def detach(self) -> None:
        """The interface goes: every device on it is lost, and whoever waits by kqueue(2) goes on waiting."""
        self.present = False
        for device in self._devices.values():
            if device.attached:
                device.attached, device.lost = False, True
                device.store, device.hold = bytearray(), b""
                device.epoll.unregister(self.wire.fileno())
                self._signal(device)

    def _fill(self) -> None:
        """What has arrived since, as the interrupt handler would have had it."""
        try:
            while (frame := self.wire.receive()) is not None:
                self._tap(frame, incoming=True)
        except OSError:  # of a real interface: gone, or down
            self.detach()

    def _tap(self, frame: bytes, *, incoming: bool) -> None:
        for device in self._devices.values():
            if device.attached and (incoming or not device.incoming_only):
                device.received += 1
                keep = run(device.program, frame) if device.program else len(frame)
                if keep:
                    self._catch(device, frame, min(keep, len(frame)))
                self._signal(device)

    def _catch(self, device: _Device, frame: bytes, keep: int) -> None:
        """As catchpacket() in bpf.c: into the store buffer, which becomes the hold buffer when it is full."""
        link = LINK_BYTES[self.dlt]
        header = aligned(self.kernel.header + link, self.pad_to) - link
        total = min(header + keep, device.size)
        at = aligned(len(device.store), self.abi["BPF_WORDALIGN(1)"])
        if at + total > device.size:
            if device.hold:
                device.dropped += 1
                return
            self._rotate(device)
            at = 0
        hdr = bytearray(header)
        struct.pack_into("=I", hdr, self.abi["offsetof(struct bpf_hdr, bh_caplen)"], total - header)
        struct.pack_into("=I", hdr, self.abi["offsetof(struct bpf_hdr, bh_datalen)"], len(frame))
        struct.pack_into("=H", hdr, self.abi["offsetof(struct bpf_hdr, bh_hdrlen)"], header)
        device.store += bytes(at - len(device.store)) + hdr + frame[: total - header]

    @staticmethod
    def _rotate(device: _Device) -> None:
        device.hold, device.store = bytes(device.store), bytearray()

    def _signal(self, device: _Device) -> None:
        if device.hold or device.store:
            os.eventfd_write(device.ready, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(device.ready)
