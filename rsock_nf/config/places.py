"""Where configuration files are looked for when a command is given a bare name, and how a word is told from a path.

Cheap to import: the standard library only.  Not here: what is in a file (``source``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from rsock_nf.config.values import named, parse_name
from rsock_nf.errors import UsageError
from rsock_nf.link import system

CONFIG_DIR_VARIABLE: Final = "RSOCK_NF_CONFIG_DIR"
"""Overrides ``/etc/rsock-nf``: for tests, and for who has no root."""
SUFFIXES: Final = (".json", ".json5", ".yaml", ".yml", ".toml")
"""Of configuration files, in the order in which they are looked for."""


def config_dir() -> Path:
    """The directory of configuration files, absolute: on Linux ``/etc/rsock-nf``."""
    given = os.environ.get(CONFIG_DIR_VARIABLE)
    return Path(given).absolute() if given else system().config_directory / "rsock-nf"


def is_path(word: str) -> bool:
    """Whether ``word`` is the path of a file, and no bare name: it has a slash, or the suffix of such a file."""
    return "/" in word or Path(word).suffix.lower() in SUFFIXES


def files_of(name: str) -> list[Path]:
    """The files of that name in the directory.  A directory that cannot be read has none."""
    return [path for suffix in SUFFIXES if _is_there(path := config_dir() / f"{name}{suffix}")]


def file_for(word: str) -> Path:
    """The configuration file that ``word`` means, a path or a bare name.  Raises ``UsageError``."""
    if is_path(word):
        path = Path(word)
        if not _is_there(path) and "/" not in word and (others := files_of(path.stem)):
            raise UsageError(f"{word}: there is no such file here; for {others[0]} say {path.stem}")
        return path
    try:
        parse_name(word)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = files_of(word)
    if len(found) > 1:
        raise UsageError(f"{word}: there are {' and '.join(map(str, found))}: name the file")
    if not found:
        raise UsageError(f"{word}: there is no {config_dir()}/{word}.json{_hint(word)}")
    return found[0]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _hint(word: str) -> str:
    """What else could be meant."""
    here = next((path for path in (Path(f"{word}{suffix}") for suffix in SUFFIXES) if _is_there(path)), None)
    if here is not None:
        return f"; for the file in this directory say {here}"
    if _is_there(Path(word)):
        return f"; for the file in this directory say ./{word}"
    try:
        known = sorted({path.stem for path in config_dir().iterdir() if path.suffix in SUFFIXES})
    except PermissionError:
        return f" (or {config_dir()} may not be read: are you root?)"
    except OSError:
        known = []
    import difflib

    if close := difflib.get_close_matches(word, known, n=1):
        return f' (did you mean "{close[0]}"?)'
    if known:
        return f"; there is {', '.join(map(named, known[:8]))}"
    return "; `rsock-nf init` and `rsock-nf join` make one"
