"""Installing the service: the unit, the user that its instances become, the directories of files and logs.

Idempotent: what is there already stays as it is, but for the unit, which is written anew.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rsock_nf.errors import InstanceError
from rsock_nf.ops.program import program
from rsock_nf.ops.service import unit

UNITS: Final = Path("/etc/systemd/system")
CONFIGURATIONS: Final = Path("/etc/rsock-nf")
LOGS: Final = Path("/var/log/rsock-nf")
PACKAGED: Final = Path("/usr/lib/systemd/system")
"""Where the Debian package has the unit, which is for the package's program."""
_RUNNING: Final = Path("/run/systemd/system")
"""Is there where systemd is the init process (sd_booted(3))."""
_NEXT: Final = f"next: systemctl enable --now rsock-nf@NAME, for the file NAME in {CONFIGURATIONS}"


def text() -> str:
    """The unit for this program."""
    return unit.unit(program(), unit.needed())


def install(tell: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Do it; ``tell`` gets a line for each thing done, ``warn`` one for what is unwise.

    Raises ``InstanceError``: it takes root and systemd, or something cannot be written.
    """
    if os.geteuid() != 0:
        raise InstanceError("install-service writes to /etc: run it as root, or with --print")
    if (PACKAGED / unit.NAME).exists() and program() == unit.PACKAGED:
        tell(f"the package has installed {PACKAGED / unit.NAME}: nothing is to be done")
        tell(_NEXT)
        return
    if not _RUNNING.is_dir():
        raise InstanceError(
            "this host is not run by systemd: contrib/openrc, contrib/openwrt and contrib/bsd have start scripts; "
            "--print shows the unit"
        )
    for reason in dict.fromkeys(filter(None, [_unreadable(path) or _not_roots(path) for path in unit.needed()])):
        warn(reason)
    _make_user(tell)
    made = _account(unit.USER)
    if made is None:
        raise InstanceError(f"there is no user {unit.USER}, though useradd has made it")
    # The group may read a file of mode 0640: then SIGHUP works, too, not only root's `reload`.
    _make_directory(CONFIGURATIONS, 0o750, 0, made.pw_gid)
    _make_directory(LOGS, 0o750, made.pw_uid, made.pw_gid)
    written = UNITS / unit.NAME
    try:
        UNITS.mkdir(parents=True, exist_ok=True)
        written.write_text(text(), encoding="utf-8")
        written.chmod(0o644)
    except OSError as error:
        raise InstanceError(f"{written}: cannot be written: {error.strerror}") from None
    tell(f"wrote {written}; its instances run {' '.join(program())} as user {unit.USER}")
    _run(["systemctl", "daemon-reload"])
    tell(_NEXT)


def _make_user(tell: Callable[[str], None]) -> None:
    if _account(unit.USER) is not None:
        return
    shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin") or "/bin/false"
    _run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/", "--shell", shell, unit.USER])
    tell(f"made user {unit.USER}")


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _make_directory(path: Path, mode: int, user: int, group: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True)
        os.chown(path, user, group)
        path.chmod(mode)
    except FileExistsError:
        return
    except OSError as error:
        raise InstanceError(f"{path}: cannot be made: {error.strerror}") from None


def _run(command: Sequence[str]) -> None:
    """Raises ``InstanceError`` with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstanceError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise InstanceError(f"{' '.join(command)}: {' '.join(done.stderr.split())}")


def _unreadable(path: Path) -> str:
    """The unit's root has no right to pass file modes.  Empty = it may read ``path``."""
    found = path.stat()
    wanted = (stat.S_IROTH | stat.S_IXOTH) if path.is_dir() else stat.S_IROTH
    if found.st_uid == 0 or found.st_mode & wanted == wanted:
        return ""
    return f"the service cannot read {path}: it is another user's (remedy: chmod o+rX {path}, or install elsewhere)"


def _not_roots(path: Path) -> str:
    """Empty = ``path`` is root's."""
    found = path.stat()
    if found.st_uid == 0:
        return ""
    return f"user {_name(found.st_uid)} can change the program that root starts here: {path} is theirs"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
