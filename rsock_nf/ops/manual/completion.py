"""Completions for shells, by shtab from the parsers of the command line.

What an argument is completed with is told by its ``metavar``: FILE, NAME (of an instance), or both (``FILE|NAME``).
Names are those of the files in /etc/rsock-nf and of the directories in /run/rsock-nf, when the key is pressed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SHELLS: Final = ("bash", "zsh", "fish")

_BASH: Final = r"""
_rsock_nf_names() {
  local path names=""
  for path in "${RSOCK_NF_CONFIG_DIR:-/etc/rsock-nf}"/*.{json,json5,yaml,yml,toml}; do
    [[ -e $path ]] && path=${path##*/} && names+=" ${path%.*}"
  done
  for path in "${RSOCK_NF_RUN_DIR:-/run/rsock-nf}"/*/; do
    [[ -e $path ]] && path=${path%/} && names+=" ${path##*/}"
  done
  compgen -W "$names" -- "$1" | sort -u
}
_rsock_nf_file_or_name() {
  _rsock_nf_names "$1"
  compgen -f -- "$1"
}
"""
_ZSH: Final = r"""
_rsock_nf_names() {
  local -aU names
  names=(
    ${RSOCK_NF_CONFIG_DIR:-/etc/rsock-nf}/*.(json|json5|yaml|yml|toml)(N:t:r)
    ${RSOCK_NF_RUN_DIR:-/run/rsock-nf}/*(N/:t)
  )
  compadd -a names
}
_rsock_nf_file_or_name() {
  _rsock_nf_names
  _files
}
"""
_FISH: Final = r"""
function _rsock_nf_names
    set -q RSOCK_NF_CONFIG_DIR; or set -l RSOCK_NF_CONFIG_DIR /etc/rsock-nf
    set -q RSOCK_NF_RUN_DIR; or set -l RSOCK_NF_RUN_DIR /run/rsock-nf
    for path in $RSOCK_NF_CONFIG_DIR/*.{json,json5,yaml,yml,toml}
        string replace --regex '.*/(.*)\.[^.]*$' '$1' -- $path
    end
    for path in $RSOCK_NF_RUN_DIR/*/
        string replace --regex '.*/([^/]*)/$' '$1' -- $path
    end
end
function _rsock_nf_file_or_name
    _rsock_nf_names
    __fish_complete_path (commandline -ct)
end
"""
_PREAMBLE: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of ``SHELLS``.  ``parser``: with every command and its arguments."""
    import shtab

    for action in _actions(parser):
        if (found := _completed_with(action)) is not None:
            action.complete = found  # type: ignore[attr-defined] # where shtab looks for it
    return f"{shtab.complete(parser, shell=shell).rstrip()}\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask; shtab does the same
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action


def _completed_with(action: argparse.Action) -> dict[str, Any] | None:
    """As shtab wants it; None = nothing, or the action's own choices."""
    if action.nargs == 0 or action.choices:
        return None
    words = set((action.metavar if isinstance(action.metavar, str) else action.dest.upper()).split("|"))
    file, name = bool(words & {"FILE", "PATH"}) or action.type is Path, "NAME" in words
    if file and name:
        return _called("_rsock_nf_file_or_name")
    if name:
        return _called("_rsock_nf_names")
    if file:
        import shtab

        return dict(shtab.FILE)
    return None


def _called(function: str) -> dict[str, Any]:
    return {"bash": function, "zsh": function, "fish": f"({function})", "preamble": _PREAMBLE}
