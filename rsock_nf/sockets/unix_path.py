"""The file of a bound Unix-domain socket: to whom it belongs, and what is done with one that is there already.

It belongs to us and to the group of its directory, mode 0660.  Nobody else may be able to put another file in its
place: its directory, and those above, must be ours or root's.  A file that a dead process left is replaced.  A socket
in use, or any other kind of file, is left alone, and is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rsock_nf import trust
from rsock_nf.link import LinkError, system

_MODE: Final = 0o660


class BoundPath:
    """See the module.  ``path``: absolute."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def bind(self, unbound: socket.socket, prepare: Callable[[], None] = lambda: None) -> None:
        """Bind a socket to the path; before that, call ``prepare``.  Raises ``LinkError``, one line."""
        try:
            directory = _open_directory(self._path)
            try:
                _remove_dead(self._path)
                prepare()
                self._bind_in(directory, unbound)
            finally:
                os.close(directory)
        except OSError as error:
            raise LinkError(_why_not(self._path, error)) from error

    def _bind_in(self, directory: int, unbound: socket.socket) -> None:
        with _nobody_else():
            unbound.bind(bytes(self._path))
        found = os.stat(self._path.name, dir_fd=directory, follow_symlinks=False)
        self._identity = (found.st_dev, found.st_ino)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "somebody put another file in its place")
        with contextlib.suppress(PermissionError):  # not root: the group stays ours
            os.chown(self._path.name, -1, os.fstat(directory).st_gid, dir_fd=directory, follow_symlinks=False)
        _give_mode(self._path.name, directory, self._identity)

    def remove(self) -> None:
        """Remove the file, unless somebody put another in its place.  Idempotent."""
        identity, self._identity = self._identity, None
        if identity is None:
            return
        with contextlib.suppress(OSError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == identity:
                self._path.unlink()


def check(path: Path, *, directory: bool) -> None:
    """Whether a socket could be bound to ``path`` now.  Nothing is made, and nothing is removed.

    ``directory``: this user will bind it, so its directory has to be fit for him.  Raises ``LinkError``, one line.
    """
    try:
        if directory:
            os.close(_open_directory(path))
        _is_dead(path)
    except OSError as error:
        raise LinkError(_why_not(path, error)) from error


def _remove_dead(path: Path) -> None:
    """Remove the socket file of a dead process.  Raises ``LinkError`` when something else is there."""
    if _is_dead(path):
        path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    """Whether it is the socket of a process that has ended; False = nothing is there.

    Raises ``LinkError`` when something else is there, and ``OSError``.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(kind):
        raise LinkError(f"cannot listen on unix:{path}: a file that is not a socket is there; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(bytes(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:  # nobody holds it (unix_find_bsd)
                return True
            if error.errno != errno.EPROTOTYPE:  # held, by a socket that is no datagram socket
                raise
    raise LinkError(
        f"cannot listen on unix:{path}: in use; `{system().remedies.unix_socket.format(path=path)}` tells by whom"
    )


def _open_directory(path: Path) -> int:
    """Of the socket.  Raises ``LinkError`` when others could change it, and ``OSError``."""
    try:
        return trust.open_path(path.parent, sticky=True, groups=system().run_directory_groups)
    except trust.DistrustError as error:
        remedies = ", or ".join([*error.remedies, "choose another directory"])
        raise LinkError(f"cannot listen on unix:{path}: {error}: {remedies}") from None


def _give_mode(name: str, directory: int, identity: tuple[int, int]) -> None:
    """``_MODE`` to the file of that identity (device, inode), never to what a link names.  Raises ``OSError``."""
    if not hasattr(os, "O_PATH"):  # BSD and macOS
        os.chmod(name, _MODE, dir_fd=directory, follow_symlinks=False)
        return
    # Linux has no such flag before 6.6 (fchmodat2).  But a descriptor can stand for the file and open nothing; it has a
    # path.
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) != identity:
            raise OSError(errno.EEXIST, "somebody put another file in its place")
        Path(f"/proc/self/fd/{handle}").chmod(_MODE)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _nobody_else() -> Iterator[None]:
    """Files that are made in this context are accessible to the owner only, whatever the process's mask is."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _why_not(path: Path, error: OSError) -> str:
    what = f"cannot listen on unix:{path}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"{what}: no such directory {path.parent}; make it"
        case errno.EADDRINUSE:
            return f"{what}: in use; `{system().remedies.unix_socket.format(path=path)}` tells by whom"
    return f"{what}: {error.strerror or error}"
