"""What waits for a full send buffer: control leaves before bulk, each in its order."""

from __future__ import annotations

from collections.abc import Sequence

from rsock_nf.core.types import Outgoing
from rsock_nf.runtime.backlog import Backlog


def burst(name: str, *, bulk: bool) -> Outgoing:
    return Outgoing(b"headers", [name.encode()], len(name), 0, bulk=bulk)


class Socket:
    """Takes ``room`` bursts."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent: list[str] = []

    def send(self, bursts: Sequence[Outgoing]) -> int:
        taken = bursts[: self.room]
        self.sent += [b"".join(one.payload).decode() for one in taken]
        self.room -= len(taken)
        return len(taken)


def filled(limit: int = 10) -> Backlog:
    backlog = Backlog(limit)
    backlog.keep([burst("bulk 1", bulk=True), burst("probe 1", bulk=False), burst("bulk 2", bulk=True)])
    backlog.keep([burst("probe 2", bulk=False)])
    return backlog


def test_control_leaves_first() -> None:
    backlog, socket = filled(), Socket(10)
    backlog.send(socket.send)
    assert socket.sent == ["probe 1", "probe 2", "bulk 1", "bulk 2"]
    assert not backlog


def test_what_finds_the_buffer_full_again_still_waits() -> None:
    backlog, socket = filled(), Socket(1)
    backlog.send(socket.send)
    backlog.keep([burst("probe 3", bulk=False)])
    socket.room = 3
    backlog.send(socket.send)
    assert socket.sent == ["probe 1", "probe 2", "probe 3", "bulk 1"]
    assert backlog
    backlog.clear()
    assert not backlog


def test_bulk_takes_no_room_from_control() -> None:
    backlog = Backlog(2)
    assert backlog.keep([burst(str(number), bulk=True) for number in range(3)]) == [burst("2", bulk=True)]
    assert backlog.keep([burst("probe", bulk=False)]) == []


def test_a_buffer_that_is_used_again_does_not_change_what_waits() -> None:
    backlog, socket = Backlog(1), Socket(1)
    buffer = bytearray(b"old")
    backlog.keep([Outgoing(b"", [memoryview(buffer)], 3, 0)])
    buffer[:] = b"new"
    backlog.send(socket.send)
    assert socket.sent == ["old"]
