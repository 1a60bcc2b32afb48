"""A Unix-domain socket as the application's side: who gets answers, whose file goes, and what is counted."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core.types import Run
from rsock_nf.link import LinkError
from rsock_nf.link.linux.system import Linux
from rsock_nf.sockets import unix_path
from rsock_nf.sockets.unix_datagrams import UnixListener
from tests.netns.judges import wait_until

PATIENCE = 10.0


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def listener(stack: contextlib.ExitStack, tmp_path: Path) -> UnixListener:
    return stack.enter_context(contextlib.closing(UnixListener(tmp_path / "tunnel.sock")))


Sender = Callable[..., socket.socket]


@pytest.fixture
def sender(stack: contextlib.ExitStack, listener: UnixListener) -> Sender:
    def make(bound: Path | bytes | str | None = None, *, connected: bool = True) -> socket.socket:
        made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        made.settimeout(PATIENCE)
        made.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE: what we have not read yet counts
        if bound is not None:
            made.bind(str(bound) if isinstance(bound, Path) else bound)
        if connected:
            made.connect(str(listener.local))
        return made

    return make


def test_what_is_too_old_for_anybody_is_dropped(
    listener: UnixListener, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: after the process had stood still, all that waited was delivered, however old."""
    monkeypatch.setattr("rsock_nf.sockets.unix_datagrams.LOST", 0.2)
    one = sender()
    for number in range(3):
        one.send(b"old %d" % number)
    sent = time.monotonic()
    wait_until(lambda: time.monotonic() > sent + 0.25, "the clock")
    one.send(b"new")
    assert take(listener) == [(b"", [b"new"])]
    assert (listener.counters.received, listener.counters.late) == (1, 3)
    one.send(b"next")
    assert take(listener) == [(b"", [b"next"])]


def take(listener: UnixListener) -> list[tuple[object, list[bytes]]]:
    assert select.select([listener.fileno()], [], [], PATIENCE)[0], "nothing came"
    return [(run.peer, [bytes(datagram) for datagram in run.datagrams]) for run in listener.receive()]


def test_every_bound_sender_gets_its_own_answers(listener: UnixListener, sender: Sender, tmp_path: Path) -> None:
    short, long = sender(tmp_path / "a"), sender(tmp_path / "much-longer-name")
    abstract = sender(b"\0rsock-nf-test-" + str(os.getpid()).encode() + b"\0x")
    for which, one in enumerate((long, short, abstract)):
        one.send(bytes([which]) * 5)
    runs = take(listener)
    assert [data for _, data in runs] == [[bytes([which]) * 5] for which in range(3)]
    assert len({peer for peer, _ in runs}) == 3, "a short name is not completed by what a longer one left"
    listener.send([Run(peer, [b"to", data[0]], 5) for peer, data in runs])
    for which, one in enumerate((long, short, abstract)):
        assert [one.recv(100), one.recv(100)] == [b"to", bytes([which]) * 5]
    assert (listener.counters.received, listener.counters.sent) == (3, 6)
    assert [listener.describe(peer) for peer, _ in runs] == [
        f"unix:{tmp_path}/much-longer-name",
        f"unix:{tmp_path}/a",
        f"unix:@rsock-nf-test-{os.getpid()}\\u0000x",
    ]


def test_datagrams_of_one_sender_are_one_run_as_long_as_their_sizes_allow(
    listener: UnixListener, sender: Sender, tmp_path: Path
) -> None:
    one = sender(tmp_path / "a")
    for size in (700, 700, 300, 700, 0, 700):
        one.send(b"x" * size)
    assert [list(map(len, data)) for _, data in take(listener)] == [[700, 700, 300], [700], [0], [700]]


def test_unbound_senders_are_heard_and_not_answered(listener: UnixListener, sender: Sender) -> None:
    sender().send(b"one")
    sender().send(b"two")
    ((peer, data),) = take(listener)
    assert data == [b"one", b"two"]
    listener.send([Run(peer, [b"back", b"back"], 4)])
    assert (listener.counters.unanswerable, listener.counters.sent) == (2, 0)
    assert listener.describe(peer) == "unix: unbound senders"


def test_a_relative_name_leads_nowhere(
    listener: UnixListener, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender could otherwise have root write to any socket: bind ``run/victim`` in its own directory, as seen from
    /."""
    monkeypatch.chdir(tmp_path)
    ours = sender("victim")
    ours.send(b"x")
    ((peer, _),) = take(listener)
    listener.send([Run(peer, [b"evil"], 4)])
    assert listener.counters.unanswerable == 1
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(10)


def test_a_peer_that_is_gone_or_does_not_read_is_counted(
    listener: UnixListener, sender: Sender, tmp_path: Path
) -> None:
    one = sender(tmp_path / "a", connected=False)  # the kernel limits only the queue of who is not connected to us
    one.sendto(b"x", str(listener.local))
    ((peer, _),) = take(listener)
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    listener.send([Run(peer, [b"y"] * (limit + 50), 1)])
    assert listener.counters.send_full > 0
    assert listener.counters.sent + listener.counters.send_full == limit + 50
    one.close()
    listener.send([Run(peer, [b"y"], 1)])
    (tmp_path / "a").unlink()
    listener.send([Run(peer, [b"y"], 1)])
    assert listener.counters.refused == 2


def test_what_no_udp_datagram_can_hold_is_dropped_alone(listener: UnixListener, sender: Sender, tmp_path: Path) -> None:
    one = sender(tmp_path / "a")
    for size in (65_507, 65_508):
        one.send(b"x" * size)
    assert [list(map(len, data)) for _, data in take(listener)] == [[65_507]]
    for size in (70_000, 9):
        one.send(b"x" * size)
    assert [list(map(len, data)) for _, data in take(listener)] == [[9]]
    assert listener.counters.oversize == 2
    one.send(b"x" * 70_000)
    assert listener.receive() == []


def test_the_file_is_for_us_and_the_group_of_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    os.chown(directory, -1, 4242)
    before = os.umask(0)
    try:
        with contextlib.closing(UnixListener(directory / "s")) as listener:
            found = listener.local.lstat()
    finally:
        os.umask(before)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, os.getuid(), 4242)
    assert not (directory / "s").exists(), "close removes it"


def test_the_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "s"))
    assert (tmp_path / "s").is_socket()
    with (
        contextlib.closing(UnixListener(tmp_path / "s")) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
    ):
        one.sendto(b"x", str(tmp_path / "s"))
        assert take(listener) == [(b"", [b"x"])]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_live_socket_is_left_alone(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as live:
        live.bind(str(path))
        if kind is socket.SOCK_STREAM:
            live.listen()
        with pytest.raises(LinkError) as caught:
            UnixListener(path)
        assert str(caught.value) == f"cannot listen on unix:{path}: in use; `ss -xlp src {path}` tells by whom"
        assert path.is_socket()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_no_other_kind_of_file_is_removed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    make(path)
    before = path.lstat()
    with pytest.raises(LinkError) as caught:
        UnixListener(path)
    assert str(caught.value) == f"cannot listen on unix:{path}: a file that is not a socket is there; it is left alone"
    assert path.lstat().st_ino == before.st_ino


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        UnixListener(tmp_path / "none" / "s")
    assert str(caught.value) == f"cannot listen on unix:{tmp_path}/none/s: no such directory {tmp_path}/none; make it"


def test_close_leaves_the_file_of_a_successor(tmp_path: Path) -> None:
    first = UnixListener(tmp_path / "s")
    first.local.rename(tmp_path / "moved")
    with contextlib.closing(UnixListener(tmp_path / "s")) as second:
        first.close()
        first.close()
        assert second.local.is_socket()


@pytest.mark.parametrize("moment", ["bind", "chown"])
def test_a_link_swapped_in_after_bind_gives_nobody_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As the owner of the directory could do, were it not refused: the file behind the link stays as it was."""
    precious = tmp_path / "precious"
    precious.write_text("of root's")
    precious.chmod(0o600)
    directory = tmp_path / "theirs"
    directory.mkdir()
    os.chown(directory, -1, 4242)
    path = directory / "tunnel.sock"

    def swap() -> None:
        path.unlink()
        path.symlink_to(precious)

    @contextlib.contextmanager
    def swap_at_the_end() -> Iterator[None]:
        yield
        swap()

    def swap_and_give(*arguments: Any, **named: Any) -> None:
        swap()
        genuine(*arguments, **named)

    genuine = os.chown
    if moment == "bind":
        monkeypatch.setattr("rsock_nf.sockets.unix_path._nobody_else", swap_at_the_end)
    else:
        monkeypatch.setattr(os, "chown", swap_and_give)
    with pytest.raises(
        LinkError, match=r"cannot listen on unix:\S*/tunnel.sock: somebody put another file in its place"
    ):
        UnixListener(path)
    found = precious.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o600, precious.parent.stat().st_gid)


@pytest.mark.parametrize(("owner", "mode"), [(65534, 0o700), (0, 0o770), (0, 0o777)])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, owner, -1)
    said = (
        rf"^cannot listen on unix:{directory}/s: {directory}: (belongs to user|others can write it) .*: .* directory$"
    )
    with pytest.raises(LinkError, match=said) as refused:
        UnixListener(directory / "s")
    assert "\n" not in str(refused.value)
    directory.chmod(0o1777)
    os.chown(directory, 0, -1)
    UnixListener(directory / "s").close()  # as in /tmp: nobody else can remove or rename it


def test_a_group_of_the_systems_own_may_write_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As "daemon" may in /var/run of macOS; a run directory there is taken, too."""
    monkeypatch.setattr(Linux, "run_directory_groups", (1,))
    (tmp_path / "x").mkdir(mode=0o755)
    tmp_path.chmod(0o775)
    os.chown(tmp_path, 0, 1)
    UnixListener(tmp_path / "x/s").close()
    os.chown(tmp_path, 0, 2)
    with pytest.raises(LinkError, match=f"{tmp_path}: others can write it"):
        UnixListener(tmp_path / "x/s")


def test_a_link_of_ours_leads_to_the_directory(tmp_path: Path) -> None:
    """As /var/run leads to /run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with contextlib.closing(UnixListener(tmp_path / "link" / "s")):
        assert (tmp_path / "run/s").is_socket()
    os.lchown(tmp_path / "link", 65534, -1)
    with pytest.raises(LinkError, match="is a link that belongs to user nobody: choose another directory"):
        UnixListener(tmp_path / "link" / "s")


def test_a_look_beforehand_says_what_bind_would_say_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tunnel.sock"
    unix_path.check(path, directory=True)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(str(path))
        with pytest.raises(LinkError, match="in use"):
            unix_path.check(path, directory=True)
    unix_path.check(path, directory=True)
    assert path.exists(), "what a dead process left stays"
    path.unlink()
    path.touch()
    with pytest.raises(LinkError, match="a file that is not a socket is there"):
        unix_path.check(path, directory=True)
    with pytest.raises(LinkError, match="no such directory"):
        unix_path.check(tmp_path / "none" / "tunnel.sock", directory=True)


def test_a_look_for_another_user_does_not_judge_the_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(LinkError, match="chmod"):
        unix_path.check(tmp_path / "tunnel.sock", directory=True)
    unix_path.check(tmp_path / "tunnel.sock", directory=False)
