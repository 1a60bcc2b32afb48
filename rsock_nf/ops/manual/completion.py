"""Completions for shells, by shtab from the parsers of the command line.

What an argument is completed with is told by its ``metavar``: FILE, NAME (of an instance), or both (``FILE|NAME``).
Names are those of the configuration files and of the instances' directories, when the key is pressed: where they are on
the system that runs this.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rsock_nf.config.places import SUFFIXES
from rsock_nf.link import system

SHELLS: Final = ("bash", "zsh", "fish")

_BASH: Final = r"""
_rsock_nf_names() {
  local path names=""
  for path in "${RSOCK_NF_CONFIG_DIR:-@ETC@/rsock-nf}"/*.{@SUFFIXES_BY_COMMA@}; do
    [[ -e $path ]] && path=${path##*/} && names+=" ${path%.*}"
  done
  for path in "${RSOCK_NF_RUN_DIR:-@RUN@/rsock-nf}"/*/ \
      "${RSOCK_NF_RUN_DIR:-${XDG_RUNTIME_DIR:-@RUN@}/rsock-nf}"/*/; do
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
    ${RSOCK_NF_CONFIG_DIR:-@ETC@/rsock-nf}/*.(@SUFFIXES_BY_BAR@)(N:t:r)
    ${RSOCK_NF_RUN_DIR:-@RUN@/rsock-nf}/*(N/:t)
    ${RSOCK_NF_RUN_DIR:-${XDG_RUNTIME_DIR:-@RUN@}/rsock-nf}/*(N/:t)
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
    set -q RSOCK_NF_CONFIG_DIR; or set -l RSOCK_NF_CONFIG_DIR @ETC@/rsock-nf
    set -q RSOCK_NF_RUN_DIR; or set -l RSOCK_NF_RUN_DIR @RUN@/rsock-nf $XDG_RUNTIME_DIR/rsock-nf
    for path in $RSOCK_NF_CONFIG_DIR/*.{@SUFFIXES_BY_COMMA@}
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
"""``@…@`` stands for what ``_preamble`` puts there."""


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
    return {"bash": function, "zsh": function, "fish": f"({function})", "preamble": _preamble()}


def _preamble() -> dict[str, str]:
    """Of each shell, with the suffixes and directories of this system."""
    suffixes = [suffix.removeprefix(".") for suffix in SUFFIXES]
    chosen = {
        "@ETC@": str(system().config_directory),
        "@RUN@": str(system().run_directory),
        "@SUFFIXES_BY_COMMA@": ",".join(suffixes),
        "@SUFFIXES_BY_BAR@": "|".join(suffixes),
    }
    found = dict(_PREAMBLE)
    for mark, text in chosen.items():
        found = {shell: script.replace(mark, text) for shell, script in found.items()}
    return found
