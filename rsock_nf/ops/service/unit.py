"""The systemd unit: ``rsock-nf@.service`` beside this file, made fit for the program of this host.

The file is complete as it is, for a program in /usr/bin.  What differs is replaced: the program, and the directories
that it needs although the unit hides the homes.
Not here: where the unit is written (``install``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import rsock_nf

NAME: Final = "rsock-nf@.service"
USER: Final = "rsock-nf"
"""The system user that its instances become."""
PACKAGED: Final = ["/usr/bin/python3", "-P", "/usr/lib/rsock-nf/rsock_nf/__main__.py"]
"""What /usr/bin/rsock-nf of the Debian package runs."""
_PROGRAM: Final = "/usr/bin/rsock-nf "
_HIDE: Final = "ProtectHome=yes\n"
_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - names
"""What ``ProtectHome`` and ``PrivateTmp`` hide (systemd.exec(5))."""


def template() -> str:
    """The unit for a program in /usr/bin."""
    return files(__package__).joinpath(NAME).read_text(encoding="utf-8")


def unit(program: Sequence[str], needs: Iterable[Path]) -> str:
    """The unit that runs ``program``, its first words.  ``needs``: absolute directories and files that it reads."""
    text = template().replace(_PROGRAM, f"{' '.join(map(_quoted, program))} ")
    hidden = [path for path in needs if any(path.is_relative_to(home) for home in _HIDDEN)]
    if hidden:
        lines = [f"BindReadOnlyPaths={_quoted(str(path))}\n" for path in _outermost(hidden)]
        # Empty directories in the place of the homes and of /tmp, and in them what the program needs.
        text = text.replace(_HIDE, "".join(["ProtectHome=tmpfs\n", *lines]))
    return text


def needed() -> list[Path]:
    """The directories and files that this very program is read from: interpreter, libraries, packages, and the links
    that lead to them."""
    root = Path(rsock_nf.__file__).parents[1]
    found = [Path(sys.prefix), Path(sys.base_prefix), root, *map(Path, filter(None, sys.path))]
    step = Path(sys.executable)
    for _ in range(40):  # path_resolution(7)
        found.append(step)
        if not step.is_symlink():
            break
        step = step.parent / step.readlink()
    there = [path.absolute() for path in found if path.exists()]
    return list(dict.fromkeys([*there, *(path.resolve() for path in there)]))


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Without those that are in another one."""
    return sorted(path for path in set(paths) if not any(other in path.parents for other in paths))


def _quoted(word: str) -> str:
    """As a word of a command line in a unit, systemd.service(5): ``%`` and ``$`` begin what is expanded."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(word) & set(" \t;'\"\\") else escaped
