"""Write the man pages and completions as they lie below /usr/share:  python release/pages.py DIRECTORY

``make man`` and the build hook call it.  It takes shtab and pydantic.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rsock_nf import cli
from rsock_nf.ops.manual import command_page, keys_page
from rsock_nf.ops.manual.completion import completion

COMPLETIONS = {
    "bash": "bash-completion/completions/rsock-nf",
    "zsh": "zsh/site-functions/_rsock-nf",
    "fish": "fish/vendor_completions.d/rsock-nf.fish",
}


def pages() -> dict[str, str]:
    """Each file's path below the directory, and its text."""
    day = time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    return {
        "man/man1/rsock-nf.1": command_page.page(cli.parsers_by_heading(), day),
        "man/man5/rsock-nf.json.5": keys_page.page(day),
        **{path: completion(cli.whole_parser(), shell) for shell, path in COMPLETIONS.items()},
    }


def write(directory: Path) -> list[Path]:
    """The files, relative to ``directory``."""
    made = pages()
    for name, text in made.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [Path(name) for name in made]


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        print(Path(sys.argv[1]) / written)
