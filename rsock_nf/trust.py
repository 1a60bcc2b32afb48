"""Directories that nobody but this user and root can change, opened so that nobody can swap them.

A path is walked from ``/`` on, each step by the descriptor of the step before, as OpenSSH does with StrictModes.  Each
directory on the way must belong to this user or to root, and no one else may write it.  A sticky one (``/tmp``) may be
on the way, but not at the end.  A link is followed if it belongs to this user or to root.

Not here: what is kept in such a directory, and what to do about one that is not trusted, but for its own remedy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class DistrustError(Exception):
    """Somebody else could change a directory.  The text says which one, and whose it is; ``remedies`` what to do."""

    def __init__(self, what: str, *remedies: str) -> None:
        super().__init__(what)
        self.remedies = remedies


def open_path(path: Path, *, make: bool = False, sticky: bool = False, groups: Collection[int] = ()) -> int:
    """A descriptor of the absolute directory ``path``.

    ``make``: what is missing is made, with mode 0700.  ``sticky``: it may itself be one as ``/tmp``, where nobody can
    rename or remove what is ours.  ``groups``: numbers of those that may write directories of root's above it.
    Raises ``DistrustError`` when somebody else could change it, and ``OSError``.
    """
    ahead = list(reversed(path.parts[1:]))
    at = Path("/")
    descriptor = os.open(at, _OPEN)
    links = 0
    try:
        _require_trust(os.fstat(descriptor), at, is_end=not ahead, sticky=bool(ahead) or sticky, groups=groups)
        while ahead:
            name = ahead.pop()
            target = _link_target(descriptor, at / name)
            if target is None:
                at /= name
                descriptor = _instead(descriptor, _step(descriptor, name, make=make))
                _require_trust(os.fstat(descriptor), at, is_end=not ahead, sticky=bool(ahead) or sticky, groups=groups)
                continue
            links += 1
            _refuse_loop(links)
            if target.startswith("/"):
                at = Path("/")
                descriptor = _instead(descriptor, os.open(at, _OPEN))
            ahead.extend(reversed([part for part in target.split("/") if part not in {"", "."}]))
        # A link may have led back to a directory that was only on the way.
        _require_trust(os.fstat(descriptor), at, is_end=True, sticky=sticky, groups=groups)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_inside(parent: int, name: str, path: Path, *, make: bool = False) -> int:
    """A descriptor of directory ``name``, which is no link, in the directory ``parent``; messages have ``path``.

    Raises what ``open_path`` does.
    """
    descriptor = _step(parent, name, make=make)
    try:
        _require_trust(os.fstat(descriptor), path, is_end=True, sticky=False)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove(parent: int, name: str) -> None:
    """Remove the file, link or tree ``name`` of directory ``parent``.  Follows no link.  Raises ``OSError``."""
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def is_trusted_owner(uid: int) -> bool:
    """Whether a file of user ``uid`` is this user's or root's."""
    return uid in (0, os.geteuid())


def _step(parent: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # somebody else was quicker: its owner and mode are looked at
        os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, _OPEN, dir_fd=parent)


def _link_target(parent: int, path: Path) -> str | None:
    """Where the link ``path``, in directory ``parent``, leads; None = it is no link.  In /tmp anyone can make one."""
    try:
        found = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(found.st_mode):
        return None
    if not is_trusted_owner(found.st_uid):
        raise DistrustError(f"{path}: is a link that belongs to {_user(found.st_uid)}")
    return os.readlink(path.name, dir_fd=parent)


def _refuse_loop(links: int) -> None:
    if links > _MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


def _require_trust(
    found: os.stat_result, path: Path, *, is_end: bool, sticky: bool, groups: Collection[int] = ()
) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not (is_trusted_owner(found.st_uid) or (not is_end and _is_outside(found.st_uid))):
        owner = _user(found.st_uid)
        remedies = [f"run the command as {owner}"] if is_end and os.geteuid() == 0 else []
        raise DistrustError(f"{path}: belongs to {owner} (mode {mode:04o})", *remedies)
    others = stat.S_IWOTH if not is_end and found.st_uid == 0 and found.st_gid in groups else _OTHERS_WRITE
    if mode & others and not (sticky and mode & stat.S_ISVTX):
        remedies = [] if mode & stat.S_ISVTX else [f"chmod go-w {path}"]
        raise DistrustError(f"{path}: others can write it (owner {_user(found.st_uid)}, mode {mode:04o})", *remedies)


def _is_outside(uid: int) -> bool:
    """Whether it stands for those whom this user namespace does not know (user_namespaces(7)): the host's root."""
    try:
        rows = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
        unknown = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return False
    return uid == unknown and not any(first <= uid < first + count for first, _, count in rows)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
